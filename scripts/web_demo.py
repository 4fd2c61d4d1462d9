"""The command `mtmusic web-demo`."""

from mtmusic.cli.web_demo import main

if __name__ == "__main__":
    raise SystemExit(main())

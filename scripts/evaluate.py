"""The command `mtmusic evaluate`."""

from mtmusic.cli.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())

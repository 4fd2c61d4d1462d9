"""The command `mtmusic embed`."""

from mtmusic.cli.embed import main

if __name__ == "__main__":
    raise SystemExit(main())

"""The command `mtmusic similar`."""

from mtmusic.cli.similar import main

if __name__ == "__main__":
    raise SystemExit(main())

"""The command `mtmusic prepare-fma`."""

from mtmusic.cli.prepare_fma import main

if __name__ == "__main__":
    raise SystemExit(main())

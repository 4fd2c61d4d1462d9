"""The command `mtmusic explore-data`."""

from mtmusic.cli.explore_data import main

if __name__ == "__main__":
    raise SystemExit(main())

"""The command `mtmusic extract-features`."""

from mtmusic.cli.extract_features import main

if __name__ == "__main__":
    raise SystemExit(main())

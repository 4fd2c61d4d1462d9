"""The command `mtmusic validate-data`."""

from mtmusic.cli.validate_data import main

if __name__ == "__main__":
    raise SystemExit(main())

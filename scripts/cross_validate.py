"""The command `mtmusic cross-validate`."""

from mtmusic.cli.cross_validate import main

if __name__ == "__main__":
    raise SystemExit(main())

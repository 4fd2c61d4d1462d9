"""The command `mtmusic export-model`."""

from mtmusic.cli.export_model import main

if __name__ == "__main__":
    raise SystemExit(main())

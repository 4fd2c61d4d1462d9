"""The command `mtmusic export-model`."""

import sys

from mtmusic.cli.export_model import main

if __name__ == "__main__":
    sys.exit(main())

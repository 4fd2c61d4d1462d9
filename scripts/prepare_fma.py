"""The command `mtmusic prepare-fma`."""

import sys

from mtmusic.cli.prepare_fma import main

if __name__ == "__main__":
    sys.exit(main())

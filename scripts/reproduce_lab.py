"""The command `mtmusic reproduce-lab`."""

import sys

from mtmusic.cli.reproduce_lab import main

if __name__ == "__main__":
    sys.exit(main())

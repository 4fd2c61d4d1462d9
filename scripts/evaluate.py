"""The command `mtmusic evaluate`."""

import sys

from mtmusic.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())

"""The command `mtmusic cross-validate`."""

import sys

from mtmusic.cli.cross_validate import main

if __name__ == "__main__":
    sys.exit(main())

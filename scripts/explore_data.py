"""The command `mtmusic explore-data`."""

import sys

from mtmusic.cli.explore_data import main

if __name__ == "__main__":
    sys.exit(main())

"""The command `mtmusic validate-data`."""

import sys

from mtmusic.cli.validate_data import main

if __name__ == "__main__":
    sys.exit(main())

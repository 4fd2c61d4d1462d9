"""The command `mtmusic extract-features`."""

import sys

from mtmusic.cli.extract_features import main

if __name__ == "__main__":
    sys.exit(main())

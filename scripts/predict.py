"""The command `mtmusic predict`."""

import sys

from mtmusic.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())

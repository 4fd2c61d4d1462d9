"""The command `mtmusic web-demo`."""

import sys

from mtmusic.cli.web_demo import main

if __name__ == "__main__":
    sys.exit(main())

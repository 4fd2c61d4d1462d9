"""The command `mtmusic make-demo-data`."""

import sys

from mtmusic.cli.make_demo_data import main

if __name__ == "__main__":
    sys.exit(main())

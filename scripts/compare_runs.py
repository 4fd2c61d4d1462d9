"""The command `mtmusic compare-runs`."""

import sys

from mtmusic.cli.compare_runs import main

if __name__ == "__main__":
    sys.exit(main())

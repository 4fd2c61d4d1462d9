"""The command `mtmusic train-affect`."""

import sys

from mtmusic.cli.train_affect import main

if __name__ == "__main__":
    sys.exit(main())

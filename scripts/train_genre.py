"""The command `mtmusic train-genre`."""

import sys

from mtmusic.cli.train_genre import main

if __name__ == "__main__":
    sys.exit(main())

"""The command `mtmusic finetune-valence`."""

import sys

from mtmusic.cli.finetune_valence import main

if __name__ == "__main__":
    sys.exit(main())

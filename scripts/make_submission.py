"""The command `mtmusic make-submission`."""

import sys

from mtmusic.cli.make_submission import main

if __name__ == "__main__":
    sys.exit(main())

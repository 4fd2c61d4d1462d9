"""Predicts affect for every clip in a folder's test/, labelled or not, and writes the lab's submission file.

    python scripts/make_submission.py --model saved_models/affect_cnn --data data/multitask_dataset_beat
    python scripts/make_submission.py --model saved_models/affect_cnn --data data/mine_beat --header plain

Several models of one task each make one file: --model saved_models/valence_cnn saved_models/energy_cnn ...
Rows are sorted by id, with three decimals; the file is read back before it gets its name. Prints the command that
submits it. Exit code 0; 2 where it cannot run, with what to do.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtmusic.cli import common


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    flags.add_argument(
        "--model", type=Path, nargs="+", required=True, metavar="RUN", help="runs' folders or their model.keras"
    )
    flags.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="a data folder with test/")
    flags.add_argument("--out", type=Path, default=Path("solution.txt"), metavar="FILE", help="(default: solution.txt)")
    flags.add_argument(
        "--header",
        choices=("lab", "plain"),
        default="lab",
        help="the format that the lab's competition scored, or Id,<tasks> for any tasks (default: lab)",
    )
    flags.add_argument(
        "--beat",
        action=argparse.BooleanOptionalAction,
        help="the clips are beat-synchronised, or full rate (default: told from the folder)",
    )
    flags.add_argument("--overwrite", action="store_true", help="replace the file where it is there already")
    arguments = common.parse(flags, argv)

    from mtmusic.training.submission import make_submission

    make_submission(
        arguments.model, arguments.data, arguments.out, arguments.header, arguments.beat, arguments.overwrite
    )
    return 0

"""Predicts affect for every clip in a folder's test/, labelled or not, and writes the lab's submission file.

    mtmusic make-submission --model saved_models/affect_cnn --data data/multitask_dataset_beat
    mtmusic make-submission --model saved_models/affect_cnn --data data/mine_beat --header plain

Several models of one task each make one file: --model saved_models/valence_cnn saved_models/energy_cnn ...
Rows are sorted by id. Values have three decimals. The file is read back and checked before it gets its final name. The
command prints how to submit the file.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("--model", nargs="+", required=True, **common.RUN, help="runs' folders or their model.keras")
    flags.add_argument("--data", dest="folder", required=True, **common.FOLDER, help="a data folder with test/")
    text = "file to write (default: solution.txt)"
    flags.add_argument("--out", type=Path, default=Path("solution.txt"), metavar="FILE", help=text)
    flags.add_argument(
        "--header",
        choices=("lab", "plain"),
        default="lab",
        help="lab: the format of the lab's competition. plain: Id,<tasks>, for any tasks (default: lab)",
    )
    common.add_beat_flag(flags)
    flags.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.training.submission import make_submission

    make_submission(
        arguments.model, arguments.folder, arguments.out, arguments.header, arguments.beat, arguments.overwrite
    )

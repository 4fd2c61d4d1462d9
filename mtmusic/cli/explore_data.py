"""Draws and counts what is in a genre data folder, as the lab's steps 0 to 4 do, without training.

    mtmusic explore-data --data data/fma_genre_spectrograms_beat --out exploration

The command draws two clips of different genres, the mean mel profile of each genre, the classes before and after
merging, the clips' lengths, and batches with their padding. If the folder of the other frame rate is next to this one,
the same two clips are drawn at that rate too. The pictures and summary.json go to --out. The counts are printed.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    common.add_data_flags(flags, "a genre")
    common.add_classes_flag(flags)
    flags.add_argument("--batch-size", default=32, **common.NUMBER, help="clips per batch (default: 32)")
    common.add_seed_flag(flags, "seed of the split and the batches")
    text = "folder of the pictures and summary.json (default: exploration)"
    flags.add_argument("--out", type=Path, default=Path("exploration"), metavar="DIR", help=text)
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.datasets.demo import GENRE_FOLDERS
    from mtmusic.datasets.explore import explore_genre_data

    explore_genre_data(common.load_options(arguments, GENRE_FOLDERS), arguments.out, arguments.batch_size)

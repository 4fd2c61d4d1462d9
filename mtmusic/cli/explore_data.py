"""Looks at a genre data folder, as the lab's steps 0 to 4: pictures and counts, no training.

    mtmusic explore-data --data data/fma_genre_spectrograms_beat --out exploration

Writes into the folder: two clips of different genres (and the same two at the other frame rate, where that folder
lies beside), the mean mel profile by genre, classes before and after merging, clip lengths, batches and their
padding, and summary.json. Prints the counts. Exit code 0; 2 where it cannot run, with what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    common.add_data_flags(flags, "a genre")
    common.add_classes_flag(flags)
    flags.add_argument("--batch-size", default=32, **common.NUMBER, help="clips a batch (default: 32)")
    common.add_seed_flag(flags, "of the split and the batches")
    flags.add_argument("--out", type=Path, default=Path("exploration"), metavar="DIR", help="(default: exploration)")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.datasets.demo import GENRE_FOLDERS
    from mtmusic.datasets.explore import explore_genre_data

    explore_genre_data(common.load_options(arguments, GENRE_FOLDERS), arguments.out, arguments.batch_size)

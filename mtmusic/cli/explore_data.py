"""Looks at a genre data folder, as the lab's steps 0 to 4: pictures and counts, no training.

    python scripts/explore_data.py --data data/fma_genre_spectrograms_beat --out exploration

Writes into the folder: two clips of different genres (and the same two at the other frame rate, where that folder
lies beside), the mean mel profile by genre, classes before and after merging, clip lengths, batches and their
padding, and summary.json. Prints the counts. Exit code 0; 2 where it cannot run, with what to do.
"""

from collections.abc import Sequence
from pathlib import Path

from mtmusic.cli import common


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    common.add_data_flags(flags, "a genre")
    common.add_classes_flag(flags)
    flags.add_argument("--batch-size", type=int, default=32, metavar="N", help="clips a batch (default: 32)")
    flags.add_argument("--seed", type=common.seed, default=0, help="of the split and the batches (default: 0)")
    flags.add_argument("--out", type=Path, default=Path("exploration"), metavar="DIR", help="(default: exploration)")
    arguments = common.parse(flags, argv)

    from mtmusic.datasets.explore import explore_genre_data

    explore_genre_data(
        arguments.data,
        arguments.out,
        arguments.classes,
        arguments.beat,
        arguments.skip_bad,
        arguments.checks,
        arguments.batch_size,
        arguments.seed,
    )
    return 0

"""Turns FMA's audio and metadata (github.com/mdeff/fma) into a genre data folder and an affect data folder.

    mtmusic prepare-fma --audio fma_small --metadata fma_metadata --out data/fma_small --dry-run
    mtmusic prepare-fma --audio fma_small --metadata fma_metadata --out data/fma_small --both

The genre folder has FMA's genre_top and its official training, validation and test splits. The affect folder has
Echonest's valence, energy and danceability, and a test split of a fifth of the clips that shares no artist with train.
The command writes DATA/genre and DATA/affect (with --beat DATA/genre_beat and DATA/affect_beat, with --both all four)
and DATA/failures.csv. It prints the number of clips by split, and how many were left out and why. If the command was
stopped, the same command continues.
The exit code is 0, 1 if some songs failed, or 2 if the command cannot run; a message then says what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common
from mtmusic.errors import UserError


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("--audio", required=True, **common.DIR, help="folder that holds 000/000002.mp3, ...")
    flags.add_argument("--metadata", required=True, **common.DIR, help="folder that holds tracks.csv, echonest.csv")
    flags.add_argument("--out", type=Path, required=True, metavar="DATA", help="folder to write the data folders into")
    text = "size of the FMA data set (default: small)"
    flags.add_argument("--size", choices=("small", "medium", "large"), default="small", help=text)
    flags.add_argument("--dry-run", action="store_true", help="print the counts, and write nothing")
    common.add_rate_flags(flags)
    common.add_jobs_flags(flags)
    common.add_seed_flag(flags, "seed of the affect split")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> int:
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"Expected `jobs` of 1 or more, got {arguments.jobs}")

    from mtmusic.datasets.fma import genre_folders, plan_fma, plan_table, write_fma

    plan = plan_fma(arguments.audio, arguments.metadata, arguments.size, arguments.seed)
    print(plan_table(plan))
    out, rate = arguments.out, arguments.rate
    failed = [] if arguments.dry_run else write_fma(plan, out, rate, arguments.jobs or -1, arguments.scheduler)
    for outcome in failed:
        print(f"Failed: {outcome.failure}")
    for folder in genre_folders(plan, out, rate):
        print(
            f"Train with: {common.command('train-genre', folder=folder, classes='all', recipe='best')}"
        )  # not the lab's genres
    return 1 if failed else 0

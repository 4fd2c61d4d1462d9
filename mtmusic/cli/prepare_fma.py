"""Turns FMA's audio and metadata (github.com/mdeff/fma) into a genre data folder and an affect data folder.

    mtmusic prepare-fma --audio fma_small --metadata fma_metadata --out data/fma_small --dry-run
    mtmusic prepare-fma --audio fma_small --metadata fma_metadata --out data/fma_small --both

Genre: FMA's genre_top in its official training, validation and test split. Affect: echonest's valence, energy and
danceability, a fifth of the artists' clips held out as test. Writes DATA/genre and DATA/affect (with --beat
DATA/genre_beat and DATA/affect_beat, with --both all four) and DATA/failures.csv, and prints the counts by split and
what was left out and why. Started again, it goes on where it stopped.
Exit code 0; 1 where some songs failed; 2 where it cannot run, with what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common
from mtmusic.errors import UserError


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("--audio", required=True, **common.DIR, help="holds 000/000002.mp3, ...")
    flags.add_argument("--metadata", required=True, **common.DIR, help="holds tracks.csv, echonest.csv, ...")
    flags.add_argument("--out", type=Path, required=True, metavar="DATA", help="where the data folders go")
    flags.add_argument("--size", choices=("small", "medium", "large"), default="small", help="(default: small)")
    flags.add_argument("--dry-run", action="store_true", help="print the counts, and write nothing")
    common.add_rate_flags(flags)
    common.add_jobs_flags(flags)
    common.add_seed_flag(flags, "of the affect split")
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

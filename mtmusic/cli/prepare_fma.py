"""Turns FMA's audio and metadata (github.com/mdeff/fma) into a genre data folder and an affect data folder.

    python scripts/prepare_fma.py --audio fma_small --metadata fma_metadata --out data/fma_small --dry-run
    python scripts/prepare_fma.py --audio fma_small --metadata fma_metadata --out data/fma_small --both

Genre: FMA's genre_top in its official training, validation and test split. Affect: echonest's valence, energy and
danceability, a fifth of the artists' clips held out as test. Writes DATA/genre and DATA/affect (with --beat
DATA/genre_beat and DATA/affect_beat, with --both all four) and DATA/failures.csv, and prints the counts by split and
what was left out and why. Started again, it goes on where it stopped.
Exit code 0; 1 where some songs failed; 2 where it cannot run, with what to do.
"""

from collections.abc import Sequence
from pathlib import Path

from mtmusic.cli import common
from mtmusic.errors import UserError


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    flags.add_argument("--audio", type=Path, required=True, metavar="DIR", help="holds 000/000002.mp3, ...")
    flags.add_argument(
        "--metadata", type=Path, required=True, metavar="DIR", help="holds tracks.csv, echonest.csv, ..."
    )
    flags.add_argument("--out", type=Path, required=True, metavar="DATA", help="where the data folders go")
    flags.add_argument("--size", choices=("small", "medium", "large"), default="small", help="(default: small)")
    flags.add_argument("--dry-run", action="store_true", help="print the counts, and write nothing")
    rate = flags.add_mutually_exclusive_group()
    rate.add_argument("--beat", dest="rate", action="store_const", const="beat", help="beat-synchronised arrays")
    rate.add_argument("--both", dest="rate", action="store_const", const="both", help="full-rate ones and these")
    flags.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: one a core)")
    flags.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="work on this dask.distributed cluster instead")
    flags.add_argument("--seed", type=common.seed, default=0, help="of the affect split (default: 0)")
    arguments = common.parse(flags, argv)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"Expected --jobs of 1 or more, got {arguments.jobs}")

    from mtmusic.datasets.fma import plan_fma, print_next_steps, print_plan, write_fma

    plan = plan_fma(arguments.audio, arguments.metadata, arguments.size, arguments.seed)
    print_plan(plan)
    out, rates = arguments.out, arguments.rate or "full"
    failed = [] if arguments.dry_run else write_fma(plan, out, rates, arguments.jobs or -1, arguments.scheduler)
    for outcome in failed:
        print(f"Failed: {outcome.failure}")
    print_next_steps(plan, out, rates)
    return 1 if failed else 0

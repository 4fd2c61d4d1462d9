"""Makes the demo corpus: synthesised music in the lab's four folders, as the training scripts use it without --data.

    python scripts/make_demo_data.py                     into the cache (MTMUSIC_CACHE, default ~/.cache/mtmusic)
    python scripts/make_demo_data.py --out demo --seed 1

Prints the folder. Equal seeds give equal arrays. Exit code 0; 2 where it cannot run, with what to do.
"""

from collections.abc import Sequence
from pathlib import Path

from mtmusic.cli import common
from mtmusic.errors import UserError


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    flags.add_argument("--out", type=Path, metavar="DIR", help="where to (default: the cache)")
    flags.add_argument("--overwrite", action="store_true", help="make it anew in the place of what is there")
    flags.add_argument("--seed", type=common.seed, default=0, help="(default: 0)")
    arguments = common.parse(flags, argv)

    from mtmusic.datasets.demo import GENRE_FOLDERS, demo_corpus_folder, make_demo_corpus
    from mtmusic.files import refuse_other_things

    folder = arguments.out or demo_corpus_folder(arguments.seed)
    refuse_other_things(folder, f"{GENRE_FOLDERS[True]}/features.json")
    there = folder.exists() and any(folder.iterdir())
    if there and arguments.out is not None and not arguments.overwrite:
        raise UserError(f"Expected a new folder, got {folder}, which holds a corpus already: --overwrite replaces it")
    if not there or arguments.overwrite:
        make_demo_corpus(folder, arguments.seed)
    print(folder)
    return 0

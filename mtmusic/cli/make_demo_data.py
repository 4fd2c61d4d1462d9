"""Makes the demo corpus of synthesised music in the lab's four folders. Commands use it if --data is not given.

    mtmusic make-demo-data                     into the cache (MTMUSIC_CACHE, default ~/.cache/mtmusic)
    mtmusic make-demo-data --out demo --seed 1

The command prints the folder. Equal seeds give equal arrays.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse

from mtmusic.cli import common
from mtmusic.errors import UserError


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("--out", **common.DIR, help="folder of the corpus (default: in the cache)")
    flags.add_argument("--overwrite", action="store_true", help="replace an existing corpus")
    common.add_seed_flag(flags)
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.datasets.demo import GENRE_FOLDERS, demo_corpus_folder, make_demo_corpus
    from mtmusic.files import refuse_other_things

    folder = arguments.out or demo_corpus_folder(arguments.seed)
    refuse_other_things(folder, f"{GENRE_FOLDERS[True]}/features.json")
    there = folder.exists() and any(folder.iterdir())
    if there and arguments.out is not None and not arguments.overwrite:
        raise UserError(f"Expected a new folder, got {folder}, which already holds a corpus: --overwrite replaces it")
    if not there or arguments.overwrite:
        make_demo_corpus(folder, arguments.seed)
    print(folder)

"""Fetches the pretrained trunk, musicnn, so that songs can be answered and models trained from it.

    mtmusic get-pretrained
    mtmusic get-pretrained --wheel musicnn-0.1.0-py3-none-any.whl     on a machine without a package index

pip downloads the wheel of musicnn 0.1.0 (Pons and Serra 2019, ISC licence) from the index that it is set up for. Its
hash is checked. The weights become a run, musicnn, in saved_models/ of a clone, else in the cache (MTMUSIC_CACHE). The
package itself is neither installed nor run.
Exit code 0; 2 where it cannot run, with what to do.
"""

import argparse

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("--wheel", **common.FILE, help="take the weights from this file, and download nothing")
    flags.add_argument("--out", **common.DIR, help="(default: saved_models/musicnn, or models/musicnn in the cache)")
    flags.add_argument("--overwrite", action="store_true", help="write it anew where it is there")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.training.pretrained import get_pretrained

    get_pretrained(arguments.out, arguments.wheel, arguments.overwrite)

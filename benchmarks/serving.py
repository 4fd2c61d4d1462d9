"""Times the way from a song's file to its answer, and what it costs to get there.

    python benchmarks/serving.py
    python benchmarks/serving.py --rounds 10 --json serving.json

For the lab's CNN on beats and for an LSTM on the full-rate mel, untrained, since weights do not change the time: one
song of 30 s, an mp3, warm: decoding, features and model apart, then `Predictor.predict` as a whole; songs a second over
a folder with all cores; the sizes of model.keras and of the SavedModel. Then, each in a process of its own: `import
mtmusic`, `predict.py --help`, and predict.py on one short song, which is nearly all start-up.
Exit code 0; 2 where it cannot run, with what to do.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

PROJECT = Path(__file__).resolve().parent.parent


SECONDS, QUICK_SECONDS = 30.0, 6.0
SONGS, QUICK_SONGS = 32, 2
MODELS = {"cnn, beats": True, "lstm, full rate": False}
"""Whether each hears beats."""


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument("--rounds", type=int, default=5, metavar="N", help="medians of so many (default: 5)")
    flags.add_argument("--quick", action="store_true", help="songs of 6 s, one round, to see that it runs")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to it")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")
    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        songs = write_songs(folder / "songs", *((QUICK_SONGS, QUICK_SECONDS) if arguments.quick else (SONGS, SECONDS)))
        rows = [measure(name, beat, folder, songs, rounds) for name, beat in MODELS.items()]
        starts = measure_starts(folder, rounds)
    for row in rows:
        print(f"{row.pop('model')}: " + ", ".join(f"{name} {value:.3g}" for name, value in row.items()))
    for name, seconds in starts.items():
        print(f"{name}: {seconds:.3g} s")
    if arguments.json:
        write_json(arguments.json, {"rounds": rounds, "rows": dict(zip(MODELS, rows, strict=True)), "starts": starts})


def write_songs(folder: Path, count: int, seconds: float) -> list[Path]:
    """Synthesised songs as mp3."""
    import soundfile

    from mtmusic.audio.synthesis import STYLES, synthesise
    from mtmusic.constants import SAMPLE_RATE

    folder.mkdir()
    genres = sorted(STYLES)
    for number in range(count):
        waveform, _ = synthesise(genres[number % len(genres)], number, seconds)
        soundfile.write(folder / f"{number}.mp3", waveform, SAMPLE_RATE)
    return sorted(folder.iterdir())


def write_run(folder: Path, beat: bool) -> None:
    """An untrained model with its card, and its export beside it."""
    import numpy as np

    from mtmusic.constants import MEL_BINS
    from mtmusic.models.backbones import cnn_backbone, lstm_backbone
    from mtmusic.models.heads import genre_classifier
    from mtmusic.models.savedmodel import export_savedmodel
    from mtmusic.models.saving import load, save

    classes = [f"genre {number}" for number in range(10)]
    model = genre_classifier(cnn_backbone() if beat else lstm_backbone(), classes)
    card = {"task": "genre", "classes": classes, "feature": "mel", "beat": beat, "frames": model.input_shape[1]}
    examples = np.random.default_rng(0).uniform(-80, 0, (2, 128, MEL_BINS)).astype("float32")
    save(model, folder, card, examples)
    export_savedmodel(*load(folder), examples, folder / "saved_model")


def measure(name: str, beat: bool, folder: Path, songs: list[Path], rounds: int) -> dict[str, Any]:
    """Median seconds of each stage for the first song, songs a second, and megabytes."""
    from mtmusic.audio.features import fused_spectrogram
    from mtmusic.audio.loading import load_waveform
    from mtmusic.serving.predictor import Predictor

    run = folder / name
    write_run(run, beat)
    predictor = Predictor(run)
    waveform = load_waveform(songs[0])
    array = fused_spectrogram(waveform, beat)
    stages: dict[str, Callable[[], Any]] = {
        "decode_seconds": lambda: load_waveform(songs[0]),
        "features_seconds": lambda: fused_spectrogram(waveform, beat),
        "model_seconds": lambda: predictor.predict(array),
        "predict_seconds": lambda: predictor.predict(songs[0]),
    }
    row: dict[str, Any] = {"model": name}
    for stage, call in stages.items():
        call()
        row[stage] = statistics.median(timed(call) for _ in range(rounds))
    list(predictor.predict_folder(songs))  # starts the workers
    row["songs_per_second"] = len(songs) / timed(lambda: list(predictor.predict_folder(songs)))
    row["keras_mb"] = (run / "model.keras").stat().st_size / 1e6
    row["saved_model_mb"] = sum(path.stat().st_size for path in (run / "saved_model").rglob("*")) / 1e6
    return row


def measure_starts(folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of processes from their start to their end; of the import, within one."""
    song = write_songs(folder / "short", 1, QUICK_SECONDS)[0]
    script = str(PROJECT / "scripts" / "predict.py")
    timing = "import time; begin = time.perf_counter(); import mtmusic; print(time.perf_counter() - begin)"
    imports = [float(run_python("-c", timing)) for _ in range(rounds)]
    prediction = (script, str(song), "--model", str(folder / next(iter(MODELS))))
    return {
        "import mtmusic": statistics.median(imports),
        "predict.py --help": statistics.median(timed(lambda: run_python(script, "--help")) for _ in range(rounds)),
        "predict.py, one short song": statistics.median(timed(lambda: run_python(*prediction)) for _ in range(rounds)),
    }


def run_python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise UserError(f"Expected {arguments[0]} to run, got exit code {done.returncode}: {done.stderr[-300:]}")
    return done.stdout


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())

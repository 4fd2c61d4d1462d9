"""Times the prediction of a song and of a folder of songs, from file to answer, and measures the memory for a folder.

    python benchmarks/serving.py
    python benchmarks/serving.py --rounds 10 --json serving.json

The models are the lab's CNN on beats and an LSTM on full-rate mel, both with random weights, which do not change the
time, and the pretrained musicnn if it is found. The songs are synthesised mp3s of 30 s, or the first 32 songs of
--data. For a song, the program prints the median seconds of `Predictor.predict` after a first call. For a folder, it
prints the processor seconds per song of decoding, features and model. It prints songs per second on all cores, for the
first pass, which starts the worker processes and traces the model, and for later passes. It prints the share of the
possible rate, which is cores / the sum of these processor seconds. Other users of the machine lower this share. `ready`
is the share of the cores for which a thread of the program was ready to run. Memory is the peak of all processes
together for 32 and for 320 songs, each in a separate process.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

if TYPE_CHECKING:
    from mtmusic.serving.predictor import Predictor

PROJECT = Path(__file__).resolve().parent.parent


SECONDS, QUICK_SECONDS = 30.0, 6.0
SONGS, QUICK_SONGS, TIMES = 32, 2, 10
MODELS = {"cnn, beats": True, "lstm, full rate": False, "musicnn": None}
"""Whether each model takes beats. None for a model that exists already."""

GOAL = 0.85
EVERY_SECONDS = 0.03
FILL = "import sys, serving; serving.print_peak(*sys.argv[1:])"


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument("--data", type=Path, nargs="+", metavar="SONGS", help="files, or folders (default: synthesised)")
    flags.add_argument("--only", choices=MODELS, help="measure this model only")
    flags.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="number of rounds, of which medians are taken (default: 5)"
    )
    flags.add_argument("--quick", action="store_true", help="songs of 6 s and one round, as a test")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")
    from mtmusic.audio.extraction import find_songs

    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.data:
            songs = find_songs(arguments.data)[:SONGS]
        else:
            size = (QUICK_SONGS, QUICK_SECONDS) if arguments.quick else (SONGS, SECONDS)
            songs = write_songs(folder / "songs", *size)
        models = runs(folder, arguments.only)
        rows = {name: measure(run, songs, rounds) for name, run in models.items()}
        for name, run in models.items():
            rows[name]["peak_mb"] = [peak(run, folder / f"{times} times", songs, times) for times in (1, TIMES)]
    for name, row in rows.items():
        print(f"{name}: " + ", ".join(f"{key} {_shown(value)}" for key, value in row.items()))
    print(
        f"goal: share {GOAL}; a list is median, least and most, peak_mb of {len(songs)} and {len(songs) * TIMES} songs"
    )
    if arguments.json:
        write_json(arguments.json, {"rounds": rounds, "rows": rows, "cores": cores(), "goal": GOAL})


def _shown(value: float | list[float]) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "(" + " ".join(f"{one:.3g}" for one in value) + ")"


def cores() -> int:
    return len(os.sched_getaffinity(0))


def write_songs(folder: Path, count: int, seconds: float) -> list[Path]:
    """Writes synthesised songs as mp3."""
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
    """Writes an untrained model with its card."""
    import numpy as np

    from mtmusic.constants import MEL_BINS
    from mtmusic.models.backbones import cnn_backbone, lstm_backbone
    from mtmusic.models.heads import genre_classifier
    from mtmusic.models.saving import save

    classes = [f"genre {number}" for number in range(10)]
    model = genre_classifier(cnn_backbone() if beat else lstm_backbone(), classes)
    card = {"task": "genre", "classes": classes, "feature": "mel", "beat": beat, "frames": model.input_shape[1]}
    examples = np.random.default_rng(0).uniform(-80, 0, (2, 128, MEL_BINS)).astype("float32")
    save(model, folder, card, examples)


def runs(folder: Path, only: str | None = None) -> dict[str, Path | str]:
    """Returns the run of each model, or of one model. musicnn is left out if it is not found."""
    from mtmusic.cards import find_run

    found: dict[str, Path | str] = {}
    for name, beat in MODELS.items():
        if only and name != only:
            continue
        if beat is None:
            with suppress(UserError):
                found[name] = str(find_run(name).absolute())
        else:
            write_run(folder / name, beat)
            found[name] = folder / name
    return found


def measure(run: Path | str, songs: list[Path], rounds: int) -> dict[str, Any]:
    """Measures a model. Returns medians, and for rates, the share and `ready` also the smallest and largest values."""
    from mtmusic.serving.predictor import Predictor

    predictor = Predictor(run)
    row: dict[str, Any] = {"first_songs_per_second": len(songs) / timed(lambda: list(predictor.predict_folder(songs)))}
    predictor.predict(songs[0])
    rounded: dict[str, list[float]] = {}
    for _ in range(rounds):
        stages = stages_of_a_song(predictor, run, songs[:8])
        with ready_threads() as ready:
            rate = len(songs) / timed(lambda: list(predictor.predict_folder(songs)))
        share = rate * sum(stages.values()) / cores()
        measured = {"songs_per_second": rate, "share": share, "ready": statistics.mean(ready or [0.0])}
        measured["predict_seconds"] = timed(lambda: predictor.predict(songs[0]))
        for name, value in (measured | stages).items():
            rounded.setdefault(name, []).append(value)
    for name, values in rounded.items():
        spread = [statistics.median(values), min(values), max(values)]
        row[name] = spread if name in ("songs_per_second", "share", "ready") else spread[0]
    return row


def stages_of_a_song(predictor: "Predictor", run: Path | str, songs: list[Path]) -> dict[str, float]:
    """Mean processor seconds per song of each stage, without worker processes."""
    from mtmusic.audio.loading import load_waveform
    from mtmusic.audio.windows import BEAT, FULL
    from mtmusic.constants import LOGMEL_SAMPLE_RATE, SAMPLE_RATE
    from mtmusic.serving.predictor import begin

    made: list[Any] = []
    with begin([run], songs, jobs=1) as begun:
        fused = any(array in (FULL, BEAT) for _, array in begun.asked[1])
        rate = SAMPLE_RATE if fused else LOGMEL_SAMPLE_RATE
        decoded = processor_seconds(lambda: [load_waveform(song, sample_rate=rate) for song in songs])
        featured = processor_seconds(lambda: made.extend(begun.songs))
        premade = replace(begun, songs=iter(made))
        answered = processor_seconds(lambda: list(predictor.predict_folder(songs, begun=premade)))
    names = ("decode_processor_seconds", "features_processor_seconds", "model_processor_seconds")
    return dict(zip(names, (one / len(songs) for one in (decoded, featured - decoded, answered)), strict=True))


@contextmanager
def ready_threads() -> Iterator[list[float]]:
    """Measures, during the block, the share of the cores for which a thread of this program was ready to run."""
    found: list[float] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(EVERY_SECONDS):
            own = threading.get_native_id()
            tasks = [task for process in processes() for task in Path(f"/proc/{process}/task").glob("*")]
            found.append(min(sum(_state(task)[0] == "R" for task in tasks if task.name != str(own)) / cores(), 1.0))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def processes() -> list[int]:
    """The ids of this process and of its children."""
    everyone = (path for path in Path("/proc").iterdir() if path.name.isdigit())
    parents = {int(path.name): _state(path)[1:2] for path in everyone}
    return [one for one, parent in parents.items() if one == os.getpid() or parent == [str(os.getpid())]]


def _state(process: Path) -> list[str]:
    """The fields of a process, from the state and the parent on. The state of an ended process is empty."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [""]


def peak(run: Path | str, folder: Path, songs: list[Path], times: int) -> float:
    """The peak in megabytes of a process that predicts the songs, each under `times` names, and of its workers."""
    folder.mkdir(exist_ok=True)
    for song in songs:
        for number in range(times):
            if not (copy := folder / f"{song.stem} {number}{song.suffix}").exists():
                copy.symlink_to(song)
    return float(run_python("-c", FILL, str(run), str(folder)))


def print_peak(run: str, folder: str) -> None:
    from mtmusic.serving.predictor import Predictor

    most, stop = [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(EVERY_SECONDS):
            most.append(sum(_megabytes(process) for process in processes()))

    thread = threading.Thread(target=look)
    thread.start()
    failed = [song.failure for song in Predictor(run).predict_folder(folder) if song.failure]
    stop.set()
    thread.join()
    if failed:
        raise UserError(failed[0])
    print(max(most))


def _megabytes(process: int) -> float:
    """The memory of a process in megabytes. Shared memory is divided among the processes that share it."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def run_python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "benchmarks")])}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise UserError(f"Expected {arguments[0]} to run, got exit code {done.returncode}: {done.stderr[-300:]}")
    return done.stdout


def processor_seconds(call: Callable[[], Any]) -> float:
    """The processor seconds of all threads of this process during a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())

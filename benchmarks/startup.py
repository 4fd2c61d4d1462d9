"""Times the start-up of commands: --help, train_genre.py to its first training step, and `mtmusic predict` of a song.

    python benchmarks/startup.py
    python benchmarks/startup.py --data FOLDER --rounds 7 --json startup.json

Each command runs in a separate process, which is timed from outside. train_genre.py runs with its default options: once
with an empty MTMUSIC_CACHE, where the checks measure every array, and once with the cache of the first run. The arrays
are in the page cache of the operating system. Without --data the folder is the real beat-synchronised folder in
MTMUSIC_REAL_DATA (default: ../shared/data), or else a synthetic one with 300 clips of the lab's lengths.
`mtmusic predict` and `python -c "import tensorflow"` are timed in turn, and the ratio of their times is printed. A song
of 30 s is predicted by the lab's CNN on beats and by an LSTM on full-rate mel, both untrained, and by musicnn if it is
found.
The program prints medians of the elapsed time, and of the processor time, which depends less on other users of the
machine.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

PROJECT = Path(__file__).resolve().parent.parent


REAL_FOLDER = Path("emotify") / "fma_genre_spectrograms_beat"
CLIPS, QUICK_CLIPS, QUICK_SCALE = {"train": 200, "test": 100}, {"train": 100, "test": 20}, 4
GOALS = {"help": 0.5, "first step": 20.0}
"""The goals in seconds."""

GOAL_RATIO = 1.3
TENSORFLOW = "import tensorflow"
PROGRAM = "import sys; from mtmusic.cli.main import program; sys.exit(program())"

CHILD = "import sys, startup; startup.run_to_first_step(sys.argv[1:])"


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument("--data", type=Path, metavar="FOLDER", help="a genre data folder for train_genre.py")
    flags.add_argument("--backbone", choices=("cnn", "lstm"), default="cnn", help="backbone (default: cnn)")
    flags.add_argument("--only", choices=("help", "first-step", "predict"), help="time this part only")
    flags.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="number of rounds, of which medians are taken (default: 7)"
    )
    flags.add_argument("--quick", action="store_true", help="120 short synthetic clips and one round, as a test")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")
    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as temporary:
        rows = []
        if arguments.only in (None, "help"):
            helps = {script.name: [_help(script) for _ in range(rounds)] for script in _scripts()}
            rows += [_row("help", name, measured) for name, measured in helps.items()]
        if arguments.only in (None, "first-step"):
            data = arguments.data or _folder(Path(temporary), arguments.quick)
            steps = [_first_steps(data, arguments.backbone, Path(temporary)) for _ in range(rounds)]
            rows += [_row("first step", name, [measured[name] for measured in steps]) for name in steps[0]]
        if arguments.only in (None, "predict"):
            rows += _predictions(Path(temporary), arguments.quick, rounds)
    print(_table(rows))
    if arguments.json:
        write_json(arguments.json, {"rounds": rounds, "data": str(arguments.data), "rows": rows})


def _scripts() -> list[Path]:
    return sorted((PROJECT / "scripts").glob("*.py"))


def _folder(temporary: Path, quick: bool) -> Path:
    """Returns the real folder if there is one, else makes a synthetic one."""
    real = Path(os.environ.get("MTMUSIC_REAL_DATA") or PROJECT.parent / "shared" / "data") / REAL_FOLDER
    if real.is_dir() and not quick:
        return real

    import numpy as np
    from lab_folder import lab_lengths, write_clips

    from mtmusic.data.labels import write_genre_labels

    folder = temporary / "synthetic_beat"
    rng = np.random.default_rng(0)
    for split, count in (QUICK_CLIPS if quick else CLIPS).items():
        clips = write_clips(folder / split, lab_lengths(count, QUICK_SCALE if quick else 1), rng)
        write_genre_labels(folder, split, clips.ids, [clips.classes[target] for target in clips.targets])
    return folder


def _first_steps(data: Path, backbone: str, temporary: Path) -> dict[str, dict[str, float]]:
    """Seconds to the end of the first step, with an empty cache and with the cache of that run."""
    with tempfile.TemporaryDirectory(dir=temporary) as place:
        folder = Path(place)
        found = {}
        for cache in ("empty cache", "warm cache"):
            out = folder / cache.split()[0]
            command = [sys.executable, "-c", CHILD]
            command += ["--data", str(data), "--backbone", backbone, "--out", str(out)]
            start = time.time()
            told = _run(command, {"MTMUSIC_CACHE": str(folder / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"})
            child = json.loads(told.strip().splitlines()[-1])
            found[f"train_genre.py --backbone {backbone}, {cache}"] = {
                "seconds": child["ended"] - start,
                "processor_seconds": child["processor_seconds"],
            }
    return found


def run_to_first_step(argv: Sequence[str]) -> None:
    """Runs train_genre.py in this process, ends it after the first training step, and prints the time."""
    import keras

    from mtmusic.cli import train_genre

    def end(callbacks: Any, batch: int, logs: dict[str, Any]) -> None:
        float(logs["loss"])  # waits for the step
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"ended": time.time(), "processor_seconds": used.ru_utime + used.ru_stime}), flush=True)
        os._exit(0)

    keras.callbacks.CallbackList.on_train_batch_end = end
    sys.exit(train_genre.main(argv))


def _predictions(temporary: Path, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """Times `import tensorflow` and a prediction with each model, in turn."""
    from serving import QUICK_SECONDS, SECONDS, runs, write_songs

    (song,) = write_songs(temporary / "songs", 1, QUICK_SECONDS if quick else SECONDS)
    models = runs(temporary / "models")
    commands = {f"mtmusic predict, {name}": ["-c", PROGRAM, "predict", song, "--model", run]
                for name, run in models.items()}  # fmt: skip
    commands = {f'python -c "{TENSORFLOW}"': ["-c", TENSORFLOW], **commands}
    rows = [{name: _timed(list(map(str, words))) for name, words in commands.items()} for _ in range(rounds)]
    first, *_ = commands
    return [
        _row("predict", name, [row[name] for row in rows])
        | {"ratios": sorted(row[name]["seconds"] / row[first]["seconds"] for row in rows)}
        for name in commands
    ]


def _help(script: Path) -> dict[str, float]:
    return _timed([str(script), "--help"])


def _timed(arguments: Sequence[str]) -> dict[str, float]:
    """The times of a Python process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    _run([sys.executable, *arguments], {})
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor_seconds": used}


def _run(command: Sequence[str], added: dict[str, str]) -> str:
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "benchmarks")])
    environment = {**os.environ, "PYTHONPATH": paths, **added}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise UserError(f"Expected {command[1]} to run, got exit code {done.returncode}: {reason}")
    return done.stdout


def _row(kind: str, name: str, measured: Sequence[dict[str, float]]) -> dict[str, Any]:
    seconds = [run["seconds"] for run in measured]
    return {
        "kind": kind,
        "command": name,
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "processor_seconds": statistics.median(run["processor_seconds"] for run in measured),
        "goal": GOALS.get(kind),
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'command':<40} {'until':<10} {'s':>6} {'min to max':<14} {'processor, s':>12} {'goal, s':>8}"]
    for row in rows:
        spread = f"{row['seconds_min']:.2f} to {row['seconds_max']:.2f}"
        goal = f"{row['goal']:>8g}" if row["goal"] else ""
        if ratios := row.get("ratios"):
            goal = f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), goal {GOAL_RATIO:g}"
        lines.append(
            f"{row['command']:<40} {row['kind']:<10} {row['seconds']:>6.2f} {spread:<14} "
            f"{row['processor_seconds']:>12.2f} {goal}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Times the data pipeline: clips per second next to a NumPy loop, reading from disk, and the waiting of a training.

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --only wait --rounds 7 --json pipeline.json

rate: the pipeline, and a NumPy loop that reads and pads the same clips, read two folders: 1000 clips of 14 to 129
frames like beat-synchronised ones, and 100 clips of 1291 frames like full-rate ones. The clips were just written, so
they are in the page cache of the operating system. The program prints a row for each way to read them: clips per
second, and the ratio ours / NumPy, which is above 1 if ours is faster.
cold: the same for 2305 float64 clips of the lab's lengths. They are dropped from the page cache before each reading.
The program also prints the share that came from the disk by the kernel's count. A virtual disk may have its own cache.
wait: the share of an epoch that the training steps wait for batches, in the loop of model.fit with the dataset of a
training, by TensorFlow's profiler, from the second epoch on.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lab_folder import LAB_CLIPS, lab_lengths, write_clips
from layer_profile import operations

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

BATCH = 32
NUMPY = "NumPy loop"
PARTS = ("rate", "cold", "wait")
QUICK_SHARE = 20
COLD_SECONDS = 3.0
"""The goal for reading the lab's clips from the disk."""

WAITING = "IteratorGetNextOp::DoCompute"
"""The profiler's name of the operation that takes the next batch."""

WAIT_SHARE = 0.03
"""The goal: the share of an epoch that the training waits for batches is at most this."""

WAITS = {
    "lstm, beat, cached": ("lstm", "beat", True),
    "lstm, beat, from disk": ("lstm", "beat", False),
    "cnn, beat, cached": ("cnn", "beat", True),
    "lstm, full rate, from disk": ("lstm", "full rate", False),
}
"""Network, folder, and whether the folder is cached in memory."""

CNN_CLIPS, FULL_CLIPS = 320, 320
"""Numbers of clips that stand for the lab's, because these epochs take long."""


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument("--only", choices=PARTS, help="run this part only")
    flags.add_argument("--rounds", type=int, default=7, metavar="N", help="number of rounds (default: 7)")
    flags.add_argument("--seed", type=common.seed, default=0, help="seed of the arrays and of the shuffle (default: 0)")
    flags.add_argument("--quick", action="store_true", help="a twentieth of the clips, as a test")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")
    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    share = QUICK_SHARE if arguments.quick else 1
    measures = {"rate": _measure_rate, "cold": _measure_cold, "wait": _measure_wait}
    content: dict[str, Any] = {"rounds": arguments.rounds}
    for part in [arguments.only] if arguments.only else PARTS:
        rows = measures[part](arguments.rounds, arguments.seed, share)
        print(_wait_table(rows) if part == "wait" else _table(rows), flush=True)
        content["rows" if part == "rate" else part] = rows
    if arguments.json:
        write_json(arguments.json, content)


def _measure_rate(rounds: int, seed: int, share: int) -> list[dict[str, Any]]:
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = []
    for name, lengths in {"beat": lab_lengths(1000 // share), "full rate": [1291] * (100 // share)}.items():
        with tempfile.TemporaryDirectory() as temporary:
            clips = write_clips(Path(temporary), lengths, rng, "float32")
            rows += _compare(name, clips, Path(temporary) / "cache", rounds, seed)
    return rows


def _measure_cold(rounds: int, seed: int, share: int) -> list[dict[str, Any]]:
    """A row for the NumPy loop and a row for ours: seconds to read all clips, and the share that came from the disk."""
    import numpy as np

    from mtmusic.data.pipeline import make_dataset

    with tempfile.TemporaryDirectory() as temporary:
        clips = write_clips(Path(temporary), lab_lengths(LAB_CLIPS // share), np.random.default_rng(seed))
        stored = sum(path.stat().st_size for path in clips.paths)
        _seconds(make_dataset(clips.take(range(1)), batch_size=BATCH))  # starts TensorFlow
        taken: dict[str, list[tuple[float, int]]] = {NUMPY: [], "ours": []}
        for _ in range(rounds):
            taken[NUMPY].append(_cold(clips.paths, lambda: _numpy_batches(clips.paths)))
            taken["ours"].append(_cold(clips.paths, lambda: make_dataset(clips, batch_size=BATCH, cache="memory")))
    numpy = [seconds for seconds, _ in taken[NUMPY]]
    rows = []
    for way, measured in taken.items():
        seconds = statistics.median(each for each, _ in measured)
        ratios = [base / each for base, (each, _) in zip(numpy, measured, strict=True)]
        rows.append(
            {
                "folder": "cold beat",
                "way": f"{way}: {seconds:.2f} s",
                "clips_per_second": len(clips) / seconds,
                "seconds": seconds,
                "seconds_max": max(each for each, _ in measured),
                "from_disk": statistics.median(read / stored for _, read in measured),
                **_spread(ratios),
            }
        )
    print(f"{len(clips)} clips, {stored / 2**20:.0f} MiB, {rows[1]['from_disk']:.0%} from the disk: {_goal(rows[1])}")
    return rows


def _goal(row: dict[str, Any]) -> str:
    word = "reached" if row["seconds"] < COLD_SECONDS else "missed"
    return f"{row['seconds']:.2f} s, at most {row['seconds_max']:.2f}; the goal of {COLD_SECONDS:g} s is {word}"


def _cold(paths: Sequence[Path], batches: Any) -> tuple[float, int]:
    """Seconds to make and read all batches, and the bytes that were read from the disk in that time."""
    os.sync()  # only pages that are written can be dropped
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    before, start = _read_bytes(), time.perf_counter()
    for _ in batches():
        pass
    return time.perf_counter() - start, _read_bytes() - before


def _read_bytes() -> int:
    """The bytes that this process has read from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def _measure_wait(rounds: int, seed: int, share: int) -> list[dict[str, Any]]:
    """A row for each network and folder: the waiting share of an epoch, the median over `rounds` epochs."""
    import numpy as np

    from mtmusic.training.run_folder import seed_everything

    seed_everything(seed)  # as in a training
    lengths = {"beat": lab_lengths(LAB_CLIPS // share), "full rate": [1291] * (FULL_CLIPS // share)}
    rng = np.random.default_rng(seed)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: write_clips(Path(temporary) / name, frames, rng) for name, frames in lengths.items()}
        for name, (network, folder, cached) in WAITS.items():
            clips = folders[folder] if network == "lstm" else folders[folder].take(range(CNN_CLIPS // share))
            waits = _waits(network, clips, cached, rounds, seed)
            shares = [waited / epoch for waited, epoch in waits]
            rows.append(
                {
                    "case": name,
                    "clips": len(clips),
                    "epoch_seconds": statistics.median(epoch for _, epoch in waits),
                    "wait": statistics.median(shares),
                    "wait_min": min(shares),
                    "wait_max": max(shares),
                }
            )
    return rows


def _waits(network: str, clips: Any, cached: bool, rounds: int, seed: int) -> list[tuple[float, float]]:
    """For each epoch from the second on: seconds that its steps waited for batches, and seconds of the epoch."""
    from dataclasses import replace
    from unittest.mock import patch

    from mtmusic.models.backbones import FRAMES
    from mtmusic.models.heads import genre_classifier
    from mtmusic.training import train as training
    from mtmusic.training.recipes import RECIPES, build_backbone, fill_in

    recipe = fill_in(RECIPES[network], FRAMES[True], {"train": clips})
    recipe = replace(recipe, batch_size=min(BATCH, max(1, len(clips) // 8)))
    model = genre_classifier(build_backbone(recipe), clips.classes)
    with patch.object(training, "MEMORY_CACHE_BYTES", training.MEMORY_CACHE_BYTES if cached else 0):
        dataset = training.batches_of(clips, recipe, shuffle=True, seed=seed)
    model.make_train_function()
    batches, steps = iter(dataset.repeat()), int(dataset.cardinality())  # as in training.fit
    return [_timed_epoch(model, batches, steps) for _ in range(rounds + 1)][1:]


def _timed_epoch(model: Any, batches: Iterator[Any], steps: int) -> tuple[float, float]:
    """Runs the loop of model.fit without callbacks and validation, which would only give the pipeline more time.

    The waiting time is that of an epoch with the profiler, the total time that of an epoch without it.
    """
    import tensorflow as tf

    def epoch() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            float(model.train_function(batches)["loss"])  # waits for the step
        return time.perf_counter() - start

    seconds = epoch()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            epoch()
        waits = [duration for name, duration in operations(Path(folder)) if name == WAITING]
    if len(waits) != steps:
        raise RuntimeError(f"Expected {WAITING} in each of {steps} steps, got {len(waits)}")
    return sum(waits), seconds


def _compare(folder: str, clips: Any, cache: Path, rounds: int, seed: int) -> list[dict[str, Any]]:
    """A row for each way to read the clips: the medians of its rate, and of its ratio to NumPy in the same round."""
    from mtmusic.data.pipeline import make_dataset

    caches = {
        "from disk, every epoch": None,
        "memory cache, from the second epoch": "memory",
        "file cache, from the second epoch": cache,
    }
    datasets = {
        way: make_dataset(clips, batch_size=BATCH, shuffle=True, seed=seed, cache=kind) for way, kind in caches.items()
    }
    for ds in datasets.values():
        _seconds(ds)  # fills the caches
    seconds = [
        {NUMPY: _seconds(_numpy_batches(clips.paths)), **{way: _seconds(ds) for way, ds in datasets.items()}}
        for _ in range(rounds)
    ]
    rows = []
    for way in seconds[0]:
        ratios = [taken[NUMPY] / taken[way] for taken in seconds]
        rate = len(clips) / statistics.median(taken[way] for taken in seconds)
        rows.append({"folder": folder, "way": way, "clips_per_second": rate, **_spread(ratios)})
    return rows


def _numpy_batches(paths: Sequence[Path]) -> Iterator[Any]:
    """The NumPy loop: reads and transposes the mel of a batch, and pads it to the longest clip."""
    import numpy as np

    from mtmusic.constants import MEL_BINS, PAD_VALUE

    for start in range(0, len(paths), BATCH):
        clips = [np.load(path)[:MEL_BINS].T for path in paths[start : start + BATCH]]
        batch = np.full((len(clips), max(map(len, clips)), MEL_BINS), PAD_VALUE, np.float32)
        for row, clip in zip(batch, clips, strict=True):
            row[: len(clip)] = clip
        yield batch


def _seconds(batches: Iterable[Any]) -> float:
    """Seconds to read all batches once."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def _spread(ratios: Sequence[float]) -> dict[str, float]:
    return {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'folder':<10} {'way':<35} {'clips/s':>8} {'ours/NumPy':>11}  min to max"]
    for row in rows:
        lines.append(
            f"{row['folder']:<10} {row['way']:<35} {row['clips_per_second']:>8.0f} {row['ratio']:>11.2f}  "
            f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
        )
    return "\n".join(lines)


def _wait_table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'training':<28} {'clips':>6} {'epoch, s':>9} {'wait':>7}  min to max"]
    for row in rows:
        lines.append(
            f"{row['case']:<28} {row['clips']:>6} {row['epoch_seconds']:>9.2f} {row['wait']:>7.2%}  "
            f"{row['wait_min']:.2%} to {row['wait_max']:.2%}{'' if row['wait'] < WAIT_SHARE else '  over the goal'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Measures the peak memory of one epoch of training on full-rate folders of growing size.

    python benchmarks/memory.py
    python benchmarks/memory.py --clips 1200 2400 4800 --limit-mib 1024 --json memory.json --plot memory.png

The folders are made in a temporary folder, one after another. The largest takes 0.8 GiB on disk. Each is larger than
--cap-mib, so the training reads it again in each epoch and caches nothing. Each training, with its data checks, runs in
a separate process. The peak is the memory in addition to that before the training.
The operating system limits this memory to --limit-mib (RLIMIT_DATA, which counts requested memory, not only used
memory). So a training on a folder larger than the limit ends only if it does not hold the folder in memory.
The program prints a row for each folder, and whether the peak grew with the folder.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import resource
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

CLASSES = ("Blues", "Rock")
HELD_OUT = 8
"""Number of clips in the validation split and in the test split."""

GROWTH = 0.1
"""The peak is bounded if it grows by less than this share of the folder's growth."""


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument(
        "--clips",
        type=int,
        nargs="+",
        default=[300, 600, 1200, 2400],
        metavar="N",
        help="training clips of each folder (default: 300 600 1200 2400)",
    )
    flags.add_argument(
        "--frames", type=int, default=1292, metavar="N", help="frames of the longest clips (default: 1292)"
    )
    flags.add_argument(
        "--cap-mib", type=float, default=16, metavar="MIB", help="larger training sets are not cached (default: 16)"
    )
    flags.add_argument(
        "--limit-mib", type=float, default=1024, metavar="MIB", help="additional memory of a training (default: 1024)"
    )
    flags.add_argument("--batch-size", type=int, default=16, metavar="N", help="clips per batch (default: 16)")
    flags.add_argument("--plot", type=Path, metavar="FILE", help="draw the memory by the number of clips, as a PNG")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if min(arguments.clips) < HELD_OUT:
        raise UserError(f"Expected --clips of {HELD_OUT} or more, got {min(arguments.clips)}")
    smallest = _mel_mib(min(arguments.clips), arguments.frames)
    if smallest <= arguments.cap_mib:
        raise UserError(
            f"Expected folders larger than --cap-mib {arguments.cap_mib:g}, got one of {smallest:.1f} MiB as float32: "
            "give more --clips or a lower cap"
        )

    print(f"{'clips':>6} {'folder, MiB':>12} {'peak above start, MiB':>22}")
    rows = []
    for clips in sorted(arguments.clips):
        caps = (arguments.cap_mib, arguments.limit_mib)
        rows.append(_peak_of(clips, arguments.frames, arguments.batch_size, caps))
        print(f"{clips:>6} {rows[-1]['folder_mib']:>12.0f} {rows[-1]['peak_mib']:>22.0f}", flush=True)
    grew = growth(rows)
    if grew is not None:
        word = "bounded" if grew < GROWTH else "it grew with the folder"
        print(f"The peak grew by {grew:.0%} of what the folder grew by: {word}")
    if (largest := rows[-1]["folder_mib"]) > arguments.limit_mib:
        print(f"The largest folder, {largest:.0f} MiB, was trained on within {arguments.limit_mib:g} MiB")
    if arguments.plot:
        _draw(rows, arguments.limit_mib, arguments.plot)
    if arguments.json:
        limits = {"cap_mib": arguments.cap_mib, "limit_mib": arguments.limit_mib}
        write_json(arguments.json, {**limits, "rows": rows, "growth": grew})


def _draw(rows: list[dict[str, float]], limit_mib: float, path: Path) -> None:
    from mtmusic.evaluation import plots

    heights = {
        "peak of the training": [row["peak_mib"] for row in rows],
        "the folder's mel as float32": [row["folder_mib"] for row in rows],
        "limit": [limit_mib for _ in rows],
    }
    lines = {
        name: {int(row["clips"]): (value, value, value) for row, value in zip(rows, values, strict=True)}
        for name, values in heights.items()
    }
    plots.save_figure(plots.values_by_number(lines, "full-rate clips", "MiB"), path)


def _peak_of(clips: int, frames: int, batch_size: int, caps_mib: tuple[float, float]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary, ProcessPoolExecutor(1, get_context("spawn")) as child:
        folder = Path(temporary) / "full"
        write_folder(folder, clips, frames)
        try:
            peak = child.submit(train, folder, batch_size, *caps_mib).result()
        except UserError:
            raise
        except Exception as error:  # without memory, libraries raise many kinds of errors, or end the process
            raise UserError(
                f"The training on {clips} clips did not end within --limit-mib {caps_mib[1]:g}, give it more: {error}"
            ) from error
    return {"clips": clips, "folder_mib": _mel_mib(clips, frames), "peak_mib": peak}


def growth(rows: list[dict[str, float]]) -> float | None:
    """The growth of the peak / growth of the folder, from the smallest to the largest folder. None for one folder."""
    folder = rows[-1]["folder_mib"] - rows[0]["folder_mib"]
    return (rows[-1]["peak_mib"] - rows[0]["peak_mib"]) / folder if folder else None


def _mel_mib(clips: int, frames: int) -> float:
    """The size of the clips' mel as float32."""
    from mtmusic.constants import MEL_BINS

    return sum(lengths_of(clips, frames)) * MEL_BINS * 4 / 2**20


def lengths_of(clips: int, frames: int) -> list[int]:
    """The frames of each clip: from `frames` down to 90 % of it, as for songs that end early."""
    return [frames - frames * number // (10 * clips) for number in range(clips)]


def write_folder(folder: Path, clips: int, frames: int) -> None:
    """Writes a genre folder with `clips` different training clips as float16. It passes the data checks."""
    import numpy as np

    from mtmusic.constants import FUSED_BINS, MEL_BINS, MEL_FLOOR_DB
    from mtmusic.data.labels import write_genre_labels
    from mtmusic.data.spectrograms import write_array

    rng = np.random.default_rng(0)
    for split, count in (("train", clips), ("validation", HELD_OUT), ("test", HELD_OUT)):
        ids = [f"{split}{number}" for number in range(count)]
        genres = [CLASSES[number % len(CLASSES)] for number in range(count)]
        for clip_id, length in zip(ids, lengths_of(count, frames), strict=True):
            array = rng.random((FUSED_BINS, length), np.float32)
            array[:MEL_BINS] *= MEL_FLOOR_DB
            array[MEL_BINS:] /= array[MEL_BINS:].max(axis=0)  # at full rate each frame's chroma has a maximum of 1
            write_array(folder / split / f"{clip_id}.fused.full.npy", array.astype(np.float16))
        write_genre_labels(folder, split, ids, genres)


def train(folder: Path, batch_size: int, cap_mib: float, limit_mib: float) -> float:
    """Trains for one epoch in this process. Returns the additional peak memory in MiB."""
    from dataclasses import replace

    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    from mtmusic.data.folder import LoadOptions
    from mtmusic.training import train as training
    from mtmusic.training.genre import GenreTask
    from mtmusic.training.recipes import LAB_LSTM

    training.MEMORY_CACHE_BYTES = int(cap_mib * 2**20)
    recipe = replace(LAB_LSTM, units=8, batch_size=batch_size, epochs=1)
    before = _status_mib("VmHWM")
    limit = int((_status_mib("VmData") + limit_mib) * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    options = training.TrainOptions(LoadOptions(folder, beat=False), recipe=recipe, out=folder.parent / "run")
    training.train(options, GenreTask())
    return _status_mib("VmHWM") - before


def _status_mib(name: str) -> float:
    """Reads a size of this process in MiB: VmHWM, the largest resident size, or VmData, which RLIMIT_DATA limits.

    The largest size of getrusage would include that of the parent process.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())

"""Profiles the training step of the lab's CNN by layer, forward and backward, with TensorFlow's profiler.

    python benchmarks/layer_profile.py
    python benchmarks/layer_profile.py --precision bfloat16 --json profile.json

The program prints a row for each layer: milliseconds per step of its forward and of its backward operations. Operations
run at the same time on several cores, so the sum of the rows exceeds the time of the step. The last line has the time
of the step and the sum.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

OTHER = "optimizer, input and the rest"


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument("--batch", type=int, default=32, metavar="N", help="batch size (default: 32)")
    flags.add_argument("--frames", type=int, default=128, metavar="N", help="frames of each clip (default: 128)")
    text = "pooling of the CNN (default: flatten)"
    flags.add_argument("--pooling", choices=("flatten", "masked"), default="flatten", help=text)
    text = "number format of the CNN (default: float32)"
    flags.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help=text)
    flags.add_argument("--steps", type=int, default=7, metavar="N", help="number of profiled steps (default: 7)")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write the table to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    for name in ("batch", "frames", "steps"):
        if getattr(arguments, name) < 1:
            raise UserError(f"Expected --{name} of 1 or more, got {getattr(arguments, name)}")

    step_seconds, events = profile(arguments)
    rows = by_layer(events, arguments.steps)
    print(table(rows, step_seconds))
    if arguments.json:
        write_json(arguments.json, {"step_seconds": step_seconds, "milliseconds": rows})


def profile(arguments: Any) -> tuple[float, list[tuple[str, float]]]:
    """Returns the median seconds of a step, and the name and seconds of each operation of all steps."""
    import numpy as np
    import tensorflow as tf

    from mtmusic.constants import MEL_BINS, MEL_FLOOR_DB
    from mtmusic.models.heads import genre_classifier
    from mtmusic.models.precision import supported
    from mtmusic.training.recipes import Recipe, build_backbone
    from mtmusic.training.run_folder import seed_everything

    seed_everything(0)
    recipe = Recipe(frames=arguments.frames, pooling=arguments.pooling, precision=supported(arguments.precision))
    model = genre_classifier(build_backbone(recipe), [str(number) for number in range(10)])
    rng = np.random.default_rng(0)
    clips = rng.uniform(MEL_FLOOR_DB, 0, (arguments.batch, arguments.frames, MEL_BINS)).astype(np.float32)
    labels = rng.integers(10, size=arguments.batch)
    for _ in range(2):
        model.train_on_batch(clips, labels)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(arguments.steps):
                start = time.perf_counter()
                model.train_on_batch(clips, labels)
                seconds.append(time.perf_counter() - start)
        return statistics.median(seconds), list(operations(Path(folder)))


def operations(folder: Path) -> Iterator[tuple[str, float]]:
    """Yields the name and the seconds of each event of the profile."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    for path in folder.rglob("*.xplane.pb"):
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
        for plane in space.planes:
            for line in plane.lines:
                for event in line.events:
                    yield plane.event_metadata[event.metadata_id].name, event.duration_ps / 1e12


def by_layer(events: Sequence[tuple[str, float]], steps: int) -> dict[str, dict[str, float]]:
    """Milliseconds per step of each layer, forward and backward. OTHER has the operations that belong to no layer."""
    rows: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
    for name, seconds in events:
        path, colon, _ = name.partition(":")
        if not colon or " " in name or "::" in name:
            continue  # the executor, which is not an operation
        found = re.search(r"backbone[^/]*/([^/]+?)(?:_\d+)?/", path) or re.search(r"(genre)(?:_\d+)?/", path)
        way = "backward" if path.startswith("gradient_tape") else "forward"
        rows[found[1] if found else OTHER][way] += 1000 * seconds / steps
    return dict(sorted(rows.items(), key=lambda row: -sum(row[1].values())))


def table(rows: dict[str, dict[str, float]], step_seconds: float) -> str:
    lines = [f"{'layer':<30} {'forward, ms':>12} {'backward, ms':>13}"]
    lines += [f"{name:<30} {row['forward']:>12.1f} {row['backward']:>13.1f}" for name, row in rows.items()]
    total = sum(sum(row.values()) for row in rows.values())
    return "\n".join([*lines, f"A step takes {1000 * step_seconds:.0f} ms; its operations {total:.0f} ms in all"])


if __name__ == "__main__":
    sys.exit(main())

"""Draws the time of a training step by frames and by batch size, for our networks and the peer.

    python benchmarks/step_sizes.py --peer FOLDER --peer-python PATH --out docs/step_sizes.png

Each point is the median of several steps in one process. Ours and the peer are timed in turn. The program writes the
picture, and prints the points.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import training_step
from peer import add_torch_flags, torch_program

from mtmusic.cli import common
from mtmusic.files import write_json

FRAMES = {"cnn": (32, 64, 128), "lstm": (32, 64, 128, 256, 512, 1024)}
BATCHES = (4, 8, 16, 32)
CASES = {
    "cnn": training_step.Case(
        "cnn",
        {
            "PyTorch, as the lab": (),
            "PyTorch, channels-last": ("--channels-last",),
            "PyTorch, channels-last, bfloat16": ("--channels-last", "--bfloat16"),
        },
        repeats=3,
    ),
    "lstm": training_step.Case(
        "lstm", {"PyTorch, as the lab": (), "PyTorch, unpacked": ("--unpacked",)}, varied=True, repeats=3
    ),
}
PRECISIONS = {"cnn": ("float32", "bfloat16"), "lstm": ("float32",)}


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    add_torch_flags(flags)
    flags.add_argument(
        "--out", type=Path, default=Path("step_sizes.png"), metavar="FILE", help="picture (default: step_sizes.png)"
    )
    flags.add_argument("--quick", action="store_true", help="two sizes of 2 clips, as a test")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write the points to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    program = torch_program(arguments)

    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for model, case in CASES.items():
        precisions = [each for each in PRECISIONS[model] if training_step.can_compute(f"{model} in {each}", each)]
        frames, batches = ((16, 32), (1, 2)) if arguments.quick else (FRAMES[model], BATCHES)
        still = replace(case, batch=2, frames=16, repeats=1) if arguments.quick else case
        sizes = {
            "frames": [replace(still, frames=n) for n in frames],
            "batch": [replace(still, batch=n) for n in batches],
        }
        for axis, cases in sizes.items():
            other = f"batch {still.batch}" if axis == "frames" else f"{still.frames} frames"
            panels[f"{model.upper()}, {other}, by {axis}"] = lines(model, cases, axis, precisions, program)
    draw(panels, arguments.out)
    print(f"Picture: {arguments.out}")
    if arguments.json:
        write_json(arguments.json, panels)


def lines(
    model: str,
    cases: Sequence[training_step.Case],
    axis: str,
    precisions: Sequence[str],
    program: Sequence[str],
) -> dict[str, list[tuple[int, float]]]:
    """For each way to run the step, the points (size, seconds), sorted by size."""
    found: dict[str, list[tuple[int, float]]] = {}
    for case in cases:
        size = getattr(case, axis)
        for precision in precisions:
            run = training_step.in_child(training_step.measure, replace(case, precision=precision))
            found.setdefault(f"mtmusic, {precision}", []).append((size, run["step_seconds"]))
        for way, added in case.peers.items():
            run = training_step.measure_peer(case, added, program)
            found.setdefault(way, []).append((size, run["step_seconds"]))
        print(
            f"{model} {axis} {size}: " + ", ".join(f"{way} {line[-1][1]:.3f} s" for way, line in found.items()),
            flush=True,
        )
    return found


def draw(panels: dict[str, dict[str, list[tuple[int, float]]]], out: Path) -> None:
    from mtmusic.evaluation import plots

    figure: Any = plots.lines_by_size(panels, "seconds a training step")
    plots.save_figure(figure, out)


if __name__ == "__main__":
    sys.exit(main())

"""Times a training step and a forward pass of our networks and of the lab's PyTorch networks.

    python benchmarks/training_step.py --peer FOLDER --peer-python PATH
    python benchmarks/training_step.py --only cnn --json training_step.json

FOLDER holds the peer, lab_torch.py. PATH is a Python that has torch. docs/benchmarks.md says how to install both.
The program prints a row for each comparison: seconds of ours and of the peer, and how many times ours is as fast. For
the CNN it also prints a lower limit of the step's time, by the speed of a large matrix product on this machine.
Each measurement runs in a separate process, which times one call after a first one. For the LSTM on 128 frames it is
the median of seven calls.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from peer import add_torch_flags, run_torch, torch_program

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

HEADER = ("case", "pass", "beside", "ours, s", "other, s", "as fast", "min to max")
PASSES = {"step": "step_seconds", "forward": "forward_seconds"}

PLAIN = {
    "Keras's Conv2D": "WinogradConv2D",
    "Keras's BatchNormalization": "FusedBatchNormalization",
    "Keras's LSTM": "LastStateLSTM",
}
"""Our network with Keras's layer instead of one of our layers."""

MATRIX = 4096
"""Rows and columns of the matrices whose product gives the machine's limit."""


@dataclass(frozen=True)
class Case:
    """A network and its batch.

    peers: flags for each way to run the peer. Those in PLAIN have none.
    repeats: number of calls of a measurement after the first one. Their median is taken.
    plain: name in PLAIN, for a network with a Keras layer.
    """

    model: str
    peers: dict[str, tuple[str, ...]]
    frames: int = 128
    precision: str = "float32"
    pooling: str = "flatten"
    batch: int = 32
    varied: bool = False
    repeats: int = 1
    plain: str = ""


LAB = {"as the lab": ()}
NORM = {"Keras's BatchNormalization": ()}
CONV = {"Keras's Conv2D": ()}  # in bfloat16 our layer computes as Keras's
LSTM_PEERS = LAB | {"unpacked": ("--unpacked",), "Keras's LSTM": ()}
CASES = {
    "cnn": Case("cnn", LAB | {"channels-last": ("--channels-last",)} | CONV | NORM),
    "cnn-bfloat16": Case(
        "cnn", LAB | {"channels-last, bfloat16": ("--channels-last", "--bfloat16")} | NORM, precision="bfloat16"
    ),
    "cnn-masked": Case("cnn", CONV | NORM, pooling="masked", varied=True),
    "cnn-masked-bfloat16": Case("cnn", NORM, pooling="masked", varied=True, precision="bfloat16"),
    "lstm-128": Case("lstm", LSTM_PEERS, varied=True, repeats=7),
    # the peer computes in float32, because its step takes ten times as long in bfloat16
    "lstm-128-bfloat16": Case("lstm", LSTM_PEERS, varied=True, repeats=7, precision="bfloat16"),
    # one repeat: the peer's packed step takes half a minute
    "lstm-1292": Case("lstm", LSTM_PEERS, frames=1292, varied=True, repeats=1),
}


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    add_torch_flags(flags)
    flags.add_argument("--only", choices=CASES, help="run this comparison only")
    flags.add_argument("--rounds", type=int, default=7, metavar="N", help="number of rounds (default: 7)")
    flags.add_argument("--quick", action="store_true", help="2 clips of 32 frames and one repeat, as a test")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")
    names = [arguments.only] if arguments.only else list(CASES)
    cases = {
        name: replace(CASES[name], batch=2, frames=32, repeats=1) if arguments.quick else CASES[name] for name in names
    }
    cases = {name: case for name, case in cases.items() if can_compute(name, case.precision)}
    program = torch_program(arguments) if any({*case.peers} - {*PLAIN} for case in cases.values()) else []
    measured, limits = [], []
    print(_line(HEADER))
    for name, case in cases.items():
        found = _compare(name, case, arguments.rounds, program)
        for row in chain(*map(rows_of, found)):
            print(_line(_cells(row)), flush=True)
        measured += found
        if case.model == "cnn" and case.pooling == "flatten":
            limits.append({"case": name, **limit_of(case, found[0]["ours"])})
            print(LIMIT.format(**limits[-1]), flush=True)
        if arguments.json:  # after each case, because all take long
            rows = list(chain(*map(rows_of, measured)))
            write_json(arguments.json, {"rows": rows, "limits": limits, "measurements": measured})


def can_compute(name: str, precision: str) -> bool:
    """Whether the machine has this precision. If not, prints that the comparison is left out."""
    from mtmusic.models.precision import supported

    if supported(precision) == precision:
        return True
    print(f"{name} is left out: its numbers would be float32's")
    return False


def _compare(name: str, case: Case, rounds: int, program: Sequence[str]) -> list[dict[str, Any]]:
    """The measurements of each peer and of ours in each round. Ours is measured once per round."""
    found: dict[str, dict[str, Any]] = {
        way: {"case": name, "peer_runs": way, "ours": [], "peer": []} for way in case.peers
    }
    for number in range(1, rounds + 1):
        print(f"{name}: round {number} of {rounds}", file=sys.stderr, flush=True)
        ours = in_child(measure, case)
        for way, added in case.peers.items():
            plain = way in PLAIN
            other = in_child(measure, replace(case, plain=way)) if plain else measure_peer(case, added, program)
            found[way]["ours"].append(ours)
            found[way]["peer"].append(other)
    return list(found.values())


def in_child(call: Callable[[Case], dict[str, Any]], case: Case) -> dict[str, Any]:
    """Calls a function in a new process, because the peer has one too, and returns its result."""
    with ProcessPoolExecutor(1, get_context("spawn")) as child:
        return child.submit(call, case).result()


def measure(case: Case) -> dict[str, Any]:
    """Measures our network in this process: the times that the peer also prints, and the speed of a matrix product."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    import numpy as np
    import tensorflow as tf

    from mtmusic.constants import MEL_BINS, MEL_FLOOR_DB, PAD_VALUE
    from mtmusic.training.run_folder import seed_everything, versions

    seed_everything(0)  # as in a training
    rng = np.random.default_rng(0)
    spectrogram = rng.uniform(MEL_FLOOR_DB, 0, (case.batch, case.frames, MEL_BINS)).astype(np.float32)
    if case.varied:
        lengths = rng.integers(case.frames // 2, case.frames + 1, case.batch)
        lengths[0] = case.frames
        spectrogram[np.arange(case.frames) >= lengths[:, None]] = PAD_VALUE
    labels = rng.integers(10, size=case.batch)
    model = build(case)
    clips, shape = tf.constant(spectrogram), (None, *model.input_shape[1:])
    forward = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec(shape)], autograph=False)
    model.make_train_function()
    batches = iter(_repeated(clips, labels, shape))
    return {
        "step_seconds": _median_seconds(lambda: float(model.train_function(batches)["loss"]), case.repeats),
        "forward_seconds": _median_seconds(lambda: forward(clips).numpy(), case.repeats),
        "gflop_per_second": _gflop_per_second(case.precision) if case.model == "cnn" else None,
        "versions": versions(),
    }


def _repeated(clips: Any, labels: Any, shape: tuple[int | None, ...]) -> Any:
    """Repeats the batch. Its number of clips, and of frames if the network takes any, are unknown to the graph."""
    import tensorflow as tf

    batch = tf.data.Dataset.from_tensors((clips, tf.constant(labels))).repeat()
    return batch.map(lambda x, y: (tf.raw_ops.PlaceholderWithDefault(input=x, shape=shape), y))


def build(case: Case) -> Any:
    """Builds and compiles our network with 10 classes."""
    import keras

    from mtmusic.models import backbones
    from mtmusic.models.heads import genre_classifier
    from mtmusic.models.precision import layers_compute_in

    if case.plain:  # this process builds no other network
        setattr(backbones, PLAIN[case.plain], getattr(keras.layers, case.plain.removeprefix("Keras's ")))
    with layers_compute_in(case.precision):
        if case.model == "cnn":
            backbone = backbones.cnn_backbone(frames=case.frames, pooling=case.pooling)
        else:
            backbone = backbones.lstm_backbone()
    return genre_classifier(backbone, [str(number) for number in range(10)])


def _gflop_per_second(precision: str) -> float:
    """The speed of a product of two large matrices."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.normal((MATRIX, MATRIX)), precision)
    product = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0], autograph=False)
    return 2 * MATRIX**3 / _median_seconds(lambda: product().numpy(), 5) / 1e9


def step_gflop(batch: int, frames: int) -> float:
    """The operations of the convolutions of the lab's CNN in a step, if they are computed directly.

    They are those of the forward pass, and as many for each of two gradients. The first block's input has no gradient.
    """
    from mtmusic.constants import MEL_BINS
    from mtmusic.models.backbones import CNN_BLOCKS

    total, channels, values = 0, 1, frames * MEL_BINS
    for filters, kernel in CNN_BLOCKS:
        passes = 2 if channels == 1 else 3
        total += passes * 2 * batch * values * kernel**2 * channels * filters
        channels, values = filters, values // 4
    return total / 1e9


LIMIT = (
    "{case}: direct convolutions need {gflop:.0f} GFLOP, the machine's matrix product does {gflop_per_second:.0f} a "
    "second: {limit_seconds:.2f} s for them alone; our step takes {ours_seconds:.2f} s"
)


def limit_of(case: Case, ours: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The time of the step's operations at the speed of the matrix product, and of the step, as medians."""
    rate = statistics.median(run["gflop_per_second"] for run in ours)
    gflop = step_gflop(case.batch, case.frames)
    return {
        "gflop": gflop,
        "gflop_per_second": rate,
        "limit_seconds": gflop / rate,
        "ours_seconds": statistics.median(run["step_seconds"] for run in ours),
    }


def _median_seconds(call: Callable[[], Any], repeats: int) -> float:
    call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure_peer(case: Case, added: Sequence[str], program: Sequence[str]) -> dict[str, Any]:
    sizes = ("--batch", case.batch, "--frames", case.frames, "--repeats", case.repeats)
    return run_torch(program, case.model, *sizes, *(["--varied"] if case.varied else []), *added)


def rows_of(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for the training step and a row for the forward pass: medians over the rounds of seconds and of ratios."""
    rows = []
    for name, key in PASSES.items():
        ours, peer = ([float(run[key]) for run in measured[side]] for side in ("ours", "peer"))
        ratios = [b / a for a, b in zip(ours, peer, strict=True)]
        rows.append(
            {
                "case": measured["case"],
                "pass": name,
                "peer_runs": measured["peer_runs"],
                "ours_seconds": statistics.median(ours),
                "peer_seconds": statistics.median(peer),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
        )
    return rows


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    seconds = [f"{row[key]:.4f}" for key in ("ours_seconds", "peer_seconds")]
    spread = f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
    return (row["case"], row["pass"], row["peer_runs"], *seconds, f"{row['ratio']:.2f}", spread)


def _line(cells: Sequence[str]) -> str:
    return "{:<19} {:<7} {:<26} {:>8} {:>8} {:>7}  {}".format(*cells)


if __name__ == "__main__":
    sys.exit(main())

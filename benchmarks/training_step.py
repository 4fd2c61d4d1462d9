"""Times one training step and one forward pass, ours and the lab's models in PyTorch, in turn.

    python benchmarks/training_step.py --peer FOLDER --peer-python PATH
    python benchmarks/training_step.py --only cnn --json training_step.json

FOLDER holds the peer, lab_torch.py; PATH is a Python that has torch (docs/benchmarks.md says how).
Prints a row a comparison: seconds of ours and of the peer, and how many times as fast ours is; and for the CNN what
the machine's matrix product would leave of the step at least.
Each measurement is a process of its own, which times one call after a first; of the LSTM on 128 frames it takes the
median of seven.
Exit code 0; 2 where it cannot run, with what to do.
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
"""Our own network, but for one of our layers, for which Keras's stands."""

MATRIX = 4096
"""Rows and columns of the product that tells the machine's limit."""


@dataclass(frozen=True)
class Case:
    """A network and its batch. peers: of each way to run the peer, its flags; those of PLAIN need none.

    repeats: of a measurement, after a first call; their median counts. plain: of PLAIN, where a layer is Keras's.
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
CONV = {"Keras's Conv2D": ()}  # in bfloat16 ours is Keras's
LSTM_PEERS = LAB | {"unpacked": ("--unpacked",), "Keras's LSTM": ()}
CASES = {
    "cnn": Case("cnn", LAB | {"channels-last": ("--channels-last",)} | CONV | NORM),
    "cnn-bfloat16": Case(
        "cnn", LAB | {"channels-last, bfloat16": ("--channels-last", "--bfloat16")} | NORM, precision="bfloat16"
    ),
    "cnn-masked": Case("cnn", CONV | NORM, pooling="masked", varied=True),
    "cnn-masked-bfloat16": Case("cnn", NORM, pooling="masked", varied=True, precision="bfloat16"),
    "lstm-128": Case("lstm", LSTM_PEERS, varied=True, repeats=7),
    # the peer stays float32: in bfloat16 its step takes ten times as long
    "lstm-128-bfloat16": Case("lstm", LSTM_PEERS, varied=True, repeats=7, precision="bfloat16"),
    # the peer's packed step takes half a minute here
    "lstm-1292": Case("lstm", LSTM_PEERS, frames=1292, varied=True, repeats=1),
}


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    add_torch_flags(flags)
    flags.add_argument("--only", choices=CASES, help="this comparison alone")
    flags.add_argument("--rounds", type=int, default=7, metavar="N", help="ours and the others in turn (default: 7)")
    flags.add_argument("--quick", action="store_true", help="2 clips of 32 frames, one repeat, to see that it runs")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to it")
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
        if arguments.json:  # after each case: all of them take long
            rows = list(chain(*map(rows_of, measured)))
            write_json(arguments.json, {"rows": rows, "limits": limits, "measurements": measured})


def can_compute(name: str, precision: str) -> bool:
    """Whether the machine has this precision; where not, it is said that what has this name is left out."""
    from mtmusic.models.precision import supported

    if supported(precision) == precision:
        return True
    print(f"{name} is left out: its numbers would be float32's")
    return False


def _compare(name: str, case: Case, rounds: int, program: Sequence[str]) -> list[dict[str, Any]]:
    """Of each that ours stands beside, its measurement and ours in each round; ours is measured once a round."""
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
    """What the call returns in a fresh process of its own, as the peer has one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as child:
        return child.submit(call, case).result()


def measure(case: Case) -> dict[str, Any]:
    """Ours, in this process: what the peer prints of itself, and the machine's matrix product."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    import numpy as np
    import tensorflow as tf

    from mtmusic.constants import MEL_BINS, MEL_FLOOR_DB, PAD_VALUE
    from mtmusic.training.run_folder import seed_everything, versions

    seed_everything(0)  # as every training does
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
    """The batch again and again, its clips and, where the network takes any number, its frames not known before."""
    import tensorflow as tf

    batch = tf.data.Dataset.from_tensors((clips, tf.constant(labels))).repeat()
    return batch.map(lambda x, y: (tf.raw_ops.PlaceholderWithDefault(input=x, shape=shape), y))


def build(case: Case) -> Any:
    """Our network, compiled, with 10 classes."""
    import keras

    from mtmusic.models import backbones
    from mtmusic.models.heads import genre_classifier
    from mtmusic.models.precision import layers_compute_in

    if case.plain:  # this process builds nothing else
        setattr(backbones, PLAIN[case.plain], getattr(keras.layers, case.plain.removeprefix("Keras's ")))
    with layers_compute_in(case.precision):
        if case.model == "cnn":
            backbone = backbones.cnn_backbone(frames=case.frames, pooling=case.pooling)
        else:
            backbone = backbones.lstm_backbone()
    return genre_classifier(backbone, [str(number) for number in range(10)])


def _gflop_per_second(precision: str) -> float:
    """Of a product of two large matrices."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.normal((MATRIX, MATRIX)), precision)
    product = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0], autograph=False)
    return 2 * MATRIX**3 / _median_seconds(lambda: product().numpy(), 5) / 1e9


def step_gflop(batch: int, frames: int) -> float:
    """Of the lab's CNN's convolutions, done directly, in a step: forward, and as much for each of two gradients.

    The first block's input needs no gradient.
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
    """What the matrix product would take for the step, beside what the step takes: medians over the rounds."""
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
    """A row for the training step and one for the forward pass: medians over the rounds; a ratio is a round's own."""
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

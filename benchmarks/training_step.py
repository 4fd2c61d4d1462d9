"""Times one training step and one forward pass, ours and the lab's models in PyTorch, in turn.

    python benchmarks/training_step.py --peer FOLDER --peer-python PATH
    python benchmarks/training_step.py --only cnn --json training_step.json

FOLDER holds the peer, lab_torch.py; PATH is a Python that has torch (README.md beside this file says how).
Prints a row a comparison: seconds of ours and of the peer, and ours / peer, which is below 1 where ours is faster.
Each measurement is a process of its own that takes the median of several repeats after a first call.
Exit code 0; 2 where it cannot run, with what to do.
"""

import json
import os
import statistics
import subprocess
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

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "scripts"))

import common  # noqa: E402
from mtmusic.errors import UserError  # noqa: E402
from mtmusic.files import write_json  # noqa: E402

HEADER = ("case", "pass", "peer", "ours, s", "peer, s", "ours/peer", "min to max")
PASSES = {"step": "step_seconds", "forward": "forward_seconds"}


@dataclass(frozen=True)
class Case:
    """A network and its batch. peers: of each way to run the peer, its flags and its repeats."""

    model: str
    batch: int
    frames: int
    varied: bool
    repeats: int
    peers: dict[str, tuple[tuple[str, ...], int]]


CASES = {
    "cnn": Case("cnn", 32, 128, False, 7, {"as the lab": ((), 7), "channels-last": (("--channels-last",), 7)}),
    "lstm-128": Case("lstm", 32, 128, True, 7, {"as the lab": ((), 7), "unpacked": (("--unpacked",), 7)}),
    # the peer's packed step takes half a minute here
    "lstm-1292": Case("lstm", 32, 1292, True, 3, {"as the lab": ((), 1), "unpacked": (("--unpacked",), 3)}),
}


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    flags.add_argument(
        "--peer",
        type=Path,
        metavar="FOLDER",
        default=Path(os.environ.get("MTMUSIC_PEER") or PROJECT.parent / "shared" / "peer"),
        help="the folder of lab_torch.py (default: MTMUSIC_PEER, else ../shared/peer beside the project)",
    )
    flags.add_argument(
        "--peer-python",
        metavar="PATH",
        default=os.environ.get("MTMUSIC_PEER_PYTHON") or sys.executable,
        help="a Python that has torch (default: MTMUSIC_PEER_PYTHON, else this one)",
    )
    flags.add_argument("--only", choices=CASES, help="this comparison alone")
    flags.add_argument("--rounds", type=int, default=3, metavar="N", help="ours and the peer in turn (default: 3)")
    flags.add_argument("--quick", action="store_true", help="2 clips of 32 frames, one repeat, to see that it runs")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to it")
    arguments = common.parse(flags, argv)
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")
    program = arguments.peer / "lab_torch.py"
    if not program.is_file():
        raise UserError(f"Expected the peer at {program}, got no such file: give its folder with --peer")

    names = [arguments.only] if arguments.only else list(CASES)
    measured = []
    print(_line(HEADER))
    for name in names:
        case = _quick(CASES[name]) if arguments.quick else CASES[name]
        found = _compare(name, case, arguments.rounds, [arguments.peer_python, str(program)])
        for row in chain(*map(rows_of, found)):
            print(_line(_cells(row)), flush=True)
        measured += found
    if arguments.json:
        write_json(arguments.json, {"rows": list(chain(*map(rows_of, measured))), "measurements": measured})
    return 0


def _quick(case: Case) -> Case:
    return replace(case, batch=2, frames=32, repeats=1, peers={way: (add, 1) for way, (add, _) in case.peers.items()})


def _compare(name: str, case: Case, rounds: int, program: Sequence[str]) -> list[dict[str, Any]]:
    """Of each way to run the peer, its measurement and ours in each round; ours is measured once a round."""
    found: dict[str, dict[str, Any]] = {
        way: {"case": name, "peer_runs": way, "ours": [], "peer": []} for way in case.peers
    }
    for number in range(1, rounds + 1):
        print(f"{name}: round {number} of {rounds}", file=sys.stderr, flush=True)
        ours = in_child(measure, case)
        for way, (added, repeats) in case.peers.items():
            found[way]["ours"].append(ours)
            found[way]["peer"].append(_measure_peer(case, added, repeats, program))
    return list(found.values())


def in_child(call: Callable[[Case], dict[str, Any]], case: Case) -> dict[str, Any]:
    """What the call returns in a fresh process of its own, as the peer has one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as child:
        return child.submit(call, case).result()


def measure(case: Case) -> dict[str, Any]:
    """Ours, in this process: what the peer prints of itself."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    import numpy as np
    import tensorflow as tf

    from mtmusic.constants import MEL_BINS, MEL_FLOOR_DB, PAD_VALUE
    from mtmusic.jobs.runs import seed_everything, versions
    from mtmusic.models.backbones import cnn_backbone, lstm_backbone
    from mtmusic.models.heads import genre_classifier

    seed_everything(0)  # as every training does
    rng = np.random.default_rng(0)
    spectrogram = rng.uniform(MEL_FLOOR_DB, 0, (case.batch, case.frames, MEL_BINS)).astype(np.float32)
    if case.varied:
        lengths = rng.integers(case.frames // 2, case.frames + 1, case.batch)
        lengths[0] = case.frames
        spectrogram[np.arange(case.frames) >= lengths[:, None]] = PAD_VALUE
    labels = rng.integers(10, size=case.batch)
    backbone = cnn_backbone(frames=case.frames) if case.model == "cnn" else lstm_backbone()
    model = genre_classifier(backbone, [str(number) for number in range(10)])
    forward = tf.function(lambda x: model(x, training=False), autograph=False)
    clips = tf.constant(spectrogram)
    return {
        "step_seconds": _median_seconds(lambda: model.train_on_batch(spectrogram, labels), case.repeats),
        "forward_seconds": _median_seconds(lambda: forward(clips).numpy(), case.repeats),
        "versions": versions(),
    }


def _median_seconds(call: Callable[[], Any], repeats: int) -> float:
    call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _measure_peer(case: Case, added: Sequence[str], repeats: int, program: Sequence[str]) -> dict[str, Any]:
    """What the peer prints: one line of JSON."""
    sizes = ["--batch", str(case.batch), "--frames", str(case.frames), "--repeats", str(repeats)]
    command = [*program, case.model, *sizes, *(["--varied"] if case.varied else []), *added]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"Cannot run --peer-python {program[0]}: {error}") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise UserError(f"{' '.join(command)} ended with {reason!r}: give a Python that has torch with --peer-python")
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise UserError(f"Expected one line of JSON from {program[1]}, got {done.stdout[:80]!r}") from error


def rows_of(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for the training step and one for the forward pass: medians over the rounds."""
    rows = []
    for name, key in PASSES.items():
        ours, peer = ([float(run[key]) for run in measured[side]] for side in ("ours", "peer"))
        ratios = [a / b for a, b in zip(ours, peer, strict=True)]
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
    return "{:<10} {:<8} {:<14} {:>9} {:>9} {:>9}  {}".format(*cells)


if __name__ == "__main__":
    sys.exit(main())

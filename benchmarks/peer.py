"""The peer of the benchmarks: finds its programs, and runs its PyTorch networks in a Python that has torch."""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtmusic.errors import UserError

SECONDS = ("step_seconds", "forward_seconds")
"""The times in the output of the networks."""

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "peer"


def add_peer_flag(flags: ArgumentParser, program: str) -> None:
    flags.add_argument(
        "--peer",
        type=Path,
        metavar="FOLDER",
        default=Path(os.environ.get("MTMUSIC_PEER") or SHARED),
        help=f"folder of {program} (default: MTMUSIC_PEER, or ../shared/peer next to the project)",
    )


def add_torch_flags(flags: ArgumentParser) -> None:
    add_peer_flag(flags, "lab_torch.py")
    flags.add_argument(
        "--peer-python",
        metavar="PATH",
        default=os.environ.get("MTMUSIC_PEER_PYTHON") or sys.executable,
        help="a Python that has torch (default: MTMUSIC_PEER_PYTHON, or this one)",
    )


def require_program(folder: Path, name: str) -> Path:
    """Returns the path of the peer's program. Raises UserError if there is none."""
    program = folder / name
    if not program.is_file():
        raise UserError(f"Expected the peer at {program}, got no such file: give its folder with --peer")
    return program


def torch_program(arguments: Namespace) -> list[str]:
    """Returns the command that runs the PyTorch networks on the CPU.

    Raises UserError if it fails for a small step, and if there is a GPU, which only our networks would use.
    """
    program = require_program(arguments.peer, "lab_torch.py")

    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        raise UserError(f"Expected no GPU, which {program.name} cannot use: hide it, CUDA_VISIBLE_DEVICES= python ...")
    words = [arguments.peer_python, str(program)]
    run_torch(words, "lstm", "--batch", 2, "--frames", 16, "--repeats", 1)
    return words


def run_torch(program: Sequence[str], *words: object) -> dict[str, Any]:
    """Runs the PyTorch networks, and returns their output. Raises UserError if they fail."""
    return run_program([*program, *map(str, words)], SECONDS, "give a Python that has torch with --peer-python")


def run_program(command: Sequence[str], seconds: Sequence[str], advice: str, **variables: str) -> dict[str, Any]:
    """Runs a program, and returns the JSON in its last line, which has these times.

    advice: the advice in the error message. variables: additional environment variables. Raises UserError if the
    program fails or prints something else.
    """
    try:
        environment = {**os.environ, **variables}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        raise UserError(f"Cannot run {command[0]}: {error.strerror}: {advice}") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise UserError(f"{' '.join(command[:2])} ended with {reason!r}: {advice}")
    try:
        told = json.loads(done.stdout.strip().splitlines()[-1])
        return {**told, **{key: float(told[key]) for key in seconds}}
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(
            f"Expected one line of JSON with {' and '.join(seconds)} from {command[1]}, got {done.stdout[:80]!r}"
        ) from error

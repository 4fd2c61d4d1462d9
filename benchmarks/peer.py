"""The peer to time against: where its programs lie, and its networks in PyTorch, run in a Python that has torch."""

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
"""What is asked of them."""

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "peer"


def add_peer_flag(flags: ArgumentParser, program: str) -> None:
    flags.add_argument(
        "--peer",
        type=Path,
        metavar="FOLDER",
        default=Path(os.environ.get("MTMUSIC_PEER") or SHARED),
        help=f"the folder of {program} (default: MTMUSIC_PEER, else ../shared/peer beside the project)",
    )


def add_torch_flags(flags: ArgumentParser) -> None:
    add_peer_flag(flags, "lab_torch.py")
    flags.add_argument(
        "--peer-python",
        metavar="PATH",
        default=os.environ.get("MTMUSIC_PEER_PYTHON") or sys.executable,
        help="a Python that has torch (default: MTMUSIC_PEER_PYTHON, else this one)",
    )


def require_program(folder: Path, name: str) -> Path:
    """Raises UserError where the peer's program is not there."""
    program = folder / name
    if not program.is_file():
        raise UserError(f"Expected the peer at {program}, got no such file: give its folder with --peer")
    return program


def torch_program(arguments: Namespace) -> list[str]:
    """The words that start the networks in PyTorch, on the CPU.

    Raises UserError if a small step of theirs does not run, and if ours would run on a GPU beside them.
    """
    program = require_program(arguments.peer, "lab_torch.py")

    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        raise UserError(f"Expected no GPU, which {program.name} cannot use: hide it, CUDA_VISIBLE_DEVICES= python ...")
    words = [arguments.peer_python, str(program)]
    run_torch(words, "lstm", "--batch", 2, "--frames", 16, "--repeats", 1)
    return words


def run_torch(program: Sequence[str], *words: object) -> dict[str, Any]:
    """What they print. Raises UserError where nothing comes."""
    return run_program([*program, *map(str, words)], SECONDS, "give a Python that has torch with --peer-python")


def run_program(command: Sequence[str], seconds: Sequence[str], advice: str, **variables: str) -> dict[str, Any]:
    """What a program prints in its last line: JSON with these numbers of seconds.

    advice: what to do where it fails. variables: added to its environment. Raises UserError where it prints something
    else.
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

"""A run's folder: built beside under `<name>.partial`, put in its place when whole, picked up again when killed."""

import json
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtmusic import __version__
from mtmusic.errors import UserError
from mtmusic.files import refuse_other_things, replace_folder, write_csv, write_json

METRICS = "metrics.json"
SETTINGS = "settings.json"
CHECKPOINTS, RETRAINED = "checkpoints", "retrained"
FROZEN_STAGE = "frozen"
"""In either of them: the checkpoints of the epochs before the backbone is unfrozen."""

MAY_CHANGE = ("epochs", "patience")
"""Settings that a resumed run may give anew."""


def refuse_taken(out: Path, resume: bool, overwrite: bool) -> None:
    """Raises UserError where `out` is taken, by a run or by other things, and the flags do not say what to do."""
    refuse_other_things(out, METRICS)
    work = _work(out)
    if is_run(out) and not overwrite and not (resume and work.is_dir()):
        raise UserError(f"{out} holds a finished run: --overwrite trains anew in its place, --out writes elsewhere")
    if work.is_dir() and not resume and not overwrite:
        raise UserError(f"{work} holds an unfinished run: --resume goes on with it, --overwrite starts anew")


@contextmanager
def run_folder(out: Path, settings: Mapping[str, Any], resume: bool) -> Iterator[Path]:
    """Gives a folder beside `out` to write the run into, and puts it in the place of `out` when the block ends.

    What the user must mend before the first epoch leaves nothing behind; any other end, a kill say, leaves the folder
    for a resume.
    settings: all that the result depends on. Raises UserError where a resumed run had other ones.
    """
    work = _work(out)
    if resume and (work / SETTINGS).is_file():
        _require_equal(json.loads((work / SETTINGS).read_text()), settings, work)
    else:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / SETTINGS, dict(settings))
    try:
        yield work
    except UserError:
        if not any((work / CHECKPOINTS).rglob("epoch-*")):
            shutil.rmtree(work)
        raise
    replace_folder(work, out)
    for name in (CHECKPOINTS, RETRAINED):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / SETTINGS).unlink()


def verbosity() -> int:
    """Keras's: a progress bar on a terminal, a line an epoch in a file."""
    return 1 if sys.stdout.isatty() else 2


def is_run(folder: Path) -> bool:
    return (folder / METRICS).is_file()


def finished(out: Path, resume: bool) -> dict[str, Any] | None:
    """The metrics of a run that has nothing left to resume."""
    if resume and is_run(out) and not _work(out).is_dir():
        return json.loads((out / METRICS).read_text())
    return None


def _work(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def versions() -> dict[str, str]:
    """Of everything that a result may depend on."""
    packages = ("tensorflow", "keras", "numpy", "librosa", "scikit-learn", "scipy")
    return {"mtmusic": __version__, "python": platform.python_version()} | {name: version(name) for name in packages}


def seed_everything(seed: int) -> None:
    """Fixes Python's, NumPy's and TensorFlow's random numbers, and operations to one order of summing."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def write_predictions(path: Path, rows: Iterator[Sequence[Any]], header: Sequence[str]) -> None:
    """predictions.csv: id, split, true, predicted, a column a class or task."""
    shown = ([f"{cell:.6f}" if isinstance(cell, float | np.floating) else cell for cell in row] for row in rows)
    write_csv(path, header, shown)


def _require_equal(before: Mapping[str, Any], now: Mapping[str, Any], work: Path) -> None:
    now = json.loads(json.dumps(now))
    differing = [
        f"{name} {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(set(before) | set(now))
        if before.get(name) != now.get(name) and name not in MAY_CHANGE
    ]
    if differing:
        raise UserError(
            f"Cannot resume {work}: it was started with {'; '.join(differing)}. Give the same settings, or --overwrite"
        )

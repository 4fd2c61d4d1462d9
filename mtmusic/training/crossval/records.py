"""The files of each training in a cross-validation: the predictions for its test clips, and the costs."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmusic.data.labels import Clips
from mtmusic.errors import UserError
from mtmusic.files import write_csv, write_json
from mtmusic.training.recipes import Recipe
from mtmusic.training.run_folder import rounded
from mtmusic.training.task import Task


class Training(NamedTuple):
    """A training of one recipe or baseline on one fold with one seed.

    fold: number of the fold, from 1. settings: the recipe, None for a baseline.
    share: share of the fold's training clips, in percent.
    """

    name: str
    fold: int
    seed: int
    settings: Recipe | None = None
    share: int = 100

    def __str__(self) -> str:
        share = f", {self.share} %" if self.share < 100 else ""
        return f"{self.name}, fold {self.fold}, seed {self.seed}{share}"

    def path(self, out: Path, suffix: str) -> Path:
        share = f"_share{self.share}" if self.share < 100 else ""
        return out / "predictions" / f"{self.name}_fold{self.fold}_seed{self.seed}{share}.{suffix}"


def write_training(
    out: Path,
    training: Training,
    task: Task,
    clips: Clips,
    splits: Sequence[str],
    predictions: np.ndarray,
    costs: Mapping[str, Any],
) -> None:
    """Writes the predictions, (clips, classes or tasks), as CSV, and then the JSON. If it exists, both are complete."""
    rows = (
        (clip_id, split, group, *cells)
        for clip_id, split, group, cells in zip(
            clips.ids, splits, clips.group_names, task.cells(clips, predictions), strict=True
        )
    )
    write_csv(training.path(out, "csv"), ("id", "split", "group", *task.columns), map(rounded, rows))
    write_json(training.path(out, "json"), {"settings": _settings(training), "costs": dict(costs)})


def is_done(out: Path, training: Training) -> bool:
    """Whether the training is finished. Raises UserError if it was done with other settings of the recipe."""
    path = training.path(out, "json")
    if not path.is_file() or not training.path(out, "csv").is_file():
        return False
    if _read(path)["settings"] != _settings(training):
        raise UserError(
            f"Cannot continue in {out}: {training.name} was trained there with other settings; give another `out`, or "
            "`overwrite=True`"
        )
    return True


def read_costs(out: Path, training: Training) -> dict[str, Any]:
    costs = _read(training.path(out, "json"))["costs"]
    if not isinstance(costs.get("seconds"), int | float):
        raise UserError(f"Expected costs in {training.path(out, 'json')}, got {costs}; delete it, or `overwrite=True`")
    return costs


def read_predictions(out: Path, training: Training, task: Task, clips: Clips) -> np.ndarray:
    """Reads predictions (clips, classes or tasks). Raises UserError if the file is unreadable or has other clips."""
    path = training.path(out, "csv")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        predictions = task.read_cells(rows)[1]
        if not np.isfinite(predictions).all():
            raise ValueError("a clip without a number")
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(
            f"Expected the predictions of a training in {path}, got {error!r}; delete it, or `overwrite=True`"
        ) from error
    if tuple(row["id"] for row in rows) != clips.ids:
        raise UserError(
            f"Expected predictions for the fold's {len(clips)} clips in {path}, got other clips; delete it, or "
            "`overwrite=True`"
        )
    return predictions


def read_json(path: Path, *names: str) -> dict[str, Any]:
    """Reads a JSON object with objects under these keys. Raises UserError for other content."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(content[name], dict | None) for name in names):
            raise TypeError(f"no objects under {' and '.join(names)}")
        return dict(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Expected a file of a cross-validation, got {path}: {error!r}; delete it, or `overwrite=True`"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, "settings", "costs")


def _settings(training: Training) -> Any:
    """The recipe's settings as they are after a round trip through JSON."""
    return json.loads(json.dumps(None if training.settings is None else asdict(training.settings)))

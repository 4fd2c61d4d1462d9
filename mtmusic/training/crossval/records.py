"""What a cross-validation keeps of each training: the answers for its test clips, and what they cost."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmusic.data.labels import Clips
from mtmusic.errors import UserError
from mtmusic.files import write_json
from mtmusic.training import run_folder as runs
from mtmusic.training.affect_run import true_column
from mtmusic.training.recipes import Recipe


class Training(NamedTuple):
    """One recipe on one fold, counted from 1, with one seed. settings: None for a baseline."""

    name: str
    fold: int
    seed: int
    settings: Recipe | None = None

    def path(self, out: Path, suffix: str) -> Path:
        return out / "predictions" / f"{self.name}_fold{self.fold}_seed{self.seed}.{suffix}"


def write_training(
    out: Path, training: Training, clips: Clips, splits: Sequence[str], answers: np.ndarray, costs: Mapping[str, Any]
) -> None:
    """The CSV of answers, (clips, classes or tasks), and then the JSON, which says that both are whole."""
    groups = clips.groups if clips.groups is not None else [f"clip {i}" for i in clips.ids]
    if clips.classes:
        true: list[tuple[Any, ...]] = [(clips.classes[i],) for i in clips.targets]
        header = ("id", "split", "group", "true", "predicted", *clips.classes)
        told: list[tuple[Any, ...]] = [(clips.classes[row.argmax()], *row) for row in answers]
    else:
        true = [tuple("" if np.isnan(value) else float(value) for value in row) for row in clips.targets]
        header = ("id", "split", "group", *map(true_column, clips.tasks), *clips.tasks)
        told = [tuple(row) for row in answers]
    rows = (
        (clip_id, split, group, *label, *answer)
        for clip_id, split, group, label, answer in zip(clips.ids, splits, groups, true, told, strict=True)
    )
    runs.write_predictions(training.path(out, "csv"), rows, header)
    content = {"settings": _settings(training), "costs": dict(costs)}
    write_json(training.path(out, "json"), content)


def is_done(out: Path, training: Training) -> bool:
    """Raises UserError where it was done by a recipe of other settings."""
    path = training.path(out, "json")
    if not path.is_file() or not training.path(out, "csv").is_file():
        return False
    if _read(path)["settings"] != _settings(training):
        raise UserError(
            f"Cannot go on in {out}: {training.name} was trained there with other settings; give another --out, or "
            "--overwrite"
        )
    return True


def read_costs(out: Path, training: Training) -> dict[str, Any]:
    costs = _read(training.path(out, "json"))["costs"]
    if not isinstance(costs.get("seconds"), int | float):
        raise UserError(f"Expected costs in {training.path(out, 'json')}, got {costs}; delete it, or --overwrite")
    return costs


def read_answers(out: Path, training: Training, clips: Clips) -> np.ndarray:
    """(clips, classes or tasks). Raises UserError for a file of other clips, or one that cannot be read."""
    path = training.path(out, "csv")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        answers = np.array([[float(row[name]) for name in clips.classes or clips.tasks] for row in rows])
        ids = tuple(row["id"] for row in rows)
        if not np.isfinite(answers).all():
            raise ValueError("no number for some")
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(
            f"Expected the answers of a training in {path}, got {error!r}; delete it, or --overwrite"
        ) from error
    if ids != clips.ids:
        raise UserError(
            f"Expected the answers for {len(clips)} clips of a fold in {path}, got others; delete it, or --overwrite"
        )
    return answers


def read_json(path: Path, *names: str) -> dict[str, Any]:
    """An object that has these keys. Raises UserError for a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(content[name], dict | None) for name in names):
            raise TypeError(f"no objects under {' and '.join(names)}")
        return dict(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Expected what a cross-validation wrote in {path}, got {error!r}; delete it, or --overwrite"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, "settings", "costs")


def _settings(training: Training) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(None if training.settings is None else asdict(training.settings)))

"""Finished runs beside each other: rho of each on the same clips, and the difference to the first with its interval."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.evaluation.metrics import affect_report, spearman_differences
from mtmusic.files import write_json
from mtmusic.jobs.affect_run import true_column
from mtmusic.models import export

SPLIT = "test"
JOINT = "+"
"""Between runs of single tasks that are judged as one: saved_models/valence_cnn+saved_models/energy_cnn"""


@dataclass(frozen=True)
class Predictions:
    """What a run, or several joined ones, answered for test clips. true, predicted: (clips, tasks), NaN no label."""

    name: str
    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    true: np.ndarray
    predicted: np.ndarray


def compare_runs(names: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """The first run beside the others; what `comparison.json` holds.

    "runs": rho by task, and their mean, of each on the clips that all have in common. "differences": the first's less
    each other's, on the tasks that both have. Each is {value, low, high}, the 95 % bootstrap interval over clips.
    Raises UserError for a run that cannot be read, or runs that judged other clips.
    """
    if len(names) < 2:
        raise UserError(f"Expected two runs or more to compare, got {len(names)}")
    if len({*map(_canonical, names)}) < len(names):
        raise UserError(f"Expected each run once, got {', '.join(names)}")
    runs = _on_the_same_clips([read_predictions(name) for name in names])
    first, *others = runs
    differences = {}
    for other in others:
        tasks = tuple(task for task in first.tasks if task in other.tasks)
        if not tasks:
            raise UserError(f"Expected runs with a task in common, got {first.name} and {other.name}")
        differences[other.name] = _difference(first, other, tasks, seed)
    return {
        "first": first.name,
        "split": SPLIT,
        "clips": len(first.ids),
        "seed": seed,
        "runs": {run.name: rho(run, seed) for run in runs},
        "differences": differences,
    }


def comparison_table(comparison: dict[str, Any]) -> str:
    """For the terminal: a line a run and one a difference, a column a task."""
    parts = {
        **comparison["runs"],
        **{f"{comparison['first']} less {name}": row for name, row in comparison["differences"].items()},
    }
    names = list(dict.fromkeys(name for row in parts.values() for name in row))
    width = max(len(part) for part in parts)
    lines = [f"{'':{width}}" + "".join(f"  {name:>24}" for name in names)]
    for part, row in parts.items():
        cells = [_interval(row[name]) if name in row else "-" for name in names]
        lines.append(f"{part:{width}}" + "".join(f"  {cell:>24}" for cell in cells))
    return "\n".join([f"Spearman's rho on the same {comparison['clips']} test clips (95 % interval)", *lines])


def _interval(row: dict[str, float]) -> str:
    return f"{row['value']:.3f} ({row['low']:6.3f} to {row['high']:6.3f})"


def write_comparison(folder: Path, comparison: dict[str, Any]) -> None:
    """comparison.json, and figures/comparison.png: each run's rho with its interval."""
    rows = [
        (run, {name: (row["value"], row["low"], row["high"]) for name, row in values.items()})
        for run, values in comparison["runs"].items()
    ]
    plots.save_figure(plots.intervals(rows, "Spearman's rho"), folder / "figures" / "comparison.png")
    write_json(folder / "comparison.json", comparison)


def read_predictions(name: str) -> Predictions:
    """A run's, or those of several runs of single tasks joined by "+". Raises UserError."""
    joined = [name] if Path(name).exists() else name.split(JOINT)
    parts = [_read_run(Path(part), part) for part in joined]
    if len(parts) == 1:
        return parts[0]
    tasks = tuple(task for part in parts for task in part.tasks)
    if len(set(tasks)) < len(tasks):
        raise UserError(f"Expected joined runs of other tasks each, got {', '.join(tasks)} in {name}")
    parts = _on_the_same_clips(parts)
    true, predicted = (np.hstack([getattr(part, what) for part in parts]) for what in ("true", "predicted"))
    return Predictions(name, parts[0].ids, tasks, true, predicted)


def _read_run(path: Path, name: str) -> Predictions:
    folder = export.locate(path)[0]
    card = export.read_card(folder)
    if card["task"] == "genre":
        raise UserError(f"Expected a run of affect, got one of genre: {path}")
    tasks, file = tuple(card["targets"]), folder / "predictions.csv"
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = [row for row in csv.DictReader(opened) if row["split"] == SPLIT]
        true = np.array([[float(row[true_column(task)] or "nan") for task in tasks] for row in rows])
        predicted = np.array([[float(row[task]) for task in tasks] for row in rows])
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"Expected the answers of a finished run in {file}, got {error!r}; train again") from error
    if not rows:
        raise UserError(f"Expected answers for test clips in {file}, got none; train again")
    return Predictions(name, tuple(row["id"] for row in rows), tasks, true, predicted)


def _canonical(name: str) -> str:
    """A run's folder is the same run as its model.keras."""
    return name.removesuffix(f"/{export.MODEL_FILE}").rstrip("/")


def _on_the_same_clips(runs: Sequence[Predictions]) -> list[Predictions]:
    """Each with the clips that all have, in the first one's order. Raises UserError where they differ in labels."""
    common = set(runs[0].ids).intersection(*(run.ids for run in runs[1:]))
    ids = tuple(i for i in runs[0].ids if i in common)
    if len(ids) < max(len(run.ids) for run in runs) / 2:
        raise UserError(
            f"Expected runs that judged the same clips, got {len(ids)} in common among "
            f"{' and '.join(run.name for run in runs)}: train them on one folder with one seed"
        )
    aligned = []
    for run in runs:
        places = [run.ids.index(i) for i in ids]
        aligned.append(Predictions(run.name, ids, run.tasks, run.true[places], run.predicted[places]))
    labels: dict[str, np.ndarray] = {}
    for run in aligned:
        for task, column in zip(run.tasks, run.true.T, strict=True):
            if not np.allclose(labels.setdefault(task, column), column, atol=1e-5, equal_nan=True):
                raise UserError(f"Expected runs with the same labels of {task}, got others in {run.name}")
    return aligned


def rho(run: Predictions, seed: int = 0) -> dict[str, dict[str, float]]:
    """Of each task and, of several, their "mean": {value, low, high}, the 95 % bootstrap interval over clips."""
    report = affect_report(run.true, run.predicted, run.tasks, dict.fromkeys(run.tasks, 0.0), seed)
    rows = {
        task: {"value": row["spearman"], "low": row["spearman_low"], "high": row["spearman_high"]}
        for task, row in report["per_task"].items()
    }
    if len(run.tasks) > 1:
        bounds = {bound: report[f"spearman_mean_{bound}"] for bound in ("low", "high")}
        rows["mean"] = {"value": report["spearman"]["mean"], **bounds}
    return rows


def _difference(
    first: Predictions, other: Predictions, tasks: tuple[str, ...], seed: int
) -> dict[str, dict[str, float]]:
    columns = [first.tasks.index(task) for task in tasks]
    others = [other.tasks.index(task) for task in tasks]
    rows = spearman_differences(
        first.true[:, columns], first.predicted[:, columns], other.predicted[:, others], tasks, seed
    )
    return {name: row for name, row in rows.items() if name != "mean" or len(tasks) > 1}

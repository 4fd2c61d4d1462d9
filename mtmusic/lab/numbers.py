"""Numbers of several seeds as one row, and what the lab's sentences say of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.lab.plan import history, metrics_of
from mtmusic.training.compare import JOINT, compare_runs, own_scores, read_predictions

ROW_HEADER = ("mean", "sd of seeds", "95 % interval")
ROW_NOTE = "Interval: of the bootstrap, its bounds averaged over the seeds."


def summary(values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of {value, low, high}, one a seed: all values, their mean and sd (None for one seed), and the mean bounds."""
    numbers = [row["value"] for row in values]
    return {
        "values": numbers,
        "mean": float(np.mean(numbers)),
        "sd": float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None,
        "low": float(np.mean([row["low"] for row in values])),
        "high": float(np.mean([row["high"] for row in values])),
    }


def cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Under ROW_HEADER."""
    sd = "-" if row["sd"] is None else f"{row['sd']:.3f}"
    return f"{row['mean']:.3f}", sd, f"{row['low']:.3f} to {row['high']:.3f}"


def told(row: Mapping[str, Any]) -> str:
    """For a sentence: 0.512 (0.430 to 0.590)"""
    return f"{row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def paired(first: Sequence[Sequence[Path]], other: Sequence[Sequence[Path]], measure: str) -> dict[str, Any]:
    """The first network's score less the other's, clip by clip of the same test split, as `summary`.

    first, other: of each seed one run, or one a task. measure: "accuracy", "mean" or a task.
    """
    rows = []
    for one, two in zip(first, other, strict=True):
        names = [joined(one), joined(two)]
        rows.append(compare_runs(names)["differences"][names[1]][measure])
    return summary(rows)


def versus(difference: Mapping[str, Any]) -> str:
    """A `paired` difference in words, with what its interval shows."""
    low, high = difference["low"], difference["high"]
    verdict = "no difference is shown" if low <= 0 <= high else "more than chance among clips would give"
    return f"{difference['mean']:+.3f} on the same clips ({low:.3f} to {high:.3f}): {verdict}"


def accuracy(runs: Sequence[Path]) -> dict[str, Any]:
    """Of genre runs, one a seed: the test split's accuracy as `summary`."""
    tests = [metrics_of(run)["test"] for run in runs]
    bounds = [(test["accuracy"], test["accuracy_low"], test["accuracy_high"]) for test in tests]
    return summary([{"value": value, "low": low, "high": high} for value, low, high in bounds])


def mean_of(runs: Sequence[Path], split: str, name: str) -> float:
    return float(np.mean([metrics_of(run)[split][name] for run in runs]))


def rho_rows(runs: Sequence[Sequence[Path]]) -> dict[str, dict[str, Any]]:
    """Of each task, and of several their mean: rho of the test split as `summary`. runs: of each seed one of all tasks,
    or one a task."""
    seeds = [own_scores(read_predictions(joined(parts))) for parts in runs]
    return {name: summary([seed[name] for seed in seeds]) for name in seeds[0]}


def joined(parts: Sequence[Path]) -> str:
    """As `compare_runs` takes runs of single tasks."""
    return JOINT.join(map(str, parts))


def validation_rho(runs: Sequence[Sequence[Path]]) -> float:
    """Mean over tasks and seeds of rho on the validation split: what may choose a model."""
    of_seeds = []
    for parts in runs:
        rows = [metrics_of(part)["validation"]["per_task"] for part in parts]
        of_seeds.append(np.mean([task["spearman"] for row in rows for task in row.values()]))
    return float(np.mean(of_seeds))


def training_facts(run: Path) -> dict[str, Any]:
    """Epochs, their time, and the loss of the first and of the last epoch."""
    metrics, loss = metrics_of(run), history(run)["loss"]
    names = ("epochs", "best_epoch", "seconds_per_epoch")
    return {name: metrics[name] for name in names} | {"first_loss": loss[0], "last_loss": loss[-1]}

"""Out-of-fold answers of several recipes on the same folds, to scores, their intervals, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mtmusic.evaluation.resampling import accuracy, group_draws, interval, macro_f1, spearman


@dataclass(frozen=True)
class Fold:
    """The clips of one fold's test part. groups: (clips,) names. true: class indices (clips,), or (clips, tasks) with
    NaN where a label is missing."""

    groups: np.ndarray
    true: np.ndarray


Answers = Sequence[Sequence[np.ndarray]]
"""Of a recipe: by fold, and in it by seed, (clips, classes) or (clips, tasks)."""


def cross_scores(folds: Sequence[Fold], recipes: Mapping[str, Answers], tasks: Sequence[str], seed: int = 0) -> dict:
    """ "recipes": of each `accuracy` and `macro_f1`, or `rho` and `rho_<task>`; "comparisons": of each two.

    A score is that of a fold, the mean over seeds, then over folds: {mean, sd, low, high}. low and high: the 95 %
    bootstrap interval over groups, drawn within folds, all seeds judged on the same draw. sd: of the seeds, None for
    one. A comparison is the first's score less the second's on the same draws: {value, low, high}. tasks: none for
    genre.
    """
    rng = np.random.default_rng(seed)
    draws = [np.vstack([np.ones(len(fold.groups)), group_draws(fold.groups, rng)]) for fold in folds]
    scores = {name: _scores(folds, answers, tasks, draws) for name, answers in recipes.items()}
    return {
        "recipes": {name: {key: _summary(rows) for key, rows in one.items()} for name, one in scores.items()},
        "comparisons": [
            {"first": first, "second": second, **_difference(scores[first], scores[second])}
            for first, second in combinations(recipes, 2)
        ],
    }


def _scores(
    folds: Sequence[Fold], answers: Answers, tasks: Sequence[str], draws: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Each measure's (seeds, 1 + resamples), mean over folds; the first column is that of the clips themselves."""
    by_fold = [
        [_fold_scores(fold.true, one, tasks, counts) for one in of_seeds]
        for fold, of_seeds, counts in zip(folds, answers, draws, strict=True)
    ]
    return {
        name: np.mean([[of_seed[name] for of_seed in of_seeds] for of_seeds in by_fold], axis=0)
        for name in by_fold[0][0]
    }


def _fold_scores(
    true: np.ndarray, answers: np.ndarray, tasks: Sequence[str], counts: np.ndarray
) -> dict[str, np.ndarray]:
    if not tasks:
        predicted = answers.argmax(axis=1)
        return {"accuracy": accuracy(true, predicted, counts), "macro_f1": macro_f1(true, predicted, counts)}
    rho = {f"rho_{task}": spearman(true[:, i], answers[:, i], counts) for i, task in enumerate(tasks)}
    return {"rho": np.mean(list(rho.values()), axis=0), **rho}


def _summary(rows: np.ndarray) -> dict[str, float | None]:
    """(seeds, 1 + resamples)"""
    mean, *drawn = rows.mean(axis=0)
    low, high = interval(mean, np.array(drawn))
    sd = float(rows[:, 0].std(ddof=1)) if len(rows) > 1 else None
    return {"mean": float(mean), "sd": sd, "low": low, "high": high}


def _difference(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    rows = {}
    for name in first:
        value, *drawn = first[name].mean(axis=0) - second[name].mean(axis=0)
        low, high = interval(value, np.array(drawn))
        rows[name] = {"value": float(value), "low": low, "high": high}
    return rows


def measures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a recipe's or a comparison's row in results.json: what has an interval."""
    return {name: one for name, one in row.items() if isinstance(one, Mapping) and "low" in one}


def scores_table(scores: Mapping[str, Any]) -> str:
    """For the terminal: a line a recipe and one a comparison, a column a measure."""
    rows = {
        name: {key: _cell(one, "mean") for key, one in measures(row).items()} for name, row in scores["recipes"].items()
    }
    for row in scores["comparisons"]:
        rows[f"{row['first']} less {row['second']}"] = {key: _cell(one, "value") for key, one in measures(row).items()}
    names = list(next(iter(rows.values())))
    width = max(map(len, rows))
    lines = [f"{name:{width}}" + "".join(f"  {row[key]:>24}" for key in names) for name, row in rows.items()]
    return "\n".join([f"{'':{width}}" + "".join(f"  {key:>24}" for key in names), *lines])


def _cell(row: Mapping[str, float], name: str) -> str:
    return f"{row[name]:.3f} ({row['low']:6.3f} to {row['high']:6.3f})"

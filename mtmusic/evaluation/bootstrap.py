"""Predictions to scores with 95 % bootstrap intervals over groups, and the paired differences of several recipes.

A draw takes as many groups as there are, with replacement. A clip that is drawn twice scores as two equal clips would.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import norm

RESAMPLES = 2000
RESAMPLES_AT_ONCE = 100
"""Keeps the memory small with thousands of clips."""

INTERVAL = np.array((0.025, 0.975))
"""Quantiles: the 95 % interval."""


@dataclass(frozen=True)
class Fold:
    """The clips of one fold's test part. groups: (clips,) names; None, each clip is its own. true: class indices
    (clips,), or (clips, tasks) with NaN where a label is missing."""

    groups: Sequence[str] | np.ndarray | None
    true: np.ndarray


Answers = Sequence[Sequence[np.ndarray]]
"""Of a recipe: by fold, and in it by seed, (clips, classes) or (clips, tasks)."""


def cross_scores(folds: Sequence[Fold], recipes: Mapping[str, Answers], tasks: Sequence[str], seed: int = 0) -> dict:
    """ "recipes": of each `accuracy` and `macro_f1`, or `rho` and `rho_<task>`; "comparisons": of each two.

    A score is that of a fold, the mean over seeds, then over folds: {mean, sd, low, high}. low and high: the 95 %
    bootstrap interval over groups, drawn within folds, all seeds evaluated on the same draw. sd: of the seeds, None for
    one. A comparison is the first's score less the second's on the same draws: {value, low, high}. tasks: none for
    genre.
    """
    rng = np.random.default_rng(seed)
    by_fold = [
        _fold_scores(fold, {name: answers[place] for name, answers in recipes.items()}, tasks, rng)
        for place, fold in enumerate(folds)
    ]
    scores = {name: np.mean([of_fold[name] for of_fold in by_fold], axis=0) for name in recipes}
    names = ("rho", *(f"rho_{task}" for task in tasks)) if tasks else ("accuracy", "macro_f1")
    return {
        "recipes": {name: dict(zip(names, map(_summary, rows), strict=True)) for name, rows in scores.items()},
        "comparisons": [
            {"first": first, "second": second}
            | dict(zip(names, map(_difference, scores[first], scores[second]), strict=True))
            for first, second in combinations(recipes, 2)
        ],
    }


def model_scores(
    fold: Fold, answers: np.ndarray, tasks: Sequence[str] = (), seed: int = 0
) -> dict[str, dict[str, Any]]:
    """One model's, see `cross_scores`; answers: (clips, classes) or (clips, tasks)."""
    return cross_scores([fold], {"model": [[answers]]}, tasks, seed)["recipes"]["model"]


def _fold_scores(
    fold: Fold, recipes: Mapping[str, Sequence[np.ndarray]], tasks: Sequence[str], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Each recipe's (measures, seeds, 1 + resamples); the first column is that of the clips themselves."""
    parts = [
        {name: [_scores(fold.true, one, tasks, counts) for one in of_seeds] for name, of_seeds in recipes.items()}
        for counts in _draws(fold, rng)
    ]
    return {name: np.concatenate([part[name] for part in parts], axis=-1).swapaxes(0, 1) for name in recipes}


def _draws(fold: Fold, rng: np.random.Generator) -> Iterator[np.ndarray]:
    clips = len(fold.true)
    groups = np.arange(clips) if fold.groups is None else fold.groups
    yield np.ones((1, clips))
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
        yield group_draws(groups, rng, RESAMPLES_AT_ONCE)


def _scores(true: np.ndarray, answers: np.ndarray, tasks: Sequence[str], counts: np.ndarray) -> list[np.ndarray]:
    """Each measure's (resamples,)."""
    if not tasks:
        predicted = answers.argmax(axis=1)
        return [accuracy(true, predicted, counts), macro_f1(true, predicted, counts)]
    rho = [spearman(true[:, task], answers[:, task], counts) for task in range(len(tasks))]
    return [np.mean(rho, axis=0), *rho]


def _summary(rows: np.ndarray) -> dict[str, float | None]:
    """(seeds, 1 + resamples)"""
    mean, *drawn = rows.mean(axis=0)
    low, high = interval(mean, np.array(drawn))
    sd = float(rows[:, 0].std(ddof=1)) if len(rows) > 1 else None
    return {"mean": float(mean), "sd": sd, "low": low, "high": high}


def _difference(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Each (seeds, 1 + resamples)"""
    value, *drawn = first.mean(axis=0) - second.mean(axis=0)
    low, high = interval(value, np.array(drawn))
    return {"value": float(value), "low": low, "high": high}


def group_draws(groups: Sequence[Any] | np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """As many groups as there are, drawn with replacement: (resamples, clips), how often each clip is drawn.

    groups: (clips,) names. What they are called does not change the draws, only which clips share one.
    """
    numbers: dict[Any, int] = {}
    member = [numbers.setdefault(name, len(numbers)) for name in groups]
    drawn = rng.integers(len(numbers), size=(resamples, len(numbers)))
    cells = drawn + len(numbers) * np.arange(resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape)
    return counts[:, member].astype(float)


def interval(value: float, drawn: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a score from (resamples,) scores of draws, bias-corrected (Efron 1981).

    Draws of groups upset the balance of classes, and repeat clips: scores like F1 and rho are lower on them than on
    the clips themselves. Where half of the draws lie below `value`, it is the plain percentile interval.
    """
    sides = np.sign(np.round(drawn - value, 9))  # equal means of several scores may differ in their last digits
    below = (1 - sides.mean()) / 2
    bias = norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    low, high = np.quantile(drawn, norm.cdf(2 * bias + norm.ppf(INTERVAL)))
    return float(low), float(high)


def accuracy(true: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """true, predicted: (clips,) class indices; counts: (resamples, clips) -> (resamples,)."""
    return counts @ (true == predicted) / counts.sum(axis=1)


def macro_f1(true: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """As `accuracy`: the mean F1 of the classes that the drawn clips have."""
    classes = np.unique(true)
    of_true, of_predicted = (counts @ (values[:, None] == classes) for values in (true, predicted))
    hits = counts @ ((true == predicted)[:, None] & (true[:, None] == classes))
    f1 = 2 * hits / np.maximum(of_true + of_predicted, 1)
    return f1.sum(axis=1) / (of_true > 0).sum(axis=1)


def spearman(true: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """true, predicted: (clips,), NaN where a label is missing; counts: (resamples, clips) -> (resamples,).

    0 where the drawn clips are all equal in one of the two.
    """
    known = ~np.isnan(true)
    counts = counts[:, known]
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ranks = (_ranks(values[known], counts) for values in (true, predicted))
    x, y = (rank - (counts * rank).sum(axis=1, keepdims=True) / total for rank in ranks)
    scale = np.sqrt((counts * x**2).sum(axis=1) * (counts * y**2).sum(axis=1))
    return np.where(scale > 0, (counts * x * y).sum(axis=1) / np.where(scale > 0, scale, 1), 0.0)


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(resamples, clips), each clip's rank among the drawn ones; equal values share their mean rank."""
    order = np.argsort(values)
    up_to = np.insert(np.cumsum(counts[:, order], axis=1), 0, 0, axis=1)
    below, not_above = (np.searchsorted(values, values, side, sorter=order) for side in ("left", "right"))
    return (up_to[:, below] + up_to[:, not_above] + 1) / 2


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

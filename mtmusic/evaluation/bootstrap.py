"""Scores with 95 % bootstrap intervals over groups, and paired differences between recipes.

Each draw takes as many groups as there are, with replacement. A clip that is drawn twice counts as two equal clips.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import norm

RESAMPLES = 2000
RESAMPLES_AT_ONCE = 100
"""Limits the use of memory with thousands of clips."""

INTERVAL = np.array((0.025, 0.975))
"""The quantiles of the 95 % interval."""


@dataclass(frozen=True)
class Fold:
    """The test clips of one fold.

    Attributes:
        groups: Name of each clip's group `(clips,)`, or None if each clip is its own group.
        true: Class indices `(clips,)`, or labels `(clips, tasks)` with NaN for missing labels.

    Examples:
        >>> from mtmusic.evaluation.bootstrap import Fold, model_scores
        >>> fold = Fold(groups=["Ella", "Ella", "Nina"], true=np.array([0, 1, 1]))
        >>> model_scores(fold, answers=np.eye(2)[[0, 1, 1]])["accuracy"]
        {'mean': 1.0, 'sd': None, 'low': 1.0, 'high': 1.0}
    """

    groups: Sequence[str] | np.ndarray | None
    true: np.ndarray


Answers = Sequence[Sequence[np.ndarray]]
"""The answers of a recipe by fold, and within a fold by seed: (clips, classes) or (clips, tasks)."""


def cross_scores(folds: Sequence[Fold], recipes: Mapping[str, Answers], tasks: Sequence[str], seed: int = 0) -> dict:
    """Computes the scores of several recipes over folds and seeds, and the difference between each two recipes.

    A score is the mean over seeds, then over folds. Groups are drawn within folds, and all seeds and recipes are
    evaluated on the same draws. The intervals are bias-corrected, see `interval`.

    Args:
        folds: The test clips of each fold.
        recipes: Answers of each recipe by fold, and within a fold by seed: `(clips, classes)` or `(clips, tasks)`.
        tasks: Names of the tasks. Empty for genre.
        seed: Seed of the draws.

    Returns:
        "recipes": for each recipe "accuracy" and "macro_f1", or "rho" and "rho_<task>", with "mean", "sd" over seeds
        (None for one seed), "low" and "high". "comparisons": for each two recipes the score of the first minus the
        second's, with "value", "low" and "high".

    Examples:
        >>> from mtmusic.evaluation.bootstrap import Fold, cross_scores
        >>> fold = Fold(groups=None, true=np.array([0, 1, 0, 1]))
        >>> right, wrong = np.eye(2)[[0, 1, 0, 1]], np.eye(2)[[1, 0, 1, 0]]
        >>> scores = cross_scores([fold], {"right": [[right]], "wrong": [[wrong]]}, tasks=())
        >>> scores["recipes"]["right"]["accuracy"]["mean"], scores["comparisons"][0]["accuracy"]["value"]
        (1.0, 1.0)
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
    """Computes the scores of one model on one set of clips, see `cross_scores`.

    Args:
        fold: The test clips.
        answers: The model's answers, `(clips, classes)` or `(clips, tasks)`.
        tasks: Names of the tasks. Empty for genre.
        seed: Seed of the draws.

    Returns:
        For each measure "mean", "sd" (None), "low" and "high".

    Examples:
        >>> from mtmusic.evaluation.bootstrap import Fold, model_scores
        >>> fold = Fold(groups=None, true=np.array([0, 1, 0, 1]))
        >>> scores = model_scores(fold, answers=np.eye(2)[[0, 1, 0, 0]])
        >>> scores["accuracy"]["mean"], round(scores["macro_f1"]["mean"], 3)
        (0.75, 0.733)
    """
    return cross_scores([fold], {"model": [[answers]]}, tasks, seed)["recipes"]["model"]


def _fold_scores(
    fold: Fold, recipes: Mapping[str, Sequence[np.ndarray]], tasks: Sequence[str], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Each recipe's scores (measures, seeds, 1 + resamples). The first column has the scores without resampling."""
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
    """The scores (resamples,) of each measure."""
    if not tasks:
        predicted = answers.argmax(axis=1)
        return [accuracy(true, predicted, counts), macro_f1(true, predicted, counts)]
    rho = [spearman(true[:, task], answers[:, task], counts) for task in range(len(tasks))]
    return [np.mean(rho, axis=0), *rho]


def _summary(rows: np.ndarray) -> dict[str, float | None]:
    """The summary of scores (seeds, 1 + resamples)."""
    mean, *drawn = rows.mean(axis=0)
    low, high = interval(mean, np.array(drawn))
    sd = float(rows[:, 0].std(ddof=1)) if len(rows) > 1 else None
    return {"mean": float(mean), "sd": sd, "low": low, "high": high}


def _difference(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """The difference of two recipes' scores, (seeds, 1 + resamples) each."""
    value, *drawn = first.mean(axis=0) - second.mean(axis=0)
    low, high = interval(value, np.array(drawn))
    return {"value": float(value), "low": low, "high": high}


def group_draws(groups: Sequence[Any] | np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Draws as many groups as there are, with replacement.

    Args:
        groups: Name of each clip's group `(clips,)`. The draws depend on which clips share a name, not on the names.
        rng: Generator of random numbers.
        resamples: Number of draws.

    Returns:
        How often each clip is drawn, `(resamples, clips)`.

    Examples:
        >>> from mtmusic.evaluation.bootstrap import group_draws
        >>> counts = group_draws(["Ella", "Ella", "Nina"], np.random.default_rng(0), resamples=100)
        >>> counts.shape, bool((counts[:, 0] == counts[:, 1]).all())
        ((100, 3), True)
    """
    numbers: dict[Any, int] = {}
    member = [numbers.setdefault(name, len(numbers)) for name in groups]
    drawn = rng.integers(len(numbers), size=(resamples, len(numbers)))
    cells = drawn + len(numbers) * np.arange(resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape)
    return counts[:, member].astype(float)


def interval(value: float, drawn: np.ndarray) -> tuple[float, float]:
    """Computes the bias-corrected 95 % bootstrap interval of a score (Efron 1981).

    Draws of groups repeat clips and change the balance of classes. So scores like F1 and rho are lower on the draws
    than on the original clips, and the interval corrects for that. If half of the draws are below `value`, it equals
    the percentile interval.

    Args:
        value: Score on the original clips.
        drawn: Scores of the draws `(resamples,)`.

    Returns:
        The lower and the upper end.

    Examples:
        >>> from mtmusic.evaluation.bootstrap import interval
        >>> low, high = interval(0.5, np.linspace(0, 1, 1001))
        >>> round(low, 3), round(high, 3)
        (0.025, 0.975)
    """
    sides = np.sign(np.round(drawn - value, 9))  # equal means may differ by rounding
    below = (1 - sides.mean()) / 2
    bias = norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    low, high = np.quantile(drawn, norm.cdf(2 * bias + norm.ppf(INTERVAL)))
    return float(low), float(high)


def accuracy(true: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Computes the accuracy on each draw.

    Args:
        true: True class indices `(clips,)`.
        predicted: Predicted class indices `(clips,)`.
        counts: How often each clip is drawn, `(resamples, clips)`.

    Returns:
        The accuracies `(resamples,)`.

    Examples:
        >>> from mtmusic.evaluation.bootstrap import accuracy
        >>> true, predicted = np.array([0, 1, 1]), np.array([0, 1, 0])
        >>> counts = np.array([[1, 1, 1], [2, 1, 0]])  # the second draw repeats the first clip
        >>> accuracy(true, predicted, counts).round(3).tolist()
        [0.667, 1.0]
    """
    return counts @ (true == predicted) / counts.sum(axis=1)


def macro_f1(true: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Computes macro F1 on each draw, over the classes in the draw.

    Args:
        true: True class indices `(clips,)`.
        predicted: Predicted class indices `(clips,)`.
        counts: How often each clip is drawn, `(resamples, clips)`.

    Returns:
        The scores `(resamples,)`.

    Examples:
        >>> from mtmusic.evaluation.bootstrap import macro_f1
        >>> true, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
        >>> counts = np.array([[1, 1, 1, 1], [2, 0, 1, 1]])  # the second draw repeats the first clip
        >>> macro_f1(true, predicted, counts).round(3).tolist()
        [0.733, 1.0]
    """
    classes = np.unique(true)
    of_true, of_predicted = (counts @ (values[:, None] == classes) for values in (true, predicted))
    hits = counts @ ((true == predicted)[:, None] & (true[:, None] == classes))
    f1 = 2 * hits / np.maximum(of_true + of_predicted, 1)
    return f1.sum(axis=1) / (of_true > 0).sum(axis=1)


def spearman(true: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Computes Spearman's rank correlation on each draw. It is 0 if all drawn labels or predictions are equal.

    Args:
        true: Labels `(clips,)`, NaN for missing labels.
        predicted: Predictions `(clips,)`.
        counts: How often each clip is drawn, `(resamples, clips)`.

    Returns:
        The correlations `(resamples,)`.

    Examples:
        >>> from mtmusic.evaluation.bootstrap import spearman
        >>> true, predicted = np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.5, 0.4])
        >>> counts = np.array([[1, 1, 1], [2, 1, 0]])  # the second draw repeats the first clip
        >>> spearman(true, predicted, counts).round(3).tolist()
        [0.5, 1.0]
    """
    known = ~np.isnan(true)
    counts = counts[:, known]
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ranks = (_ranks(values[known], counts) for values in (true, predicted))
    x, y = (rank - (counts * rank).sum(axis=1, keepdims=True) / total for rank in ranks)
    scale = np.sqrt((counts * x**2).sum(axis=1) * (counts * y**2).sum(axis=1))
    return np.where(scale > 0, (counts * x * y).sum(axis=1) / np.where(scale > 0, scale, 1), 0.0)


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(resamples, clips): each clip's rank among the drawn clips. Equal values share their mean rank."""
    order = np.argsort(values)
    up_to = np.insert(np.cumsum(counts[:, order], axis=1), 0, 0, axis=1)
    below, not_above = (np.searchsorted(values, values, side, sorter=order) for side in ("left", "right"))
    return (up_to[:, below] + up_to[:, not_above] + 1) / 2


def measures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a recipe's or a comparison's row that have an interval.

    Args:
        row: A row of `cross_scores`.

    Returns:
        These entries by name.
    """
    return {name: one for name, one in row.items() if isinstance(one, Mapping) and "low" in one}


def scores_table(scores: Mapping[str, Any]) -> str:
    """Formats scores for the terminal: a line for each recipe and each comparison, a column for each measure.

    Args:
        scores: The result of `cross_scores`.

    Returns:
        The table.

    Examples:
        >>> from mtmusic.evaluation.bootstrap import Fold, cross_scores, scores_table
        >>> fold = Fold(groups=None, true=np.array([0, 1, 0, 1]))
        >>> right, wrong = np.eye(2)[[0, 1, 0, 1]], np.eye(2)[[1, 0, 1, 0]]
        >>> print(scores_table(cross_scores([fold], {"right": [[right]], "wrong": [[wrong]]}, tasks=())))
                                           accuracy                  macro_f1
        right              1.000 ( 1.000 to  1.000)  1.000 ( 1.000 to  1.000)
        wrong              0.000 ( 0.000 to  0.000)  0.000 ( 0.000 to  0.000)
        right minus wrong  1.000 ( 1.000 to  1.000)  1.000 ( 1.000 to  1.000)
    """
    rows = {
        name: {key: _cell(one, "mean") for key, one in measures(row).items()} for name, row in scores["recipes"].items()
    }
    for row in scores["comparisons"]:
        rows[f"{row['first']} minus {row['second']}"] = {key: _cell(one, "value") for key, one in measures(row).items()}
    names = list(next(iter(rows.values())))
    width = max(map(len, rows))
    lines = [f"{name:{width}}" + "".join(f"  {row[key]:>24}" for key in names) for name, row in rows.items()]
    return "\n".join([f"{'':{width}}" + "".join(f"  {key:>24}" for key in names), *lines])


def _cell(row: Mapping[str, float], name: str) -> str:
    return f"{row[name]:.3f} ({row['low']:6.3f} to {row['high']:6.3f})"

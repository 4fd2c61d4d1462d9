"""The bootstrap over groups: how often each clip is drawn, and scores of clips that count so often.

A clip that counts twice scores as two equal clips would.
"""

import numpy as np
from scipy.stats import norm

from mtmusic.evaluation.metrics import INTERVAL

RESAMPLES = 2000


def group_draws(groups: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """As many groups as there are, drawn with replacement: (resamples, clips), how often each clip is drawn.

    groups: (clips,) names.
    """
    names, member = np.unique(groups, return_inverse=True)
    drawn = rng.integers(len(names), size=(resamples, len(names)))
    counts = np.zeros((resamples, len(names)))
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1)
    return counts[:, member]


def interval(value: float, drawn: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a score from (resamples,) scores of draws, bias-corrected (Efron 1981).

    Draws of groups upset the balance of classes, and repeat clips: scores like F1 and rho are lower on them than on
    the clips themselves. Where half of the draws lie below `value`, it is the plain percentile interval.
    """
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    bias = norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    low, high = np.quantile(drawn, norm.cdf(2 * bias + norm.ppf(np.array(INTERVAL) / 100)))
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
    ranks, varied = zip(*(_ranks(values[known], counts) for values in (true, predicted)), strict=True)
    x, y = (rank - (counts * rank).sum(axis=1, keepdims=True) / total for rank in ranks)
    scale = np.sqrt((counts * x**2).sum(axis=1) * (counts * y**2).sum(axis=1))
    varies = varied[0] & varied[1]
    return np.where(varies, (counts * x * y).sum(axis=1) / np.where(varies, scale, 1), 0.0)


def _ranks(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(resamples, clips) ranks among the drawn clips, equal values sharing their mean rank; (resamples,) whether two
    values or more were drawn."""
    distinct, place = np.unique(values, return_inverse=True)
    of_value = counts @ np.eye(len(distinct))[place]
    ranks = np.cumsum(of_value, axis=1) - (of_value - 1) / 2
    return ranks[:, place], (of_value > 0).sum(axis=1) > 1

"""Counts instead of copies: the oracles copy the clips."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from mtmusic.evaluation.resampling import accuracy, group_draws, interval, macro_f1, spearman

RNG = np.random.default_rng(0)
COUNTS = np.vstack([np.ones(30), RNG.integers(0, 4, (8, 30))])


def test_groups_are_drawn_whole_and_as_many_as_there_are():
    groups = np.array(["a", "b", "b", "c", "a", "d"])
    counts = group_draws(groups, np.random.default_rng(0), 500)
    assert counts.shape == (500, 6)
    np.testing.assert_array_equal(counts[:, 0], counts[:, 4])
    np.testing.assert_array_equal(counts[:, 1], counts[:, 2])
    np.testing.assert_array_equal(counts[:, [0, 1, 3, 5]].sum(axis=1), 4)
    assert counts.mean() == pytest.approx(1, abs=0.1)


def test_scores_of_counted_clips_are_those_of_copied_ones():
    true, predicted = RNG.integers(0, 3, 30), RNG.integers(0, 4, 30)
    shares, f1s = accuracy(true, predicted, COUNTS), macro_f1(true, predicted, COUNTS)
    for row, share, f1 in zip(COUNTS.astype(int), shares, f1s, strict=True):
        copied = np.repeat(true, row), np.repeat(predicted, row)
        assert share == pytest.approx(accuracy_score(*copied))
        expected = f1_score(*copied, labels=np.unique(copied[0]), average="macro", zero_division=0)
        assert f1 == pytest.approx(expected)


@pytest.mark.parametrize("decimals", [1, 6])  # 1: many ties
def test_rho_of_counted_clips_is_scipys_of_copied_ones(decimals):
    true = RNG.uniform(0, 1, 30).round(decimals)
    predicted = (true + RNG.normal(0, 0.3, 30)).round(decimals)
    true[[3, 7]] = np.nan
    known = ~np.isnan(true)
    for row, rho in zip(COUNTS.astype(int), spearman(true, predicted, COUNTS), strict=True):
        copied = np.repeat(true[known], row[known]), np.repeat(predicted[known], row[known])
        assert rho == pytest.approx(stats.spearmanr(*copied).statistic)


def test_rho_is_0_where_all_that_was_drawn_is_equal():
    true, counts = np.array([0.1, 0.2, 0.3]), np.array([[1, 1, 1], [3, 0, 0]])
    np.testing.assert_array_equal(spearman(true, np.full(3, 0.7), counts), [0, 0])
    np.testing.assert_allclose(spearman(true, true, counts), [1, 0])


def test_an_interval_is_the_percentiles_where_draws_are_centred_and_else_moved_by_twice_the_bias():
    drawn = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert interval(0.0, drawn) == pytest.approx((-1.96, 1.96), abs=1e-3)
    assert interval(0.0, drawn - 0.1) == pytest.approx((0.1 - 1.96, 0.1 + 1.96), abs=1e-3)
    assert interval(0.0, np.zeros(10)) == (0, 0)
    low, high = interval(9.0, np.arange(10.0) / 10)  # above all draws
    assert 0 <= low <= high <= 0.9

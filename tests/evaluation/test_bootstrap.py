"""Counts instead of copies: the oracles copy the clips."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from mtmusic.evaluation.bootstrap import (
    Fold,
    accuracy,
    cross_scores,
    group_draws,
    interval,
    macro_f1,
    measures,
    model_scores,
    scores_table,
    spearman,
)

RNG = np.random.default_rng(0)
GENRE = [Fold(RNG.integers(0, 6, 20).astype(str), RNG.integers(0, 3, 20)) for _ in range(2)]
FIRST, SECOND = ([[RNG.uniform(0, 1, (20, 3)) for _ in range(seeds)] for _ in GENRE] for seeds in (2, 1))
COUNTS = np.vstack([np.ones(30), RNG.integers(0, 4, (8, 30))])


def test_a_score_is_the_mean_over_seeds_and_then_over_folds():
    row = cross_scores(GENRE, {"one": FIRST}, ())["recipes"]["one"]
    by_seed = np.array(
        [
            [accuracy_score(fold.true, answers.argmax(axis=1)) for answers in of_seeds]
            for fold, of_seeds in zip(GENRE, FIRST, strict=True)
        ]
    )
    assert row["accuracy"]["mean"] == pytest.approx(by_seed.mean())
    assert row["accuracy"]["sd"] == pytest.approx(by_seed.mean(axis=0).std(ddof=1))
    f1 = [f1_score(f.true, a.argmax(axis=1), average="macro") for f, of in zip(GENRE, FIRST, strict=True) for a in of]
    assert row["macro_f1"]["mean"] == pytest.approx(np.mean(f1))


def test_intervals_are_those_of_a_loop_over_the_same_draws():
    scores = cross_scores(GENRE, {"one": FIRST, "two": SECOND}, ())
    rng = np.random.default_rng(0)
    counts = [group_draws(fold.groups, rng, 2000) for fold in GENRE]  # at once, not in parts
    resampled = {"one": [], "two": []}
    for draw in range(2000):
        for name, answers in (("one", FIRST), ("two", SECOND)):
            of_folds = []
            for fold, of_seeds, drawn in zip(GENRE, answers, counts, strict=True):
                chosen = np.repeat(np.arange(20), drawn[draw].astype(int))
                of_folds.append(np.mean([np.mean((a.argmax(axis=1) == fold.true)[chosen]) for a in of_seeds]))
            resampled[name].append(np.mean(of_folds))
    one = scores["recipes"]["one"]["accuracy"]
    assert (one["low"], one["high"]) == pytest.approx(interval(one["mean"], np.array(resampled["one"])))
    (row,) = scores["comparisons"]
    assert (row["first"], row["second"]) == ("one", "two")
    expected = interval(row["accuracy"]["value"], np.subtract(resampled["one"], resampled["two"]))
    assert (row["accuracy"]["low"], row["accuracy"]["high"]) == pytest.approx(expected)
    means = [scores["recipes"][name]["accuracy"]["mean"] for name in ("one", "two")]
    assert row["accuracy"]["value"] == pytest.approx(means[0] - means[1])
    assert scores["recipes"]["two"]["accuracy"]["sd"] is None


def test_rho_is_that_of_each_fold_and_task_and_their_mean():
    folds = [Fold(np.arange(12).astype(str), RNG.uniform(0, 1, (12, 2))) for _ in range(3)]
    folds[0].true[2, 1] = np.nan
    answers = [[fold.true * 0.5 + RNG.normal(0, 0.2, (12, 2)) for _ in range(1)] for fold in folds]
    for of_seeds in answers:
        of_seeds[0][np.isnan(of_seeds[0])] = 0.5
    row = cross_scores(folds, {"one": answers}, ("a", "b"))["recipes"]["one"]
    rho = np.array(
        [
            [
                stats.spearmanr(f.true[:, i], of_seeds[0][:, i], nan_policy="omit").statistic
                for f, of_seeds in zip(folds, answers, strict=True)
            ]
            for i in (0, 1)
        ]
    )
    assert [row[name]["mean"] for name in ("rho", "rho_a", "rho_b")] == pytest.approx([rho.mean(), *rho.mean(axis=1)])


def test_equal_recipes_differ_by_nothing_and_the_table_says_so():
    scores = cross_scores(GENRE, {"one": FIRST, "same": FIRST}, ())
    assert measures(scores["comparisons"][0])["accuracy"] == {"value": 0, "low": 0, "high": 0}
    table = scores_table(scores)
    assert "one minus same" in table
    assert f"{scores['recipes']['one']['accuracy']['mean']:.3f} (" in table


def test_groups_are_drawn_whole_and_as_many_as_there_are():
    groups = np.array(["a", "b", "b", "c", "a", "d"])
    counts = group_draws(groups, np.random.default_rng(0), 500)
    assert counts.shape == (500, 6)
    np.testing.assert_array_equal(counts[:, 0], counts[:, 4])
    np.testing.assert_array_equal(counts[:, 1], counts[:, 2])
    np.testing.assert_array_equal(counts[:, [0, 1, 3, 5]].sum(axis=1), 4)
    assert counts.mean() == pytest.approx(1, abs=0.1)


def test_draws_are_the_same_whatever_the_groups_are_called():
    groups = np.array(["10", "9", "9", "x", "10", "a"])
    counts = group_draws(groups, np.random.default_rng(0), 50)
    for other in ([0, 1, 1, 2, 0, 3], ["d", "c", "c", "b", "d", "a"]):
        np.testing.assert_array_equal(group_draws(other, np.random.default_rng(0), 50), counts)


def test_without_groups_each_clip_is_its_own():
    true, answers = GENRE[0].true, FIRST[0][0]
    names = [f"clip {i}" for i in range(20)]
    assert model_scores(Fold(None, true), answers) == model_scores(Fold(names, true), answers)
    assert model_scores(Fold(None, true), answers) != model_scores(GENRE[0], answers)


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


def test_rho_of_clips_without_labels_is_0():
    np.testing.assert_array_equal(spearman(np.full(3, np.nan), np.arange(3.0), np.ones((2, 3))), [0, 0])


def test_an_interval_is_the_percentiles_where_draws_are_centred_and_else_moved_by_twice_the_bias():
    drawn = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert interval(0.0, drawn) == pytest.approx((-1.96, 1.96), abs=1e-3)
    assert interval(0.0, drawn - 0.1) == pytest.approx((0.1 - 1.96, 0.1 + 1.96), abs=1e-3)
    assert interval(0.0, np.zeros(10)) == (0, 0)
    low, high = interval(9.0, np.arange(10.0) / 10)  # above all draws
    assert 0 <= low <= high <= 0.9

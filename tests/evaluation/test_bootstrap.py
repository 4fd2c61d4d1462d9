import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from mtmusic.evaluation.bootstrap import Fold, cross_scores, measures, scores_table
from mtmusic.evaluation.resampling import group_draws, interval

RNG = np.random.default_rng(0)
GENRE = [Fold(RNG.integers(0, 6, 20).astype(str), RNG.integers(0, 3, 20)) for _ in range(2)]
FIRST, SECOND = ([[RNG.uniform(0, 1, (20, 3)) for _ in range(seeds)] for _ in GENRE] for seeds in (2, 1))


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
    counts = [group_draws(fold.groups, rng) for fold in GENRE]
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
    assert "one less same" in table
    assert f"{scores['recipes']['one']['accuracy']['mean']:.3f} (" in table

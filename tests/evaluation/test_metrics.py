"""Metrics against scikit-learn, scipy and numbers that can be counted by eye."""

import json
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, r2_score

from mtmusic.evaluation.bootstrap import Fold, cross_scores, interval
from mtmusic.evaluation.metrics import (
    affect_report,
    affect_table,
    genre_report,
    genre_table,
    spearman,
)

CLASSES = ["Blues", "Jazz", "Rock", "Folk"]
TRUE = np.array([0, 0, 1, 1, 1, 2])
PREDICTED = np.array([0, 1, 1, 1, 2, 2])  # Folk is in neither


@pytest.fixture
def report() -> dict:
    return genre_report(TRUE, PREDICTED, CLASSES)


def test_counts_by_eye(report):
    assert report["clips"] == 6
    assert report["accuracy"] == pytest.approx(4 / 6)
    assert report["confusion"] == [[1, 1, 0, 0], [0, 2, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert report["per_class"]["Blues"] == pytest.approx({"precision": 1, "recall": 0.5, "f1": 2 / 3, "support": 2})
    assert report["per_class"]["Jazz"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}
    )
    assert report["per_class"]["Folk"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_averages(report):
    assert report["macro_precision"] == pytest.approx((1 + 2 / 3 + 1 / 2 + 0) / 4)
    assert report["macro_recall"] == pytest.approx((1 / 2 + 2 / 3 + 1 + 0) / 4)
    assert report["macro_f1"] == pytest.approx(
        f1_score(TRUE, PREDICTED, labels=range(4), average="macro", zero_division=0)
    )
    for score in ("micro_precision", "micro_recall", "micro_f1"):
        assert report[score] == pytest.approx(report["accuracy"])


def test_report_is_plain_json(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_interval_is_the_bootstrap_over_clips():
    rng = np.random.default_rng(5)
    true = np.zeros(400, int)
    predicted = (np.arange(400) >= 300).astype(int)  # accuracy 0.75
    report = genre_report(true, predicted, ["a", "b"])
    drawn = [np.mean(true == rng.choice(predicted, 400)) for _ in range(4000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert report["accuracy_low"] == pytest.approx(low, abs=0.006)
    assert report["accuracy_high"] == pytest.approx(high, abs=0.006)
    assert report["accuracy_low"] < 0.75 < report["accuracy_high"]


def test_the_interval_is_seeded():
    true, predicted = np.zeros(101, int), np.arange(101) % 2
    first, again, other = (genre_report(true, predicted, ["a", "b"], seed=seed) for seed in (1, 1, 2))
    assert first == again
    bounds = ("accuracy_low", "accuracy_high")
    assert [first[bound] for bound in bounds] == pytest.approx([other[bound] for bound in bounds], abs=0.03)


def test_the_interval_of_groups_is_that_of_a_loop_which_copies_their_clips():
    rng = np.random.default_rng(1)
    true, hit, groups = rng.integers(0, 4, 30), rng.random(30) < 0.6, np.array([f"artist {i // 4}" for i in range(30)])
    predicted = np.where(hit, true, (true + 1) % 4)
    report = genre_report(true, predicted, CLASSES, groups, seed=3)
    drawn = np.random.default_rng(3).integers(8, size=(2000, 8))
    scores = [np.concatenate([hit[4 * group : 4 * group + 4] for group in row]).mean() for row in drawn]
    expected = interval(report["accuracy"], np.array(scores))
    assert (report["accuracy_low"], report["accuracy_high"]) == pytest.approx(expected)
    assert report != genre_report(true, predicted, CLASSES, seed=3)


@pytest.mark.parametrize("names", [None, [f"artist {i // 3}" for i in range(60)]], ids=["clips", "groups"])
def test_reports_have_the_intervals_of_a_comparison(affect, names):
    """A comparison has probabilities, and names of its own where a run has no groups."""
    rng = np.random.default_rng(2)
    answers = rng.random((60, 4))
    true = np.where(rng.random(60) < 0.5, answers.argmax(axis=1), rng.integers(0, 4, 60))
    groups = np.array(names or [f"clip {i}" for i in range(60)])
    report = genre_report(true, answers.argmax(axis=1), CLASSES, names, seed=4)
    expected = cross_scores([Fold(groups, true)], {"run": [[answers]]}, (), 4)["recipes"]["run"]["accuracy"]
    assert [report["accuracy_low"], report["accuracy_high"]] == [expected["low"], expected["high"]]

    report = affect_report(*affect, TASKS, MEANS, names, seed=4)
    rows = cross_scores([Fold(groups, affect[0])], {"run": [[affect[1]]]}, TASKS, 4)["recipes"]["run"]
    for task in TASKS:
        scores = report["per_task"][task]
        assert [scores["spearman_low"], scores["spearman_high"]] == [rows[f"rho_{task}"][b] for b in ("low", "high")]
    assert [report["spearman_mean_low"], report["spearman_mean_high"]] == [rows["rho"][b] for b in ("low", "high")]


def test_perfect_predictions():
    report = genre_report(TRUE, TRUE, CLASSES[:3])
    assert (report["accuracy_low"], report["accuracy"], report["accuracy_high"]) == (1, 1, 1)
    assert report["macro_f1"] == 1


@pytest.mark.parametrize("predicted", [PREDICTED[:, None], PREDICTED[:-1]])
def test_other_shapes_are_refused(predicted):
    with pytest.raises(ValueError, match=r"Expected two arrays \(clips,\), got \(6,\) and"):
        genre_report(TRUE, predicted, CLASSES)


def test_genre_table_is_aligned(report):
    head, *lines = genre_table(report).splitlines()
    assert head.split() == ["precision", "recall", "f1", "clips"]
    assert lines[0].split() == ["Blues", "1.000", "0.500", "0.667", "2"]
    assert {len(line) for line in (head, *lines[:4], lines[5])} == {len(head)}
    assert lines[-1].split()[:2] == ["accuracy", "0.667"]
    assert f"(95 % interval {report['accuracy_low']:.3f} to {report['accuracy_high']:.3f})" in lines[-1]


def test_spearman_of_ranks_by_hand():
    # one swap of neighbours among 4: 1 - 6 * 2 / (4 * 15) = 0.8
    assert spearman(np.array([1, 2, 3, 4.0]), np.array([1, 3, 2, 10.0])) == pytest.approx(0.8)


def test_spearman_with_ties_as_scipy():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 5, (2, 40)).astype(float)
    assert spearman(true, predicted) == pytest.approx(stats.spearmanr(true, predicted).statistic)


def test_spearman_leaves_unlabelled_clips_out():
    true = np.array([1, np.nan, 2, 3, np.nan])
    assert spearman(true, np.array([3, 9, 2, 1, -9.0])) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("true", "predicted", "reason"),
    [
        ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5], "predictions are constant"),
        ([0.1, 0.1, 0.1], [0.1, 0.2, 0.3], "targets are constant"),
        ([0.1, 0.2, np.nan], [0.1, 0.2, 0.3], "got 2"),
        ([0.1, 0.2, 0.3], [0.1, 0.2, np.nan], "not finite"),
    ],
)
def test_undefined_spearman_is_zero_and_says_so(true, predicted, reason):
    with pytest.warns(RuntimeWarning, match=reason):
        assert spearman(np.array(true), np.array(predicted)) == 0.0


def test_spearman_refuses_what_would_broadcast():
    with pytest.raises(ValueError, match=r"got \(4, 1\) and \(4,\)"):
        spearman(np.zeros((4, 1)), np.zeros(4))


@pytest.fixture
def affect() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    true = rng.random((60, 2))
    predicted = (0.6 * true + 0.4 * rng.random((60, 2))).astype(np.float32)
    true[:10, 1] = np.nan
    return true, predicted


TASKS, MEANS = ("valence", "energy"), {"valence": 0.5, "energy": 0.25}


def test_affect_report_against_scipy(affect):
    true, predicted = affect
    report = affect_report(true, predicted, TASKS, MEANS)
    energy = report["per_task"]["energy"]
    t, p = true[10:, 1], predicted[10:, 1].astype(float)
    assert energy["clips"] == 50
    assert report["clips"] == 60
    assert energy["spearman"] == report["spearman"]["energy"] == pytest.approx(stats.spearmanr(t, p).statistic)
    assert energy["pearson"] == pytest.approx(stats.pearsonr(t, p).statistic)
    assert energy["r2"] == pytest.approx(r2_score(t, p))
    assert energy["mse"] == pytest.approx(np.mean((t - p) ** 2))
    assert energy["mse_constant"] == pytest.approx(np.mean((t - 0.25) ** 2))
    assert report["spearman"]["mean"] == pytest.approx(np.mean([report["spearman"][task] for task in TASKS]))


def test_affect_intervals_hold_the_point_and_are_seeded(affect):
    report = affect_report(*affect, TASKS, MEANS)
    for scores in report["per_task"].values():
        assert scores["spearman_low"] < scores["spearman"] < scores["spearman_high"]
    assert report == affect_report(*affect, TASKS, MEANS)
    assert report != affect_report(*affect, TASKS, MEANS, seed=1)


def test_affect_interval_as_scipys_bootstrap(affect):
    true, predicted = affect[0][:, 0], affect[1][:, 0]
    scores = affect_report(*affect, TASKS, MEANS)["per_task"]["valence"]
    oracle = stats.bootstrap(
        (true, predicted),
        lambda t, p: stats.spearmanr(t, p).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert [scores["spearman_low"], scores["spearman_high"]] == pytest.approx(list(oracle), abs=0.04)


def test_affect_intervals_are_wider_where_clips_of_a_group_are_alike(affect):
    true, predicted = (np.repeat(values[10:25], 4, axis=0) for values in affect)
    groups = np.repeat(np.arange(15), 4).astype(str)
    clips, groups = (affect_report(true, predicted, TASKS, MEANS, names) for names in (None, groups))
    assert clips["spearman"] == groups["spearman"]
    width = [report["spearman_mean_high"] - report["spearman_mean_low"] for report in (clips, groups)]
    assert width[1] > 1.5 * width[0]


def test_a_task_without_labels_has_no_other_scores():
    true, predicted = np.array([[0.1, np.nan], [0.2, np.nan], [0.3, np.nan]]), np.eye(3)[:, :2]
    with pytest.warns(RuntimeWarning, match="got 0"):
        report = affect_report(true, predicted, TASKS, MEANS)
    assert report["per_task"]["energy"]["spearman"] == 0
    assert report["per_task"]["energy"]["mse"] is None
    json.dumps(report, allow_nan=False)
    assert affect_table(report).splitlines()[2].split() == ["energy", "0.000", "-", "to", *"-----", "0"]


def test_constant_predictions_give_a_whole_report():
    true = np.array([[0.0], [0.5], [1.0]])
    with pytest.warns(RuntimeWarning, match="predictions are constant"):
        scores = affect_report(true, np.full((3, 1), 0.5), ["valence"], MEANS)["per_task"]["valence"]
    assert scores["spearman_low"] == scores["spearman"] == scores["pearson"] == scores["r2"] == 0
    assert scores["mse"] == scores["mse_constant"] == pytest.approx(1 / 6)


def test_affect_table_is_aligned(affect):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = affect_table(affect_report(*affect, TASKS, MEANS)).splitlines()
    assert len(table[0]) == len(table[1]) == len(table[2])
    assert table[1].split()[0] == "valence"
    assert table[3].split()[0] == "mean"


def test_the_mean_has_an_interval_of_joint_draws(affect):
    true, predicted = affect
    report = affect_report(true, predicted, TASKS, MEANS)
    rng = np.random.default_rng(9)
    means = []
    for _ in range(1000):
        draw = rng.integers(60, size=60)
        rhos = [stats.spearmanr(true[draw, task], predicted[draw, task], nan_policy="omit")[0] for task in range(2)]
        means.append(np.mean(rhos))
    low, high = np.percentile(means, [2.5, 97.5])
    assert report["spearman_mean_low"] == pytest.approx(low, abs=0.02)
    assert report["spearman_mean_high"] == pytest.approx(high, abs=0.02)
    assert affect_table(report).splitlines()[-1].split()[:2] == ["mean", f"{report['spearman']['mean']:.3f}"]


def test_rho_of_the_whole_set_is_not_the_mean_of_the_batches():
    """Two batches whose order inside is right, and between them wrong."""
    true = np.array([0.6, 0.7, 0.8, 0.9, 0.1, 0.2, 0.3, 0.4])
    predicted = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    assert np.mean([spearman(true[part], predicted[part]) for part in (slice(4), slice(4, 8))]) == pytest.approx(1)
    assert spearman(true, predicted) == pytest.approx(stats.spearmanr(true, predicted).statistic)
    assert spearman(true, predicted) < -0.5

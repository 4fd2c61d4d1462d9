"""Shares of the training clips, and the baselines on the trunk: of whole cross-validations without a network."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mtmusic.data.folder import LoadOptions
from mtmusic.data.labels import read_affect_labels
from mtmusic.errors import UserError
from mtmusic.evaluation import bootstrap
from mtmusic.training.crossval import study
from mtmusic.training.crossval.study import CrossOptions, cross_validate
from tests.folders import write_tiny_affect_folder, write_tiny_genre_folder

Trained = dict[tuple[str, int, int, int], study.Cut]


@pytest.fixture(autouse=True)
def small(quick_figures, monkeypatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)


@pytest.fixture
def trained(monkeypatch) -> Trained:
    """In the place of each network random answers; what it would have been trained on, by recipe, fold, seed, share."""
    cuts: Trained = {}

    def network(given, training, cut, recipe) -> tuple[np.ndarray, dict[str, Any]]:
        cuts[training.name, training.fold, training.seed, training.share] = cut
        rng = np.random.default_rng(len(cuts))
        return rng.uniform(0, 1, (len(cut.test), len(cut.test.tasks or cut.test.classes))), {}

    monkeypatch.setattr(study, "_network", network)
    return cuts


def options(folder: Path, **more: Any) -> CrossOptions:
    return CrossOptions(LoadOptions(folder), out=folder.parent / "out", folds=2, seeds=2, **more)


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder.parent / "out" / "results.json").read_text())


def test_a_share_is_stratified_and_part_of_every_larger_one(tmp_path, trained):
    folder = write_tiny_genre_folder(tmp_path / "genre_beat", train=16, test=8)
    cross_validate(options(folder, recipes=("lab-cnn",), shares=(75, 40)))
    by_training = defaultdict(dict)
    for (_, fold, seed, share), cut in trained.items():
        by_training[fold, seed][share] = cut
    assert len(by_training) == 4
    for cuts in by_training.values():
        assert sorted(cuts) == [40, 75, 100]
        rests = [{*cuts[share].rest.ids} for share in (40, 75, 100)]
        assert rests[0] < rests[1] < rests[2]
        assert [len(rest) for rest in rests] == [14, 27, 36]
        assert all(max(c.values()) - min(c.values()) <= 1 for c in (Counter(cut.rest.targets) for cut in cuts.values()))
        assert len({cut.test.ids for cut in cuts.values()}) == 1
        assert not rests[2] & {*cuts[100].test.ids}
    assert by_training[1, 0][40].rest.ids != by_training[1, 1][40].rest.ids  # drawn by seed


def test_each_share_has_scores_differences_and_clips(tmp_path, trained):
    folder = write_tiny_affect_folder(tmp_path / "affect_beat", train=80, test=0)
    cross_validate(options(folder, recipes=("lab-cnn", "lab-lstm"), baseline=True, shares=(50, 100)))
    results, labels = results_of(folder), read_affect_labels(folder)
    assert list(results["shares"]) == ["50", "100"]
    assert [row["training_clips"] for row in results["shares"].values()] == [20, 40]
    assert {name: results[name] for name in ("recipes", "comparisons")}.items() <= results["shares"]["100"].items()
    half = results["shares"]["50"]
    assert list(half["recipes"]) == ["lab-cnn", "lab-lstm", "svr", "ridge", "mean"]
    rho = {}
    for name in ("lab-cnn", "svr"):  # a baseline's share is drawn by each seed too
        of_seeds = []
        for seed in (0, 1):
            for fold in (1, 2):
                file = tmp_path / "out" / "predictions" / f"{name}_fold{fold}_seed{seed}_share50.csv"
                rows = np.genfromtxt(file, delimiter=",", names=True, dtype=None, encoding="utf-8")
                true = [labels.targets[labels.ids.index(str(row["id"])), 1] for row in rows]
                of_seeds.append(stats.spearmanr(true, rows["energy"]).statistic)
        rho[name] = np.mean(of_seeds)
        assert half["recipes"][name]["rho_energy"]["mean"] == pytest.approx(rho[name], abs=1e-4)
        assert half["recipes"][name]["rho_energy"]["sd"] > 0
    (less,) = [row for row in half["comparisons"] if (row["first"], row["second"]) == ("lab-cnn", "svr")]
    assert less["rho_energy"]["value"] == pytest.approx(rho["lab-cnn"] - rho["svr"], abs=1e-4)
    assert less["rho_energy"]["low"] < less["rho_energy"]["value"] < less["rho_energy"]["high"]
    assert results["recipes"]["svr"]["rho"]["sd"] is None


def test_a_share_that_is_asked_for_later_trains_nothing_twice_and_loses_nothing(tmp_path, trained):
    folder = write_tiny_affect_folder(tmp_path / "affect_beat", train=80, test=0)
    given = options(folder, recipes=("lab-cnn",))
    cross_validate(given)
    assert "shares" not in results_of(folder)
    assert not [*(tmp_path / "out").rglob("*share*")]
    assert len(trained) == 4
    trained.clear()
    cross_validate(replace(given, shares=(50,)))
    assert {share for *_, share in trained} == {50}
    assert len(trained) == 4
    trained.clear()
    cross_validate(replace(given, recipes=("lab-lstm",)))
    assert {name for name, *_ in trained} == {"lab-lstm"}
    results = results_of(folder)
    assert list(results["recipes"]) == ["lab-lstm", "lab-cnn"]
    assert [list(row["recipes"]) for row in results["shares"].values()] == [["lab-cnn"], ["lab-lstm", "lab-cnn"]]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0, 50), "Expected `shares` from 1 to 100 percent, got 0"),
        ((101,), "Expected `shares` from 1 to 100 percent, got 101"),
        ((2, 60), "Expected larger `shares`, got 2: Expected `subset` of 4 clips or more"),
        ((15, 60), "Expected larger `shares`, got 15: Too few clips for a hold-out"),
    ],
)
def test_shares_that_leave_nothing_to_train_on_are_refused_early(tmp_path, trained, shares, expected):
    folder = write_tiny_affect_folder(tmp_path / "affect_beat", train=80, test=0)
    with pytest.raises(UserError) as caught:
        cross_validate(options(folder, recipes=("lab-cnn",), shares=shares))
    assert str(caught.value).startswith(expected)
    assert not (tmp_path / "out").exists()
    assert not trained


@pytest.mark.parametrize("feature", ["logmel", "fused"])
def test_a_support_vector_machine_on_the_trunk_is_a_baseline_of_full_rate_clips(trunk, tmp_path, feature):
    folder = write_tiny_genre_folder(tmp_path / "genre", train=6, test=2, feature=feature)
    given = options(folder, baseline=True)
    cross_validate(replace(given, data=replace(given.data, beat=False, checks="off")))
    results = results_of(folder)
    assert list(results["recipes"]) == ["svc", "svc-trunk", "majority"]
    assert results["recipes"]["svc-trunk"]["costs"]["milliseconds_per_clip"] > 0
    assert ("svc", "svc-trunk") in {(row["first"], row["second"]) for row in results["comparisons"]}


def test_without_the_trunk_or_by_beats_there_is_no_baseline_on_it(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "mtmusic")
    monkeypatch.chdir(tmp_path)
    folder = write_tiny_affect_folder(tmp_path / "affect", train=16, test=0, feature="logmel")
    cross_validate(options(folder, baseline=True))
    assert list(results_of(folder)["recipes"]) == ["svr", "ridge", "mean"]
    assert "The baselines on the pretrained trunk are left out, because it is missing" in caplog.text


def test_beats_have_no_baseline_on_the_trunk(trunk, tmp_path):
    folder = write_tiny_affect_folder(tmp_path / "affect_beat", train=16, test=0)
    cross_validate(options(folder, baseline=True))
    assert list(results_of(folder)["recipes"]) == ["svr", "ridge", "mean"]


def test_frames_are_those_of_recipes_that_take_a_fixed_number(tmp_path):
    folder = write_tiny_affect_folder(tmp_path / "affect_beat", train=80, test=0)
    of_folder = study._study(options(folder, frames=24))
    given = {name: of_folder.trainings(name, 100)[0].settings.frames for name in ("lab-cnn", "lab-lstm", "kernel")}
    assert given == {"lab-cnn": 24, "lab-lstm": None, "kernel": None}

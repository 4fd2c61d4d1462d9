"""What the steps compute and say, on numbers that can be checked by eye."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mtmusic.cli import common
from mtmusic.data.labels import Clips
from mtmusic.evaluation import plots
from mtmusic.lab import genre as lab_genre
from mtmusic.lab.affect import _ways
from mtmusic.lab.data import profile_difference
from mtmusic.lab.plan import QUICK, Lab, write_up
from mtmusic.lab.transfer import Cut

LAB = Lab(Path("data"), common.command, Path("lab"), QUICK, seeds=1)
ROW = {"mean": 0.5, "low": 0.4, "high": 0.6}
HIGHER = {"mean": 0.7, "low": 0.6, "high": 0.8}


def test_profiles_differ_most_where_they_lie_furthest_apart():
    low, high = np.full(128, -60.0), np.full(128, -60.0)
    low[10:14], high[100:] = -20, -50
    found = profile_difference({"Low": low, "High": high})
    assert (found["loud"], found["soft"], found["bright"], found["dark"]) == ("Low", "High", "High", "Low")
    assert (found["loud_db"], found["soft_db"]) == (-20, -60)
    hertz = plots.mel_peaks()[1:-1]
    assert (found["from_hertz"], found["to_hertz"]) == (hertz[10], hertz[13])


@pytest.mark.parametrize(("close", "verdict"), [(True, "hardly on the bins."), (False, "depends on the bins too.")])
def test_step_3_says_whether_the_bins_matter(close, verdict):
    rate = {"frames": 20.0, "bins": 12, "seconds_per_epoch": 2.0}
    more = {"mel_bins": 128, "titles": ["a", "b"], "named": "chromagrams", "pictures": [("x.png", "full-rate")]}
    done = write_up(LAB, 3, {"full": rate | {"frames": 400.0}, "beat": rate}, ratios=[0.9, 1.1], close=close, **more)
    assert "each of 12 bins. At full rate a network reads 20 times as many values." in done.part.sentences[0]
    assert "With 12 bins instead of 128, an epoch takes 0.90 times as long as in step 2" in done.part.sentences[2]
    assert done.part.sentences[2].endswith(verdict)
    assert done.part.pictures[0].alt == "a and b: chromagrams, with time in seconds along x."


def step_5(checks: dict[str, list[float]], constant: str | None, best_on_test: str) -> list[str]:
    facts = {"validation_macro_f1": 0.4, "epochs": 3, "best_epoch": 2}
    return write_up(
        LAB,
        5,
        {"networks": {"mel": facts | {"accuracy": ROW}, "fused": facts | {"accuracy": HIGHER}}, "majority": 0.25},
        checks=checks,
        limit=0.01,
        best="mel",
        best_on_test=best_on_test,
        constant=constant,
        titles={"mel": "LSTM on mel", "fused": "LSTM on fused"},
        runs={"mel": "x", "fused": "y"},
    ).part.sentences


def test_step_5_names_the_networks_that_did_not_overfit_and_a_better_one_on_test():
    overfit, scores = step_5({"A": [2.5, 0.5], "B": [2.0, 0.00123], "C": [1.0, 0.7, 0.6]}, "Rock", "fused")
    assert overfit == (
        "The overfit check trains each network on three batches only. The loss of the A goes from 2.50 to 0.500 in "
        "2 epochs. The loss of the B goes from 2.00 to 0.00123 in 2 epochs. The loss of the C goes from 1.00 to 0.600 "
        "in 3 epochs. The loss stays above 0.01 for: A, C."
    )
    assert "has the highest test accuracy: the LSTM on fused, 0.700 (0.600 to 0.800)." in scores
    assert scores.endswith("A constant answer, Rock, the most frequent class of train, has an accuracy of 0.250.")
    overfit, scores = step_5({"A": [2.5, 0.005]}, None, "mel")
    assert overfit.endswith("in 2 epochs. Every loss falls below 0.01.")
    assert "has the highest test accuracy" not in scores
    assert scores.endswith("0.500 (0.400 to 0.600). A constant answer, any one class, has an accuracy of 0.250.")


@pytest.mark.parametrize(
    ("train", "test", "expected"), [([0, 0, 1], [0, 1], (None, 0.5)), ([0, 1, 1], [0, 0, 1], ("b", 1 / 3))]
)
def test_a_constant_answer_is_the_class_of_train(monkeypatch, train, test, expected):
    def clips(targets: list[int]) -> Clips:
        return Clips(tuple(map(str, targets)), (Path("x"),) * len(targets), np.array(targets), classes=("a", "b"))

    splits = {"train": clips(train), "test": clips(test)}
    monkeypatch.setattr(lab_genre, "load_genre_data", lambda options: SimpleNamespace(splits=splits))
    assert lab_genre.majority(LAB) == expected


def test_a_mean_just_below_zero_has_no_sign():
    assert [lab_genre._rounded(value) for value in (-0.001, -0.126, 0.5)] == ["0.00", "-0.13", "0.50"]


@pytest.mark.parametrize(
    ("learnt", "known"), [(None, "an unknown number of test clips"), (["7", "9"], "2 of the 16 test clips")]
)
def test_step_9_says_how_many_test_clips_the_source_knew(learnt, known):
    cuts = [Cut(0, False), Cut(1, False), Cut(2, True)]
    assert [cut.name for cut in cuts] == ["random weights", "1 block, tuned", "2 blocks, frozen"]
    rho = {cut.name: HIGHER if cut.frozen else ROW for cut in cuts}
    candidates = {"step_07/cnn_seed0": 0.25, "step_07/cnn_seed1": 0.5}
    numbers = {"task": "valence", "source": "step_07/cnn_seed1", "candidates": candidates, "rho": rho}
    numbers |= {"step_8": {"cnn": ROW, "lstm": HIGHER}, "pretrained": None}
    chosen = {"random": cuts[0].name, "highest": cuts[2].name, "lowest": cuts[1].name, "highest_less_random": ROW}
    sentences = write_up(LAB, 9, numbers, **chosen, learnt=learnt, clips=16, why="it rains").part.sentences
    assert "The highest rho is 0.700 (0.600 to 0.800), with 2 blocks, frozen." in sentences[1]
    assert "The highest of 2 was chosen by its test score" in sentences[1]
    assert "one per seed: 0.250, 0.500. No test score was used for this choice." in sentences[3]
    assert f"The source was trained on the genre of {known}. On" in sentences[3]
    assert sentences[4] == "The comparison with the pretrained trunk, musicnn, is left out: it rains."


def test_step_10_lists_the_tasks_where_one_model_has_more_and_where_less():
    single = {"v": ROW, "e": HIGHER, "mean": ROW}
    rho = {"fixed": {"v": HIGHER, "e": HIGHER, "mean": ROW}, "learned": {"v": HIGHER, "e": HIGHER | {"mean": 0.8}}}
    rho["learned"]["mean"] = ROW
    ways = {weighted: _ways(rows, single, ("v", "e")) for weighted, rows in rho.items()}
    weights = {"fixed": {"v": 21.761, "e": 4.0}, "learned": {"v": 1.0, "e": 2.0}}
    numbers = {"rho": rho, "less_step_8": {"fixed": ROW, "learned": ROW}, "weights": weights, "training": {}}
    sentences = write_up(LAB, 10, numbers, tasks=("v", "e"), single=single, ways=ways, runs={}).part.sentences
    assert sentences[2] == (
        "With fixed weights, compared with a model per task, rho is higher for v and lower for e. With learned "
        "weights, compared with a model per task, rho is higher for v, e."
    )
    assert sentences[3].startswith(
        "The weights of seed 0: fixed v 21.76, e 4.00; learned v 1.00, e 2.00. A fixed weight is 1 / variance"
    )
    (_, alone) = write_up(LAB, 10, {}, tasks=("v",)).part.sentences
    assert alone == "The folder has one task, v. A multitask model needs two tasks or more."

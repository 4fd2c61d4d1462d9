"""The lab's rows, sentences and comparisons, on numbers that can be checked by eye."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mtmusic.data.labels import Clips
from mtmusic.evaluation import plots
from mtmusic.lab import genre as lab_genre
from mtmusic.lab.data import profile_difference
from mtmusic.lab.numbers import cells, summary, told, versus
from mtmusic.lab.plan import (
    AFFECT_BEAT,
    GENRE,
    GENRE_BEAT,
    QUICK,
    Lab,
    affect_options,
    command,
    finetune_options,
    genre_options,
)
from mtmusic.lab.published import beside_published
from mtmusic.lab.questions import Judged, answers, precision_answer
from mtmusic.training.affect import AffectOptions
from mtmusic.training.recipes import Recipe

ROW = summary([{"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 0.7, "low": 0.6, "high": 0.8}])


def test_seeds_become_one_row():
    assert ROW["mean"] == pytest.approx(0.6)
    assert ROW["sd"] == pytest.approx(0.1 * 2**0.5)
    assert cells(ROW) == ("0.600", "0.141", "0.500 to 0.700")
    assert told(ROW) == "0.600 (0.500 to 0.700)"
    one = summary([{"value": 0.9, "low": 0.8, "high": 1.0}])
    assert cells(one) == ("0.900", "-", "0.800 to 1.000")


def test_a_difference_is_shown_where_its_interval_leaves_zero_out():
    difference = {"mean": 0.3, "low": 0.1, "high": 0.5}
    assert versus(difference) == ("+0.300 on the same clips (0.100 to 0.500): more than chance among clips would give")
    assert versus(difference | {"low": -0.1}).endswith("(-0.100 to 0.500): no difference is shown")


def test_profiles_differ_most_where_they_lie_furthest_apart():
    low, high = np.full(128, -60.0), np.full(128, -60.0)
    low[10:14], high[100:] = -20, -50
    found = profile_difference({"Low": low, "High": high})
    assert (found["loud"], found["soft"], found["bright"], found["dark"]) == ("Low", "High", "High", "Low")
    assert (found["loud_db"], found["soft_db"]) == (-20, -60)
    hertz = plots.mel_peaks()[1:-1]
    assert (found["from_hertz"], found["to_hertz"]) == (hertz[10], hertz[13])


NUMBERS = {
    5: {"networks": {"mel_full": {"accuracy": ROW}, "mel": {"accuracy": ROW}}, "majority": 0.179},
    7: {"train": {"accuracy": ROW}},
    8: {"rho": {"cnn": {"mean": ROW}}},
    9: {"task": "calmness", "blocks": 3, "whole": ROW},
    11: {"expected": ROW},
}
OWN = {GENRE: 2880, GENRE_BEAT: 2880, AFFECT_BEAT: 1122}


def comparable(clips: dict[str, int], quick: bool = False) -> dict[str, str]:
    """Of each measured row what its last column says."""
    rows = beside_published(NUMBERS, clips, 2, quick).tables[0].rows
    return {row[0]: row[-1] for row in rows if row[1] != "-"}


def test_a_row_is_comparable_where_the_published_figure_is_of_the_same_clips():
    assert comparable(OWN) == {
        "Accuracy: always the largest class": "yes",
        "Accuracy: LSTM on full-rate mel": "with the best; no: the report's net is untrained",
        "Accuracy: LSTM on beat mel": "yes",
        "Accuracy: CNN on beat mel": "with the best; no: the report's is on validation",
        "Rho: CNN, a model a task, mean": "no: another hold-out",
        "Rho: transfer CNN, 3 blocks tuned, calmness (theirs: valence)": "no: another hold-out",
        "Rho: the submission (expected), mean": "no: ours is of held-out clips, theirs of the 375 that were submitted",
    }
    assert {*comparable(OWN, quick=True).values()} == {"no: a quick run"}
    assert {*comparable({GENRE: 400, GENRE_BEAT: 400, AFFECT_BEAT: 300}).values()} == {"no: other data"}


def test_the_full_rate_row_is_judged_by_the_full_rate_folder():
    found = comparable(OWN | {GENRE: 2000})
    assert found["Accuracy: LSTM on full-rate mel"] == "no: other data"
    assert found["Accuracy: LSTM on beat mel"] == "yes"


def test_the_table_beside_others_has_our_row_and_the_number_of_seeds():
    part = beside_published(NUMBERS, OWN, 2, quick=False)
    assert part.tables[0].caption == "Test clips, mean and sd of 2 seeds"
    row = next(row for row in part.tables[0].rows if row[0] == "Rho: CNN, a model a task, mean")
    assert row[1:-1] == ("0.600", "0.141", "0.500 to 0.700", ".631", ".700")
    assert "No row is comparable" in beside_published(NUMBERS, {}, 1, quick=False).sentences[0]


def test_classes_of_one_size_cannot_part_micro_and_macro():
    row = {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    test = {"accuracy": 0.5, "micro_f1": 0.5, "macro_f1": 0.49, "confusion": [[2, 2], [2, 2]]}
    judged = Judged("x", test | {"per_class": {"a": row | {"support": 4}, "b": row | {"support": 4}}})
    told_of = answers(judged, [judged])
    assert "micro precision, micro recall and micro F1 are all the accuracy, 0.500" in told_of[1]
    assert "4 clips each, and sizes cannot part them; the gap of +0.010" in told_of[3]
    judged = Judged("x", test | {"per_class": {"a": row | {"support": 4}, "b": row | {"support": 9}}})
    assert "The classes here have 4 to 9 clips, and the gap is +0.010." in answers(judged, [judged])[3]


def test_a_command_gives_what_is_not_the_scripts_own():
    folders = {GENRE_BEAT: Path("data/genre_beat"), AFFECT_BEAT: Path("data/affect_beat")}
    lab = Lab(folders, Path("lab"), QUICK, (0,))
    options = genre_options(lab, Path("lab/a b"), 1, "lstm", feature="chroma")
    assert options.command == (
        "python scripts/train_genre.py --data data/genre_beat --backbone lstm --feature chroma --units 32 --epochs 6 "
        "--subset 64 --seed 1 --out 'lab/a b' --overwrite"
    )
    options = affect_options(lab, Path("lab/x"), 0, "cnn", multitask=True, learned_weights=True)
    assert options.command.endswith("--epochs 6 --subset 64 --multitask --learned-weights --out lab/x --overwrite")
    given = AffectOptions(Path("x"), Path("d"), source=Path("run"), transfer="2", freeze="2", task="energy")
    assert command("finetune_valence", replace(given, recipe=Recipe()), Recipe()) == (
        "python scripts/finetune_valence.py --data d --from run --transfer 2 --freeze 2 --task energy --out x "
        "--overwrite"
    )


def test_the_fifth_answer_reads_the_precision_at_half_of_a_classs_clips():
    true = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    row = {"precision": 0.0, "recall": 0.0, "support": 2}
    judged = Judged("x", {"per_class": {"a": row | {"f1": 0.9}, "b": row | {"f1": 0.1}}})
    answer = precision_answer(judged, true, scores, ["a", "b"])
    assert "half of the clips of a, precision is 1.000, for half of those of b 0.500" in answer


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([0, 0, 1], [0, 1], ("any one class", 0.5)),
        ([0, 1, 1], [0, 0, 1], ("b, the most frequent class of train,", 1 / 3)),
    ],
)
def test_a_constant_answer_is_the_class_of_train(monkeypatch, train, test, expected):
    def clips(targets: list[int]) -> Clips:
        return Clips(tuple(map(str, targets)), (Path("x"),) * len(targets), np.array(targets), classes=("a", "b"))

    splits = {"train": clips(train), "test": clips(test)}
    monkeypatch.setattr(lab_genre, "load_genre_data", lambda *_, **__: SimpleNamespace(splits=splits))
    lab = Lab({GENRE_BEAT: Path("data")}, Path("lab"), QUICK, (0,))
    assert lab_genre.majority(lab) == expected


def test_a_mean_just_below_zero_has_no_sign():
    assert [lab_genre._rounded(value) for value in (-0.001, -0.126, 0.5)] == ["0.00", "-0.13", "0.50"]


def test_precision_and_devices_reach_every_training(tmp_path):
    folders = {GENRE_BEAT: tmp_path / "genre", AFFECT_BEAT: tmp_path / "affect"}
    lab = Lab(folders, tmp_path, QUICK, (0,), precision="bfloat16", devices="2")
    for options in (
        genre_options(lab, tmp_path / "run", 0, "cnn"),
        affect_options(lab, tmp_path / "run", 0, "lstm", multitask=True),
        finetune_options(lab, tmp_path / "run", 0, source=tmp_path / "source"),
    ):
        assert (options.recipe.precision, options.devices) == ("bfloat16", "2")
        assert "--precision bfloat16" in options.command
        assert "--devices 2" in options.command

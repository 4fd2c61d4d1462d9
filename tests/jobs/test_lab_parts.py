"""The lab's rows, sentences and comparisons, on numbers that can be checked by eye."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtmusic.jobs.affect import AffectOptions
from mtmusic.jobs.lab_data import profile_difference
from mtmusic.jobs.lab_numbers import cells, summary, told, versus
from mtmusic.jobs.lab_plan import AFFECT_BEAT, GENRE_BEAT, QUICK, Lab, affect_options, command, genre_options
from mtmusic.jobs.lab_published import beside_published
from mtmusic.jobs.lab_questions import Judged, precision_answer
from mtmusic.jobs.recipes import Recipe

ROW = summary([{"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 0.7, "low": 0.6, "high": 0.8}])


def test_seeds_become_one_row():
    assert ROW["mean"] == pytest.approx(0.6)
    assert ROW["sd"] == pytest.approx(0.1 * 2**0.5)
    assert cells(ROW) == ("0.600", "0.141", "0.500 to 0.700")
    assert told(ROW) == "0.600 (0.500 to 0.700)"
    one = summary([{"value": 0.9, "low": 0.8, "high": 1.0}])
    assert cells(one) == ("0.900", "-", "0.800 to 1.000")
    assert versus(one, ROW) == "0.300 more, and the intervals do not overlap"
    assert versus(ROW, ROW).startswith("0.000 more, and the intervals overlap")


def test_profiles_differ_most_where_they_lie_furthest_apart():
    low, high = np.full(128, -60.0), np.full(128, -60.0)
    low[10:14], high[100:] = -20, -50
    found = profile_difference({"Low": low, "High": high})
    assert (found["loud"], found["soft"], found["bright"], found["dark"]) == ("Low", "High", "High", "Low")
    assert (found["loud_db"], found["soft_db"]) == (-20, -60)


def test_only_the_labs_own_data_in_full_is_comparable():
    numbers = {5: {"networks": {"mel": {"accuracy": ROW}}, "majority": 0.179}, 8: {"rho": {"cnn": {"mean": ROW}}}}
    own = {"genre": 2880, "affect": 1122}

    def comparable(clips: dict[str, int], quick: bool = False) -> set[str]:
        rows = beside_published(numbers, clips, quick).tables[0].rows
        return {row[-1] for row in rows if row[1] != "-"}

    assert comparable(own) == {"yes"}
    assert comparable(own, quick=True) == {"no: a quick run"}
    assert comparable({"genre": 400, "affect": 300}) == {"no: other data"}
    assert comparable({"genre": 2880}) == {"yes", "no: other data"}
    part = beside_published(numbers, own, quick=False)
    row = next(row for row in part.tables[0].rows if row[0] == "Rho: CNN, a model a task, mean")
    assert row == ("Rho: CNN, a model a task, mean", "0.600", "0.141", "0.500 to 0.700", ".631", ".700", "yes")
    assert "No row is comparable" in beside_published(numbers, {}, quick=False).sentences[0]


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

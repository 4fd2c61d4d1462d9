"""The lab's questions on the metrics, answered on numbers that can be checked by eye."""

from pathlib import Path

import numpy as np

from mtmusic.cli import common
from mtmusic.lab.plan import Lab, write_up
from mtmusic.lab.questions import Evaluated, precision_at_half

ROW = {"precision": 0.5, "recall": 0.5}
TEST = {"accuracy": 0.5, "micro_f1": 0.5, "macro_f1": 0.49, "confusion": [[3, 1], [2, 2]]}


def evaluated(**clips: int) -> Evaluated:
    """F1 .9 of the first class, .1 of the second."""
    rows = {
        name: ROW | {"f1": f1, "support": count} for (name, count), f1 in zip(clips.items(), (0.9, 0.1), strict=True)
    }
    return Evaluated("LSTM", TEST | {"per_class": rows})


def answers(found: Evaluated, other: Evaluated, halves: list[float]) -> list[str]:
    lab = Lab(Path("data"), common.command, Path("lab"))
    return write_up(
        lab, 6, {}, found=found, other=other, halves=halves, evaluated={"mel": found}, runs={"mel": "run"}
    ).part.sentences


def test_the_best_and_the_worst_class_are_those_of_f1():
    found = evaluated(a=4, b=4)
    assert (found.best, found.worst, found.crowded) == ("a", "b", "a")
    assert found.counts("a") == {"called": 5, "clips": 4, "both": 3}
    assert found.macro_f1_without_worst == 0.9


def test_classes_of_one_size_cannot_part_micro_and_macro():
    same, differing = evaluated(a=4, b=4), evaluated(a=4, b=9)
    sentences = answers(same, same, [0.0, 0.0])
    assert "3 of 5 for a, 2 of 3 for b." in sentences[0]
    assert "micro precision, micro recall and micro F1 all equal the accuracy, 0.500" in sentences[1]
    assert "b for 3 clips, and there are 4. It predicts a for 5 clips, and there are 4." in sentences[2]
    assert "every class has 4 clips, so the sizes have no effect. The difference of +0.010" in sentences[3]
    assert "the classes have 4 to 9 clips. The difference is +0.010." in answers(differing, differing, [0.0, 0.0])[3]


def test_the_fifth_answer_reads_the_precision_at_half_of_a_classs_clips():
    true = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    halves = [precision_at_half(true == i, scores[:, i]) for i in range(2)]
    assert halves == [1.0, 0.5]
    answer = answers(evaluated(a=2, b=2), evaluated(a=2, b=2), halves)[4]
    assert "one half, the precision of a is 1.000, and the precision of b is 0.500" in answer

"""The genre task where no training is needed to tell; cli/test_train_genre.py trains."""

from pathlib import Path

import numpy as np
import pytest

from mtmusic.data.labels import Clips
from mtmusic.training.genre import GenreTask


def test_few_groups_are_too_few_to_tell():
    targets = np.repeat([0, 1], 6)
    groups = np.array(["a", "b", "c", "d"] * 3)
    clips = Clips(tuple(map(str, range(12))), (Path(),) * 12, targets, classes=("Blues", "Folk"), groups=groups)
    task = GenreTask(classes=clips.classes)
    report = task.report(clips, np.eye(2)[targets])
    assert task.no_better(report, clips) == "12 test clips of 4 groups are too few for an interval"


@pytest.mark.parametrize(("right", "told"), [(40, False), (12, True)])
def test_a_model_that_may_be_no_better_than_the_most_common_class_is_told(right, told):
    """Forty clips, ten of each class; always answering one has .25."""
    targets = np.repeat(np.arange(4), 10)
    clips = Clips(tuple(map(str, range(40))), (Path(),) * 40, targets, classes=("Blues", "Folk", "Jazz", "Rock"))
    answers = np.where(np.arange(40) % 40 < right, targets, (targets + 1) % 4)
    task = GenreTask(classes=clips.classes)
    report = task.report(clips, np.eye(4)[answers])
    said = task.no_better(report, clips)
    assert (said is not None) == told
    if said is not None:
        assert "accuracy 0.300 (" in said
        assert "clearly above 0.250, the accuracy of always answering Blues" in said

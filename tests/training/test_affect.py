"""The affect task where no training is needed to tell; cli/test_train_affect.py trains."""

from pathlib import Path

import numpy as np

from mtmusic.data.labels import Clips
from mtmusic.training.affect import AffectTask


def test_tasks_that_may_be_no_better_than_a_constant_are_told():
    rng = np.random.default_rng(0)
    targets = rng.uniform(0, 1, (60, 2)).astype("float32")
    clips = Clips(tuple(map(str, range(60))), (Path(),) * 60, targets, tasks=("valence", "energy"))
    task = AffectTask(clips.tasks, multitask=True).with_labels_of(clips)
    predicted = np.stack([targets[:, 0], rng.uniform(0, 1, 60)], axis=1)
    said = task.no_better(task.report(clips, predicted), clips)
    assert said is not None
    assert said.startswith("rho is not clearly above 0, the rho of a constant answer: energy ")
    assert "valence" not in said
    assert task.no_better(task.report(clips, targets), clips) is None

"""What the two tasks have in common with a training: rows of predictions that read back, and a model's own task."""

import csv
import io

import numpy as np
import pytest

from mtmusic.data.labels import Clips
from mtmusic.training.affect import AffectTask
from mtmusic.training.evaluate import task_of
from mtmusic.training.genre import GenreTask
from mtmusic.training.run_folder import rounded

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], "float32")
GENRE = Clips(("1", "2"), (), np.array([0, 1]), classes=("Blues", "Jazz", "Rock"))
AFFECT = Clips(("1", "2"), (), np.array([[0.25, np.nan], [0.5, 1.0]], "float32"), tasks=("valence", "energy"))


def written_and_read(task, clips, predictions) -> list[dict[str, str]]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(task.columns)
    writer.writerows(map(rounded, task.cells(clips, predictions)))
    return list(csv.DictReader(io.StringIO(text.getvalue())))


def test_a_genre_row_has_label_answer_and_probabilities_and_reads_back():
    task = GenreTask().with_labels_of(GENRE)
    rows = written_and_read(task, GENRE, PROBABILITIES)
    assert rows[1] == {
        "true": "Jazz", "predicted": "Rock", "Blues": "0.100000", "Jazz": "0.300000", "Rock": "0.600000",
    }  # fmt: skip
    true, predicted = task.read_cells(rows)
    np.testing.assert_array_equal(true, [0, 1])
    np.testing.assert_allclose(predicted, PROBABILITIES, atol=5e-7)


def test_an_affect_row_has_labels_and_answers_and_reads_back():
    task = AffectTask(multitask=True).with_labels_of(AFFECT)
    rows = written_and_read(task, AFFECT, PROBABILITIES[:, :2])
    assert rows[0] == {"true_valence": "0.250000", "true_energy": "", "valence": "0.700000", "energy": "0.200000"}
    true, predicted = task.read_cells(rows)
    np.testing.assert_array_equal(true, AFFECT.targets)
    np.testing.assert_allclose(predicted, PROBABILITIES[:, :2], atol=5e-7)


@pytest.mark.parametrize("task", [GenreTask(classes=("Blues", "Jazz")), AffectTask(("energy",))])
def test_rows_of_another_file_are_no_rows_of_the_task(task):
    with pytest.raises((KeyError, ValueError)):
        task.read_cells([{"id": "1", "true": "Polka", "true_valence": "0.5"}])


def test_a_task_takes_names_and_statistics_from_the_train_clips():
    genre, affect = GenreTask().with_labels_of(GENRE), AffectTask().with_labels_of(AFFECT)
    assert (genre.classes, genre.class_weights) == (("Blues", "Jazz", "Rock"), tuple(GENRE.class_weights()))
    assert (affect.tasks, affect.label_means) == (("valence", "energy"), {"valence": 0.375, "energy": 1.0})
    assert affect.label_variances == {"valence": 0.015625, "energy": 0.0}


def test_a_saved_models_task_is_that_of_its_card():
    genre = task_of({"task": "genre", "classes": ["Blues", "Jazz"]})
    assert (genre.classes, genre.run_name) == (("Blues", "Jazz"), "genre")
    one = task_of({"task": "valence", "targets": ["valence"], "label_means": {"valence": 0.4}})
    assert (one.run_name, one.multitask, one.label_means) == ("valence", False, {"valence": 0.4})
    several = task_of({"task": "affect", "targets": ["a", "b"], "label_means": {"a": 0.4, "b": 0.5}})
    assert (several.run_name, several.multitask, several.columns) == ("affect", True, ("true_a", "true_b", "a", "b"))


def test_intervals_are_over_groups():
    """Two copies of each clip, in the clip's group, leave the intervals as wide as the clips alone."""
    groups, twice = np.array(["clip 1", "clip 2"] * 2), np.array([0, 1] * 2)
    ids = ("1", "2", "3", "4")
    copies = Clips(ids, (), GENRE.targets[twice], classes=GENRE.classes, groups=groups)
    task = GenreTask(classes=GENRE.classes)
    alone, grouped = task.report(GENRE, PROBABILITIES), task.report(copies, PROBABILITIES[twice])
    assert alone["accuracy_low"] < alone["accuracy_high"]
    for bound in ("accuracy_low", "accuracy_high"):
        assert alone[bound] == grouped[bound]

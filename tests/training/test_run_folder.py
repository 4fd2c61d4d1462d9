import json
from datetime import UTC, datetime

import keras
import numpy as np
import pytest

from mtmusic.data.folder import FolderData, LoadOptions
from mtmusic.data.labels import read_affect_labels, read_genre_labels
from mtmusic.data.spectrograms import read_array
from mtmusic.errors import UserError
from mtmusic.models.backbones import cnn_backbone, lstm_backbone
from mtmusic.models.heads import genre_classifier, multitask_regressor
from mtmusic.models.saving import read_card
from mtmusic.serving.predictor import Predictor
from mtmusic.training.evaluate import evaluate
from mtmusic.training.recipes import LAB_LSTM
from mtmusic.training.run_folder import base_card, save_run
from tests.folders import write_tiny_affect_folder


@pytest.mark.parametrize(
    ("features", "seconds"),
    [
        ({"beat": True, "duration": 12.0}, 12.0),
        ({"beat": True}, None),
        ({"beat": True, "duration": "long"}, None),
        ({"beat": True, "duration": 0}, None),
        (None, None),
    ],
)
def test_the_card_tells_how_long_the_clips_are_where_their_folder_does(tmp_path, features, seconds):
    if features is not None:
        (tmp_path / "features.json").write_text(json.dumps(features))
    data = FolderData(tmp_path, True, False, "", {}, np.array([10, 12, 40]), {}, (), "on", (), False)
    card = base_card(LAB_LSTM, data, "command", 0)
    assert (card["clip_frames"], card["clip_seconds"]) == (12, seconds)
    assert 0 <= (datetime.now(UTC) - datetime.fromisoformat(card["created"])).total_seconds() < 60


def test_a_model_of_fit_becomes_a_run_that_answers_and_is_evaluated(genre_folder, tmp_path, quick_figures):
    train = read_genre_labels(genre_folder, classes="all")
    keras.utils.set_random_seed(0)
    model = genre_classifier(lstm_backbone("mel", 4), train.classes)
    run = save_run(model, tmp_path / "mine", train)
    assert sorted(path.name for path in run.iterdir()) == ["card.json", "examples.npz", "model.keras"]
    array = read_array(train.paths[0])
    answer = Predictor(run).predict(array)
    expected = keras.ops.softmax(model(array[None, :128].transpose(0, 2, 1)))[0]
    assert list(answer["genre"]) == list(train.classes)
    np.testing.assert_allclose(list(answer["genre"].values()), expected, atol=1e-5)
    metrics = evaluate(run, LoadOptions(genre_folder, checks="off"))
    assert metrics["test"]["clips"] == len(read_genre_labels(genre_folder, "test", classes="all"))
    with pytest.raises(UserError, match=r"mine holds a run: `overwrite=True` replaces it"):
        save_run(model, run, train)
    save_run(model, run, train, overwrite=True)


def test_a_regressor_of_fit_becomes_a_run_with_the_tasks_in_their_order(tmp_path):
    tasks = ("valence", "energy")
    train = read_affect_labels(write_tiny_affect_folder(tmp_path / "data_beat", tasks=tasks))
    model = multitask_regressor(cnn_backbone("mel", pooling="masked"), tasks, means=train.label_means())
    save_run(model, tmp_path / "mine", train)
    card = read_card(tmp_path / "mine")
    assert (card["task"], card["targets"], card["beat"]) == ("multitask", list(tasks), True)
    assert list(Predictor(tmp_path / "mine").predict(read_array(train.paths[0]))) == list(tasks)


def test_a_model_that_does_not_fit_the_clips_is_no_run_of_them(genre_folder, tmp_path):
    train = read_genre_labels(genre_folder, classes="all")
    model = genre_classifier(lstm_backbone("mel", 4), ["a", "b", "c", "d", "e", "f"])
    with pytest.raises(UserError, match="Expected a model of"):
        save_run(model, tmp_path / "mine", train)
    assert not (tmp_path / "mine").exists()

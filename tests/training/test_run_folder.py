import csv
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
import pytest

from mtmusic.cards import read_card
from mtmusic.data.folder import FolderData, LoadOptions, load_affect_split
from mtmusic.data.labels import read_affect_labels, read_genre_labels
from mtmusic.data.spectrograms import read_array
from mtmusic.errors import UserError
from mtmusic.models.backbones import cnn_backbone, lstm_backbone
from mtmusic.models.heads import genre_classifier, multitask_regressor
from mtmusic.serving.predictor import Predictor
from mtmusic.serving.songs import latest_run
from mtmusic.training.compare import own_scores, read_predictions
from mtmusic.training.evaluate import evaluate
from mtmusic.training.recipes import LAB_LSTM
from mtmusic.training.run_folder import base_card, clips_learnt, require_free, run_folder, save_run, write_clips
from tests.folders import write_tiny_affect_folder
from tests.runs import tiny_card, write_tiny_run


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
    test = read_genre_labels(genre_folder, "test", classes="all")
    metrics = evaluate(run, LoadOptions(genre_folder, checks="off"))
    assert metrics["test"]["clips"] == len(test)
    with pytest.raises(UserError, match=r"mine holds a run: `overwrite=True` replaces it"):
        save_run(model, run, train)
    save_run(model, run, train, overwrite=True)


@pytest.fixture
def evaluated(tmp_path, quick_figures):
    """A run evaluated on two songs by each artist, and its metrics: predictions.csv lies in the run."""
    folder = write_tiny_affect_folder(tmp_path / "songs_beat", ("valence", "energy"), test_labels=True)
    rows = [f"{song_id},/music/Été {song_id % 2}/{song_id}.mp3" for song_id in (*range(1, 31), *range(1000, 1005))]
    (folder / "songs.csv").write_text("\n".join(["id,path", *rows]) + "\n")
    train = read_affect_labels(folder)
    keras.utils.set_random_seed(0)
    model = multitask_regressor(lstm_backbone("mel", 4), train.tasks, means=train.label_means())
    run = save_run(model, tmp_path / "run", train)
    metrics = evaluate(run, LoadOptions(folder), out=tmp_path / "evaluation")
    shutil.copy(tmp_path / "evaluation" / "predictions.csv", run)
    write_clips(run, load_affect_split(LoadOptions(folder), "test", train.tasks), "train", None)
    return run, metrics


def test_predictions_name_the_song_where_extraction_knew_it(evaluated):
    with (evaluated[0] / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "split", "song", "true_valence", "true_energy", "valence", "energy"]
    assert [row["song"] for row in rows] == [*(f"Été {i % 2}/{i}.mp3" for i in range(1000, 1005)), ""]
    page = (evaluated[0].parent / "evaluation" / "report.html").read_text()
    assert "<td>Été 0/1000.mp3</td>" in page


def test_a_score_has_one_interval(evaluated):
    """In the report, and next to other runs, which are read from predictions.csv."""
    run, metrics = evaluated
    scores = own_scores(read_predictions(str(run)))
    for task, row in metrics["test"]["per_task"].items():
        expected = [row["spearman"], row["spearman_low"], row["spearman_high"]]
        assert list(scores[task].values()) == pytest.approx(expected)
    mean = metrics["test"]
    expected = [mean["spearman"]["mean"], mean["spearman_mean_low"], mean["spearman_mean_high"]]
    assert list(scores["mean"].values()) == pytest.approx(expected)


def stop(out, error, epochs):
    with run_folder(out, {}, resume=False) as work:
        for epoch in range(epochs):
            (work / "checkpoints" / f"epoch-0000{epoch}").mkdir(parents=True)
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, OSError])
def test_a_run_that_stops_says_how_it_goes_on(tmp_path, caplog, error):
    with pytest.raises(error):
        stop(tmp_path / "run", error, epochs=0)
    assert list(tmp_path.iterdir()) == []  # there is no epoch to go on from
    assert caplog.messages == []
    with pytest.raises(error):
        stop(tmp_path / "run", error, epochs=1)
    work = tmp_path / "run.partial"
    assert work.is_dir()
    assert caplog.messages == [f"{work} keeps the run: `resume=True` continues it, and `overwrite=True` restarts it"]


def test_a_regressor_of_fit_becomes_a_run_with_the_tasks_in_their_order(tmp_path):
    tasks = ("valence", "energy")
    train = read_affect_labels(write_tiny_affect_folder(tmp_path / "data_beat", tasks=tasks))
    model = multitask_regressor(cnn_backbone("mel", pooling="masked"), tasks, means=train.label_means())
    save_run(model, tmp_path / "mine", train)
    card = read_card(tmp_path / "mine")
    assert (card["task"], card["targets"], card["beat"]) == ("multitask", list(tasks), True)
    assert list(Predictor(tmp_path / "mine").predict(read_array(train.paths[0]))) == list(tasks)


def test_what_datasets_had_stands_on_the_card(genre_folder, tmp_path, monkeypatch):
    classes = {"Rock": "loud", "Jazz": "soft", "Blues": "soft"}
    train = read_genre_labels(genre_folder, classes=classes)
    model = genre_classifier(lstm_backbone("mel", 4), train.classes)
    monkeypatch.chdir(tmp_path)
    save_run(model, "saved_models/mine", train, frames=16, classes=classes)
    card = read_card(tmp_path / "saved_models/mine")
    assert (card["frames"], card["class_mapping"]) == (16, classes)
    assert card["clip_frames"] <= 16
    assert latest_run() == Path("saved_models/mine")


def test_a_model_that_does_not_fit_the_clips_is_no_run_of_them(genre_folder, tmp_path):
    train = read_genre_labels(genre_folder, classes="all")
    model = genre_classifier(lstm_backbone("mel", 4), ["a", "b", "c", "d", "e", "f"])
    with pytest.raises(UserError, match="Expected a model of"):
        save_run(model, tmp_path / "mine", train)
    with pytest.raises(UserError, match="got none"):
        save_run(model, tmp_path / "mine", train.take([]))
    features = keras.Input((None, 128))
    pooled = keras.layers.GlobalAveragePooling1D()(features)
    probabilities = keras.Model(features, keras.layers.Dense(len(train.classes), "softmax")(pooled))
    with pytest.raises(UserError, match=r"Expected logits, .* got a last layer with softmax"):
        save_run(probabilities, tmp_path / "mine", train)
    affect = replace(train, classes=(), tasks=tuple("abc"[: len(train.classes)]))
    logits = genre_classifier(lstm_backbone("mel", 4), train.classes)
    with pytest.raises(UserError, match=r"Expected values from 0 to 1, .* got a last layer without a sigmoid"):
        save_run(logits, tmp_path / "mine", affect)
    assert not (tmp_path / "mine").exists()


def test_a_folder_that_another_run_writes_is_neither_gone_on_with_nor_removed(tmp_path):
    with run_folder(tmp_path / "run", {"seed": 0}, resume=False) as work:
        for resume in (False, True):
            with (
                pytest.raises(UserError, match=r"Another run is writing .*run\.partial: wait for it"),
                run_folder(tmp_path / "run", {"seed": 1}, resume),
            ):
                pass
            with pytest.raises(UserError, match="Another run is writing"):
                require_free(tmp_path / "run", resume, overwrite=False)
        assert json.loads((work / "settings.json").read_text()) == {"seed": 0}
    assert (tmp_path / "run").is_dir()


def test_known_clips_of_a_run_count_though_those_of_its_trunk_are_not_known(trunk, tmp_path):
    write_tiny_run(tmp_path / "run", tiny_card())
    rows = "id,split,content,trained,group\n1,train,aa,1,\n2,test,bb,0,\n,source,unknown,1,\n"
    (tmp_path / "run" / "clips.csv").write_text(rows)
    assert clips_learnt(tmp_path / "run", ["aa", "bb"]) == ["aa"]
    assert clips_learnt(tmp_path / "run", ["bb"]) is None
    assert clips_learnt(trunk, ["aa"]) is None

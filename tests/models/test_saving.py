import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.cards import find_run, read_card, trained_on_demo
from mtmusic.errors import UserError
from mtmusic.models.backbones import cnn_backbone, lstm_backbone
from mtmusic.models.heads import genre_classifier, multitask_regressor
from mtmusic.models.musicnn import musicnn_backbone
from mtmusic.models.precision import layers_compute_in
from mtmusic.models.saving import answers, load, load_model, read_examples, refuse_tags, save, weights_hash
from mtmusic.models.trainer import TrainingConfig, fit
from mtmusic.models.transfer import freeze, load_backbone, set_backbone_weights, unfreeze
from tests.runs import logmel_examples, write_random_trunk

CARD = {"task": "genre", "classes": ["a", "b"], "feature": "mel", "beat": True, "frames": None}


def examples(frames: int = 16) -> np.ndarray:
    return np.random.default_rng(0).uniform(-80, 0, (3, frames, 128)).astype("float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(0)
    save(genre_classifier(cnn_backbone(pooling="masked"), ["a", "b"]), folder, CARD, examples())
    return folder


def test_a_saved_model_comes_back_with_its_card_and_answers(run):
    model, card = load(run)
    assert card == CARD
    stored = np.load(run / "examples.npz")
    np.testing.assert_allclose(model.predict(stored["spectrogram"], verbose=0), stored["prediction"], atol=1e-6)
    assert load(run / "model.keras")[0].get_layer("backbone").name == "backbone"


def test_plain_keras_opens_it_after_importing_the_models_wing(run):
    code = f"import mtmusic.models, keras; print(keras.models.load_model({str(run / 'model.keras')!r}).output_shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(None, 2)"


@pytest.mark.parametrize("backbone", [lambda: cnn_backbone(frames=16), lambda: lstm_backbone(units=4, dropout=0.1)])
def test_every_backbone_survives_saving_bit_by_bit(backbone, tmp_path):
    model = genre_classifier(backbone(), ["a", "b"])
    save(model, tmp_path, CARD | {"frames": model.input_shape[1]}, examples())
    for before, after in zip(model.get_weights(), load(tmp_path)[0].get_weights(), strict=True):
        assert np.array_equal(before, after)


def broken(run, tmp_path, kind):
    for name in ("model.keras", "card.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    if kind == "no model":
        (tmp_path / "model.keras").unlink()
    elif kind == "no card":
        (tmp_path / "card.json").unlink()
    elif kind == "truncated model":
        (tmp_path / "model.keras").write_bytes((run / "model.keras").read_bytes()[:500])
    elif kind == "damaged weights":
        content = bytearray((run / "model.keras").read_bytes())
        content[len(content) // 2] ^= 255
        (tmp_path / "model.keras").write_bytes(content)
    elif kind == "card of another kind":
        (tmp_path / "card.json").write_text(json.dumps({"task": "genre"}))
    elif kind == "card not JSON":
        (tmp_path / "card.json").write_text("{")
    else:
        model = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(lambda x: x)])
        model.save(tmp_path / "model.keras")
    return tmp_path


@pytest.mark.parametrize(
    "kind",
    ["no model", "no card", "truncated model", "damaged weights", "card of another kind", "card not JSON", "lambda"],
)
def test_what_cannot_be_loaded_is_said_in_one_line_with_the_file(run, tmp_path, kind):
    with pytest.raises(UserError) as raised:
        load(broken(run, tmp_path, kind))
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"feature": "pitch"}, {"feature": "chroma"}, {"beat": "yes"}, {"frames": "abc"}, {"frames": 0},
        {"classes": "ab"},
        {"classes": ["a", "b", "c"]}, {"task": "affect", "targets": ["a", "b"], "label_means": {"a": 0.5}},
    ],
    ids=str,
)  # fmt: skip
def test_a_card_that_does_not_fit_its_model_is_said_in_one_line(run, tmp_path, change):
    (tmp_path / "model.keras").write_bytes((run / "model.keras").read_bytes())
    (tmp_path / "card.json").write_text(json.dumps(CARD | change))
    with pytest.raises(UserError) as raised:
        load(tmp_path)
    assert str(tmp_path / "card.json") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("card", "learnt"),
    [
        ({"data": {"demo": True}}, True),
        ({"data": {"demo": False}, "source": {"demo": True}}, True),
        ({"data": {"demo": False}, "source": {"run": "saved_models/genre_cnn"}}, False),
        ({}, False),
    ],
)
def test_the_demo_corpus_is_remembered_over_a_transfer(card, learnt):
    assert trained_on_demo(card) is learnt


# --- runs by name, and the pretrained trunk


def test_a_name_is_a_path_else_a_run_of_the_folder_then_of_the_cache(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTMUSIC_CACHE", str(tmp_path / "cache"))
    assert find_run("mine") == Path("mine")
    with pytest.raises(UserError, match=r"found no mine/model\.keras"):
        load("mine")
    for folder in ("cache/models/mine", "saved_models/mine", "mine"):
        shutil.copytree(run, tmp_path / folder)
        assert find_run("mine").resolve() == tmp_path / folder
    assert load("mine")[1] == CARD
    assert load_model("mine").output_shape == (None, 2)
    assert find_run(tmp_path / "mine" / "model.keras") == tmp_path / "mine" / "model.keras"


def test_a_folder_of_that_name_without_a_model_is_passed_over(trunk, tmp_path):
    (tmp_path / "musicnn").mkdir()
    assert find_run("musicnn") == trunk


def test_where_the_trunk_is_missing_the_command_that_fetches_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"trunk musicnn, found none: `mtmusic get-pretrained` fetches it"):
        load("musicnn")


def test_a_run_of_tags_answers_with_scores_and_has_no_metrics(trunk):
    model, card = load("musicnn")
    scores = answers(model, card, read_examples(trunk, model))["tags"]
    assert scores.shape == (3, 50)
    assert 0 <= scores.min() < scores.max() <= 1
    with pytest.raises(UserError, match="got here, which predicts tags and has no metrics"):
        refuse_tags(card, "here")
    refuse_tags(CARD, "here")


@pytest.mark.parametrize("change", [{"tags": ["a"]}, {"tags": "ab"}, {"sample_rate": "16000"}, {"feature": "mel"}])
def test_a_card_of_tags_that_does_not_fit_is_said_in_one_line(trunk, tmp_path, change):
    folder = Path(shutil.copytree(trunk, tmp_path / "run"))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | change))
    with pytest.raises(UserError, match="card") as raised:
        load(folder)
    assert "\n" not in str(raised.value)


def test_the_weights_hash_is_that_of_names_shapes_and_numbers(trunk, tmp_path):
    model = load(trunk)[0]
    assert weights_hash(model) == weights_hash(model.get_layer("backbone"))
    model.save(tmp_path / "again.keras")
    assert weights_hash(keras.models.load_model(tmp_path / "again.keras")) == weights_hash(model)
    layer = model.get_layer("backbone").get_layer("block3_dense")
    before, (kernel, bias) = weights_hash(model), layer.get_weights()
    bias[0] += 1e-3
    layer.set_weights([kernel, bias])
    assert weights_hash(model) != before


AFFECT = {"task": "affect", "targets": ["a", "b"], "label_means": {"a": 0.5, "b": 0.5}, "feature": "logmel"}
AFFECT |= {"beat": False, "frames": None}


def trained_on_trunk(features: str, which: str | int = "all", learned_weights: bool = False) -> keras.Model:
    backbone = load_backbone("musicnn", features)
    freeze(backbone, which)
    model = multitask_regressor(backbone, ("a", "b"), learned_weights=learned_weights)
    model.fit(logmel_examples(200), np.random.default_rng(1).random((3, 2)).astype("float32"), verbose=0)
    return model


@pytest.mark.parametrize(("features", "learned_weights"), [("mean", True), ("penultimate", False)])
def test_a_head_on_the_frozen_trunk_is_stored_alone_and_comes_back_on_it(trunk, tmp_path, features, learned_weights):
    model = trained_on_trunk(features, learned_weights=learned_weights)
    save(model, tmp_path / "run", AFFECT, logmel_examples(200))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"model.keras", "card.json", "examples.npz"}
    assert (tmp_path / "run" / "model.keras").stat().st_size < 100_000
    alone = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert alone.input_shape == (None, {"mean": 753, "penultimate": 200}[features])

    loaded, card = load(tmp_path / "run")
    told = {"name": "musicnn", "weights": weights_hash(load(trunk)[0]), "features": features, "feature": "logmel"}
    assert card == AFFECT | {"trunk": told | {"precision": "float32"}}
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    assert type(loaded) is type(model)
    assert not loaded.get_layer("backbone").trainable_variables
    expected = model.predict(logmel_examples(), verbose=0)
    for path in ("run", "run/model.keras"):
        got = load_model(tmp_path / path).predict(logmel_examples(), verbose=0)
        np.testing.assert_allclose(got, expected, atol=1e-6)
    read_examples(tmp_path / "run", loaded)


def test_what_was_joined_is_trained_on_and_unfrozen(trunk, tmp_path):
    save(trained_on_trunk("mean"), tmp_path / "run", AFFECT, logmel_examples(200))
    model, card = load(tmp_path / "run")
    targets = np.random.default_rng(1).random((3, 2)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((logmel_examples(200), targets)).batch(3)
    backbone = model.get_layer("backbone")
    before = backbone.get_weights()
    fit(model, batches, config=TrainingConfig(epochs=1), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, backbone.get_weights(), strict=True))
    unfreeze(model)
    fit(model, batches, config=TrainingConfig(epochs=1), verbose=0)
    assert not any(np.array_equal(a, b) for a, b in zip(before, backbone.get_weights(), strict=True))
    save(model, tmp_path / "whole", card, logmel_examples(200))
    assert "trunk" not in read_card(tmp_path / "whole")
    assert keras.models.load_model(tmp_path / "whole" / "model.keras").input_shape == (None, None, 96)
    assert (tmp_path / "whole" / "LICENSE").read_text() == (trunk / "LICENSE").read_text()


@pytest.mark.parametrize("which", ["none", 2])
def test_a_model_whose_trunk_is_trained_is_stored_whole(trunk, tmp_path, which):
    save(trained_on_trunk("penultimate", which), tmp_path / "run", AFFECT, logmel_examples(200))
    assert keras.models.load_model(tmp_path / "run" / "model.keras").input_shape == (None, None, 96)
    assert load(tmp_path / "run")[1] == AFFECT


def test_a_backbone_of_other_weights_is_stored_whole_though_it_is_frozen(trunk, tmp_path):
    model = trained_on_trunk("mean")
    layer = model.get_layer("backbone").get_layer("block1_temporal32")
    layer.set_weights([weight + 1e-3 for weight in layer.get_weights()])
    save(model, tmp_path / "run", AFFECT, logmel_examples(200))
    assert "trunk" not in read_card(tmp_path / "run")


def test_the_precision_of_the_trunk_is_kept(trunk, tmp_path):
    with layers_compute_in("bfloat16"):
        backbone = musicnn_backbone(features="mean")
    set_backbone_weights(backbone, load_backbone("musicnn"), trunk)
    freeze(backbone, "all")
    save(multitask_regressor(backbone, ("a", "b")), tmp_path / "run", AFFECT, logmel_examples(200))
    loaded, card = load(tmp_path / "run")
    assert card["trunk"]["precision"] == "bfloat16"
    assert loaded.get_layer("backbone").get_layer("block2_middle1").compute_dtype == "bfloat16"
    read_examples(tmp_path / "run", loaded)


@pytest.mark.parametrize(
    ("change", "told"),
    [("missing", "found none: `mtmusic get-pretrained` fetches it"), ("another", "`mtmusic get-pretrained` fetches")],
)
def test_without_its_trunk_a_head_says_in_one_line_how_to_get_it(trunk, tmp_path, monkeypatch, change, told):
    save(trained_on_trunk("mean"), tmp_path / "run", AFFECT, logmel_examples(200))
    monkeypatch.setenv("MTMUSIC_CACHE", str(tmp_path / "cache"))
    if change == "another":
        write_random_trunk(tmp_path / "cache" / "models" / "musicnn", seed=1)
    for load_it in (load, load_model):
        with pytest.raises(UserError, match=told) as raised:
            load_it(tmp_path / "run")
        assert "\n" not in str(raised.value)
    assert keras.models.load_model(tmp_path / "run" / "model.keras").input_shape == (None, 753)

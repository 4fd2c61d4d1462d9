import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from mtmusic.errors import UserError
from mtmusic.models.backbones import cnn_backbone, lstm_backbone
from mtmusic.models.heads import genre_classifier
from mtmusic.models.saving import load, save, trained_on_demo

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

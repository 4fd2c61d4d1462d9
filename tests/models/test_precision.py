import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.models.backbones import cnn_backbone, lstm_backbone
from mtmusic.models.heads import genre_classifier, multitask_regressor
from mtmusic.models.precision import layers_compute_in, supported
from mtmusic.models.savedmodel import export_savedmodel
from tests.runs import tiny_card, tiny_examples, write_tiny_run

FLOAT32_LAYERS = {"normalization", "frame_mask", "pooling", "genre"}


def test_bfloat16_is_used_where_the_processor_names_its_instructions(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "mtmusic")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    info = tmp_path / "cpuinfo"
    info.write_text("flags\t: fpu avx512f avx512_bf16\n")
    assert supported("bfloat16", info) == "bfloat16"
    assert caplog.messages == []


@pytest.mark.parametrize("instructions", ["flags\t: fpu avx512f\n", None], ids=["without", "unknown"])
def test_elsewhere_it_is_said_that_float32_is_used(tmp_path, caplog, monkeypatch, instructions):
    caplog.set_level("INFO", "mtmusic")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    info = tmp_path / "cpuinfo"
    if instructions:
        info.write_text(instructions)
    for asked in ("bfloat16", "float32"):
        assert supported(asked, info) == "float32"
    assert caplog.messages == ["This machine has no bfloat16 instructions: it computes in float32"]


def test_the_policy_is_the_layers_own_and_not_the_processs():
    with layers_compute_in("bfloat16"):
        inside = keras.layers.Dense(1)
    assert inside.compute_dtype == "bfloat16"
    assert inside.variable_dtype == "float32"
    assert keras.layers.Dense(1).compute_dtype == "float32"


@pytest.mark.parametrize("backbone", ["flat", "masked", "lstm"])
def test_a_network_computes_in_bfloat16_but_for_normalization_pooling_and_head(backbone, tmp_path):
    build = {
        "flat": lambda: cnn_backbone(frames=32),
        "masked": lambda: cnn_backbone(pooling="masked"),
        "lstm": lambda: lstm_backbone(units=8, bidirectional=True),
    }[backbone]
    keras.utils.set_random_seed(0)
    with layers_compute_in("bfloat16"):
        model = genre_classifier(build(), list("abc"))
    layers = [*model.get_layer("backbone").layers, model.get_layer("genre")]
    for layer in layers:
        if layer.name in FLOAT32_LAYERS:
            assert layer.compute_dtype == "float32", layer.name
        elif layer.weights:
            assert layer.compute_dtype == "bfloat16", layer.name
    assert {weight.dtype for weight in model.weights} == {"float32"}

    clips = np.random.default_rng(0).uniform(-80, 0, (2, 32, 128)).astype("float32")
    plain = genre_classifier(build(), list("abc"))
    plain.set_weights(model.get_weights())
    logits, expected = model.predict(clips, verbose=0), plain.predict(clips, verbose=0)
    assert logits.dtype == "float32"
    assert 0 < np.abs(logits - expected).max() < 0.03 * np.abs(expected).max() + 0.01

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    for layer in layers[:-1]:
        if layer.weights:
            assert loaded.get_layer("backbone").get_layer(layer.name).compute_dtype == layer.compute_dtype
    assert np.array_equal(loaded.predict(clips, verbose=0), logits)


def test_the_losses_of_a_bfloat16_trunk_are_float32():
    with layers_compute_in("bfloat16"):
        model = multitask_regressor(lstm_backbone(units=8), ("calm", "loud"), learned_weights=True)
    assert model.get_layer("uncertainty").compute_dtype == "float32"
    assert model.output.dtype == "float32"
    logs = model.train_on_batch(np.zeros((2, 4, 128), "float32"), np.full((2, 2), 0.5, "float32"), return_dict=True)
    assert np.isfinite(logs["loss"])


@pytest.mark.parametrize("pooling", ["flatten", "masked"])
def test_an_exported_bfloat16_model_answers_as_its_keras_file(tmp_path, pooling):
    card = tiny_card(frames=32 if pooling == "flatten" else None)
    with layers_compute_in("bfloat16"):
        backbone = cnn_backbone(frames=32, pooling=pooling)
    model = write_tiny_run(tmp_path / "run", card, backbone, sharpness=5)
    assert export_savedmodel(model, card, tiny_examples(model, card["frames"]), tmp_path / "out") <= 1e-4

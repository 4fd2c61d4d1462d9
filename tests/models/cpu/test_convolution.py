import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.models.cpu import convolution
from mtmusic.models.cpu.convolution import MOST_FRAMES, WinogradConv2D

RNG = np.random.default_rng(0)


def layer(**options) -> WinogradConv2D:
    made = WinogradConv2D(**{"filters": 64, "kernel_size": 5, "padding": "same"} | options)
    made.build((None, None, 6, 64))
    return made


def values(frames: int, bins: int = 6, channels: int = 64) -> np.ndarray:
    return RNG.normal(size=(2, frames, bins, channels)).astype("float32")


@pytest.fixture
def taken(monkeypatch) -> list[tuple]:
    """The shapes that went Winograd's way."""
    shapes, way = [], convolution._winograd

    def recorded(x, kernel):
        shapes.append(tuple(x.shape))
        return way(x, kernel)

    monkeypatch.setattr(convolution, "_winograd", recorded)
    return shapes


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 30, MOST_FRAMES])
def test_the_numbers_are_a_sum_over_the_kernel(taken, frames):
    conv, x = layer(kernel_size=(5, 3), bias_initializer="normal"), values(frames)
    padded = np.pad(x.astype(float), ((0, 0), (2, 2), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 3), axis=(1, 2))
    kernel, bias = (weight.astype(float) for weight in conv.get_weights())
    expected = np.einsum("bfnchw,hwco->bfno", windows, kernel, optimize=True) + bias
    np.testing.assert_allclose(conv(x), expected, atol=3e-5)
    assert taken == [x.shape]


@pytest.mark.parametrize("frames", [1, 7, 32])
def test_the_gradients_are_keras_s(taken, frames):
    ours, plain = layer(), keras.layers.Conv2D(64, 5, padding="same")
    x, arriving = tf.constant(values(frames)), tf.constant(values(frames))
    plain.build(x.shape)
    plain.set_weights(ours.get_weights())
    found = []
    for conv in (ours, plain):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = conv(x)
        found.append(tape.gradient(outputs, [x, *(weight.value for weight in conv.weights)], arriving))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
    assert len(taken) == 1


def test_any_number_of_frames_is_known_first_when_it_runs(taken):
    conv, plain = layer(), keras.layers.Conv2D(64, 5, padding="same")
    plain.build((None, None, 6, 64))
    plain.set_weights(conv.get_weights())
    any_length = tf.function(conv, input_signature=[tf.TensorSpec((None, None, 6, 64))], autograph=False)
    for frames in (3, 50, MOST_FRAMES, MOST_FRAMES + 1):
        x = values(frames)
        np.testing.assert_allclose(any_length(x), plain(x), atol=3e-5)
        assert np.array_equal(any_length(x), plain(x)) == (frames > MOST_FRAMES)  # rounding tells them apart
    assert taken == [(None, None, 6, 64)]


@pytest.mark.parametrize(
    ("option", "frames"),
    [
        ({"kernel_size": 3}, 8),
        ({"strides": 2}, 8),
        ({"dilation_rate": 2}, 8),
        ({"padding": "valid"}, 8),
        ({"groups": 2}, 8),
        ({"filters": 63}, 8),
        ({"dtype": "mixed_bfloat16"}, 8),
        ({}, MOST_FRAMES + 1),
    ],
)
def test_elsewhere_it_is_keras_s(taken, option, frames):
    ours = layer(**option)
    plain = keras.layers.Conv2D(**{"filters": 64, "kernel_size": 5, "padding": "same"} | option)
    x = values(frames)
    plain.build(x.shape)
    plain.set_weights(ours.get_weights())
    np.testing.assert_array_equal(ours(x), plain(x))
    assert taken == []


def test_with_lora_it_is_keras_s(taken):
    ours, plain = layer(), keras.layers.Conv2D(64, 5, padding="same")
    x = values(8)
    plain.build(x.shape)
    plain.set_weights(ours.get_weights())
    for conv in (ours, plain):
        conv.enable_lora(2)
        conv.lora_kernel_a.assign(np.linspace(-1, 1, 5 * 5 * 64 * 2).reshape(5, 5, 64, 2))
        conv.lora_kernel_b.assign(np.linspace(-1, 1, 2 * 64).reshape(2, 64))
    np.testing.assert_array_equal(ours(x), plain(x))
    assert taken == []


def test_with_channels_first_it_is_keras_s(taken):
    options = {"filters": 64, "kernel_size": 5, "padding": "same", "data_format": "channels_first"}
    ours, plain = WinogradConv2D(**options), keras.layers.Conv2D(**options)
    x = RNG.normal(size=(2, 64, 8, 64)).astype("float32")
    for conv in (ours, plain):
        conv.build(x.shape)
    plain.set_weights(ours.get_weights())
    np.testing.assert_array_equal(ours(x), plain(x))
    assert taken == []


def test_where_a_gpu_is_visible_it_is_keras_s(taken, monkeypatch):
    conv = layer()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["GPU:0"])
    assert conv(values(8)).shape == (2, 8, 6, 64)
    assert taken == []


def test_a_saved_model_opens_with_its_numbers(tmp_path):
    inputs = keras.Input((None, 6, 64))
    model = keras.Model(inputs, layer(use_bias=False)(inputs))
    model.save(tmp_path / "model.keras")
    opened, x = keras.models.load_model(tmp_path / "model.keras"), values(9)
    assert type(opened.layers[1]) is WinogradConv2D
    np.testing.assert_array_equal(opened(x), model(x))

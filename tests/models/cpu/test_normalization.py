import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.models.cpu import normalization
from mtmusic.models.cpu.normalization import FusedBatchNormalization
from mtmusic.models.layers import ZeroAbsentFrames

SHAPE = (4, 6, 5, 7)
PRESENT = (np.arange(6) < np.array([[6], [1], [4], [3]]))[..., None]
"""Absent frames at the ends, (clips, frames, 1)."""

MASKS = {
    "no mask": None,
    "frames": PRESENT,
    "frames of all clips": PRESENT[:1],
    "bins": np.random.default_rng(2).random(SHAPE[:3]) < 0.6,
    "numbers": PRESENT.astype("float32"),
    "nothing present": np.zeros((4, 6, 1), bool),
}


@pytest.fixture
def fused(monkeypatch) -> list[tuple]:
    """The shapes that went through the kernel."""
    shapes, kernel = [], normalization._fused

    def recorded(x, *others):
        shapes.append(tuple(x.shape))
        return kernel(x, *others)

    monkeypatch.setattr(normalization, "_fused", recorded)
    return shapes


def everything(kind: type, x: tf.Tensor, mask: np.ndarray | None, **options) -> list[np.ndarray]:
    """Outputs and gradients of a training call, the statistics after it, and the outputs of another call by these."""
    layer = kind(momentum=0.9, **options)
    layer.build(x.shape)
    for weight in layer.weights:
        weight.assign(np.linspace(0.5, 2, weight.shape[0]))
    upstream = tf.constant(np.random.default_rng(1).normal(0, 1, x.shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        trained = layer(x, training=True, mask=mask)
        loss = tf.reduce_sum(tf.cast(trained, "float32") * upstream)
    gradients = tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])
    found = [trained, *gradients, *layer.non_trainable_variables, layer(x, training=False, mask=mask)]
    return [np.array(keras.ops.cast(each, "float64")) for each in found]


def noise(shape: tuple[int, ...] = SHAPE) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).normal(3, 2, shape), tf.float32)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_outputs_gradients_and_statistics_are_those_of_keras(fused, mask):
    expected = everything(keras.layers.BatchNormalization, noise(), mask)
    assert fused == []
    for got, want in zip(everything(FusedBatchNormalization, noise(), mask), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert {*fused} == {SHAPE}


@pytest.mark.parametrize(
    ("shape", "mask", "options"),
    [
        (SHAPE, None, {"axis": 1}),
        (SHAPE, None, {"axis": 3}),
        (SHAPE, PRESENT, {"center": False}),
        (SHAPE, None, {"scale": False}),
        (SHAPE, None, {"renorm": True}),
        (SHAPE, None, {"dtype": "float64"}),
        (SHAPE, None, {"dtype": "bfloat16"}),
        ((4, 6, 7), PRESENT[..., 0], {}),
        ((4, 6, 5, 3, 2), None, {}),
        ((16, 5), np.arange(16) < 11, {}),
    ],
    ids=str,
)
def test_what_the_kernel_cannot_do_is_keras_s(fused, shape, mask, options):
    expected = everything(keras.layers.BatchNormalization, noise(shape), mask, **options)
    for got, want in zip(everything(FusedBatchNormalization, noise(shape), mask, **options), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert fused == []


def test_a_mask_of_another_rank_is_refused_as_by_keras():
    with pytest.raises(ValueError, match="one dimension less"):
        FusedBatchNormalization()(noise(), training=True, mask=PRESENT[..., 0])


def test_where_a_gpu_is_visible_a_mask_is_keras_s(fused, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    layer = FusedBatchNormalization()
    layer(noise(), training=True, mask=PRESENT)
    assert fused == []
    layer(noise(), training=True)
    assert fused == [SHAPE]


@pytest.mark.parametrize("usual", [0.0, 29.5])
def test_the_masked_variance_holds_where_it_is_small_beside_the_mean(usual):
    x = np.random.default_rng(0).normal(30, 1, (4, 50, 64, 3)).astype("float32")
    present = (np.arange(50) < np.array([[50], [20], [7], [33]]))[..., None]
    layer = FusedBatchNormalization(momentum=0)
    layer.build(x.shape)
    layer.moving_mean.assign(np.full(3, usual))
    layer(x, training=True, mask=present)
    kept = x[present[..., 0]].astype("float64")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.moving_mean), kept.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(layer.moving_variance), kept.var(axis=(0, 1)), rtol=2e-4 if usual else 2e-2
    )


def test_a_bfloat16_gradient_sums_to_zero_as_the_normalizations_must():
    x = tf.cast(np.random.default_rng(0).normal(3, 1, (4, 32, 32, 3)), "bfloat16")
    upstream = tf.cast(np.random.default_rng(1).normal(0.3, 1, x.shape), "bfloat16")
    present = (np.arange(32) < np.array([[32], [20], [7], [30]]))[..., None]
    layer = FusedBatchNormalization(dtype="mixed_bfloat16")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ZeroAbsentFrames(dtype="bfloat16")(layer(x, training=True, mask=present), present)
        loss = tf.reduce_sum(tf.cast(y, "float32") * tf.cast(upstream, "float32"))
    gradient = tape.gradient(loss, x).numpy().astype("float64")
    rounding = np.abs(gradient).sum(axis=(0, 1, 2)) * 2**-9  # half a unit of each value's last place
    assert (np.abs(gradient.sum(axis=(0, 1, 2))) < rounding).all()


@pytest.mark.parametrize("shape", [(16, 5), (4, 6, 5)])
def test_a_layers_features_and_frames_are_normalised_as_keras_does(fused, shape):
    x = np.random.default_rng(0).normal(3, 2, shape).astype("float32")
    plain, ours = keras.layers.BatchNormalization(momentum=0.9), FusedBatchNormalization(momentum=0.9)
    for training in (True, False):
        np.testing.assert_allclose(ours(x, training=training), plain(x, training=training), atol=1e-5)
    assert len(fused) == 2


def test_absent_frames_of_any_value_change_nothing_that_the_masked_normalization_gives():
    x = np.random.default_rng(0).normal(0, 1, (2, 3, 4, 5)).astype("float32")
    present = np.array([[True, True, False], [True, False, False]])[..., None]
    outputs = []
    for fill in (0, 1e4):
        layer = FusedBatchNormalization(momentum=0)
        filled = tf.constant(np.where(present[..., None], x, np.float32(fill)))
        with tf.GradientTape() as tape:
            tape.watch(filled)
            y = ZeroAbsentFrames()(layer(filled, training=True, mask=present), present)
            loss = tf.reduce_sum(y**3)
        outputs.append([part.numpy() for part in (y, tape.gradient(loss, filled), layer.moving_mean.value)])
    assert all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))
    assert not outputs[0][1][~present[..., 0]].any()
    np.testing.assert_allclose(outputs[0][2], x[present[..., 0]].mean(axis=(0, 1)), rtol=1e-5)


def test_fused_normalization_keeps_its_statistics_in_float32_where_it_computes_in_bfloat16():
    x = np.random.default_rng(0).normal(100, 1, (4, 8, 8, 3)).astype("float32")
    layer = FusedBatchNormalization(momentum=0, dtype="mixed_bfloat16")
    assert layer(x, training=True).dtype == "bfloat16"
    rounded = np.array(keras.ops.cast(keras.ops.cast(x, "bfloat16"), "float32"), "float64")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.moving_mean), rounded.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(layer.moving_variance), rounded.var(axis=(0, 1, 2)), rtol=1e-3
    )


def test_fused_normalization_keeps_its_statistics_where_it_is_frozen():
    layer = FusedBatchNormalization()
    layer.build((None, 2, 2, 3))
    layer.trainable = False
    layer(np.ones((4, 2, 2, 3), "float32") * 5, training=True)
    assert keras.ops.convert_to_numpy(layer.moving_mean).tolist() == [0, 0, 0]

import keras
import numpy as np
import pytest

from mtmusic.constants import PAD_VALUE
from mtmusic.models.layers import (
    FrameMask,
    FusedBatchNormalization,
    MaskedAveragePooling,
    SpectrogramNormalization,
    StridedMask,
    ZeroAbsentFrames,
)


def test_normalization_maps_db_and_chroma_to_one_range_and_absent_frames_to_zero():
    frame = [-80.0, -40.0, 0.0, 0.0, 0.5, 1.0]  # three mel bins, three of chroma
    batch = np.array([[frame, [PAD_VALUE] * 6]], "float32")
    normalised = keras.ops.convert_to_numpy(SpectrogramNormalization(mel_bins=3)(batch))
    assert normalised.tolist() == [[[-1, 0, 1, -1, 0, 1], [0] * 6]]


def test_normalization_stays_float32_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        layer = SpectrogramNormalization(mel_bins=1)
        assert layer(np.zeros((1, 1, 1), "float32")).dtype == "float32"
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_a_silent_frame_is_present_and_only_whole_frames_are_absent():
    batch = np.array([[[-80, -80], [PAD_VALUE, -80], [PAD_VALUE, PAD_VALUE]]], "float32")
    assert keras.ops.convert_to_numpy(FrameMask()(batch)).tolist() == [[True, True, False]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_pad_value_is_exact_in_half_precision(dtype):
    assert float(keras.ops.cast(keras.ops.cast(PAD_VALUE, dtype), "float32")) == PAD_VALUE


def test_strided_mask_keeps_a_pooled_frame_whose_first_frame_is_present():
    mask = np.array([[True] * 5 + [False] * 3, [True] * 4 + [False] * 4])
    pooled = keras.ops.convert_to_numpy(StridedMask(2)(mask))
    assert pooled[..., 0].tolist() == [[True, True, True, False], [True, True, False, False]]


def test_absent_frames_become_zero_and_masked_pooling_is_the_mean_of_the_present():
    x = np.arange(12, dtype="float32").reshape(1, 3, 2, 2) + 1
    present = np.array([[[True], [True], [False]]])
    zeroed = keras.ops.convert_to_numpy(ZeroAbsentFrames()(x, present))
    assert zeroed[0, 2].tolist() == [[0, 0], [0, 0]]
    assert np.array_equal(zeroed[0, :2], x[0, :2])
    pooled = keras.ops.convert_to_numpy(MaskedAveragePooling()(x, present))
    assert pooled.tolist() == [x[0, :2].mean(axis=0).ravel().tolist()]


@pytest.mark.parametrize("option", [{"axis": 1}, {"center": False}, {"scale": False}, {"renorm": True}])
def test_fused_normalization_refuses_what_its_kernel_has_not(option):
    with pytest.raises(ValueError, match=f"got another {next(iter(option))}"):
        FusedBatchNormalization(**option)


@pytest.mark.parametrize("masked", [False, True], ids=["all frames", "masked"])
def test_fused_normalization_is_keras_batch_normalization_in_outputs_gradients_and_statistics(masked):
    import tensorflow as tf

    x = tf.constant(np.random.default_rng(0).normal(3, 2, (4, 6, 5, 7)), tf.float32)
    upstream = tf.constant(np.random.default_rng(1).normal(0, 1, x.shape), tf.float32)
    present = (np.arange(6) < np.array([[6], [1], [4], [3]]))[..., None] if masked else None
    results = []
    for kind in (keras.layers.BatchNormalization, FusedBatchNormalization):
        layer = kind(momentum=0.9)
        layer.build(x.shape)
        layer.gamma.assign(np.linspace(0.5, 2, 7))
        with tf.GradientTape() as tape:
            tape.watch(x)
            trained = layer(x, training=True, mask=present)
            if masked:
                trained = ZeroAbsentFrames()(trained, present)
            loss = tf.reduce_sum(trained * upstream)
        gradients = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
        results.append([trained, *gradients, *layer.non_trainable_variables, layer(x, training=False)])
    for plain, fused in zip(*results, strict=True):
        np.testing.assert_allclose(np.array(fused), np.array(plain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("usual", [0.0, 29.5])
def test_the_masked_variance_holds_where_it_is_small_beside_the_mean(usual):
    x = np.random.default_rng(0).normal(30, 1, (4, 50, 64, 3)).astype("float32")
    present = (np.arange(50) < np.array([[50], [20], [7], [33]]))[..., None]
    layer = FusedBatchNormalization(momentum=0)
    layer.build(x.shape)
    layer.moving_mean.assign(np.full(3, usual))
    layer(x, training=True, mask=present)
    kept = x[present[..., 0]].astype("float64")
    np.testing.assert_allclose(np.array(layer.moving_mean), kept.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(np.array(layer.moving_variance), kept.var(axis=(0, 1)), rtol=2e-4 if usual else 2e-2)


def test_a_bfloat16_gradient_sums_to_zero_as_the_normalizations_must():
    import tensorflow as tf

    x = tf.cast(np.random.default_rng(0).normal(3, 1, (4, 32, 32, 3)), "bfloat16")
    upstream = tf.cast(np.random.default_rng(1).normal(0.3, 1, x.shape), "bfloat16")
    present = (np.arange(32) < np.array([[32], [20], [7], [30]]))[..., None]
    layer = FusedBatchNormalization(dtype="mixed_bfloat16")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ZeroAbsentFrames(dtype="bfloat16")(layer(x, training=True, mask=present), present)
        loss = tf.reduce_sum(tf.cast(y, "float32") * tf.cast(upstream, "float32"))
    gradient = np.array(tape.gradient(loss, x)).astype("float64")
    rounding = np.abs(gradient).sum(axis=(0, 1, 2)) * 2**-9  # half a unit of each value's last place
    assert (np.abs(gradient.sum(axis=(0, 1, 2))) < rounding).all()


def test_a_layers_features_are_normalised_as_keras_does():
    x = np.random.default_rng(0).normal(3, 2, (16, 5)).astype("float32")
    plain, ours = keras.layers.BatchNormalization(momentum=0.9), FusedBatchNormalization(momentum=0.9)
    for training in (True, False):
        np.testing.assert_allclose(ours(x, training=training), plain(x, training=training), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "mask", "said"),
    [
        ((16, 5), np.ones((16, 1, 1), bool), r"channels\) beside a mask, got \(16, 5\)"),
        ((5,), None, r"channels\), got \(5,\)"),
        ((4, 6, 5), None, r"channels\), got \(4, 6, 5\)"),
        ((4, 6, 5, 3, 2), None, r"channels\), got \(4, 6, 5, 3, 2\)"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_fused_normalization_refuses_other_shapes(shape, mask, said, training):
    with pytest.raises(ValueError, match=rf"Expected .*{said}"):
        FusedBatchNormalization()(np.ones(shape, "float32"), training=training, mask=mask)


def test_absent_frames_of_any_value_change_nothing_that_the_masked_normalization_gives():
    import tensorflow as tf

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
        outputs.append([np.array(part) for part in (y, tape.gradient(loss, filled), layer.moving_mean)])
    assert all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))
    assert not outputs[0][1][~present[..., 0]].any()
    np.testing.assert_allclose(outputs[0][2], x[present[..., 0]].mean(axis=(0, 1)), rtol=1e-5)


def test_fused_normalization_keeps_its_statistics_in_float32_where_it_computes_in_bfloat16():
    x = np.random.default_rng(0).normal(100, 1, (4, 8, 8, 3)).astype("float32")
    layer = FusedBatchNormalization(momentum=0, dtype="mixed_bfloat16")
    assert layer(x, training=True).dtype == "bfloat16"
    rounded = np.array(keras.ops.cast(keras.ops.cast(x, "bfloat16"), "float32"), "float64")
    np.testing.assert_allclose(np.array(layer.moving_mean), rounded.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(np.array(layer.moving_variance), rounded.var(axis=(0, 1, 2)), rtol=1e-3)


def test_fused_normalization_keeps_its_statistics_where_it_is_frozen():
    layer = FusedBatchNormalization()
    layer.build((None, 2, 2, 3))
    layer.trainable = False
    layer(np.ones((4, 2, 2, 3), "float32") * 5, training=True)
    assert np.array(layer.moving_mean).tolist() == [0, 0, 0]

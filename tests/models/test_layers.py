import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.constants import PAD_VALUE
from mtmusic.errors import UserError
from mtmusic.models.layers import (
    FrameMask,
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


def test_clips_of_any_length_are_refused_where_a_network_takes_a_number_of_frames():
    model = keras.Sequential([keras.Input((8, 4)), SpectrogramNormalization(4)])
    with pytest.raises(UserError, match=r"Expected clips of 8 frames, got 6: .*frames=8"):
        model.predict(np.zeros((2, 6, 4), "float32"), verbose=0)
    layer = SpectrogramNormalization(4)
    layer.build((None, None, 4))
    with pytest.raises(UserError, match=r"Expected clips of 4 bins, got 5"):
        layer(np.zeros((2, 8, 5), "float32"))
    answer = tf.function(model, [tf.TensorSpec((None, None, 4), tf.float32)], autograph=False)
    with pytest.raises(UserError, match=r"Expected clips of 8 frames, got clips of any length"):
        answer.get_concrete_function()
    assert model.predict(np.zeros((2, 8, 4), "float32"), verbose=0).shape == (2, 8, 4)

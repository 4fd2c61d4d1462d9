"""Samples to the mel spectrogram in the graph, so that a served model takes sound."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtmusic.constants import FFT_LENGTH, HOP_LENGTH, MEL_BINS, MEL_FLOOR_DB
from mtmusic.models.layers import PACKAGE, Float32Layer, Tensor

LEAST_POWER = 1e-10
"""Power below counts as this, as in librosa.power_to_db: a silent clip is 0 dB throughout, its own maximum."""


@keras.saving.register_keras_serializable(PACKAGE)
class LogMelSpectrogram(Float32Layer):
    """(batch, samples) at SAMPLE_RATE -> (batch, 1 + samples // HOP_LENGTH, 128): the mel rows of fused arrays.

    In dB below each clip's own maximum, at least MEL_FLOOR_DB; all samples are taken for present, so the clips of a
    batch are of one length. The numbers are those of `audio.features`, within rounding; keras.layers.MelSpectrogram's
    are not, since its filter bank is another and its floor that of the whole batch.

    filters: librosa's filter bank, (128, 1025). It is kept with the weights and not trained; a layer that is loaded
    gets it from there. Computes in float32 under every precision policy, but the Fourier transform in float64, since
    float32's rounding would show next to a loud tone. Gives no implicit mask.
    """

    def __init__(self, filters: np.ndarray | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        initial = "zeros" if filters is None else keras.initializers.Constant(filters)
        self.filters = self.add_weight((MEL_BINS, 1 + FFT_LENGTH // 2), initial, trainable=False, name="filters")

    def call(self, samples: Tensor) -> Tensor:
        margin = FFT_LENGTH // 2
        padded = tf.pad(tf.cast(samples, tf.float64), ((0, 0), (margin, margin)))
        spectrum = tf.signal.stft(padded, FFT_LENGTH, HOP_LENGTH)  # its window is librosa's: periodic Hann
        power = tf.cast(tf.abs(spectrum) ** 2, tf.float32) @ tf.transpose(self.filters)
        decibels = tf.math.log(tf.maximum(power, LEAST_POWER)) * (10 / math.log(10))
        loudest = tf.reduce_max(decibels, axis=(1, 2), keepdims=True)
        return tf.maximum(decibels - loudest, MEL_FLOOR_DB)

    def get_config(self) -> dict[str, Any]:
        return super().get_config()  # the filters come with the weights

"""Samples to the mel spectrogram or logmel in the graph, so that a served model takes sound."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtmusic.constants import (
    FFT_LENGTH,
    HOP_LENGTH,
    LOGMEL_BINS,
    LOGMEL_FFT_LENGTH,
    LOGMEL_HOP_LENGTH,
    MEL_BINS,
    MEL_FLOOR_DB,
)
from mtmusic.models.layers import PACKAGE, Float32Layer, Tensor

LEAST_POWER = 1e-10
"""Power below counts as this, as in librosa.power_to_db: a silent clip is 0 dB throughout, its own maximum."""


class MelPower(Float32Layer):
    """(batch, samples) -> (batch, 1 + samples // hop_length, bins): power in mel bands, which a subclass scales.

    The numbers are those of `audio.features`, within rounding; keras.layers.MelSpectrogram's are not, since its filter
    bank is another and its floor that of the whole batch. All samples are taken for present, so the clips of a batch
    are of one length.

    filters: librosa's filter bank, (bins, 1 + fft_length // 2). It is kept with the weights and not trained; a layer
    that is loaded gets it from there. Computes in float32 under every precision policy, but the Fourier transform in
    float64, since float32's rounding would show next to a loud tone. Gives no implicit mask.
    """

    bins, fft_length, hop_length = MEL_BINS, FFT_LENGTH, HOP_LENGTH

    def __init__(self, filters: np.ndarray | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        initial = "zeros" if filters is None else keras.initializers.Constant(filters)
        self.filters = self.add_weight((self.bins, 1 + self.fft_length // 2), initial, trainable=False, name="filters")

    def call(self, samples: Tensor) -> Tensor:
        margin = self.fft_length // 2
        padded = tf.pad(tf.cast(samples, tf.float64), ((0, 0), (margin, margin)))
        spectrum = tf.signal.stft(padded, self.fft_length, self.hop_length)  # its window is librosa's: periodic Hann
        return tf.cast(tf.abs(spectrum) ** 2, tf.float32) @ tf.transpose(self.filters)

    def get_config(self) -> dict[str, Any]:
        return super().get_config()  # the filters come with the weights


@keras.saving.register_keras_serializable(PACKAGE)
class LogMelSpectrogram(MelPower):
    """(batch, samples) at SAMPLE_RATE -> (batch, 1 + samples // HOP_LENGTH, 128): the mel rows of fused arrays.

    In dB below each clip's own maximum, at least MEL_FLOOR_DB.
    """

    def call(self, samples: Tensor) -> Tensor:
        decibels = tf.math.log(tf.maximum(super().call(samples), LEAST_POWER)) * (10 / math.log(10))
        loudest = tf.reduce_max(decibels, axis=(1, 2), keepdims=True)
        return tf.maximum(decibels - loudest, MEL_FLOOR_DB)


@keras.saving.register_keras_serializable(PACKAGE)
class Logmel(MelPower):
    """(batch, samples) at LOGMEL_SAMPLE_RATE -> (batch, 1 + samples // LOGMEL_HOP_LENGTH, 96): log10(1 + 10000 power).

    The level is that of the samples, from -1 to 1.
    """

    bins, fft_length, hop_length = LOGMEL_BINS, LOGMEL_FFT_LENGTH, LOGMEL_HOP_LENGTH

    def call(self, samples: Tensor) -> Tensor:
        return tf.math.log1p(1e4 * super().call(samples)) / math.log(10)

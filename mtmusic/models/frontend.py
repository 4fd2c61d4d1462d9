"""Layers that compute mel or logmel spectrograms from samples, so that an exported model takes audio."""

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
"""Lower powers are set to this, as in librosa.power_to_db. So all values of a silent clip are 0 dB, its maximum."""


class MelPower(Float32Layer):
    """Power in mel bands. Subclasses scale it.

    Takes samples `(batch, samples)`, and returns `(batch, 1 + samples // hop_length, bins)`. The values are those of
    `audio.features` apart from rounding. keras.layers.MelSpectrogram has another filter bank, and one floor for the
    whole batch. The layer computes in float32 under every dtype policy. Its Fourier transform is in float64, because
    rounding errors of float32 would be visible next to a loud tone.

    Masking: all samples are present, so the clips of a batch must have one length. The layer neither uses nor creates a
    Keras mask.

    Args:
        filters: librosa's filter bank, `(bins, 1 + fft_length // 2)`. It is stored with the weights and is not trained.
            A loaded layer gets it from the stored weights.
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.audio.features import mel_filters
        >>> from mtmusic.models.frontend import MelPower
        >>> tone = np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050)[None]
        >>> layer = MelPower(mel_filters())
        >>> power, louder = layer(tone).numpy(), layer(2 * tone).numpy()
        >>> power.shape, round(float(louder.max() / power.max()), 3)  # twice the amplitude, four times the power
        ((1, 44, 128), 4.0)
    """

    bins, fft_length, hop_length = MEL_BINS, FFT_LENGTH, HOP_LENGTH

    def __init__(self, filters: np.ndarray | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        initial = "zeros" if filters is None else keras.initializers.Constant(filters)
        self.filters = self.add_weight((self.bins, 1 + self.fft_length // 2), initial, trainable=False, name="filters")

    def call(self, samples: Tensor) -> Tensor:
        margin = self.fft_length // 2
        padded = tf.pad(tf.cast(samples, tf.float64), ((0, 0), (margin, margin)))
        spectrum = tf.signal.stft(padded, self.fft_length, self.hop_length)  # by default periodic Hann windows
        return tf.cast(tf.abs(spectrum) ** 2, tf.float32) @ tf.transpose(self.filters)

    def get_config(self) -> dict[str, Any]:
        return super().get_config()  # the filters come with the weights


@keras.saving.register_keras_serializable(PACKAGE)
class LogMelSpectrogram(MelPower):
    """The mel rows of fused arrays, in dB relative to each clip's maximum, at least MEL_FLOOR_DB (-80).

    Takes samples `(batch, samples)` at SAMPLE_RATE (22,050 Hz), and returns `(batch, 1 + samples // 512, 128)`. See
    `MelPower` for arguments and masking.

    Examples:
        >>> from mtmusic.audio.features import mel_filters
        >>> from mtmusic.models.frontend import LogMelSpectrogram
        >>> LogMelSpectrogram(mel_filters())(np.zeros((1, 22_050), "float32")).shape
        TensorShape([1, 44, 128])
    """

    def call(self, samples: Tensor) -> Tensor:
        decibels = tf.math.log(tf.maximum(super().call(samples), LEAST_POWER)) * (10 / math.log(10))
        loudest = tf.reduce_max(decibels, axis=(1, 2), keepdims=True)
        return tf.maximum(decibels - loudest, MEL_FLOOR_DB)


@keras.saving.register_keras_serializable(PACKAGE)
class Logmel(MelPower):
    """Logmel: log10(1 + 10000 * power). It keeps the level of the samples, which are from -1 to 1.

    Takes samples `(batch, samples)` at LOGMEL_SAMPLE_RATE (16,000 Hz), and returns `(batch, 1 + samples // 256, 96)`.
    See `MelPower` for arguments and masking.

    Examples:
        >>> from mtmusic.audio.features import logmel_filters
        >>> from mtmusic.models.frontend import Logmel
        >>> silence = Logmel(logmel_filters())(np.zeros((1, 16_000), "float32"))
        >>> silence.shape, float(silence.numpy().max())
        (TensorShape([1, 63, 96]), 0.0)
    """

    bins, fft_length, hop_length = LOGMEL_BINS, LOGMEL_FFT_LENGTH, LOGMEL_HOP_LENGTH

    def call(self, samples: Tensor) -> Tensor:
        return tf.math.log1p(1e4 * super().call(samples)) / math.log(10)

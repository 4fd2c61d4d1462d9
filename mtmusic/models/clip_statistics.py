"""Layers that compute classic statistics of a clip, a few hundred numbers.

The layers have no weights, so a few hundred songs are enough to train a head on them. All take the output of
`SpectrogramNormalization`, `(batch, frames, bins)`. `MFCC` keeps the frames. The others also take `present`,
`(batch, frames)` bool, and return `(batch, features)`.

Masking: absent frames are at the end of a clip, and are left out of the statistics. The layers use no Keras mask.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.fft import dct

from mtmusic.models.layers import PACKAGE, Float32Layer, Tensor

SMALLEST_VARIANCE = 1e-8
"""Added before a square root, so that no deviation is 0."""

SMALLEST_EIGENVALUE = 1e-2
"""Added to each eigenvalue. Some eigenvalues of a few frames are 0, which has no logarithm."""


@keras.saving.register_keras_serializable(PACKAGE, name="CepstralCoefficients")
class MFCC(Float32Layer):
    """Cepstral coefficients of each frame: the first coefficients of the orthonormal DCT-II over the bins.

    Takes levels `(batch, frames, bins)`, and returns `(batch, frames, coefficients)`. For a mel spectrogram the
    coefficients describe the shape of the spectrum in a few nearly uncorrelated numbers (Davis and Mermelstein 1980).

    Masking: absent frames are computed like the others. The layer uses no Keras mask.

    Args:
        coefficients: Number of coefficients.
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.clip_statistics import MFCC
        >>> MFCC(20)(np.zeros((2, 30, 128))).shape
        TensorShape([2, 30, 20])
    """

    def __init__(self, coefficients: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.coefficients = coefficients

    def call(self, x: Tensor) -> Tensor:
        matrix = dct(np.eye(x.shape[-1]), norm="ortho")[:, : self.coefficients]
        return ops.matmul(x, ops.convert_to_tensor(matrix, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "coefficients": self.coefficients}


@keras.saving.register_keras_serializable(PACKAGE, name="FrameMoments")
class StatisticsPooling(Float32Layer):
    """Mean and standard deviation over present frames.

    Takes `x`, `(batch, frames, bins)`, and `present`, `(batch, frames)` bool; returns `(batch, 2 * bins)`.

    Masking: absent frames do not count. The layer uses no Keras mask.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.clip_statistics import StatisticsPooling
        >>> x, present = np.array([[[1.0], [3.0], [9.0]]]), np.array([[True, True, False]])
        >>> StatisticsPooling()(x, present).numpy()
        array([[2., 1.]], dtype=float32)
    """

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        mean, variance = _moments(x, present)
        return ops.concatenate([mean, _root(variance)], axis=-1)


@keras.saving.register_keras_serializable(PACKAGE, name="FrameChanges")
class DeltaStatistics(Float32Layer):
    """Standard deviation of the differences from frame to frame. It is nearly 0 for a single frame.

    Takes `x`, `(batch, frames, bins)`, and `present`, `(batch, frames)` bool; returns `(batch, bins)`.

    Masking: absent frames do not count. The layer uses no Keras mask.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.clip_statistics import DeltaStatistics
        >>> x, present = np.array([[[1.0], [2.0], [5.0]]]), np.array([[True, True, True]])
        >>> DeltaStatistics()(x, present).numpy()  # of the differences 1 and 3
        array([[1.]], dtype=float32)
    """

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        _, variance = _moments(x[:, 1:] - x[:, :-1], present[:, 1:])
        return _root(variance)


@keras.saving.register_keras_serializable(PACKAGE)
class GaussianEmbedding(Float32Layer):
    """Embeds the Gaussian of a clip's frames as a vector.

    Takes `x`, `(batch, frames, bins)`, and `present`, `(batch, frames)` bool; returns
    `(batch, (bins + 1) * (bins + 2) / 2)`.

    The mean m and the covariance C form one positive definite matrix, [[C + m m', m], [m', 1]] (Calvo and Oller 1990).
    Euclidean distances between the logarithms of such matrices compare Gaussians (Arsigny et al. 2006). The features
    are the upper triangle of the logarithm, row by row. Values off the diagonal are multiplied by the square root of 2,
    so that distances of features equal distances of matrices. Mandel and Ellis (2005) describe a song by the Gaussian
    of its cepstral coefficients.

    Masking: absent frames do not count. The layer uses no Keras mask.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.clip_statistics import GaussianEmbedding
        >>> x = np.random.default_rng(0).normal(size=(2, 30, 20))
        >>> GaussianEmbedding()(x, np.full((2, 30), True)).shape  # 21 * 22 / 2
        TensorShape([2, 231])
    """

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        x = ops.concatenate([x, ops.ones_like(x[..., :1])], axis=-1)
        values, vectors = ops.eigh(_mean_products(x, x, present))
        logarithms = ops.log(ops.maximum(values, 0) + SMALLEST_EIGENVALUE)
        logarithm = ops.einsum("bik,bk,bjk->bij", vectors, logarithms, vectors)
        size = x.shape[-1]
        rows, columns = np.triu_indices(size)
        scale = ops.convert_to_tensor(np.where(rows == columns, 1, 2**0.5), "float32")
        return ops.take(ops.reshape(logarithm, (-1, size**2)), rows * size + columns, axis=1) * scale


@keras.saving.register_keras_serializable(PACKAGE)
class ChromaIntervals(Float32Layer):
    """Describes the intervals of a clip independently of its key. A transposed song has the same features.

    Takes `chroma`, `(batch, frames, 12)`, and `present`, `(batch, frames)` bool; returns `(batch, 32)`:

    - 7 magnitudes of the Fourier coefficients over the pitch classes of the mean frame, and 7 such magnitudes of each
      frame, averaged over frames
    - 6 correlations over frames between two pitch classes 1 to 6 semitones apart, averaged over the 12 pairs
    - 12 products of a frame with the next one, shifted by 0 to 11 semitones, averaged over pitch classes and frames

    Masking: absent frames do not count. The layer uses no Keras mask.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.clip_statistics import ChromaIntervals
        >>> chroma, present = np.random.default_rng(0).uniform(size=(1, 30, 12)), np.full((1, 30), True)
        >>> features = ChromaIntervals()(chroma, present)
        >>> transposed = ChromaIntervals()(np.roll(chroma, 2, axis=2), present)
        >>> features.shape, np.allclose(features, transposed, atol=1e-3)
        (TensorShape([1, 32]), True)
    """

    def call(self, chroma: Tensor, present: Tensor) -> Tensor:
        classes = chroma.shape[-1]
        mean, variance = _moments(chroma, present)
        sizes, _ = _moments(_fourier_sizes(chroma), present)
        deviations = _root(variance)
        scale = deviations[:, :, None] * deviations[:, None]
        away = chroma - mean[:, None]
        together = _interval_means(_mean_products(away, away, present) / scale)[:, 1 : classes // 2 + 1]
        following = _interval_means(_mean_products(chroma[:, 1:], chroma[:, :-1], present[:, 1:]))
        return ops.concatenate([_fourier_sizes(mean), sizes, together, following], axis=-1)


@keras.saving.register_keras_serializable(PACKAGE, name="SpectralRoughness")
class SpectralVariation(Float32Layer):
    """The difference in level of neighbouring bins, averaged over frames and over 7 neighbours.

    It is high for single tones and low for noise. Takes `x`, `(batch, frames, bins)`, and `present`, `(batch, frames)`
    bool; returns `(batch, (bins - 1) // 7)`.

    Masking: absent frames do not count. The layer uses no Keras mask.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.clip_statistics import SpectralVariation
        >>> x = np.array([[[0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 2.0]]])  # one frame of eight bins
        >>> SpectralVariation()(x, np.array([[True]])).numpy()
        array([[2.]], dtype=float32)
    """

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        mean, _ = _moments(ops.abs(x[:, :, 1:] - x[:, :, :-1]), present)
        groups = mean.shape[1] // 7
        return ops.mean(ops.reshape(mean[:, : 7 * groups], (-1, groups, 7)), axis=-1)


def _weights(present: Tensor) -> Tensor:
    """(batch, frames) bool -> (batch, frames, 1), with 0 and 1."""
    return ops.expand_dims(ops.cast(present, "float32"), -1)


def _moments(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, frames, bins) -> mean and variance over present frames, (batch, bins) each. 0 without present frames."""
    weights = _weights(present)
    count = ops.maximum(ops.sum(weights, axis=1), 1)
    mean = ops.sum(x * weights, axis=1) / count
    return mean, ops.sum(ops.square(x - mean[:, None]) * weights, axis=1) / count


def _mean_products(x: Tensor, y: Tensor, present: Tensor) -> Tensor:
    """x and y (batch, frames, bins) -> (batch, bins, bins): products of each two bins, averaged over present frames."""
    weights = _weights(present)
    count = ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)
    return ops.einsum("bti,btj->bij", x * weights, y) / count


def _root(variance: Tensor) -> Tensor:
    return ops.sqrt(variance + SMALLEST_VARIANCE)


def _fourier_sizes(x: Tensor) -> Tensor:
    """(..., classes) -> (..., classes // 2 + 1): magnitudes of the Fourier coefficients."""
    basis = np.fft.rfft(np.eye(x.shape[-1]))
    real, imaginary = (ops.matmul(x, ops.convert_to_tensor(part, "float32")) for part in (basis.real, basis.imag))
    return _root(ops.square(real) + ops.square(imaginary))


def _interval_means(pairs: Tensor) -> Tensor:
    """(batch, classes, classes) -> (batch, classes): for each k the mean of the entries [i, (i + k) % classes]."""
    classes = pairs.shape[-1]
    places = np.arange(classes)
    diagonals = places * classes + (places + places[:, None]) % classes  # a row for each k
    flat = ops.take(ops.reshape(pairs, (-1, classes**2)), diagonals.ravel(), axis=1)
    return ops.mean(ops.reshape(flat, (-1, classes, classes)), axis=-1)

"""A Conv2D with fewer multiplications on a CPU: Winograd's minimal filtering along the frames."""

from functools import cache

import keras
import numpy as np
import tensorflow as tf

from mtmusic.models.cpu import is_quicker
from mtmusic.models.layers import PACKAGE, Tensor

TAPS = 5
"""Frames of the kernels for which the method is used. With 3 frames it is not faster."""

TILE = 4
"""Frames of the output that are computed together."""

POINTS = (0, 1, -1, 2, -2, 1 / 2, -1 / 2)
"""The points at which the polynomials are evaluated, in addition to infinity. Small points keep rounding errors low."""

FEWEST_WEIGHTS = 64 * 64
"""With fewer channels times filters, the transforms take more time than they save."""

MOST_FRAMES = 128
"""With more frames too, because one matrix transforms all frames."""


@keras.saving.register_keras_serializable(PACKAGE)
class WinogradConv2D(keras.layers.Conv2D):
    """Keras's Conv2D with 8 multiplications instead of 20. The result differs only by rounding.

    Takes `(batch, frames, bins, channels)`, and returns `(batch, frames, bins, filters)`. Arguments and weights are
    those of `keras.layers.Conv2D`.

    Four frames of the result, with five taps each, are a product of polynomials. Input and kernel are evaluated at
    eight points, multiplied there by a convolution along the bins, and the result is interpolated. Evaluation and
    interpolation are products with small matrices. The method is used for kernels of five frames, strides of 1 and
    "same" padding, in float32, with many channels and filters and few frames, without LoRA, and if no GPU is visible.
    Otherwise the layer computes as its parent class does. If a value of a clip is not finite, all values of the clip
    become so.

    Masking: as in Conv2D, the layer neither uses nor passes on a Keras mask.

    Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, here in one dimension.

    Examples:
        >>> from mtmusic.models.cpu.convolution import WinogradConv2D
        >>> layer = WinogradConv2D(64, 5, padding="same", kernel_initializer="ones")
        >>> result = layer(np.ones((1, 8, 8, 64), "float32"))
        >>> result.shape, round(float(result[0, 4, 4, 0]))  # 5 * 5 * 64
        (TensorShape([1, 8, 8, 64]), 1600)
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        plain = super().convolution_op
        if not self._takes_winograd(inputs):
            return plain(inputs, kernel)
        kernel = tf.convert_to_tensor(kernel)
        if inputs.shape[1] is not None:
            return _winograd(inputs, kernel) if inputs.shape[1] <= MOST_FRAMES else plain(inputs, kernel)
        few = tf.shape(inputs)[1] <= MOST_FRAMES
        return tf.cond(few, lambda: _winograd(inputs, kernel), lambda: plain(inputs, kernel))

    def _takes_winograd(self, inputs: Tensor) -> bool:
        steps = {"strides": (1, 1), "dilation_rate": (1, 1), "groups": 1, "lora_enabled": False}
        return (
            is_quicker(self, steps | {"padding": "same", "data_format": "channels_last"})
            and self.kernel_size[0] == TAPS
            and inputs.dtype == tf.float32
            and inputs.shape[-1] * self.filters >= FEWEST_WEIGHTS
        )


def _winograd(x: Tensor, kernel: Tensor) -> Tensor:
    """x (batch, frames, bins, channels), kernel (5, any, channels, filters) -> (batch, frames, bins, filters)."""
    batch, frames, bins = (known or tf.shape(x)[axis] for axis, known in enumerate(x.shape[:3]))
    tiles = (frames + TILE - 1) // TILE
    of_tiles, of_kernel, of_frames = _matrices(x.shape[1] or MOST_FRAMES)
    points = len(of_kernel)
    evaluate = tf.reshape(tf.constant(of_tiles, x.dtype)[:, :tiles, :frames], [points * tiles, frames])
    interpolate = tf.reshape(tf.constant(of_frames, x.dtype)[:frames, :, :tiles], [frames, points * tiles])

    by_frame = tf.reshape(tf.transpose(x, [1, 0, 2, 3]), [frames, batch * bins * x.shape[3]])
    inputs = tf.reshape(tf.matmul(evaluate, by_frame), [points, tiles * batch, 1, bins, x.shape[3]])
    kernels = tf.tensordot(tf.constant(of_kernel, x.dtype), kernel, 1)[:, None]
    pairs = zip(tf.unstack(inputs), tf.unstack(kernels), strict=True)
    products = tf.stack([tf.nn.conv2d(values, weights, 1, "SAME") for values, weights in pairs])
    outputs = tf.matmul(interpolate, tf.reshape(products, [points * tiles, batch * bins * kernel.shape[3]]))
    return tf.transpose(tf.reshape(outputs, [frames, batch, bins, kernel.shape[3]]), [1, 0, 2, 3])


@cache
def _matrices(frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices for up to `frames` frames: (points, tiles, frames), (points, TAPS) and (frames, points, tiles), float64.

    The first evaluates the overlapping tiles of the input, without columns for the padding. The second evaluates the
    kernel. The third interpolates the frames of the result from the products.
    """
    window = TILE + TAPS - 1
    evaluate = np.linalg.inv(_powers(window)).T
    largest = np.abs(evaluate).max(axis=1, keepdims=True)
    evaluate, of_kernel, interpolate = evaluate / largest, _powers(TAPS) * largest, _powers(TILE).T

    tiles = (frames + TILE - 1) // TILE
    of_tiles = np.zeros((window, tiles, tiles * TILE + TAPS - 1))
    of_frames = np.zeros((tiles * TILE, window, tiles))
    for tile in range(tiles):
        first = tile * TILE
        of_tiles[:, tile, first : first + window] = evaluate
        of_frames[first : first + TILE, :, tile] = interpolate
    return of_tiles[:, :, TAPS // 2 : TAPS // 2 + frames], of_kernel, of_frames[:frames]


def _powers(count: int) -> np.ndarray:
    """(points, count): powers 0 to count - 1 of each point. At infinity only the highest power counts."""
    infinity = np.eye(count)[-1:]
    return np.concatenate([np.vander(np.array(POINTS, float), count, increasing=True), infinity])

"""Normalisation, the mask of present frames, and pooling that sees only those.

The mask is an ordinary tensor, handed from layer to layer: Keras's implicit mask does not pass a Conv2D.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from mtmusic.constants import MEL_FLOOR_DB, PAD_VALUE
from mtmusic.models.distribution import replicas, sum_over_replicas

PACKAGE = "mtmusic"


@keras.saving.register_keras_serializable(PACKAGE)
class SpectrogramNormalization(keras.layers.Layer):
    """Mel's [-80, 0] dB and chroma's [0, 1] to [-1, 1]; absent frames to 0.

    Fixed ranges, no statistics of a training set: the model takes what is on disk, and fine-tuning changes nothing
    here. Computes in float32 under every precision policy. Gives no implicit mask: see FrameMask.

    (batch, frames, bins) -> (batch, frames, bins); the first `mel_bins` bins are mel, the others chroma.
    """

    def __init__(self, mel_bins: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.mel_bins = mel_bins

    def call(self, spectrogram: Any) -> Any:
        mel = spectrogram[..., : self.mel_bins] * (-2 / MEL_FLOOR_DB) + 1
        chroma = spectrogram[..., self.mel_bins :] * 2 - 1
        present = ops.any(spectrogram != PAD_VALUE, axis=-1, keepdims=True)
        return ops.where(present, ops.concatenate([mel, chroma], axis=-1), 0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mel_bins": self.mel_bins}


@keras.saving.register_keras_serializable(PACKAGE)
class FrameMask(keras.layers.Layer):
    """(batch, frames, bins) in the array's own units -> (batch, frames) bool: which frames are not padding.

    A frame is absent where every bin holds PAD_VALUE; a silent frame is present.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, spectrogram: Any) -> Any:
        return ops.any(spectrogram != PAD_VALUE, axis=-1)


@keras.saving.register_keras_serializable(PACKAGE)
class StridedMask(keras.layers.Layer):
    """(batch, frames) bool -> (batch, ceil(frames / stride), 1) bool: which frames are present after pooling.

    Absent frames stand at the end, so a pooled frame is present where the first of its frames is.
    """

    def __init__(self, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, mask: Any) -> Any:
        return ops.expand_dims(mask[:, :: self.stride], -1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stride": self.stride}


@keras.saving.register_keras_serializable(PACKAGE)
class ZeroAbsentFrames(keras.layers.Layer):
    """Sets absent frames to 0, what 'same' padding puts beyond the last frame: so no neighbour hears them.

    x (batch, frames, bins, channels), present (batch, frames, 1) bool -> the shape of x. Ends the implicit mask that
    BatchNormalization makes of its `mask` argument and Conv2D would warn of.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        return None

    def call(self, x: Any, present: Any) -> Any:
        return ops.where(ops.expand_dims(present, -1), x, ops.zeros((), x.dtype))


@keras.saving.register_keras_serializable(PACKAGE)
class MaskedAveragePooling(keras.layers.Layer):
    """The mean over present frames.

    x (batch, frames, bins, channels), present (batch, frames, 1) bool -> (batch, bins * channels), float32 under every
    precision policy.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, x: Any, present: Any) -> Any:
        x = ops.reshape(x, (*ops.shape(x)[:2], x.shape[2] * x.shape[3]))
        weights = ops.cast(present, x.dtype)
        return ops.sum(x * weights, axis=1) / ops.sum(weights, axis=1)

    def compute_output_shape(self, x_shape: tuple, present_shape: tuple) -> tuple:
        return (x_shape[0], x_shape[2] * x_shape[3])


@keras.saving.register_keras_serializable(PACKAGE)
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's BatchNormalization over the last axis, of (batch, frames, bins, channels) in TensorFlow's fused kernel.

    Keras takes mean, variance and scaling in separate passes over the activations, and more of them where there is a
    mask; with the kernel the CNN's training step is nearly twice as fast, with a mask too (benchmarks/). The
    numbers are Keras's, the moving variance included. Statistics are float32 under every precision policy. Where
    several devices part a batch, they are those of all of it, with a mask too, which Keras does not do. Takes
    (batch, features) too, without a mask. Raises ValueError for other shapes, and for Keras's options that the kernel
    has not: another axis, no centre, no scale, renorm.

    mask (batch, frames, 1) bool: absent frames stay out of the statistics while training; what comes out for them is
    of no meaning, and the gradients that arrive for them must be 0: ZeroAbsentFrames follows.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        known = {"axis": -1, "center": True, "scale": True, "renorm": False}
        if foreign := [name for name, value in known.items() if getattr(self, name, value) != value]:
            raise ValueError(f"Expected BatchNormalization as Keras has it by default, got another {foreign[0]}")

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if len(inputs.shape) not in (2, 4):
            raise ValueError(f"Expected (batch, features) or (batch, frames, bins, channels), got {inputs.shape}")
        if len(inputs.shape) == 2:
            if mask is not None:
                raise ValueError(f"Expected (batch, frames, bins, channels) beside a mask, got {inputs.shape}")
            return self.call(inputs[:, None, None], training)[:, 0, 0]
        gamma, beta = tf.identity(self.gamma.value), tf.identity(self.beta.value)
        usual_mean, usual_variance = tf.identity(self.moving_mean.value), tf.identity(self.moving_variance.value)
        if not (training and self.trainable):
            return _fused(inputs, gamma, beta, self.epsilon, usual_mean, usual_variance)[0]
        if replicas() > 1 or (mask is not None and tf.config.list_physical_devices("GPU")):
            # on a GPU no deterministic kernel has the gradient that the masked way needs
            outputs, mean, variance = _normalized_in_part(inputs, gamma, beta, self.epsilon, mask)
        elif mask is None:
            outputs, mean, variance = _fused(inputs, gamma, beta, self.epsilon)
        else:
            normalize = _masked_normalization(self.epsilon)
            outputs, mean, variance = normalize(inputs, gamma, beta, mask[..., None], usual_mean)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + tf.stop_gradient(value) * (1.0 - self.momentum))
        return outputs


def _fused(x: Any, gamma: Any, beta: Any, epsilon: float, mean: Any = None, variance: Any = None) -> tuple:
    """x (batch, frames, bins, channels), normalised by the mean and variance given, else by its own; and these two."""
    training = mean is None
    empty = tf.constant([], tf.float32)
    known = {"mean": empty, "variance": empty} if training else {"mean": mean, "variance": variance}
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, epsilon=epsilon, is_training=training, **known
    )
    if training:
        values = _values_per_channel(x)
        variance *= (values - 1) / values  # the kernel's is the unbiased one
    return y, mean, variance


def _values_per_channel(x: Any) -> Any:
    return tf.cast(tf.reduce_prod(tf.shape(x, tf.int64)[:-1]), tf.float32)


def _masked_normalization(epsilon: float) -> Callable[..., tuple]:
    """(x, gamma, beta, present, near) -> (y, mean, variance) of present frames.

    x (batch, frames, bins, channels), present (batch, frames, 1, 1) bool, near (channels,): a value near the mean.
    Absent frames are set to it, so that the kernel's mean and variance of all frames tell those of the present ones,
    and a variance that is small beside the mean loses no digits.
    """

    @tf.custom_gradient
    def normalize(x: Any, gamma: Any, beta: Any, present: Any, near: Any) -> tuple:
        fill = tf.cast(near, x.dtype)
        x = tf.where(present, x, fill)
        count = tf.maximum(tf.reduce_sum(tf.cast(present, tf.float32)) * tf.cast(tf.shape(x)[2], tf.float32), 1.0)
        share = _values_per_channel(x) / count
        _, mean_of_all, variance_of_all = _fused(x, gamma, beta, epsilon)
        away = mean_of_all - tf.cast(fill, tf.float32)
        mean = tf.cast(fill, tf.float32) + away * share
        variance = tf.maximum((variance_of_all + away**2) * share - (away * share) ** 2, 0.0)

        def gradient(dy: Any, *_: Any) -> tuple:
            """Of the statistics too, which the kernel's gradient for a known mean and variance leaves out."""
            dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.constant([], tf.float32),
                epsilon=epsilon,
                is_training=False,
            )
            inverse = tf.math.rsqrt(variance + epsilon)
            slope = gamma * inverse**2 * dgamma / count
            offset = gamma * inverse * dbeta / count - slope * mean
            through_statistics = tf.cast(tf.cast(x, tf.float32) * slope + offset, x.dtype)
            return tf.where(present, dx - through_statistics, tf.zeros((), x.dtype)), dgamma, dbeta, None, None

        return (_fused(x, gamma, beta, epsilon, mean, variance)[0], mean, variance), gradient

    return normalize


def _normalized_in_part(x: Any, gamma: Any, beta: Any, epsilon: float, mask: Any) -> tuple:
    """One device's part of a batch, normalised by the mean and variance of all of it; and these two.

    x (batch, frames, bins, channels), mask (batch, frames, 1) bool or None.
    """
    values = ops.cast(x, "float32")
    counted = ops.ones_like(values[..., :1]) if mask is None else ops.cast(ops.expand_dims(mask, -1), "float32")
    counted = ops.broadcast_to(counted, (*ops.shape(values)[:-1], 1))
    count = sum_over_replicas(_sum_channels(counted))
    mean = sum_over_replicas(_sum_channels(values * counted)) / count
    variance = sum_over_replicas(_sum_channels(ops.square(values - mean) * counted)) / count
    return ops.cast(ops.batch_normalization(values, mean, variance, -1, beta, gamma, epsilon), x.dtype), mean, variance


def _sum_channels(x: Any) -> Any:
    """(batch, frames, bins, channels) -> (channels,), axis by axis: at once, a CPU's rounding reaches 0.001."""
    return ops.sum(ops.sum(ops.sum(x, axis=2), axis=1), axis=0)

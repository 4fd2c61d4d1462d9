"""A BatchNormalization with fewer passes over the activations."""

import keras
import tensorflow as tf
from keras import ops

from mtmusic.models.cpu import is_quicker
from mtmusic.models.distribution import replicas, sum_over_replicas
from mtmusic.models.layers import PACKAGE, Tensor


@keras.saving.register_keras_serializable(PACKAGE)
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's BatchNormalization by TensorFlow's fused kernel, which passes over the activations fewer times.

    Takes and returns `(batch, features)`, `(batch, frames, channels)` or `(batch, frames, bins, channels)`. Arguments
    and weights are those of `keras.layers.BatchNormalization`.

    Keras computes mean, variance and scaling in separate passes, and needs more passes with a mask. With the kernel the
    CNN's training step is nearly twice as fast, also with a mask (benchmarks/). If several devices share a batch, the
    statistics are those of the whole batch. The kernel is used if the last axis is normalised, with centre and scale.
    With a mask it is used only if no GPU is visible, because GPUs have no deterministic kernel with the gradient that
    it needs. Otherwise the layer computes as its parent class does.

    Masking: `mask`, `(batch, frames, 1 or bins)` bool, marks the present frames. Absent frames are left out of the
    statistics.

    Examples:
        >>> from mtmusic.models.cpu.normalization import FusedBatchNormalization
        >>> x = np.array([1.0, 3.0, 9.0], "float32").reshape(1, 3, 1, 1)
        >>> present = np.array([[[True], [True], [False]]])  # frames with mean 2 and deviation 1
        >>> FusedBatchNormalization()(x, training=True, mask=present).numpy().round(1).squeeze()
        array([-1.,  1.,  7.], dtype=float32)
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if not self._takes_kernel(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        if len(inputs.shape) == 2:
            return self.call(inputs[:, None, None], training)[:, 0, 0]
        if len(inputs.shape) == 3:
            return self.call(inputs[:, :, None], training)[:, :, 0]
        gamma, beta = tf.identity(self.gamma.value), tf.identity(self.beta.value)
        usual_mean, usual_variance = tf.identity(self.moving_mean.value), tf.identity(self.moving_variance.value)
        if not (training and self.trainable):
            return _fused(inputs, gamma, beta, self.epsilon, usual_mean, usual_variance)[0]
        if mask is not None:
            mask = tf.broadcast_to(tf.cast(mask, tf.bool), tf.shape(inputs)[:-1])[..., None]
        if replicas() > 1:
            outputs, mean, variance = _normalized_over_replicas(inputs, gamma, beta, self.epsilon, mask)
        elif mask is None:
            outputs, mean, variance = _fused(inputs, gamma, beta, self.epsilon)
        else:
            outputs, mean, variance = _normalized_under_mask(inputs, gamma, beta, self.epsilon, mask, usual_mean)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + tf.stop_gradient(value) * (1.0 - self.momentum))
        return outputs

    def _takes_kernel(self, inputs: Tensor, mask: Tensor | None) -> bool:
        options = {"axis": -1, "center": True, "scale": True, "renorm": False, "variable_dtype": "float32"}
        shapes = (len(inputs.shape), None if mask is None else len(mask.shape))
        return (
            is_quicker(self, options, on_gpu=mask is None or replicas() > 1)
            and shapes in ((2, None), (3, None), (4, None), (4, 3))
            and inputs.dtype == self.compute_dtype != "float64"
        )


def _fused(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, *known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises x (batch, frames, bins, channels) by known mean and variance or by its own. Returns all three."""
    mean, variance = known or [tf.constant([], tf.float32)] * 2
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=not known
    )
    if not known:
        values = _values_per_channel(x)
        variance *= (values - 1) / values  # the kernel's variance is the unbiased one
    return y, mean, variance


def _values_per_channel(x: Tensor) -> Tensor:
    return tf.cast(tf.reduce_prod(tf.shape(x, tf.int64)[:-1]), tf.float32)


def _normalized_under_mask(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, present: Tensor, near: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises x by the mean and the variance of its present values. Returns all three.

    The kernel computes the statistics of all values, with absent ones set to `near`. The statistics of the present
    values follow from these. `near` is close to the mean, so a variance that is small compared with it stays exact.
    x: (batch, frames, bins, channels). present: (batch, frames, bins, 1) bool. near: (channels,).
    """
    fill = tf.cast(near, x.dtype)
    known = tf.reduce_sum(tf.cast(present, tf.float32))
    count = tf.maximum(known, 1.0)

    @tf.custom_gradient
    def normalize(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple:
        share = _values_per_channel(x) / count
        _, mean_of_all, variance_of_all = _fused(tf.where(present, x, fill), gamma, beta, epsilon)
        away = mean_of_all - tf.cast(fill, tf.float32)
        mean = (tf.cast(fill, tf.float32) + away * share) * tf.minimum(known, 1.0)  # 0 without values, as in Keras
        variance = tf.maximum((variance_of_all + away**2) * share - (away * share) ** 2, 0.0)

        def gradient(dy: Tensor, *_: Tensor) -> tuple:
            """Adds the gradient through the statistics, which the kernel's gradient leaves out."""
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
            return dx - tf.where(present, through_statistics, tf.zeros((), x.dtype)), dgamma, dbeta

        return (_fused(x, gamma, beta, epsilon, mean, variance)[0], mean, variance), gradient

    return normalize(x, gamma, beta)


def _normalized_over_replicas(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, present: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises a replica's share of a batch by the mean and the variance of the whole batch. Returns all three.

    x: (batch, frames, bins, channels). present: (batch, frames, bins, 1) bool or None.
    """
    values = ops.cast(x, "float32")
    counted = ops.ones_like(values[..., :1]) if present is None else ops.cast(present, "float32")
    count = ops.maximum(sum_over_replicas(_sum_channels(counted)), 1)
    mean = sum_over_replicas(_sum_channels(values * counted)) / count
    variance = sum_over_replicas(_sum_channels(ops.square(values - mean) * counted)) / count
    return ops.cast(ops.batch_normalization(values, mean, variance, -1, beta, gamma, epsilon), x.dtype), mean, variance


def _sum_channels(x: Tensor) -> Tensor:
    """(batch, frames, bins, channels) -> (channels,). Sums axis by axis: a single sum has errors up to 0.001."""
    return ops.sum(ops.sum(ops.sum(x, axis=2), axis=1), axis=0)

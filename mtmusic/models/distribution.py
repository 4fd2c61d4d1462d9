"""Splits each batch across the devices of one machine. The result matches a single device, apart from rounding.

Each device has a copy of the network, and all copies have the same weights. Loss and normalisation are computed over
the whole batch, so a device's share may have any number of clips, even none. Only the random numbers of dropout differ.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from mtmusic.errors import UserError


def find_devices(wanted: str) -> list[str]:
    """Returns the names of the first N devices, or of "all" devices: the GPUs if there are any, else the CPU.

    A CPU with all its cores is one device, unless the process has split it into logical devices. Raises UserError if
    there are fewer devices, or if `wanted` is neither a number above 0 nor "all".
    """
    gpus = tf.config.list_logical_devices("GPU")
    names = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    if wanted == "all":
        return names
    if not wanted.isdecimal() or int(wanted) < 1:
        raise UserError(f'Expected `devices` of 1 or more, or "all", got {wanted}')
    if int(wanted) > len(names):
        there = f"GPUs: {len(gpus)}" if gpus else "no GPU, and a CPU counts as one device"
        raise UserError(f"Expected `devices` of {len(names)} at most, got {wanted}: TensorFlow sees {there}")
    return names[: int(wanted)]


@contextmanager
def mirrored(model: keras.Model, devices: Sequence[str]) -> Iterator[keras.Model]:
    """Yields a copy of a compiled model whose `fit` trains on these devices, or `model` itself for fewer than two.

    The dataset's batches and their order are those of one device. When the block ends, the copy's weights and its
    optimizer's state are copied to `model`, which stays on a single device. Metrics must be compiled as objects: Keras
    would make metrics given by name within the first step, too late for several devices.
    """
    if len(devices) < 2:
        yield model
        return
    # by copies: collective operations, the default, fail with a second strategy in a process and batches of two sizes
    by_copies = tf.distribute.ReductionToOneDevice()
    copy = _copy(model, tf.distribute.MirroredStrategy(list(devices), cross_device_ops=by_copies))
    _hand_over(model, copy)
    try:
        yield copy
    finally:
        _hand_over(copy, model)


def replicas() -> int:
    """The number of replicas, 1 without `mirrored`."""
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context is not None else 1


def sum_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """Sums a tensor over the replicas. Each replica gets the sum. The gradients are summed too."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


class _Mirrored(keras.Model):
    """A mix-in for a model's class whose steps split each batch (spectrogram, target) across the replicas."""

    strategy: tf.distribute.Strategy

    def train_step(self, data: Any) -> dict[str, Any]:
        self.strategy.run(self._train_on_share, data)
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        self.strategy.run(self._evaluate_share, (*data, False))
        return self.get_metrics_result()

    def _train_on_share(self, spectrogram: tf.Tensor, target: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = self.optimizer.scale_loss(self._evaluate_share(spectrogram, target, True) / replicas())
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    def _evaluate_share(self, spectrogram: tf.Tensor, target: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the loss of the whole batch, from all replicas' predictions. Metrics get only this replica's."""
        clips, first, last = _own_clips(spectrogram)
        start = tf.where(clips < replicas(), 0, first)
        stop = tf.where(clips < replicas(), clips, last)
        own = self(spectrogram[start:stop], training=training)[first - start : last - start]
        predictions = sum_over_replicas(tf.pad(own, [[first, clips - last], [0, 0]]))
        loss = self.compute_loss(y=target, y_pred=predictions, training=training)
        if isinstance(self.loss, keras.losses.Loss):
            loss *= replicas()  # Keras divides only losses of this class by the number of replicas
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=last - first)
        self.compute_metrics(None, target[first:last], own)
        return loss


def _own_clips(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the number of clips in a batch, and the bounds of this replica's share. Shares differ by at most a clip.

    With fewer clips than replicas, some shares are empty. Then each replica computes all clips, because layers may not
    take an empty batch (oneDNN's convolution returns a wrong shape). The statistics are still those of the batch.
    """
    context = tf.distribute.get_replica_context()
    number, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
    clips = tf.shape(batch)[0]
    return clips, clips * number // count, clips * (number + 1) // count


def _copy(model: keras.Model, strategy: tf.distribute.Strategy) -> keras.Model:
    """Copies the model with variables on each device.

    The layers are made within the strategy's scope, and the model outside. So Keras passes whole batches to it, and
    does not take a batch to build it, which would change the order of the shuffle.
    """
    config = model.get_compile_config() | {"jit_compile": False}
    with strategy.scope():
        made = type(model).from_config(model.get_config())
    kind = type("Mirrored", (_Mirrored, type(model)), {})
    copy = kind(made.inputs, made.outputs, name=model.name)
    copy.strategy = strategy
    with strategy.scope():
        copy.compile_from_config(config)
    return copy


def _hand_over(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights, and the optimizer's state if there is one."""
    target.set_weights(source.get_weights())
    if source.optimizer.built:
        state: dict[str, Any] = {}
        source.optimizer.save_own_variables(state)
        target.optimizer.build(target.trainable_variables)
        target.optimizer.load_own_variables(state)

"""Losses that weigh: several tasks as one number, missing labels left out; and clips by their class.

Of tasks, targets and predictions are (batch, tasks); a target that is NaN is a missing label. It counts neither in a
task's sum nor in the number that divides it, and its gradient is zero.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from mtmusic.errors import UserError
from mtmusic.models.layers import PACKAGE, Float32Layer, Tensor

ERRORS = ("mse", "huber")
HUBER_DELTA = 0.1
"""Where Huber's loss turns from square to line. Labels lie in [0, 1], so that 1 would be the squared error alone."""

LOG_VARIANCE_RANGE = (-8.0, 0.0)
"""What learned log-variances are clamped to: standard deviations from 0.018 to 1, of labels in [0, 1]."""


def task_losses(targets: Tensor, predictions: Tensor, tasks: int, error: str = "mse") -> tuple[Tensor, Tensor]:
    """Of each task: its mean error over the labelled clips, 0 where there are none, and their number; (tasks,) both.

    error: "mse", or "huber" (Huber 1964) with HUBER_DELTA. Raises ValueError unless both are (batch, tasks):
    (batch,) against (batch, 1) would broadcast to (batch, batch), and the network would learn the mean.
    """
    sums, counts = _sums(targets, predictions, tasks, error)
    return sums / ops.maximum(counts, 1), counts


def _sums(targets: Tensor, predictions: Tensor, tasks: int, error: str) -> tuple[Tensor, Tensor]:
    shapes = tuple(targets.shape), tuple(predictions.shape)
    batches = {shape[0] for shape in shapes if shape} - {None}
    if any(len(shape) != 2 or shape[1] != tasks for shape in shapes) or len(batches) > 1:
        raise ValueError(f"Expected targets and predictions (batch, {tasks}), got {shapes[0]} and {shapes[1]}")
    known = ops.logical_not(ops.isnan(targets))
    residuals = ops.where(known, targets, 0.0) - predictions  # NaN must not reach the gradient, not even times zero
    errors = ops.square(residuals)
    if error == "huber":
        sizes = ops.abs(residuals)
        errors = ops.where(sizes < HUBER_DELTA, errors / 2, HUBER_DELTA * (sizes - HUBER_DELTA / 2))
    return ops.sum(ops.where(known, errors, 0.0), axis=0), ops.sum(ops.cast(known, "float32"), axis=0)


def complete_weights(
    weights: Mapping[str, float] | None, tasks: Sequence[str], variances: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The weights in the tasks' order; by default one over each task's label variance, else 1.

    Raises UserError for a weight that is missing, unknown, negative or no number, and where all are 0.
    """
    if weights is None:
        return {task: 1 / variances[task] if variances else 1.0 for task in tasks}
    if unknown := sorted({*weights} - {*tasks}):
        raise UserError(f"Expected `weights` of {', '.join(tasks)}, got one of {', '.join(unknown)}")
    if missing := [task for task in tasks if task not in weights]:
        raise UserError(f"Expected `weights` of each task, {', '.join(tasks)}, got none of {', '.join(missing)}")
    if not all(0 <= weights[task] < math.inf for task in tasks) or not any(weights.values()):
        given = ", ".join(f"{task}={weights[task]:g}" for task in tasks)
        raise UserError(f"Expected `weights` of 0 or more, and one above 0, got {given}")
    return {task: float(weights[task]) for task in tasks}


@keras.saving.register_keras_serializable(PACKAGE)
class WeightedLoss(Float32Layer):
    """The weighted sum of the tasks' losses, the lab's step 10: `model.compile(loss=WeightedLoss(tasks, weights))`.

    targets, predictions (batch, tasks), NaN a missing label -> a scalar. weights: by task, else 1 each; the heads give
    one over each label variance (`complete_weights`).
    error: as `task_losses`, which also says what is raised. Holds no variables: learned weights are in
    `TaskUncertainty`.
    """

    def __init__(
        self, tasks: Sequence[str], weights: Mapping[str, float] | None = None, error: str = "mse", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if error not in ERRORS:
            raise ValueError(f"Expected error to be one of {', '.join(ERRORS)}, got {error!r}")
        self.tasks = list(tasks)
        self.task_weights = complete_weights(weights, tasks)
        self.error = error

    def call(self, targets: Tensor, predictions: Tensor) -> Tensor:
        losses, _ = task_losses(targets, predictions, len(self.tasks), self.error)
        return ops.sum(losses * ops.convert_to_tensor(list(self.task_weights.values()), "float32"))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tasks": self.tasks, "weights": self.task_weights, "error": self.error}


@keras.saving.register_keras_serializable(PACKAGE)
class TaskUncertainty(Float32Layer):
    """Learned weights: homoscedastic uncertainty (Kendall, Gal and Cipolla 2018, arXiv:1705.07115).

    Stands behind the heads and passes predictions (batch, tasks) on as they are, so that its log-variances are
    variables of the model: trained, saved and resumed with it. `loss` is half the sum over tasks of
    exp(-s) * error + s, s being the task's log-variance. s starts at the label variance's logarithm, and is clamped
    to LOG_VARIANCE_RANGE after each step. The loss falls with the variances too: choose no epoch by it.
    """

    def __init__(self, tasks: Sequence[str], variances: Mapping[str, float], error: str = "mse", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tasks = list(tasks)
        self.variances = {task: float(variances[task]) for task in tasks}
        self.error = error

    def build(self, shape: tuple) -> None:
        start = [math.log(variance) for variance in self.variances.values()]
        self.log_variances = self.add_weight(
            shape=(len(self.tasks),),
            initializer=lambda shape, dtype: ops.clip(ops.convert_to_tensor(start, dtype), *LOG_VARIANCE_RANGE),
            constraint=lambda value: ops.clip(value, *LOG_VARIANCE_RANGE),
            name="log_variances",
        )

    def call(self, predictions: Tensor) -> Tensor:
        return predictions

    def loss(self, targets: Tensor, predictions: Tensor) -> Tensor:
        """A scalar; a task without a label in the batch adds nothing, its log-variance neither."""
        losses, counts = task_losses(targets, predictions, len(self.tasks), self.error)
        terms = ops.exp(-self.log_variances) * losses + self.log_variances
        return ops.sum(ops.where(counts > 0, terms, 0.0)) / 2

    def learned(self) -> dict[str, dict[str, float]]:
        """By task: the log-variance, and the weight exp(-s) / 2 that it gives the task's error."""
        values = ops.convert_to_numpy(self.log_variances).tolist()
        return {
            "log_variances": dict(zip(self.tasks, values, strict=True)),
            "weights": {task: math.exp(-value) / 2 for task, value in zip(self.tasks, values, strict=True)},
        }

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tasks": self.tasks, "variances": self.variances, "error": self.error}


@keras.saving.register_keras_serializable(PACKAGE)
class UncertaintyWeightedModel(keras.Model):
    """A functional model that trains by the loss of its layer "uncertainty", a `TaskUncertainty`.

    A loss given to `compile` would be another layer after loading, with variables that no optimizer knows.
    """

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        return self.get_layer("uncertainty").loss(y, y_pred)


@keras.saving.register_keras_serializable(PACKAGE)
class ClassWeightedCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of logits (batch, classes), each clip's times the weight of its class, a mean over clips.

    Targets are (batch,) class indices. weights: of each class.
    """

    def __init__(self, weights: Sequence[float], name: str = "class_weighted_crossentropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.weights = [float(weight) for weight in weights]

    def call(self, targets: Tensor, logits: Tensor) -> Tensor:
        targets = ops.cast(ops.reshape(targets, (-1,)), "int32")
        losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        return losses * ops.take(ops.convert_to_tensor(self.weights, "float32"), targets)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weights": self.weights}


@keras.saving.register_keras_serializable(PACKAGE)
class NormalizedError(keras.metrics.Metric):
    """The mean over tasks of the squared error over the labels' variance: 1 is what a constant prediction gets.

    Exact over all batches seen, missing labels left out by task; tasks without a label so far do not count.
    variances: by task, of the train labels. Raises ValueError as `task_losses`.
    """

    def __init__(self, variances: Mapping[str, float], name: str = "normalized_mse", **kwargs: Any) -> None:
        super().__init__(name=name, **{"dtype": "float32", **kwargs})
        self.variances = {task: float(variance) for task, variance in variances.items()}
        self.sums, self.counts = (
            self.add_variable((len(self.variances),), "zeros", name=name) for name in ("sums", "counts")
        )

    def update_state(self, targets: Tensor, predictions: Tensor, sample_weight: Tensor | None = None) -> None:
        sums, counts = _sums(targets, predictions, len(self.variances), "mse")
        self.sums.assign_add(sums)
        self.counts.assign_add(counts)

    def result(self) -> Tensor:
        variances = ops.convert_to_tensor(list(self.variances.values()), "float32")
        errors = self.sums / ops.maximum(self.counts, 1) / variances
        return ops.sum(errors) / ops.maximum(ops.sum(ops.cast(self.counts > 0, "float32")), 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "variances": self.variances}

"""Losses: a weighted sum over tasks that leaves out missing labels, and cross-entropy weighted by class.

Targets and predictions of tasks are `(batch, tasks)`. A target that is NaN is a missing label. It is left out of its
task's mean error, and its gradient is 0.
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
"""The error above which Huber's loss is linear. Labels are in [0, 1], so a value of 1 would give the squared error."""

LOG_VARIANCE_RANGE = (-8.0, 0.0)
"""The range of learned log-variances. It means standard deviations from 0.018 to 1 for labels in [0, 1]."""


def task_losses(targets: Tensor, predictions: Tensor, tasks: int, error: str = "mse") -> tuple[Tensor, Tensor]:
    """Computes the mean error of each task over its labelled clips.

    Args:
        targets: Labels `(batch, tasks)`, NaN for missing labels.
        predictions: Predictions `(batch, tasks)`.
        tasks: Number of tasks.
        error: "mse", or "huber" (Huber 1964), which is linear above 0.1.

    Returns:
        The mean errors `(tasks,)`, 0 for a task without labels, and the numbers of labelled clips `(tasks,)`.

    Raises:
        ValueError: Targets and predictions are not both `(batch, tasks)`. For example, `(batch,)` and `(batch, 1)`
            would broadcast to `(batch, batch)`, and the network would learn the mean.

    Examples:
        >>> from mtmusic.models.losses import task_losses
        >>> targets = np.array([[0.5, np.nan], [0.5, 1.0]], "float32")
        >>> losses, counts = task_losses(targets, np.zeros((2, 2), "float32"), tasks=2)
        >>> losses.numpy(), counts.numpy()
        (array([0.25, 1.  ], dtype=float32), array([2., 1.], dtype=float32))
    """
    sums, counts = _sums(targets, predictions, tasks, error)
    return sums / ops.maximum(counts, 1), counts


def _sums(targets: Tensor, predictions: Tensor, tasks: int, error: str) -> tuple[Tensor, Tensor]:
    shapes = tuple(targets.shape), tuple(predictions.shape)
    batches = {shape[0] for shape in shapes if shape} - {None}
    if any(len(shape) != 2 or shape[1] != tasks for shape in shapes) or len(batches) > 1:
        raise ValueError(f"Expected targets and predictions (batch, {tasks}), got {shapes[0]} and {shapes[1]}")
    known = ops.logical_not(ops.isnan(targets))
    residuals = ops.where(known, targets, 0.0) - predictions  # even 0 * NaN is NaN in the gradient
    errors = ops.square(residuals)
    if error == "huber":
        sizes = ops.abs(residuals)
        errors = ops.where(sizes < HUBER_DELTA, errors / 2, HUBER_DELTA * (sizes - HUBER_DELTA / 2))
    return ops.sum(ops.where(known, errors, 0.0), axis=0), ops.sum(ops.cast(known, "float32"), axis=0)


def complete_weights(
    weights: Mapping[str, float] | None, tasks: Sequence[str], variances: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Checks the weights of tasks, and fills in the default.

    Args:
        weights: Weight of each task, or None for 1 divided by its variance.
        tasks: Names of the tasks.
        variances: Variance of each task's labels. By default 1.

    Returns:
        The weight of each task, in the order of `tasks`.

    Raises:
        UserError: `weights` does not have exactly these tasks, a weight is negative or infinite, or all are 0.

    Examples:
        >>> from mtmusic.models.losses import complete_weights
        >>> complete_weights(None, ["valence", "energy"], variances={"valence": 0.25, "energy": 0.5})
        {'valence': 4.0, 'energy': 2.0}
    """
    if weights is None:
        return {task: 1 / variances[task] if variances else 1.0 for task in tasks}
    if unknown := sorted({*weights} - {*tasks}):
        raise UserError(f"Expected `weights` of {', '.join(tasks)}, got a weight of {', '.join(unknown)}")
    if missing := [task for task in tasks if task not in weights]:
        raise UserError(f"Expected `weights` of each task, {', '.join(tasks)}, got no weight of {', '.join(missing)}")
    if not all(0 <= weights[task] < math.inf for task in tasks) or not any(weights.values()):
        given = ", ".join(f"{task}={weights[task]:g}" for task in tasks)
        raise UserError(f"Expected `weights` of 0 or more, and one above 0, got {given}")
    return {task: float(weights[task]) for task in tasks}


@keras.saving.register_keras_serializable(PACKAGE)
class WeightedLoss(Float32Layer):
    """The weighted sum of the tasks' mean errors, as in the lab's step 10, for `model.compile(loss=...)`.

    Takes targets and predictions `(batch, tasks)` and returns a scalar. Targets that are NaN are left out, see
    `task_losses`. The loss has no variables; `TaskUncertainty` learns weights. It neither uses nor passes on a Keras
    mask.

    Args:
        tasks: Names of the tasks, in the order of the targets.
        weights: Weight of each task. By default 1.
        error: "mse", or "huber" (Huber 1964), which is linear above 0.1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `error` is neither "mse" nor "huber", or the loss is called with other shapes.
        UserError: `weights` lacks a task, a weight is negative, or all are 0.

    Examples:
        >>> from mtmusic.models.losses import WeightedLoss
        >>> loss = WeightedLoss(["valence", "energy"], {"valence": 1.0, "energy": 0.5})
        >>> float(loss(np.ones((4, 2), "float32"), np.zeros((4, 2), "float32")))
        1.5
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
    """Learns the weights of tasks as homoscedastic uncertainties (Kendall, Gal and Cipolla 2018, arXiv:1705.07115).

    The layer is the last of an `UncertaintyWeightedModel` and passes predictions `(batch, tasks)` on unchanged. Its
    log-variances are variables of the model, so they are trained, saved and resumed with it. The loss is half the sum
    over tasks of `exp(-s) * error + s`, where `s` is the task's log-variance. `s` starts at the logarithm of the label
    variance and is clipped to [-8, 0] after each step. The loss decreases with the variances too, so do not choose an
    epoch by it. The layer neither uses nor passes on a Keras mask.

    Args:
        tasks: Names of the tasks, in the order of the targets.
        variances: Variance of each task's labels.
        error: "mse", or "huber" (Huber 1964), which is linear above 0.1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.losses import TaskUncertainty
        >>> layer = TaskUncertainty(["valence", "energy"], {"valence": 0.25, "energy": 0.5})
        >>> layer.build((None, 2))
        >>> {task: round(weight, 3) for task, weight in layer.learned()["weights"].items()}
        {'valence': 2.0, 'energy': 1.0}
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
        """Computes the loss of a batch.

        Args:
            targets: Labels `(batch, tasks)`, NaN for missing labels.
            predictions: Predictions `(batch, tasks)`.

        Returns:
            A scalar. A task without a label in the batch contributes neither its error nor its log-variance.

        Raises:
            ValueError: Targets and predictions are not both `(batch, tasks)`.
        """
        losses, counts = task_losses(targets, predictions, len(self.tasks), self.error)
        terms = ops.exp(-self.log_variances) * losses + self.log_variances
        return ops.sum(ops.where(counts > 0, terms, 0.0)) / 2

    def learned(self) -> dict[str, dict[str, float]]:
        """Returns the learned log-variances and weights.

        Returns:
            "log_variances", the log-variance `s` of each task, and "weights", the factor `exp(-s) / 2` of each task's
            error.
        """
        values = ops.convert_to_numpy(self.log_variances).tolist()
        return {
            "log_variances": dict(zip(self.tasks, values, strict=True)),
            "weights": {task: math.exp(-value) / 2 for task, value in zip(self.tasks, values, strict=True)},
        }

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tasks": self.tasks, "variances": self.variances, "error": self.error}


@keras.saving.register_keras_serializable(PACKAGE)
class UncertaintyWeightedModel(keras.Model):
    """A functional model that is trained by the loss of its layer "uncertainty", a `TaskUncertainty`.

    A layer given to `compile` as the loss would be another object after loading, and its variables would not be
    trained. `multitask_regressor(..., learned_weights=True)` returns such a model.

    Examples:
        >>> model = mtmusic.multitask_regressor(
        ...     mtmusic.lstm_backbone(units=8), ["valence", "energy"], learned_weights=True
        ... )
        >>> labels, predictions = np.array([[1.0, 0.0]], "float32"), np.array([[0.5, 0.5]], "float32")
        >>> float(model.compute_loss(y=labels, y_pred=predictions))  # half of 0.25 + 0.25
        0.25
    """

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """Computes the loss of the layer "uncertainty".

        Args:
            x: Not used.
            y: Labels `(batch, tasks)`, NaN for missing labels.
            y_pred: Predictions `(batch, tasks)`.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            A scalar.
        """
        return self.get_layer("uncertainty").loss(y, y_pred)


@keras.saving.register_keras_serializable(PACKAGE)
class ClassWeightedCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of logits, with each clip's loss multiplied by the weight of its class.

    Takes class indices `(batch,)` and logits `(batch, classes)`. The result is the mean over clips.

    Args:
        weights: Weight of each class, in the order of the indices.
        name: Name of the loss.
        **kwargs: Arguments of `keras.losses.Loss`.

    Examples:
        >>> from mtmusic.models.losses import ClassWeightedCrossentropy
        >>> loss = ClassWeightedCrossentropy([0.0, 2.0])
        >>> round(float(loss(np.array([0, 1]), np.zeros((2, 2), "float32"))), 3)  # (0 + 2 log 2) / 2
        0.693
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
    """The metric `normalized_mse`: the mean over tasks of the squared error divided by the variance of the labels.

    For a constant prediction of the mean it is 1. The metric is exact over all batches. Missing labels are left out,
    and so are tasks without a label so far.

    Args:
        variances: Variance of each task's training labels.
        name: Name of the metric.
        **kwargs: Arguments of `keras.metrics.Metric`.

    Raises:
        ValueError: Targets and predictions are not both `(batch, tasks)`.

    Examples:
        >>> from mtmusic.models.losses import NormalizedError
        >>> metric = NormalizedError({"valence": 0.25})
        >>> metric.update_state(np.array([[0.0], [1.0]], "float32"), np.array([[0.5], [0.5]], "float32"))
        >>> float(metric.result())
        1.0
    """

    def __init__(self, variances: Mapping[str, float], name: str = "normalized_mse", **kwargs: Any) -> None:
        super().__init__(name=name, **{"dtype": "float32", **kwargs})
        self.variances = {task: float(variance) for task, variance in variances.items()}
        self.sums, self.counts = (
            self.add_variable((len(self.variances),), "zeros", name=name) for name in ("sums", "counts")
        )

    def update_state(self, targets: Tensor, predictions: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            targets: Labels `(batch, tasks)`, NaN for missing labels.
            predictions: Predictions `(batch, tasks)`.
            sample_weight: Not used.
        """
        sums, counts = _sums(targets, predictions, len(self.variances), "mse")
        self.sums.assign_add(sums)
        self.counts.assign_add(counts)

    def result(self) -> Tensor:
        """The error over all batches since the last reset, a scalar."""
        variances = ops.convert_to_tensor(list(self.variances.values()), "float32")
        errors = self.sums / ops.maximum(self.counts, 1) / variances
        return ops.sum(errors) / ops.maximum(ops.sum(ops.cast(self.counts > 0, "float32")), 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "variances": self.variances}

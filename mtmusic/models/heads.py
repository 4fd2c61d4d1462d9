"""Heads: they take a backbone and give a compiled model."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers

from mtmusic.models.layers import PACKAGE, Tensor
from mtmusic.models.losses import (
    ClassWeightedCrossentropy,
    NormalizedError,
    TaskUncertainty,
    UncertaintyWeightedModel,
    WeightedLoss,
    complete_weights,
)

LEARNING_RATE = 1e-3


@keras.saving.register_keras_serializable(PACKAGE)
class DecayedAdam(keras.optimizers.Adam):
    """Adam whose weight decay leaves biases alone; a copy made from its settings does so too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.exclude_from_weight_decay(var_names=["bias"])


def genre_classifier(
    backbone: keras.Model,
    classes: Sequence[str],
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> keras.Model:
    """Logits (batch, classes) on the backbone's features; softmax cross-entropy and Adam, as the lab has it.

    Targets are (batch,) class indices. weight_decay: see `_adam`. class_weights: of each class's clips in the loss
    (`Clips.class_weights`); by default all count alike. A backbone that is to be frozen must be so before
    (`transfer.freeze`).
    """
    spectrogram = keras.Input(backbone.input_shape[1:], dtype="float32", name="spectrogram")
    logits = layers.Dense(len(classes), dtype="float32", name="genre")(backbone(spectrogram))
    model = keras.Model(spectrogram, logits, name="genre_classifier")
    model.compile(
        optimizer=_adam(learning_rate, weight_decay),
        loss=ClassWeightedCrossentropy(class_weights)
        if class_weights is not None
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
    )
    return model


def affect_regressor(
    backbone: keras.Model,
    task: str,
    *,
    means: Mapping[str, float] | None = None,
    variances: Mapping[str, float] | None = None,
    error: str = "mse",
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = 0.0,
) -> keras.Model:
    """One task in [0, 1], sigmoid (batch, 1), the lab's step 8.

    Targets are (batch, 1), NaN where a label is missing. means, variances: the train labels' (`Clips.label_means`,
    `Clips.label_variances`). The head's bias starts at the mean, else at 0.5; the error is divided by the variance,
    else by 1, so that a loss and a `normalized_mse` of 1 is what a constant prediction gets. error: "mse" or "huber".
    weight_decay: see `_adam`.
    A backbone that is to be frozen must be so before (`transfer.freeze`).
    """
    spectrogram = keras.Input(backbone.input_shape[1:], dtype="float32", name="spectrogram")
    prediction = _sigmoid_heads(backbone(spectrogram), [task], means)[0]
    model = keras.Model(spectrogram, prediction, name="affect_regressor")
    variances = {task: variances[task] if variances else 1.0}
    loss = WeightedLoss([task], complete_weights(None, [task], variances), error)
    model.compile(_adam(learning_rate, weight_decay), loss, metrics=[NormalizedError(variances)])
    return model


def multitask_regressor(
    backbone: keras.Model,
    tasks: Sequence[str],
    *,
    means: Mapping[str, float] | None = None,
    variances: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
    learned_weights: bool = False,
    error: str = "mse",
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = 0.0,
) -> keras.Model:
    """One trunk and one sigmoid head a task, concatenated to (batch, tasks) in their order; the lab's step 10.

    Targets are (batch, tasks), NaN where a label is missing. means, variances: as `affect_regressor`. weights: of each
    task's error in the loss (`losses.WeightedLoss`); by default one over its variance. learned_weights: trained with
    the model instead (`losses.TaskUncertainty`). error: "mse" or "huber". weight_decay: see `_adam`.
    Raises UserError for weights that do not fit the tasks.
    """
    spectrogram = keras.Input(backbone.input_shape[1:], dtype="float32", name="spectrogram")
    heads = _sigmoid_heads(backbone(spectrogram), tasks, means)
    affect = layers.Concatenate(dtype="float32", name="affect")(heads)
    variances = {task: variances[task] if variances else 1.0 for task in tasks}
    kind, loss = keras.Model, None
    if learned_weights:
        kind, affect = UncertaintyWeightedModel, TaskUncertainty(tasks, variances, error, name="uncertainty")(affect)
    else:
        loss = WeightedLoss(tasks, complete_weights(weights, tasks, variances), error)
    model = kind(spectrogram, affect, name="multitask_regressor")
    model.compile(_adam(learning_rate, weight_decay), loss, metrics=[NormalizedError(variances)])
    return model


def _sigmoid_heads(features: Tensor, tasks: Sequence[str], means: Mapping[str, float] | None) -> list[Tensor]:
    """(batch, 1) each, the layers named after their tasks as far as a layer's name may be.

    With a bias that starts at the label mean, the first steps train what distinguishes clips.
    """
    names = [re.sub(r"^(?![A-Za-z0-9])", "task", re.sub(r"[^A-Za-z0-9_.-]", "_", task)) for task in tasks]
    if len({*names, "spectrogram", "backbone", "affect", "uncertainty"}) < len(names) + 4:
        names = [f"task{number}_{name}" for number, name in enumerate(names, 1)]
    starts = [keras.initializers.Constant(_logit(means[task]) if means else 0.0) for task in tasks]
    return [
        layers.Dense(1, "sigmoid", bias_initializer=start, dtype="float32", name=name)(features)
        for start, name in zip(starts, names, strict=True)
    ]


def _logit(share: float) -> float:
    share = min(max(share, 0.01), 0.99)
    return math.log(share / (1 - share))


def _adam(learning_rate: float, weight_decay: float) -> keras.optimizers.Optimizer:
    """weight_decay: the share, times the rate, that each step takes off the weights (Loshchilov and Hutter 2019)."""
    if not weight_decay:
        return keras.optimizers.Adam(learning_rate)
    return DecayedAdam(learning_rate, weight_decay=weight_decay)

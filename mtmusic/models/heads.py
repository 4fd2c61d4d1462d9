"""Heads: they take a backbone and give a compiled model."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from mtmusic.errors import UserError
from mtmusic.models.layers import PACKAGE, Float32Layer, Tensor
from mtmusic.models.losses import (
    ClassWeightedCrossentropy,
    NormalizedError,
    TaskUncertainty,
    UncertaintyWeightedModel,
    WeightedLoss,
    complete_weights,
)
from mtmusic.models.nystroem import NystroemFeatures, moments

LEARNING_RATE = 1e-3

Neck = Callable[[Tensor], Tensor]
"""What lies between a backbone's features, (batch, features), and the outputs."""


def neck(kind: str, hidden: int = 0, centres: int = 0, dropout: float = 0.0) -> Neck | None:
    """For features that nothing normalises, as those of a pretrained trunk.

    kind: "plain" is none; "linear" standardises by the train clips; "mlp" adds a layer of `hidden` units, with dropout
    on either side; "kernel" is Nystroem features of `centres` train clips, which standardise too. What takes its
    numbers from the train clips is set by `nystroem.adapt`.
    """
    if kind == "plain":
        return None
    if kind == "kernel":
        return lambda x: NystroemFeatures(centres, [x.shape[-1]], ["whole"], name="neck_kernel")(x)

    def apply(x: Tensor) -> Tensor:
        x = Standardization(name="neck_standardization")(x)
        if kind == "mlp":
            x = layers.Dropout(dropout, name="neck_dropout")(x)
            x = layers.Dense(hidden, "relu", dtype="float32", name="neck_dense")(x)
        return layers.Dropout(dropout, name="neck_last_dropout")(x) if dropout else x

    return apply


@keras.saving.register_keras_serializable(PACKAGE)
class Standardization(Float32Layer):
    """(batch, features) -> (batch, features), of mean 0 and deviation 1 on the clips that it was adapted to.

    Nothing in it is trained; before `adapt` it gives 0. A feature that does not vary gives 0 too.
    """

    def build(self, x_shape: tuple[int | None, ...]) -> None:
        for name in ("mean", "deviation"):
            setattr(self, name, self.add_weight((x_shape[-1],), "zeros", trainable=False, name=name))

    @property
    def adapted(self) -> bool:
        return bool(np.any(self.deviation != 0))

    def adapt(self, features: np.ndarray, seed: int = 0) -> None:
        """features: (clips, features). seed: not used."""
        for weight, values in zip((self.mean, self.deviation), moments(features), strict=True):
            weight.assign(values)

    def call(self, x: Tensor) -> Tensor:
        return keras.ops.divide_no_nan(x - self.mean, self.deviation)


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
    neck: Neck | None = None,
) -> keras.Model:
    """Logits (batch, classes) on the backbone's features; softmax cross-entropy and Adam, as the lab has it.

    `keras.ops.softmax(model.predict(x))` are probabilities; `predict(x).argmax(axis=1)` needs none.

    Targets are (batch,) class indices. weight_decay: see `_adam`. class_weights: of each class's clips in the loss
    (`Clips.class_weights`); by default all count alike. A backbone that is to be frozen must be so before
    (`transfer.freeze`). neck: see `neck`.
    """
    spectrogram, features = _features(backbone, neck)
    logits = layers.Dense(len(classes), dtype="float32", name="genre")(features)
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
    neck: Neck | None = None,
) -> keras.Model:
    """One task in [0, 1], sigmoid (batch, 1), the lab's step 8.

    Targets are (batch, 1), NaN where a label is missing. means, variances: the train labels' (`Clips.label_means`,
    `Clips.label_variances`). The head's bias starts at the mean, else at 0.5; the error is divided by the variance,
    else by 1, so that a loss and a `normalized_mse` of 1 is what a constant prediction gets. error: "mse" or "huber".
    weight_decay: see `_adam`. neck: see `neck`.
    A backbone that is to be frozen must be so before (`transfer.freeze`).
    """
    spectrogram, features = _features(backbone, neck)
    prediction = _sigmoid_heads(features, [task], means)[0]
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
    neck: Neck | None = None,
) -> keras.Model:
    """One trunk and one sigmoid head a task, concatenated to (batch, tasks) in their order; the lab's step 10.

    Targets are (batch, tasks), NaN where a label is missing. means, variances: as `affect_regressor`. weights: of each
    task's error in the loss (`losses.WeightedLoss`); by default one over its variance. learned_weights: trained with
    the model instead (`losses.TaskUncertainty`). error: "mse" or "huber". weight_decay: see `_adam`. neck: see `neck`.
    Raises UserError for weights that do not fit the tasks.
    """
    spectrogram, features = _features(backbone, neck)
    heads = _sigmoid_heads(features, tasks, means)
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


def head_alone(model: keras.Model) -> keras.Model:
    """The layers on the backbone, compiled alike: (batch, features) -> answers. Layers and optimizer are the model's
    own, so that training it trains the model."""
    backbone = model.get_layer("backbone")
    calls = [call for calls in model._nodes_by_depth.values() for call in calls]  # a joined head's own are others
    features = next(call for call in calls if call.operation is backbone).output_tensors[0]
    return compiled_as(model, type(model)(features, model.output, name=model.name))


def on_backbone(head: keras.Model, backbone: keras.Model) -> keras.Model:
    """The model of which this is the `head_alone`: its layers, on a backbone that gives what it takes."""
    spectrogram = keras.Input(backbone.input_shape[1:], dtype="float32", name="spectrogram")
    return compiled_as(head, type(head)(spectrogram, head.call(backbone(spectrogram)), name=head.name))


def compiled_as(model: keras.Model, other: keras.Model) -> keras.Model:
    """The other model, with this one's loss, metrics and optimizer."""
    if model.compiled:
        other.compile_from_config(model.get_compile_config())
        other.optimizer = model.optimizer
    return other


def _features(backbone: keras.Model, neck: Neck | None) -> tuple[Tensor, Tensor]:
    """The model's input, and what its outputs are computed from. Raises UserError for what is no backbone."""
    if backbone.name != "backbone" or (len(backbone.input_shape), len(backbone.output_shape)) != (3, 2):
        raise UserError(
            'Expected a backbone, keras.Model(spectrogram, features, name="backbone") from (batch, frames, bins) to '
            f"(batch, features), got {backbone.name!r} from {backbone.input_shape} to {backbone.output_shape}"
        )
    spectrogram = keras.Input(backbone.input_shape[1:], dtype="float32", name="spectrogram")
    features = backbone(spectrogram)
    return spectrogram, features if neck is None else neck(features)


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

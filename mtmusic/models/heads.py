"""Heads. A head adds outputs to a backbone, and returns a compiled model.

Freeze a backbone with `models.transfer.freeze` before it gets a head, because Keras applies it when a model is
compiled.
"""

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
"""The layers between a backbone's features, (batch, features), and the outputs."""


def neck(kind: str, hidden: int = 0, centres: int = 0, dropout: float = 0.0) -> Neck | None:
    """Returns layers between a backbone's features and the outputs, for features that are not normalised.

    The features of a pretrained trunk are not normalised. `models.nystroem.adapt` adapts a neck to the training clips.

    Args:
        kind: "plain" for no layers. "linear" standardises the features by the training clips. "mlp" adds a hidden layer
            after that. "kernel" has Nystroem features, which standardise too.
        hidden: Units of the hidden layer of "mlp".
        centres: Number of training clips that "kernel" compares a clip with.
        dropout: Dropout rate before and after the hidden layer of "mlp", or after "linear".

    Returns:
        A function from `(batch, features)` to `(batch, features)`, for the heads' argument `neck`, or None for "plain".

    Examples:
        >>> from mtmusic.models.heads import neck
        >>> backbone = mtmusic.lstm_backbone(units=8)
        >>> model = mtmusic.genre_classifier(backbone, ["Jazz", "Rock"], neck=neck("mlp", hidden=16))
        >>> model.get_layer("neck_dense").output.shape
        (None, 16)
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
    """Standardises features by the mean and the standard deviation of the clips that it was adapted to.

    Takes and returns `(batch, features)`. The result is 0 before `adapt`, and for a feature that does not vary. The
    weights are not trained. The layer neither uses nor passes on a Keras mask.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.heads import Standardization
        >>> layer = Standardization()
        >>> layer.build((None, 1))
        >>> layer.adapt(np.array([[1.0], [3.0]]))
        >>> layer(np.array([[5.0]])).numpy()
        array([[3.]], dtype=float32)
    """

    def build(self, x_shape: tuple[int | None, ...]) -> None:
        for name in ("mean", "deviation"):
            setattr(self, name, self.add_weight((x_shape[-1],), "zeros", trainable=False, name=name))

    @property
    def adapted(self) -> bool:
        """Whether `adapt` was called."""
        return bool(np.any(self.deviation != 0))

    def adapt(self, features: np.ndarray, seed: int = 0) -> None:
        """Sets mean and deviation.

        Args:
            features: Features of the training clips, `(clips, features)`.
            seed: Not used.
        """
        for weight, values in zip((self.mean, self.deviation), moments(features), strict=True):
            weight.assign(values)

    def call(self, x: Tensor) -> Tensor:
        return keras.ops.divide_no_nan(x - self.mean, self.deviation)


@keras.saving.register_keras_serializable(PACKAGE)
class DecayedAdam(keras.optimizers.Adam):
    """Adam with weight decay that excludes biases, also after its settings were copied or loaded.

    Args:
        *args: Arguments of `keras.optimizers.Adam`.
        **kwargs: Keyword arguments of `keras.optimizers.Adam`.

    Examples:
        >>> import keras
        >>> from mtmusic.models.heads import DecayedAdam
        >>> layer = keras.layers.Dense(1, kernel_initializer="ones", bias_initializer="ones")
        >>> layer.build((None, 1))
        >>> gradients = [np.zeros(weight.shape, "float32") for weight in layer.trainable_weights]
        >>> DecayedAdam(0.1, weight_decay=0.5).apply(gradients, layer.trainable_weights)
        >>> [round(float(weight.numpy().sum()), 3) for weight in layer.weights]  # kernel: 1 - 0.1 * 0.5, bias: 1
        [0.95, 1.0]
    """

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
    """A genre classifier: a dense layer of logits on a backbone, with softmax cross-entropy and Adam, as in the lab.

    Targets are class indices `(batch,)`. `keras.ops.softmax(model.predict(x))` gives probabilities, and
    `model.predict(x).argmax(axis=1)` gives classes.

    Args:
        backbone: A model named "backbone" from `(batch, frames, bins)` to `(batch, features)`. Freeze it before.
        classes: Names of the classes, in the order of the indices.
        learning_rate: Adam's learning rate.
        weight_decay: AdamW's weight decay (Loshchilov and Hutter 2019). Each step subtracts `learning_rate *
            weight_decay` times the weights from the weights. Biases are excluded.
        class_weights: Weight of each class's clips in the loss, as `Clips.class_weights` gives them. By default all
            clips count alike.
        neck: Layers between features and logits, see `neck`.

    Returns:
        A compiled `keras.Model` from `(batch, frames, bins)` to logits `(batch, classes)`.

    Raises:
        UserError: The model given is not a backbone.

    Examples:
        >>> clips = mtmusic.read_genre_labels("data/genre_beat")
        >>> model = mtmusic.genre_classifier(mtmusic.lstm_backbone("mel", units=8), clips.classes)
        >>> model.output_shape
        (None, 3)
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
    """A regressor of one task in [0, 1]: one sigmoid output on a backbone, as in the lab's step 8.

    Targets are `(batch, 1)`, NaN for missing labels. For a constant prediction, the loss and `normalized_mse` are 1.

    Args:
        backbone: A model named "backbone" from `(batch, frames, bins)` to `(batch, features)`. Freeze it before.
        task: Name of the task, "valence" for example.
        means: Mean label of each task, as `Clips.label_means` gives it. The output starts there, by default at 0.5.
        variances: Variance of each task's labels, as `Clips.label_variances` gives it. The error is divided by it, by
            default by 1.
        error: "mse", or "huber" (Huber 1964) for an error that grows linearly above 0.1.
        learning_rate: Adam's learning rate.
        weight_decay: AdamW's weight decay, see `genre_classifier`.
        neck: Layers between features and output, see `neck`.

    Returns:
        A compiled `keras.Model` from `(batch, frames, bins)` to `(batch, 1)`.

    Raises:
        UserError: The model given is not a backbone.
        ValueError: `error` is neither "mse" nor "huber".

    Examples:
        >>> clips = mtmusic.read_affect_labels("data/affect_beat").select(["valence"])
        >>> model = mtmusic.affect_regressor(
        ...     mtmusic.lstm_backbone("mel", units=8),
        ...     "valence",
        ...     means=clips.label_means(),
        ...     variances=clips.label_variances(),
        ... )
        >>> model.output_shape
        (None, 1)
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
    """A regressor of several tasks in [0, 1]: one sigmoid head for each task on a shared backbone, as in the lab's step
    10.

    Targets are `(batch, tasks)`, NaN for missing labels.

    Args:
        backbone: A model named "backbone" from `(batch, frames, bins)` to `(batch, features)`. Freeze it before.
        tasks: Names of the tasks, in the order of the targets.
        means: Mean label of each task, as `Clips.label_means` gives it. The outputs start there, by default at 0.5.
        variances: Variance of each task's labels, as `Clips.label_variances` gives it.
        weights: Weight of each task's error in the loss, see `losses.WeightedLoss`. By default 1 divided by the task's
            variance.
        learned_weights: Whether the weights are trained with the model instead, see `losses.TaskUncertainty`.
        error: "mse", or "huber" (Huber 1964) for an error that grows linearly above 0.1.
        learning_rate: Adam's learning rate.
        weight_decay: AdamW's weight decay, see `genre_classifier`.
        neck: Layers between features and outputs, see `neck`.

    Returns:
        A compiled `keras.Model` from `(batch, frames, bins)` to `(batch, tasks)`.

    Raises:
        UserError: The model given is not a backbone, `weights` lacks a task, a weight is negative, or all are 0.
        ValueError: `error` is neither "mse" nor "huber".

    Examples:
        >>> model = mtmusic.multitask_regressor(
        ...     mtmusic.lstm_backbone("mel", units=8),
        ...     ["valence", "energy"],
        ...     weights={"valence": 1.0, "energy": 0.5},
        ... )
        >>> model.predict(np.zeros((2, 10, 128)), verbose=0).shape
        (2, 2)
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
    """Returns a model of the layers above the backbone.

    Layers and optimizer are shared, so training the head trains the model.

    Args:
        model: A model with a layer "backbone".

    Returns:
        A `keras.Model` from `(batch, features)` to the outputs, compiled as `model` is.

    Examples:
        >>> from mtmusic.models.heads import head_alone
        >>> head = head_alone(mtmusic.genre_classifier(mtmusic.lstm_backbone(units=8), ["Jazz", "Rock"]))
        >>> head.input_shape, head.output_shape
        ((None, 8), (None, 2))
    """
    backbone = model.get_layer("backbone")
    calls = [call for calls in model._nodes_by_depth.values() for call in calls]  # without those in other models
    features = next(call for call in calls if call.operation is backbone).output_tensors[0]
    return compiled_as(model, type(model)(features, model.output, name=model.name))


def on_backbone(head: keras.Model, backbone: keras.Model) -> keras.Model:
    """Puts the layers of a head on a backbone, the opposite of `head_alone`.

    Args:
        head: A model from `(batch, features)` to outputs.
        backbone: A backbone with these features.

    Returns:
        A `keras.Model` from `(batch, frames, bins)` to the outputs, compiled as `head` is.

    Examples:
        >>> from mtmusic.models.heads import head_alone, on_backbone
        >>> head = head_alone(mtmusic.genre_classifier(mtmusic.lstm_backbone("mel", units=8), ["Jazz", "Rock"]))
        >>> model = on_backbone(head, mtmusic.lstm_backbone("chroma", units=8))
        >>> model.input_shape, model.output_shape
        ((None, None, 12), (None, 2))
    """
    spectrogram = keras.Input(backbone.input_shape[1:], dtype="float32", name="spectrogram")
    return compiled_as(head, type(head)(spectrogram, head.call(backbone(spectrogram)), name=head.name))


def compiled_as(model: keras.Model, other: keras.Model) -> keras.Model:
    """Compiles a model with the loss, the metrics and the optimizer of another.

    Args:
        model: The model to take them from.
        other: The model to compile.

    Returns:
        `other`.
    """
    if model.compiled:
        other.compile_from_config(model.get_compile_config())
        other.optimizer = model.optimizer
    return other


def _features(backbone: keras.Model, neck: Neck | None) -> tuple[Tensor, Tensor]:
    """Returns the model's input, and the features for its outputs. Raises UserError unless `backbone` is a backbone."""
    if backbone.name != "backbone" or (len(backbone.input_shape), len(backbone.output_shape)) != (3, 2):
        raise UserError(
            'Expected a backbone, keras.Model(spectrogram, features, name="backbone") from (batch, frames, bins) to '
            f"(batch, features), got {backbone.name!r} from {backbone.input_shape} to {backbone.output_shape}"
        )
    spectrogram = keras.Input(backbone.input_shape[1:], dtype="float32", name="spectrogram")
    features = backbone(spectrogram)
    return spectrogram, features if neck is None else neck(features)


def _sigmoid_heads(features: Tensor, tasks: Sequence[str], means: Mapping[str, float] | None) -> list[Tensor]:
    """Makes an output (batch, 1) for each task. The layers are named after the tasks, without forbidden characters.

    The bias starts at the label mean, so that the first steps train the differences between clips.
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
    """Adam, or AdamW (Loshchilov and Hutter 2019) with weight decay."""
    if not weight_decay:
        return keras.optimizers.Adam(learning_rate)
    return DecayedAdam(learning_rate, weight_decay=weight_decay)

"""A kernel machine as a layer: a clip is described by its similarity to known clips."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from mtmusic.models.layers import PACKAGE, Float32Layer, Tensor

KERNELS = ("whole", "parts")

SMALLEST_EIGENVALUE = 1e-4
"""The smallest eigenvalue of the centres' kernel matrix. Without it, nearly equal clips would cause a division by 0."""

ROUNDING = 1e-6
"""A feature counts as constant if its deviation is below this share of the largest deviation."""


@keras.saving.register_keras_serializable(PACKAGE, name="GaussianKernel")
class NystroemFeatures(Float32Layer):
    """Nystroem features (Williams and Seeger 2001): coordinates of clips whose dot products approximate a kernel.

    Takes `(batch, features)`, and returns `(batch, centres)`. A linear head on the coordinates is a kernel machine with
    any loss and any number of outputs. The kernel is exact between centres and approximate elsewhere.

    The features consist of parts, and are standardised by the clips that the layer was adapted to. The kernel is the
    mean of the kernels in `kernels`. With d the squared distance of two clips, they are:

    - "whole": exp(-d / features). It is near 1 for clips that are similar in all features.
    - "parts": the mean over parts of exp(-d / (2 * size)), with the distance and the size of the part. It is high for
      clips that are similar in one part. Sums of kernels are known from multiple kernel learning (Bach et al. 2004).

    The weights are not trained but set by `adapt`. They are float32 under every dtype policy. Before `adapt` the layer
    returns 0. The coordinates of a clip that is unlike all centres are near 0 too, so a head's output is near its bias.
    The layer neither uses nor passes on a Keras mask.

    Args:
        centres: Number of known clips.
        sizes: Number of features of each part, in their order.
        kernels: "whole", "parts" or both.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `kernels` is empty or has another name.

    Examples:
        >>> from mtmusic.models.nystroem import NystroemFeatures
        >>> clips = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
        >>> layer = NystroemFeatures(centres=5, sizes=[3], kernels=["whole"])
        >>> layer.build((None, 3))
        >>> layer.adapt(clips)
        >>> coordinates = layer(clips).numpy()
        >>> np.diag(coordinates @ coordinates.T).round(3)  # each clip with itself
        array([1., 1., 1., 1., 1.], dtype=float32)
    """

    def __init__(self, centres: int, sizes: Sequence[int], kernels: Sequence[str] = KERNELS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not kernels or not {*kernels} <= {*KERNELS}:
            raise ValueError(f"Expected kernels among {', '.join(KERNELS)}, got {list(kernels)}")
        self.centres = centres
        self.sizes = list(sizes)
        self.kernels = list(kernels)

    def build(self, x_shape: tuple[int | None, ...]) -> None:
        features = x_shape[-1]

        def add(name: str, shape: tuple[int | None, ...]) -> keras.Variable:
            return self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)

        self.mean = add("mean", (features,))
        self.deviation = add("deviation", (features,))
        self.clips = add("clips", (self.centres, features))
        self.whitening = add("whitening", (self.centres, self.centres))

    @property
    def adapted(self) -> bool:
        """Whether `adapt` was called."""
        return bool(np.any(self.deviation != 0))

    def adapt(self, features: np.ndarray, seed: int = 0) -> None:
        """Standardises the features by known clips, and uses these clips as centres.

        If there are more clips than centres, random ones are used. If there are fewer, the other coordinates are 0.

        Args:
            features: Features of the known clips, `(clips, features)`.
            seed: Seed of the random choice.

        Raises:
            ValueError: There are no clips.
        """
        if not len(features):
            raise ValueError("Expected clips to adapt to, got none")
        mean, deviation = moments(features)
        features = np.divide(features - mean, deviation, out=np.zeros_like(features), where=deviation > 0)
        if len(features) > self.centres:
            chosen = np.random.default_rng(seed).choice(len(features), self.centres, replace=False)
            features = features[np.sort(chosen)]
        room = self.centres - len(features)
        similar = ops.convert_to_numpy(self._kernel(features, features))
        self.mean.assign(mean)
        self.deviation.assign(deviation)
        self.clips.assign(np.pad(features, ((0, room), (0, 0))))
        self.whitening.assign(np.pad(_inverse_root(similar), (0, room)))

    def call(self, x: Tensor) -> Tensor:
        x = ops.divide_no_nan(x - self.mean, self.deviation)
        return ops.matmul(self._kernel(x, self.clips), self.whitening)

    def _kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """The kernel of each clip in x with each clip in y."""
        total, parts, start = 0.0, 0.0, 0
        for size in self.sizes:
            part = slice(start, start + size)
            distances = _squared_distances(x[:, part], y[:, part])
            total, parts, start = total + distances, parts + ops.exp(-distances / (2 * size)), start + size
        of = {"whole": ops.exp(-total / start), "parts": parts / len(self.sizes)}
        return sum(of[name] for name in self.kernels) / len(self.kernels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "centres": self.centres, "sizes": self.sizes, "kernels": self.kernels}


NystroemFeatures.__name__ = "GaussianKernel"  # Keras stores weights by class name: this opens older models


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the mean and the standard deviation of each feature.

    A deviation below a millionth of the largest one is set to 0. It is a rounding error, for example of a unit that is
    always off.

    Args:
        features: Features `(clips, features)`.

    Returns:
        Means and standard deviations, `(features,)` each.
    """
    deviation = features.std(axis=0)
    return features.mean(axis=0), np.where(deviation > ROUNDING * deviation.max(), deviation, 0)


def adapt(model: keras.Model, dataset: tf.data.Dataset, seed: int = 0) -> None:
    """Adapts those layers of a model that get their weights from training clips, unless they are adapted already.

    Args:
        model: A model whose own layers may have a method `adapt`, a backbone for example. It is changed.
        dataset: Batches `(input, target)` of the training clips.
        seed: Seed of `NystroemFeatures.adapt`.

    Examples:
        >>> from mtmusic.models.backbones import statistics_backbone
        >>> from mtmusic.models.nystroem import adapt
        >>> clips = mtmusic.read_genre_labels("data/genre_beat")
        >>> backbone = statistics_backbone("chroma", centres=16)
        >>> adapt(backbone, mtmusic.make_dataset(clips, "chroma"))
        >>> backbone.get_layer("block1_kernel").adapted
        True
    """
    for layer in model.layers:
        if not getattr(layer, "adapted", True):
            inputs = [batch for batch, _ in dataset]
            if layer is not model.layers[1]:  # other layers come before it
                below = keras.Model(model.input, layer.input)
                inputs = [below(batch, training=False) for batch in inputs]
            layer.adapt(np.concatenate(inputs), seed)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    squares = ops.sum(ops.square(x), axis=1, keepdims=True) + ops.sum(ops.square(y), axis=1)
    return ops.maximum(squares - 2 * ops.matmul(x, ops.transpose(y)), 0)


def _inverse_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix.astype(np.float64))
    return (vectors / np.sqrt(np.maximum(values, SMALLEST_EIGENVALUE))) @ vectors.T

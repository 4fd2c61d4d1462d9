"""musicnn (Pons and Serra 2019, arXiv:1909.06654), a CNN that was trained to tag 200,000 songs, as a backbone.

Its input is logmel: log10(1 + 10000 * power) in 96 Slaney mel bands at 16 kHz. The lab's full-rate mel in dB is
converted to it. A clip is cut into patches of three seconds that do not overlap. A shorter rest at the end is not used.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from mtmusic.constants import (
    FEATURE_BINS,
    HOP_LENGTH,
    LOGMEL_HOP_LENGTH,
    LOGMEL_SAMPLE_RATE,
    PAD_VALUE,
    PATCH_FRAMES,
    SAMPLE_RATE,
)
from mtmusic.errors import UserError
from mtmusic.mel import mel_frequencies
from mtmusic.models.cpu import layer_type
from mtmusic.models.cpu.normalization import FusedBatchNormalization
from mtmusic.models.layers import PACKAGE, Float32Layer, FrameMask, Tensor

FEATURES = ("mean", "penultimate")
"""The features that a head may have as input: 753 time means, or the 200 features before the tags."""

FRONT_END = (
    ("timbral38", 7, 38, 204),
    ("timbral67", 7, 67, 204),
    ("temporal128", 128, 1, 51),
    ("temporal64", 64, 1, 51),
    ("temporal32", 32, 1, 51),
)
"""Name, frames, bands and filters of each convolution of block 1. All of them take the spectrogram."""

MIDDLE_END = ("middle1", "middle2", "middle3")
MIDDLE_FRAMES, MIDDLE_FILTERS = 7, 64
"""Block 2: consecutive convolutions over all channels. The second and the third have a residual connection."""

FEATURES_VERSION = 1
"""Increase it with each change of this file, for example of LabToLogmel or Patches, that changes the features for the
same weights. Then the features that `frozen` keeps on disk are computed again."""

DENSE_UNITS = 200
DROPOUT = 0.5
EPSILON = 1e-3

LAB_TO_LOGMEL_DB = 18.5
"""Converts dB relative to a clip's maximum to dB of power: 30.2 dB, the maximum of the median song, minus 11.7 dB, by
which windows of 512 samples have less power than windows of 2048."""


def musicnn_backbone(feature: str = "logmel", features: str = "penultimate", stock: bool = False) -> keras.Model:
    """The network of musicnn as a backbone, without trained weights.

    `models.transfer.load_backbone("musicnn")` returns the trained one. Block 1 is the front end, block 2 the middle
    end, and block 3 the pooling and a dense layer.

    Args:
        feature: "logmel" (96 bins), or "mel" (128) or "fused" (140) for the lab's full-rate arrays. Chroma is not used.
        features: "penultimate" for the last layer before the tags, "mean" for the means over time of blocks 1 and 2, or
            "patches" for the penultimate layer of each patch.
        stock: Whether to use Keras's own layers where `models.cpu` has faster ones. Weights and results are the same.

    Returns:
        A `keras.Model` named "backbone" from `(batch, frames, bins)`, with any number of frames. The output is `(batch,
        200)` for "penultimate" and `(batch, 753)` for "mean", which are means over patches. For "patches" it is
        `(batch, patches, 200)`, with absent patches filled with PAD_VALUE. Each clip needs at least one present frame.

    Raises:
        UserError: The feature is unknown.

    Examples:
        >>> from mtmusic.models.musicnn import musicnn_backbone
        >>> backbone = musicnn_backbone()
        >>> backbone.input_shape, backbone.output_shape
        ((None, None, 96), (None, 200))
    """
    spectrogram = keras.Input((None, FEATURE_BINS[feature]), dtype="float32", name="spectrogram")
    logmel = spectrogram if feature == "logmel" else LabToLogmel(name="to_logmel")(spectrogram)
    patches, present = Patches(name="patches")(logmel)

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_type(FusedBatchNormalization, stock)(epsilon=EPSILON, name=f"{name}_norm")(x)

    x = norm(patches, "block1_input")
    padded = layers.ZeroPadding2D(((3, 3), (0, 0)), name="block1_padding")(x)
    outputs = []
    for name, frames, bands, filters in FRONT_END:
        inputs, padding = (padded, "valid") if bands > 1 else (x, "same")
        y = layers.Conv2D(filters, (frames, bands), 1, padding, activation="relu", name=f"block1_{name}")(inputs)
        if stock:
            outputs.append(ops.max(norm(y, f"block1_{name}"), axis=2))
        else:
            outputs.append(NormalizedMaximum(epsilon=EPSILON, name=f"block1_{name}_norm")(y))
    outputs = [layers.Concatenate(name="block1_channels")(outputs)]

    for name in MIDDLE_END:
        y = layers.ZeroPadding1D(3, name=f"block2_{name}_padding")(outputs[-1])
        y = layers.Conv1D(MIDDLE_FILTERS, MIDDLE_FRAMES, activation="relu", name=f"block2_{name}")(y)
        y = norm(y, f"block2_{name}")
        outputs.append(y if len(outputs) == 1 else layers.Add(name=f"block2_{name}_sum")([y, outputs[-1]]))
    channels = layers.Concatenate(name="block2_channels")(outputs)
    means = layers.GlobalAveragePooling1D(name="block2_means")(channels)
    if features == "mean":
        return keras.Model(spectrogram, PatchMean(name="features")(means, present), name="backbone")

    pooled = ops.stack([ops.max(channels, axis=1), means], axis=2)  # the maximum and then the mean of each channel
    x = layers.Reshape((2 * channels.shape[2],), name="block2_pooled")(pooled)
    x = norm(x, "block3_pooling")
    x = TrainedDropout(DROPOUT, name="block3_dropout")(x)
    x = norm(layers.Dense(DENSE_UNITS, "relu", name="block3_dense")(x), "block3_dense")
    pool = PatchMean if features == "penultimate" else PatchRows
    return keras.Model(spectrogram, pool(name="features")(x, present), name="backbone")


def tagger(backbone: keras.Model, tags: Sequence[str]) -> keras.Model:
    """Returns the original model: a layer of tags on the backbone.

    Args:
        backbone: A `musicnn_backbone` with `features="patches"`.
        tags: Names of the tags.

    Returns:
        A `keras.Model` from `(batch, frames, bins)` to scores `(batch, tags)` from 0 to 1, the means over patches.

    Examples:
        >>> from mtmusic.models.musicnn import musicnn_backbone, tagger
        >>> tagger(musicnn_backbone(features="patches"), ["rock", "jazz"]).output_shape
        (None, 2)
    """
    spectrogram = keras.Input(backbone.input_shape[1:], dtype="float32", name="spectrogram")
    patches = backbone(spectrogram)
    scores = layers.Dense(len(tags), "sigmoid", dtype="float32", name="tags")(patches)
    mask = FrameMask(name="patch_mask")(patches)
    return keras.Model(spectrogram, layers.GlobalAveragePooling1D(name="scores")(scores, mask=mask), name="tagger")


def embedding(model: keras.Model) -> keras.Model:
    """Returns a model that computes the features "mean" of a musicnn backbone, as an embedding.

    Args:
        model: A model with a layer "backbone".

    Returns:
        A `keras.Model` from `(batch, frames, bins)` to `(batch, 753)`.

    Examples:
        >>> from mtmusic.models.musicnn import embedding, musicnn_backbone
        >>> model = mtmusic.affect_regressor(musicnn_backbone(), "valence")
        >>> embedding(model).output_shape
        (None, 753)
    """
    backbone = model.get_layer("backbone")
    means, (_, present) = backbone.get_layer("block2_means").output, backbone.get_layer("patches").output
    return keras.Model(backbone.input, PatchMean(name="embedding")(means, present), name="embedding")


def kind_of(backbone: keras.Model) -> dict[str, str] | None:
    """Returns the arguments that a backbone was built with.

    Args:
        backbone: Any backbone.

    Returns:
        The arguments `feature` and `features` of `musicnn_backbone`, or None for another network.
    """
    if not any(isinstance(layer, Patches) for layer in backbone.layers):
        return None
    feature = next(name for name, bins in FEATURE_BINS.items() if bins == backbone.input_shape[2])
    last = backbone.layers[-1]
    features = "patches" if isinstance(last, PatchRows) else FEATURES[last.output.shape[1] == DENSE_UNITS]
    return {"feature": feature, "features": features}


def load_checkpoint_weights(model: keras.Model, checkpoint: Path | str) -> None:
    """Loads the weights of a TensorFlow checkpoint of the original.

    Args:
        model: A `tagger`. It is changed.
        checkpoint: Path of the checkpoint, without `.index`.

    Raises:
        UserError: It is not a checkpoint of the original: a variable is missing, has another shape, or is left over.
    """
    backbone = model.get_layer("backbone")
    convolutions = [f"block1_{name}" for name, *_ in FRONT_END] + [f"block2_{name}" for name in MIDDLE_END]
    norms = ["block1_input", *convolutions, "block3_pooling", "block3_dense"]
    sources = {backbone.get_layer(f"{name}_norm"): ("batch_normalization", i) for i, name in enumerate(norms)}
    sources |= {backbone.get_layer(name): ("conv2d", i) for i, name in enumerate(convolutions)}
    sources |= {backbone.get_layer("block3_dense"): ("dense", 0), model.get_layer("tags"): ("dense", 1)}
    try:
        reader = tf.train.load_checkpoint(str(checkpoint))
        shapes = reader.get_variable_to_shape_map()
        for layer, (name, number) in sources.items():
            scope = f"{name}_{number}" if number else name
            keys = [f"{scope}/{weight.name}" for weight in layer.weights]
            values = [reader.get_tensor(key) for key in keys]
            layer.set_weights([v.reshape(w.shape) for v, w in zip(values, layer.weights, strict=True)])
            for key in keys:
                del shapes[key]
    except (ValueError, KeyError, tf.errors.OpError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"Expected musicnn's checkpoint, got another in {checkpoint}: {reason}") from error
    if left := sorted(name for name in shapes if not _OPTIMIZER.search(name)):
        raise UserError(f"Expected musicnn's checkpoint, got another in {checkpoint}: {left[0]} is left over")


_OPTIMIZER = re.compile(r"Adam|beta\d_power|global_step")
"""Names of the optimizer's variables, which are not part of the model."""


@keras.saving.register_keras_serializable(PACKAGE)
class NormalizedMaximum(FusedBatchNormalization):
    """BatchNormalization, then the maximum over the bands.

    Takes `(batch, frames, bands, filters)`, and returns `(batch, frames, filters)`. Outside training a filter's
    normalisation is monotonic, so it is applied to the maximum, or to the minimum if it decreases. Arguments are those
    of `keras.layers.BatchNormalization`. Masking: `mask` is not used.

    Examples:
        >>> from mtmusic.models.musicnn import NormalizedMaximum
        >>> x = np.array([[[[1.0], [3.0]], [[6.0], [2.0]]]])  # two frames of two bands
        >>> NormalizedMaximum()(x).numpy().round(1).squeeze()
        array([3., 6.], dtype=float32)
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if training and self.trainable:
            return ops.max(super().call(inputs, training=training), axis=2)
        rises = ops.cast(self.gamma, inputs.dtype) >= 0
        extreme = ops.where(rises, ops.max(inputs, axis=2, keepdims=True), ops.min(inputs, axis=2, keepdims=True))
        return super().call(extreme, training=False)[:, :, 0]

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:2], input_shape[3])

    def compute_output_spec(self, inputs: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)


@keras.saving.register_keras_serializable(PACKAGE)
class TrainedDropout(layers.Dropout):
    """Dropout that is off if the layer is frozen, so that the features of a frozen backbone do not change.

    Arguments and masking are those of `keras.layers.Dropout`.

    Examples:
        >>> from mtmusic.models.musicnn import TrainedDropout
        >>> layer = TrainedDropout(0.5)
        >>> layer.trainable = False
        >>> layer(np.ones((1, 4)), training=True).numpy()
        array([[1., 1., 1., 1.]], dtype=float32)
    """

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        return super().call(inputs, training=training and self.trainable)


@keras.saving.register_keras_serializable(PACKAGE)
class Patches(Float32Layer):
    """Cuts clips into patches.

    Takes spectrograms `(batch, frames, bins)`. Returns the present patches of all clips, `(present patches, 187, bins,
    1)`, and a mask of each clip's present patches, `(batch, patches)` bool. The first patch begins at the clip's first
    present frame. A clip shorter than a patch is repeated until it fills one.

    Masking: patches of padding are left out. The layer uses no Keras mask.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.musicnn import Patches
        >>> spectrograms = np.zeros((2, 400, 96))
        >>> spectrograms[1, 200:] = -1024  # the second clip has 200 frames
        >>> patches, present = Patches()(spectrograms)
        >>> patches.shape, present.numpy().tolist()
        (TensorShape([3, 187, 96, 1]), [[True, True], [True, False]])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_jit = False  # the number of patches depends on the values

    def call(self, spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        there = tf.reduce_any(spectrogram != PAD_VALUE, axis=-1)
        first = tf.argmax(tf.cast(there, tf.int32), axis=1, output_type=tf.int32)[:, None]
        length = tf.maximum(tf.reduce_sum(tf.cast(there, tf.int32), axis=1), 1)[:, None]
        frames = tf.shape(spectrogram)[1]
        patches = tf.maximum(frames // PATCH_FRAMES, 1)
        place = tf.range(patches * PATCH_FRAMES)[None]
        place = tf.minimum(first + tf.where(length < PATCH_FRAMES, place % length, place), frames - 1)
        present = tf.range(1, patches + 1)[None] * PATCH_FRAMES <= tf.maximum(length, PATCH_FRAMES)
        place += frames * tf.range(tf.shape(spectrogram)[0])[:, None]
        place = tf.boolean_mask(tf.reshape(place, (-1, patches, PATCH_FRAMES)), present)
        cut = tf.gather(tf.reshape(spectrogram, (-1, spectrogram.shape[2])), place)
        return cut[..., None], present

    def compute_output_spec(self, spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        patches = (None, PATCH_FRAMES, spectrogram.shape[2], 1)
        return keras.KerasTensor(patches, "float32"), keras.KerasTensor((spectrogram.shape[0], None), "bool")


@keras.saving.register_keras_serializable(PACKAGE)
class PatchRows(Float32Layer):
    """Arranges the present patches by clip, the opposite of `PresentRows`.

    Takes `x`, `(present patches, features)`, and `present`, `(batch, patches)` bool; returns `(batch, patches,
    features)`.

    Masking: absent patches are filled with PAD_VALUE. The layer uses no Keras mask.

    Examples:
        >>> from mtmusic.models.musicnn import PatchRows
        >>> x, present = np.array([[1.0, 2.0]]), np.array([[True, False]])
        >>> PatchRows()(x, present).numpy().tolist()
        [[[1.0, 2.0], [-1024.0, -1024.0]]]
    """

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        return tf.where(tf.expand_dims(present, -1), _rows(x, present), PAD_VALUE)

    def compute_output_spec(self, x: Tensor, present: Tensor) -> Tensor:
        return keras.KerasTensor((*present.shape, x.shape[1]), "float32")


@keras.saving.register_keras_serializable(PACKAGE)
class PresentRows(Float32Layer):
    """Returns the present patches of all clips, the opposite of `PatchRows`.

    Takes `(batch, patches, values)`, and returns `(present patches, values)` and `(batch, patches)` bool.

    Masking: a patch is absent if all of its values are PAD_VALUE. The layer uses no Keras mask.

    Examples:
        >>> from mtmusic.models.musicnn import PresentRows
        >>> x, present = PresentRows()(np.array([[[1.0, 2.0], [-1024.0, -1024.0]]]))
        >>> x.numpy().tolist(), present.numpy().tolist()
        ([[1.0, 2.0]], [[True, False]])
    """

    def call(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        present = tf.reduce_any(rows != PAD_VALUE, axis=-1)
        return tf.boolean_mask(rows, present), present

    def compute_output_spec(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return keras.KerasTensor((None, rows.shape[2]), "float32"), keras.KerasTensor(rows.shape[:2], "bool")


@keras.saving.register_keras_serializable(PACKAGE)
class PatchMean(Float32Layer):
    """The mean over a clip's patches.

    Takes `x`, `(present patches, features)`, and `present`, `(batch, patches)` bool; returns `(batch, features)`.

    Masking: absent patches do not count. The layer uses no Keras mask.

    Examples:
        >>> from mtmusic.models.musicnn import PatchMean
        >>> x = np.array([[1.0], [3.0], [5.0]])
        >>> present = np.array([[True, True], [True, False]])  # two patches of one clip, one of the other
        >>> PatchMean()(x, present).numpy().tolist()
        [[2.0], [5.0]]
    """

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        weights = tf.cast(present, tf.float32)
        return tf.reduce_sum(_rows(x, present), axis=1) / tf.reduce_sum(weights, axis=1, keepdims=True)

    def compute_output_spec(self, x: Tensor, present: Tensor) -> Tensor:
        return keras.KerasTensor((present.shape[0], x.shape[1]), "float32")


def _rows(x: Tensor, present: Tensor) -> Tensor:
    """x (present patches, features), present (batch, patches) -> (batch, patches, features), 0 for absent patches."""
    return tf.scatter_nd(tf.where(present), x, tf.concat([tf.shape(present, tf.int64), [x.shape[1]]], axis=0))


@keras.saving.register_keras_serializable(PACKAGE)
class LabToLogmel(Float32Layer):
    """Converts the lab's full-rate mel to logmel.

    Takes `(batch, frames, 128 or 140)` in dB, and returns `(batch, frames, 96)`. The layer interpolates the dB linearly
    in frequency and in time. The lab's dB are relative to each clip's maximum, so the layer assumes that every clip is
    as loud as the median song. The lab's windows are longer, so attacks are blurred. The result is good enough for the
    features of a trained head, but not for tags.

    Masking: absent frames stay absent. The layer uses no Keras mask.

    Examples:
        >>> from mtmusic.models.musicnn import LabToLogmel
        >>> logmel = LabToLogmel()(np.zeros((1, 44, 128)))  # a second at 0 dB
        >>> logmel.shape, round(float(logmel[0, 0, 0]), 2)  # log10(1 + 10000 * 10 ** 1.85)
        (TensorShape([1, 63, 96]), 5.85)
    """

    def call(self, spectrogram: Tensor) -> Tensor:
        present = tf.reduce_any(spectrogram != PAD_VALUE, axis=-1)
        length = tf.reduce_sum(tf.cast(present, tf.int32), axis=1)[:, None]
        decibels = tf.tensordot(spectrogram[..., : FEATURE_BINS["mel"]], tf.constant(_bands(), tf.float32), 1)
        step = (LOGMEL_HOP_LENGTH / LOGMEL_SAMPLE_RATE) / (HOP_LENGTH / SAMPLE_RATE)
        last = tf.cast(tf.shape(spectrogram)[1] - 1, tf.float32)
        place = tf.range(tf.cast(tf.floor(last / step), tf.int32) + 1)
        time = tf.cast(place, tf.float32) * step
        before = tf.cast(time, tf.int32)
        after = tf.minimum(before[None] + 1, tf.maximum(length - 1, 0))
        share = (time - tf.cast(before, tf.float32))[None, :, None]
        between = (1 - share) * tf.gather(decibels, before, axis=1) + share * tf.gather(decibels, after, batch_dims=1)
        logmel = tf.math.log(1 + 1e4 * 10 ** ((between + LAB_TO_LOGMEL_DB) / 10)) / math.log(10)
        within = time[None] <= tf.cast(length - 1, tf.float32)
        return tf.where(tf.expand_dims(within, -1), logmel, PAD_VALUE)

    def compute_output_spec(self, spectrogram: Tensor) -> Tensor:
        return keras.KerasTensor((spectrogram.shape[0], None, FEATURE_BINS["logmel"]), "float32")


def _bands() -> np.ndarray:
    """Weights (128, 96) that interpolate from the lab's mel bands to those of logmel."""
    lab = mel_frequencies(FEATURE_BINS["mel"] + 2, SAMPLE_RATE / 2)[1:-1]
    wanted = mel_frequencies(FEATURE_BINS["logmel"] + 2, LOGMEL_SAMPLE_RATE / 2)[1:-1]
    return np.stack([np.interp(wanted, lab, one) for one in np.eye(len(lab))])

"""musicnn (Pons and Serra 2019, arXiv:1909.06654), a CNN that was trained to tag 200,000 songs, as a backbone.

Its input is log10(1 + 10000 power) of 96 Slaney mel bands at 16 kHz ("logmel"), or, through a conversion, the lab's
full-rate mel in dB. A clip is cut into patches of three seconds that do not overlap; what remains is not used.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from mtmusic.constants import FEATURE_BINS, HOP_LENGTH, LOGMEL_HOP_LENGTH, LOGMEL_SAMPLE_RATE, PAD_VALUE, SAMPLE_RATE
from mtmusic.models.cpu import layer_type
from mtmusic.models.cpu.normalization import FusedBatchNormalization
from mtmusic.models.layers import PACKAGE, Float32Layer, FrameMask, Tensor

PATCH_FRAMES = 187

FRONT_END = (
    ("timbral38", 7, 38, 204),
    ("timbral67", 7, 67, 204),
    ("temporal128", 128, 1, 51),
    ("temporal64", 64, 1, 51),
    ("temporal32", 32, 1, 51),
)
"""Name, frames, bands and filters of each convolution of block 1, all of them on the spectrogram."""

MIDDLE_END = ("middle1", "middle2", "middle3")
MIDDLE_FRAMES, MIDDLE_FILTERS = 7, 64
"""Block 2: one convolution after the other over all channels, with a residual connection from the second on."""

DENSE_UNITS = 200
DROPOUT = 0.5
EPSILON = 1e-3

LAB_TO_LOGMEL_DB = 18.5
"""From dB below a clip's loudest to dB of power: the median song's loudest, 30.2 dB, less the 11.7 dB that windows of
512 samples have less than windows of 2048."""


def musicnn_backbone(feature: str = "logmel", features: str = "penultimate", stock: bool = False) -> keras.Model:
    """(batch, any number of frames, bins) -> (batch, 200), (batch, 753) or (batch, patches, 200).

    feature: "logmel", or "mel" or "fused" for the lab's full-rate arrays, whose chroma is not used. features:
    "penultimate", the last layer before the tags, or "mean", the time means of blocks 1 and 2, both averaged over
    patches; "patches", the penultimate layer of each patch, where PAD_VALUE fills those that a shorter clip lacks.
    Blocks: 1 front end, 2 middle end, 3 pooling and dense layer. Clips need one present frame or more.
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
        outputs.append(ops.max(norm(y, f"block1_{name}"), axis=2))
    outputs = [ops.concatenate(outputs, axis=2)]

    for name in MIDDLE_END:
        y = layers.ZeroPadding1D(3, name=f"block2_{name}_padding")(outputs[-1])
        y = layers.Conv1D(MIDDLE_FILTERS, MIDDLE_FRAMES, activation="relu", name=f"block2_{name}")(y)
        y = norm(y, f"block2_{name}")
        outputs.append(y if len(outputs) == 1 else layers.Add(name=f"block2_{name}_sum")([y, outputs[-1]]))
    channels = ops.concatenate(outputs, axis=2)
    means = ops.mean(channels, axis=1)
    if features == "mean":
        return keras.Model(spectrogram, PatchMean(name="features")(means, present), name="backbone")

    pooled = ops.stack([ops.max(channels, axis=1), means], axis=2)  # for each channel its maximum, then its mean
    x = norm(ops.reshape(pooled, (-1, 2 * channels.shape[2])), "block3_pooling")
    x = layers.Dropout(DROPOUT, name="block3_dropout")(x)
    x = norm(layers.Dense(DENSE_UNITS, "relu", name="block3_dense")(x), "block3_dense")
    pool = PatchMean if features == "penultimate" else PatchRows
    return keras.Model(spectrogram, pool(name="features")(x, present), name="backbone")


def tagger(backbone: keras.Model, tags: Sequence[str]) -> keras.Model:
    """Scores (batch, tags) from 0 to 1, the mean over patches. backbone: `musicnn_backbone` of features "patches"."""
    spectrogram = keras.Input(backbone.input_shape[1:], dtype="float32", name="spectrogram")
    patches = backbone(spectrogram)
    scores = layers.Dense(len(tags), "sigmoid", dtype="float32", name="tags")(patches)
    mean = PatchMean(name="scores")(ops.reshape(scores, (-1, len(tags))), FrameMask(name="patch_mask")(patches))
    return keras.Model(spectrogram, mean, name="tagger")


@keras.saving.register_keras_serializable(PACKAGE)
class Patches(Float32Layer):
    """(batch, frames, bins) -> (batch * patches, PATCH_FRAMES, bins, 1), and (batch, patches) bool: which are present.

    Cut from each clip's first present frame on. A clip that is shorter than a patch is repeated until it fills one.
    """

    def call(self, spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        there = tf.reduce_any(spectrogram != PAD_VALUE, axis=-1)
        first = tf.argmax(tf.cast(there, tf.int32), axis=1, output_type=tf.int32)[:, None]
        length = tf.maximum(tf.reduce_sum(tf.cast(there, tf.int32), axis=1), 1)[:, None]
        frames = tf.shape(spectrogram)[1]
        patches = tf.maximum(frames // PATCH_FRAMES, 1)
        place = tf.range(patches * PATCH_FRAMES)[None]
        place = tf.minimum(first + tf.where(length < PATCH_FRAMES, place % length, place), frames - 1)
        cut = tf.gather(spectrogram, place, batch_dims=1)
        ends = tf.range(1, patches + 1)[None] * PATCH_FRAMES
        shape = (-1, PATCH_FRAMES, spectrogram.shape[2], 1)
        return tf.reshape(cut, shape), ends <= tf.maximum(length, PATCH_FRAMES)

    def compute_output_spec(self, spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        patches = (None, PATCH_FRAMES, spectrogram.shape[2], 1)
        return keras.KerasTensor(patches, "float32"), keras.KerasTensor((spectrogram.shape[0], None), "bool")


@keras.saving.register_keras_serializable(PACKAGE)
class PatchRows(Float32Layer):
    """x (batch * patches, features), present (batch, patches) -> (batch, patches, features), absent ones PAD_VALUE."""

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        rows = tf.reshape(x, (*tf.unstack(tf.shape(present)), x.shape[1]))
        return tf.where(present[..., None], rows, PAD_VALUE)

    def compute_output_spec(self, x: Tensor, present: Tensor) -> Tensor:
        return keras.KerasTensor((*present.shape, x.shape[1]), "float32")


@keras.saving.register_keras_serializable(PACKAGE)
class PatchMean(Float32Layer):
    """x (batch * patches, features), present (batch, patches) -> (batch, features): the mean over present patches."""

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        rows = tf.reshape(x, (*tf.unstack(tf.shape(present)), x.shape[1]))
        weights = tf.cast(present, rows.dtype)[..., None]
        return tf.reduce_sum(rows * weights, axis=1) / tf.reduce_sum(weights, axis=1)

    def compute_output_spec(self, x: Tensor, present: Tensor) -> Tensor:
        return keras.KerasTensor((present.shape[0], x.shape[1]), "float32")


@keras.saving.register_keras_serializable(PACKAGE)
class LabToLogmel(Float32Layer):
    """The lab's full-rate mel, (batch, frames, 128 or 140) in dB, to (batch, frames, 96) logmel, absent frames too.

    Interpolated in dB, linearly in Hz from band to band, the edges held, and linearly in time. The lab's dB are below
    each clip's own loudest: every clip is taken to be as loud as the median song. Its windows are longer, which blurs
    attacks, so that the result serves for features under a trained head, not for the tags.
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
        logmel = tf.math.log1p(1e4 * 10 ** ((between + LAB_TO_LOGMEL_DB) / 10)) / math.log(10)
        within = time[None] <= tf.cast(length - 1, tf.float32)
        return tf.where(within[..., None], logmel, PAD_VALUE)

    def compute_output_spec(self, spectrogram: Tensor) -> Tensor:
        return keras.KerasTensor((spectrogram.shape[0], None, FEATURE_BINS["logmel"]), "float32")


def _bands() -> np.ndarray:
    """(128, 96): weights that interpolate from the lab's mel bands to those of logmel."""
    lab = _mel_frequencies(FEATURE_BINS["mel"], SAMPLE_RATE / 2)
    wanted = _mel_frequencies(FEATURE_BINS["logmel"], LOGMEL_SAMPLE_RATE / 2)
    return np.stack([np.interp(wanted, lab, one) for one in np.eye(len(lab))])


def _mel_frequencies(bands: int, highest: float) -> np.ndarray:
    """Centres of Slaney's mel bands in Hz, as librosa has them: linear up to 1 kHz, above it 27 bands a factor of 6.4."""
    step, log_step, knee = 200 / 3, math.log(6.4) / 27, 1000.0
    top = knee / step + math.log(highest / knee) / log_step
    mel = np.linspace(0, top, bands + 2)[1:-1]
    return np.where(mel < knee / step, mel * step, knee * np.exp(log_step * (mel - knee / step)))

"""The features of a clip for baselines: statistics of its bins, or the features of the pretrained trunk."""

import time
from pathlib import Path

import keras
import numpy as np

from mtmusic.cards import TRUNK
from mtmusic.data.labels import Clips
from mtmusic.data.pipeline import make_dataset
from mtmusic.data.spectrograms import read_array
from mtmusic.models.transfer import load_backbone, set_backbone_weights
from mtmusic.training.recipes import Recipe, build_backbone
from mtmusic.training.task import kept_batches

TIMED_CLIPS = 8

ClipFeatures = dict[Path, np.ndarray]
"""The features of each array."""


def pooled_statistics(array: np.ndarray) -> np.ndarray:
    """(bins, frames) -> (4 * bins,) float64: means and deviations of the bins and of their differences between frames.

    For a single frame the differences are 0.
    """
    array = array.astype(np.float64)
    differences = np.diff(array, axis=1) if array.shape[1] > 1 else np.zeros_like(array)
    return np.concatenate([part for rows in (array, differences) for part in (rows.mean(axis=1), rows.std(axis=1))])


def pooled_features(clips: Clips) -> tuple[ClipFeatures, float]:
    """Returns the pooled statistics of each clip, and the milliseconds per clip, without reading."""
    features, spent = {}, 0.0
    for path in clips.paths:
        array = read_array(path)
        started = time.perf_counter()
        features[path] = pooled_statistics(array)
        spent += time.perf_counter() - started
    return features, 1000 * spent / len(clips)


def trunk_features(clips: Clips, feature: str) -> tuple[ClipFeatures, float]:
    """Returns the pretrained trunk's time means (753,) of each clip, and the milliseconds per clip, without reading.

    The means are cached on disk, as in a training on the frozen trunk. feature: kind of the arrays, "fused" or
    "logmel".
    """
    recipe = Recipe("musicnn", feature, features="mean")
    backbone = build_backbone(recipe)
    set_backbone_weights(backbone, load_backbone(TRUNK), TRUNK)
    means = np.concatenate([features for features, _ in kept_batches(backbone, clips, recipe).as_numpy_iterator()])
    return dict(zip(clips.paths, means, strict=True)), milliseconds_per_clip(backbone, recipe, clips)


def milliseconds_per_clip(model: keras.Model, recipe: Recipe, clips: Clips) -> float:
    """The milliseconds of a prediction per clip, without reading and tracing."""
    size = recipe.batch_size
    if recipe.backbone == "musicnn":  # its activations take 100 MB per clip and layer
        clips, size = clips.take(range(min(len(clips), TIMED_CLIPS))), 1
    batches = [spectrogram for spectrogram, _ in make_dataset(clips, recipe.feature, size, recipe.frames)]
    for batch in batches:
        model(batch, training=False)
    started = time.perf_counter()
    for batch in batches:
        model(batch, training=False)
    return 1000 * (time.perf_counter() - started) / len(clips)

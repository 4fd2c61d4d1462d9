"""Clips to a tf.data.Dataset of (spectrogram, target) batches, ragged to padded."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from mtmusic.constants import FEATURE_BINS, PAD_VALUE
from mtmusic.data.labels import Clips
from mtmusic.data.spectrograms import array_frames, read_spectrogram, require_feature

SHUFFLED_CLIPS = 1024  # how many read clips the shuffle may hold; the clips' order is shuffled whole before


def make_dataset(
    clips: Clips,
    feature: str = "mel",
    batch_size: int = 32,
    frames: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    cache: str | Path | None = None,
    buckets: int = 1,
) -> tf.data.Dataset:
    """Batches for `model.fit`, `evaluate` and `predict`.

    Each is (spectrogram, target): float32 (batch, frames, bins) in the array's own units, absent frames filled with
    PAD_VALUE, and the clips' targets, (batch,) or (batch, tasks).

    feature: "mel" (128 bins), "chroma" (12) or "fused" (140); "logmel" (96) of a logmel folder. frames: longer clips
    are cut to their first `frames`, shorter ones padded; None pads to the longest of the batch. shuffle: another order
    each epoch, the same epochs for the same seed. cache: "memory", or a path for a file (which must not be in use
    elsewhere); None reads the arrays anew each epoch. buckets: over 1, clips of like length share a batch, so that less
    is padding.
    Raises UserError for a feature that the arrays do not hold.
    """
    bins = FEATURE_BINS[feature]
    for path in clips.paths:
        require_feature(path, feature)
    if shuffle:
        clips = clips.take(np.random.default_rng(seed).permutation(len(clips)))

    def read(path: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        spectrogram = tf.numpy_function(
            lambda path: read_spectrogram(Path(path.decode()), feature)[:frames], [path], tf.float32, stateful=False
        )
        return tf.ensure_shape(spectrogram, (None, bins)), target

    ds = tf.data.Dataset.from_tensor_slices(([str(path) for path in clips.paths], clips.targets))
    if shuffle and cache is None:
        ds = ds.shuffle(len(clips), seed)  # paths, not arrays: costs no memory
    ds = ds.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    if cache is not None:
        ds = ds.cache("" if cache == "memory" else str(cache))
    if shuffle and cache is not None:
        ds = ds.shuffle(min(len(clips), SHUFFLED_CLIPS), seed)
    if buckets > 1 and frames is None:
        ds = _bucketed(ds, clips, bins, batch_size, buckets)
    else:
        ds = ds.ragged_batch(batch_size)
        ds = ds.map(lambda x, y: (x.to_tensor(PAD_VALUE, shape=(None, frames, bins)), y))
    return ds.prefetch(tf.data.AUTOTUNE)


def _bucketed(ds: tf.data.Dataset, clips: Clips, bins: int, batch_size: int, buckets: int) -> tf.data.Dataset:
    """Batches of clips between two quantiles of length, each padded to its own longest.

    Grouping loses the dataset's cardinality: it is counted from the arrays' headers and asserted.
    """
    lengths = np.array([array_frames(path) for path in clips.paths])
    inner = np.quantile(lengths, np.linspace(0, 1, buckets + 1)[1:-1], method="higher")
    bounds = sorted({int(bound) for bound in inner})
    ds = ds.bucket_by_sequence_length(
        element_length_func=lambda x, y: tf.shape(x)[0],
        bucket_boundaries=bounds,
        bucket_batch_sizes=[batch_size] * (len(bounds) + 1),
        padded_shapes=([None, bins], list(clips.targets.shape[1:])),
        padding_values=(PAD_VALUE, tf.zeros((), clips.targets.dtype)),
    )
    counts = np.bincount(np.digitize(lengths, bounds))
    return ds.apply(tf.data.experimental.assert_cardinality(int(np.ceil(counts / batch_size).sum())))

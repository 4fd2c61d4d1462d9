"""Makes a `tf.data.Dataset` of padded batches `(spectrogram, target)` from clips."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from mtmusic.constants import FEATURE_BINS, PAD_VALUE
from mtmusic.data.labels import Clips
from mtmusic.data.spectrograms import array_frames, read_spectrogram, require_feature

SHUFFLED_CLIPS = 1024  # clips in the shuffle buffer after the cache; the paths are shuffled as a whole


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
    """Makes batches for `model.fit`, `evaluate` and `predict`, as in the lab's step 4.

    Each batch is `(spectrogram, target)`: a float32 spectrogram `(batch, frames, bins)` in the units of the arrays on
    disk, with absent frames filled with PAD_VALUE, and targets `(batch,)` for genre or `(batch, tasks)` for affect.

    Args:
        clips: The clips, from `read_genre_labels` or `read_affect_labels`.
        feature: "mel" (128 bins), "chroma" (12 bins) or "fused" (140 bins). "logmel" (96 bins) for a folder of logmel
            arrays.
        batch_size: Clips per batch.
        frames: Frames of each clip. Longer clips are cut to their first frames, and shorter ones are padded. None pads
            to the longest clip of the batch.
        shuffle: Whether to shuffle the clips in each epoch.
        seed: Seed of the shuffles.
        cache: Where to keep arrays that were read: "memory", or the path of a file that nothing else uses. None reads
            the arrays again in each epoch.
        buckets: Number of groups of clips of similar length. A batch has clips of one group, so there is less padding.
            Used only if `frames` is None.

    Returns:
        A `tf.data.Dataset` of known cardinality.

    Raises:
        UserError: The arrays do not hold the feature.

    Examples:
        >>> clips = mtmusic.read_genre_labels("data/genre_beat")
        >>> ds = mtmusic.make_dataset(clips, "fused", batch_size=8, frames=20)
        >>> len(ds)
        3
        >>> spectrogram, target = next(iter(ds))
        >>> spectrogram.shape, target.shape
        (TensorShape([8, 20, 140]), TensorShape([8]))
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
    """Batches clips of similar length. A group lies between two quantiles of the lengths.

    Grouping loses the dataset's cardinality, so it is counted from the arrays' headers and asserted.
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

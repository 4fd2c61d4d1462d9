"""Trains on the outputs of frozen layers, which are computed once, because they are the same in every epoch.

Outputs of a pretrained trunk are cached on disk by the hashes of weights and array, for later trainings too.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from mtmusic.constants import PAD_VALUE, PATCH_FRAMES
from mtmusic.files import cache_folder, write_from_memory
from mtmusic.models.heads import compiled_as, head_alone
from mtmusic.models.musicnn import FEATURES_VERSION, PatchRows, PresentRows, TrainedDropout, kind_of
from mtmusic.models.saving import weights_hash
from mtmusic.models.transfer import first_blocks

RANDOM = (keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.GaussianNoise)

CUTS = {2: "block2_pooled", 1: "block1_channels"}
"""The layer after which a musicnn backbone is cut, by the number of frozen blocks."""

LARGEST_BYTES = 8 * 2**30
"""The largest outputs of block 1 that are kept: those of 4000 clips of 30 s. Larger ones are computed in each epoch."""

PATCHES_AT_ONCE = 20
"""Number of patches that are computed at once. Block 1 needs 20 MB per patch."""

MEMORY_BYTES = 2 * 2**30
"""The largest features that are kept in memory. Larger ones are read from disk in each epoch."""


def is_fixed(backbone: keras.Model) -> bool:
    """Whether a backbone has neither trainable weights nor random layers."""
    drawn = any(isinstance(layer, RANDOM) and not isinstance(layer, TrainedDropout) for layer in backbone.layers)
    return not drawn and not backbone.trainable_variables


def split(model: keras.Model, frames: int = 0) -> tuple[keras.Model, keras.Model] | None:
    """Splits a model on a musicnn backbone into its frozen part and the rest.

    The frozen part maps (batch, frames, bins) to (batch, features), or to (batch, patches, values) with PAD_VALUE for
    absent patches. The rest maps these to the answers. It is compiled like the model, and shares its layers and
    optimizer, so training the rest trains the model.
    Returns None if no block is frozen, if the backbone is another network, or if the outputs are too large to keep.
    frames: number of frames of all clips together.
    """
    backbone = model.get_layer("backbone")
    if kind_of(backbone) is None:
        return None
    if is_fixed(backbone):
        return backbone, head_alone(model)
    frozen = [n for n in CUTS if not any(layer.trainable_weights for layer in first_blocks(backbone, n, "freeze"))]
    if not frozen:
        return None
    name = CUTS[frozen[0]]
    output, (_, present) = backbone.get_layer(name).output, backbone.get_layer("patches").output
    values = int(np.prod(output.shape[1:]))
    if frames // PATCH_FRAMES * values * _dtype(values)().itemsize > LARGEST_BYTES:
        return None
    rows = PatchRows()(keras.layers.Reshape((values,))(output), present)
    kept = keras.Input((None, values), dtype="float32", name="features")
    patches, there = PresentRows()(kept)
    above = keras.Model([output, present], backbone.output)
    features = above([keras.layers.Reshape(output.shape[1:])(patches), there])
    rest = type(model)(kept, head_alone(model).call(features), name=model.name)
    return keras.Model(backbone.input, rows), compiled_as(model, rest)


def frozen_features(
    frozen: keras.Model,
    paths: Sequence[Path],
    digests: Mapping[Path, str],
    read: Callable[[Path], np.ndarray],
) -> list[Path]:
    """Returns the files of each clip's features, in the order of paths. Missing or damaged files are computed.

    The files are MTMUSIC_CACHE/features/<weights>_<bins>_<values>_<precision>_v<version>/<digest>.npy, (features,) or
    (patches, values). Each clip is computed in parts, so memory use does not grow with its length.
    frozen: the frozen part from `split`. digests: hash of each path's array.
    read: a function from a path to the model's input, (frames, bins) float32.
    """
    *_, values = frozen.output_shape
    kind = f"{frozen.input_shape[2]}_{values}_{frozen.get_layer('block1_channels').compute_dtype}_v{FEATURES_VERSION}"
    folder = cache_folder() / "features" / f"{weights_hash(frozen)}_{kind}"
    files = {path: folder / f"{digests[path]}.npy" for path in paths}
    missing = [path for path, file in files.items() if not _is_whole(file, values)]
    compute = _in_parts(frozen)
    for path in tqdm(missing, desc="Features", unit="clip", disable=not missing):
        features = compute(read(path)).astype(_dtype(values))
        write_from_memory(files[path], partial(np.save, arr=features))
    return [files[path] for path in paths]


def _in_parts(frozen: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that computes `frozen` for one clip (frames, bins), PATCHES_AT_ONCE patches at a time."""
    patches, present = frozen.get_layer("patches").output
    cut = keras.Model(frozen.input, patches)
    above = tf.function(keras.Model([patches, present], frozen.output), reduce_retracing=True)

    def compute(clip: np.ndarray) -> np.ndarray:
        whole = cut(clip[np.newaxis], training=False)
        parts = [whole[i : i + PATCHES_AT_ONCE] for i in range(0, len(whole), PATCHES_AT_ONCE)]
        outputs = [above([part, tf.ones((1, len(part)), bool)], training=False)[0].numpy() for part in parts]
        if outputs[0].ndim == 2:
            return np.concatenate(outputs)
        return np.average(outputs, axis=0, weights=[len(part) for part in parts])

    return compute


def feature_batches(
    files: Sequence[Path], targets: np.ndarray, batch_size: int, shuffle: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Makes batches of (features, target). Absent patches of a batch are filled with PAD_VALUE.

    files: the files from `frozen_features`. shuffle: whether to shuffle the clips in each epoch.
    """
    shape = np.load(files[0], mmap_mode="r").shape
    shape = (*[None] * (len(shape) - 1), shape[-1])

    def read(file: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = tf.numpy_function(lambda file: np.load(file.decode()).astype(np.float32), [file], tf.float32)
        return tf.ensure_shape(features, shape), target

    ds = tf.data.Dataset.from_tensor_slices(([str(file) for file in files], targets))
    fits = sum(file.stat().st_size for file in files) <= MEMORY_BYTES
    if fits:
        ds = ds.map(read).cache()
    if shuffle:
        ds = ds.shuffle(len(files), seed=seed, reshuffle_each_iteration=True)
    if not fits:
        ds = ds.map(read)
    padding = (PAD_VALUE, tf.zeros((), targets.dtype))
    return ds.padded_batch(batch_size, (shape, targets.shape[1:]), padding).prefetch(tf.data.AUTOTUNE)


def embedded(
    backbone: keras.Model, dataset: tf.data.Dataset, batch_size: int, shuffle: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Makes batches of (features, target) with a fixed backbone.

    dataset: finite batches of (spectrogram, target). shuffle: whether to shuffle the clips in each epoch.
    """
    features, targets = [], []
    for spectrogram, target in dataset:
        features.append(keras.ops.cast(backbone(spectrogram, training=False), "float32"))
        targets.append(target.numpy())
    slices = tf.data.Dataset.from_tensor_slices((np.concatenate(features), np.concatenate(targets)))
    if shuffle:
        slices = slices.shuffle(len(slices), seed=seed, reshuffle_each_iteration=True)
    return slices.batch(batch_size)


def _dtype(values: int) -> type[np.floating]:
    """The dtype of stored features. Outputs of block 1 are many, and of the order of 1, so float16 is exact enough."""
    return np.float16 if values > 10_000 else np.float32


def _is_whole(file: Path, values: int) -> bool:
    try:
        stored = np.load(file)
    except (OSError, ValueError, EOFError):
        return False
    return stored.shape[-1:] == (values,) and stored.dtype == _dtype(values) and bool(np.isfinite(stored).all())

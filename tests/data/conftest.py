"""Tiny data folders, written by NumPy and plain text alone, so that they can judge the code that reads them."""

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mtmusic.data.labels import Clips

Fused = Callable[..., np.ndarray]
SaveArray = Callable[..., Path]
DataFolder = Callable[..., Path]


@pytest.fixture
def fused() -> Fused:
    """fused(frames, seed) -> (140, frames) float32: mel in [-80, 0] dB, chroma in [0, 1]."""

    def make(frames: int = 3, seed: int = 0) -> np.ndarray:
        values = np.random.default_rng(seed).random((140, frames), dtype=np.float32)
        values[:128] = -80 * values[:128]
        return values

    return make


@pytest.fixture
def save_array() -> SaveArray:
    """save_array(path, array): .npy, or .npy.gz where the name ends so."""

    def save(path: Path, array: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
            np.save(file, array)
        return path

    return save


@pytest.fixture
def data_folder(tmp_path: Path, fused: Fused, save_array: SaveArray) -> DataFolder:
    """data_folder(labels, ids): the text of a label file, and an array of 3 frames for each id."""

    def make(
        labels: str | bytes,
        ids: Sequence[str | int] = (),
        split: str = "train",
        name: str = "data",
        suffix: str = ".npy",
    ) -> Path:
        folder = tmp_path / name
        (folder / split).mkdir(parents=True, exist_ok=True)
        content = labels if isinstance(labels, bytes) else labels.encode()
        (folder / f"{split}_labels.txt").write_bytes(content)
        for seed, clip_id in enumerate(ids):
            save_array(folder / split / f"{clip_id}.fused.full{suffix}", fused(3, seed))
        return folder

    return make


@pytest.fixture
def clips_of_lengths(tmp_path: Path, fused: Fused, save_array: SaveArray) -> Callable[..., Clips]:
    """clips_of_lengths([3, 5]): Clips with an array each; the target is the clip's position."""

    def make(lengths: Sequence[int]) -> Clips:
        paths = tuple(
            save_array(tmp_path / "arrays" / f"{i}.fused.full.npy", fused(frames, i))
            for i, frames in enumerate(lengths)
        )
        ids = tuple(str(i) for i in range(len(lengths)))
        return Clips(ids, paths, np.arange(len(lengths)), classes=ids)

    return make

"""Tiny data folders to test with."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mtmusic.data.labels import write_affect_labels, write_genre_labels
from mtmusic.data.spectrograms import write_array

PROJECT = Path(__file__).parent.parent

needs_tfdv = pytest.mark.skipif(
    find_spec("tensorflow_data_validation") is None, reason="TensorFlow Data Validation is not installed"
)


def tiny_array(level: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A fused array (140, frames) whose mel lies about `level` dB and, as all mel in dB, has a maximum of 0."""
    mel = np.clip(rng.normal(level, 5, (128, frames)), -80, 0)
    mel[0, 0] = 0
    return np.concatenate([mel, rng.uniform(0, 1, (12, frames))]).astype("float32")


def tiny_logmel(level: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A logmel array (96, frames) about `level` dB above -80, 0 to 6.4: each bin rises and falls every 20 frames."""
    phase = rng.uniform(0, 2 * np.pi, (96, 1)) + 2 * np.pi * np.arange(frames) / 20
    loudness = 0.3 + 5.7 * (level + 80) / 80 + rng.normal(0, 0.05, (96, 1))
    return np.clip(loudness + 0.4 * np.sin(phase), 0, 8).astype("float32")


def write_tiny_array(folder: Path, clip_id: str, level: float, feature: str, rng: np.random.Generator) -> None:
    frames = int(rng.integers(14, 25))
    if feature == "logmel":
        write_array(folder / f"{clip_id}.logmel.npy", tiny_logmel(level, frames, rng))
    else:
        write_array(folder / f"{clip_id}.fused.full.npy", tiny_array(level, frames, rng))


def write_tiny_genre_folder(
    folder: Path,
    classes: tuple[str, ...] = ("Blues", "Jazz", "Rock"),
    train: int = 8,
    test: int = 3,
    seed: int = 0,
    feature: str = "fused",
) -> Path:
    """A genre folder of clips of 14 to 24 frames; a class's clips are of one loudness, so that it can be learnt.

    feature: "fused" or "logmel".
    """
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        genres = [genre for genre in classes for _ in range(count)]
        ids = [f"{number + (1000 if split == 'test' else 1)}" for number in range(len(genres))]
        for clip_id, genre in zip(ids, genres, strict=True):
            level = -70 + 60 * classes.index(genre) / max(1, len(classes) - 1)
            write_tiny_array(folder / split, clip_id, level, feature, rng)
        name = "{id}.logmel.npy" if feature == "logmel" else "{id}.beatsync.fused.npy.gz"
        write_genre_labels(folder, split, ids, genres, name)
    return folder


def write_tiny_affect_folder(
    folder: Path,
    tasks: tuple[str, ...] = ("valence", "energy", "danceability"),
    train: int = 30,
    test: int = 6,
    test_labels: bool = False,
    seed: int = 0,
    feature: str = "fused",
) -> Path:
    """An affect folder of clips of 14 to 24 frames, two by each artist; the louder the mel, the higher each label.

    The test split has no labels unless asked for, as the lab's. feature: "fused" or "logmel".
    """
    rng = np.random.default_rng(seed)
    groups = ["id,group"]
    for split, count, first in (("train", train, 1), ("test", test, 1000)):
        values = rng.uniform(0.05, 0.95, (count, 1)) + rng.normal(0, 0.02, (count, len(tasks)))
        ids = [str(first + number) for number in range(count)]
        for number, clip_id in enumerate(ids):
            write_tiny_array(folder / split, clip_id, -75 + 70 * float(values[number, 0]), feature, rng)
            groups.append(f"{clip_id},artist {split} {number // 2}")
        if split == "train" or test_labels:
            write_affect_labels(folder, split, ids, tasks, values.clip(0, 1))
    (folder / "groups.csv").write_text("\n".join(groups) + "\n")
    return folder

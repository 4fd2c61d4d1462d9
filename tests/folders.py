"""Tiny data folders to test with."""

from pathlib import Path

import numpy as np

from mtmusic.data.labels import write_affect_labels, write_genre_labels
from mtmusic.data.spectrograms import write_array

PROJECT = Path(__file__).parent.parent


def tiny_array(level: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A fused array (140, frames) whose mel lies about `level` dB and, as all mel in dB, has a maximum of 0."""
    mel = np.clip(rng.normal(level, 5, (128, frames)), -80, 0)
    mel[0, 0] = 0
    return np.concatenate([mel, rng.uniform(0, 1, (12, frames))]).astype("float32")


def write_tiny_genre_folder(
    folder: Path, classes: tuple[str, ...] = ("Blues", "Jazz", "Rock"), train: int = 8, test: int = 3, seed: int = 0
) -> Path:
    """A genre folder of clips of 14 to 24 frames; a class's clips are of one loudness, so that it can be learnt."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        genres = [genre for genre in classes for _ in range(count)]
        ids = [f"{number + (1000 if split == 'test' else 1)}" for number in range(len(genres))]
        for clip_id, genre in zip(ids, genres, strict=True):
            level = -70 + 60 * classes.index(genre) / max(1, len(classes) - 1)
            array = tiny_array(level, int(rng.integers(14, 25)), rng)
            write_array(folder / split / f"{clip_id}.fused.full.npy", array)
        write_genre_labels(folder, split, ids, genres, "{id}.beatsync.fused.npy.gz")
    return folder


def write_tiny_affect_folder(
    folder: Path,
    tasks: tuple[str, ...] = ("valence", "energy", "danceability"),
    train: int = 30,
    test: int = 6,
    test_labels: bool = False,
    seed: int = 0,
) -> Path:
    """An affect folder of clips of 14 to 24 frames, two by each artist; the louder the mel, the higher each label.

    The test split has no labels unless asked for, as the lab's.
    """
    rng = np.random.default_rng(seed)
    groups = ["id,group"]
    for split, count, first in (("train", train, 1), ("test", test, 1000)):
        values = rng.uniform(0.05, 0.95, (count, 1)) + rng.normal(0, 0.02, (count, len(tasks)))
        ids = [str(first + number) for number in range(count)]
        for number, clip_id in enumerate(ids):
            array = tiny_array(-75 + 70 * float(values[number, 0]), int(rng.integers(14, 25)), rng)
            write_array(folder / split / f"{clip_id}.fused.full.npy", array)
            groups.append(f"{clip_id},artist {split} {number // 2}")
        if split == "train" or test_labels:
            write_affect_labels(folder, split, ids, tasks, values.clip(0, 1))
    (folder / "groups.csv").write_text("\n".join(groups) + "\n")
    return folder

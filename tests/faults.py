"""Faults to plant in a genre or affect folder, each with the name that the checks should give it; a full disk, a song
that kills."""

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.audio.windows import _whole_song as whole_song
from mtmusic.data.labels import clip_id, label_path
from mtmusic.data.spectrograms import SUFFIXES, array_kind, array_path, read_array
from mtmusic.serving.predictor import SongAnswer

Plant = Callable[[Path], None]


WITH_EVERY_CHECKPOINT = """
import importlib, sys
from mtmusic.models import trainer
trainer.CHECKPOINT_SECONDS = 0
sys.exit(importlib.import_module("mtmusic.cli." + sys.argv[1]).main(sys.argv[2:]))
"""
"""Runs a command that keeps each epoch, however short."""


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As a full disk; Python ignores the signal, so that writing fails with an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def whole_song_unless_b(path: Path, **options: Any) -> Any:
    """Ends a worker process that reads b.wav; of another song its features."""
    if path.name == "b.wav":
        os._exit(1)
    return whole_song(path, **options)


def slow_answer(path: Path, **_: Any) -> SongAnswer:
    """In the place of `serving.library.answer_song`, without TensorFlow."""
    time.sleep(0.2)
    return SongAnswer(path, {}, seconds=1.0)


def edit(split: str, change: Callable[[list[str]], list[str]]) -> Plant:
    """Plants a fault into the rows of a label file."""

    def plant(folder: Path) -> None:
        path = label_path(folder, split)
        header, *rows = path.read_text().splitlines()
        path.write_text("\n".join([header, *change(rows)]) + "\n")

    return plant


def cells(numbers: slice, change: Callable[[list[str]], list[str]], split: str = "train") -> Plant:
    """Of these rows."""

    def change_rows(rows: list[str]) -> list[str]:
        mark = "\t" if "\t" in rows[0] else ","
        chosen = {*range(*numbers.indices(len(rows)))}
        return [mark.join(change(row.split(mark))) if i in chosen else row for i, row in enumerate(rows)]

    return edit(split, change_rows)


def arrays(change: Callable[[np.ndarray], np.ndarray], split: str = "train", every: int = 10) -> Plant:
    """Into one array of `every`, in the order of the label file."""

    def plant(folder: Path) -> None:
        for name in ids(folder, split)[::every]:
            replace_array(folder, split, name, change)

    return plant


def replace_array(folder: Path, split: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = array_path(folder / split, name)
    array = change(read_array(path))
    path.unlink()  # it may be a link to the untouched folder's
    np.save(folder / split / f"{name}{SUFFIXES[array_kind(path)][0]}", array)


def ids(folder: Path, split: str) -> list[str]:
    """As the labels name them; a split without labels by its arrays."""
    if not label_path(folder, split).is_file():
        return sorted(clip_id(path.name) for path in (folder / split).iterdir())
    return [clip_id(row.split(",")[0]) for row in label_path(folder, split).read_text().splitlines()[1:]]


def mel(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.concatenate([change(array[:128]), array[128:]]).astype(np.float32)


def chroma(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.concatenate([array[:128], change(array[128:])]).astype(np.float32)


def of_class(rows: list[str], position: int) -> list[str]:
    """Rows of the class that is the so-manieth in alphabetical order."""
    name = sorted({row.split("\t")[1] for row in rows})[position]
    return [row for row in rows if row.split("\t")[1] == name]


def take_out(split: str, keep: Callable[[list[str]], list[str]]) -> Plant:
    """Takes out rows of the last class with their arrays, all but those that `keep` gives."""

    def change(rows: list[str]) -> list[str]:
        last = of_class(rows, -1)
        kept = keep(last)
        return [row for row in rows if row not in last or row in kept]

    def plant(folder: Path) -> None:
        before = ids(folder, split)
        edit(split, change)(folder)
        for name in {*before} - {*ids(folder, split)}:
            array_path(folder / split, name).unlink()

    return plant


def swap(folder: Path) -> None:
    for one, other in ((folder / "train", folder / "test"), (label_path(folder, "train"), label_path(folder, "test"))):
        aside = folder / "aside"
        one.rename(aside)
        other.rename(one)
        aside.rename(other)


def copy_clip(to: str, name: str = "90001") -> Plant:
    """The first clip of train under another id, in `to`."""

    def plant(folder: Path) -> None:
        first = label_path(folder, "train").read_text().splitlines()[1]
        source = array_path(folder / "train", clip_id(first))
        shutil.copy(source, folder / to / source.name.replace(clip_id(first), name, 1))
        edit(to, lambda rows: [*rows, first.replace(clip_id(first), name, 1)])(folder)

    return plant


def keep_few(folder: Path) -> None:
    """One clip a class in test."""
    rows = label_path(folder, "test").read_text().splitlines()[1:]
    kept = list({row.split("\t")[1]: row for row in rows}.values())
    for row in rows:
        if row not in kept:
            array_path(folder / "test", clip_id(row)).unlink()
    edit("test", lambda rows: kept)(folder)


def share_group(folder: Path) -> None:
    rows = [f"{name},{split} {name}" for split in ("train", "test") for name in ids(folder, split)]
    rows[0], rows[-1] = rows[0].split(",")[0] + ",both", rows[-1].split(",")[0] + ",both"
    (folder / "groups.csv").write_text("\n".join(["id,group", *rows]) + "\n")


def share_id(folder: Path) -> None:
    first, last = ids(folder, "train")[0], ids(folder, "test")[-1]
    path = array_path(folder / "test", last)
    path.rename(path.with_name(path.name.replace(last, first, 1)))
    edit("test", lambda rows: [*rows[:-1], rows[-1].replace(last, first, 1)])(folder)
    (folder / "groups.csv").unlink(missing_ok=True)


def truncate(folder: Path) -> None:
    path = array_path(folder / "train", ids(folder, "train")[3])
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def full_rate(array: np.ndarray) -> np.ndarray:
    """As of the same song at full rate: some twenty frames a beat, each with a chroma of 1."""
    repeated = np.repeat(array, 22, axis=1)
    repeated[128:] /= repeated[128:].max(axis=0)
    return repeated


def silence(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[:128, 1 + array.shape[1] // 3 :] = -80
    return array


def power(decibels: np.ndarray) -> np.ndarray:
    """Music's spectrum falls with frequency, which makes its power uneven; the tiny clips' does not."""
    return 10 ** (decibels / 10) * np.linspace(1, 0, 128)[:, np.newaxis] ** 8


def scaled(array: np.ndarray) -> np.ndarray:
    return ((array - array.mean()) / array.std()).astype(np.float32)


def without_column(row: list[str]) -> list[str]:
    return row[:1]


def missing(array: np.ndarray) -> np.ndarray:
    return np.where(np.arange(array.size).reshape(array.shape) % 50 == 0, np.nan, array)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "missing values": mel(missing),
    "padded with zeros": lambda x: np.pad(x, ((0, 0), (0, 30))),
    "transposed array": np.transpose,
    "wrong shape": lambda x: x[:128],
    "power, not dB": mel(power),
    "louder than 0 dB": mel(lambda x: x + 30),
    "normalised already": scaled,
    "padding stored": lambda x: np.pad(x, ((0, 0), (0, 9)), constant_values=-1024),
    "constant chroma": chroma(lambda x: np.full_like(x, 0.5)),
    "chroma outside 0 to 1": chroma(lambda x: 40 * x),
    "mostly silence": silence,
    "silent clip": mel(lambda x: np.full_like(x, -80)),
    "deeper than -80 dB": mel(lambda x: np.where(x < -1, x - 81, x)),
    "never at 0 dB": mel(lambda x: np.maximum(x - 12, -80)),
    "full-rate clips among beat-synchronised ones": full_rate,
}
"""Name -> what makes such an array of a good one."""


def by_beat(array: np.ndarray) -> np.ndarray:
    """One frame of ten in the tiny clips, of thirty in real ones: what is left of half a second."""
    return array[:, :: 10 if array.shape[1] < 100 else 30]


LOGMEL_CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "missing values": missing,
    "transposed array": np.transpose,
    "wrong shape": lambda x: x[:64],
    "padding stored": CHANGES["padding stored"],
    "silent clip": lambda x: x / 1e4,
    "mostly silence": lambda x: np.pad(x, ((0, 0), (0, x.shape[1]))),
    "normalised already": scaled,
    "below 0": lambda x: 10 * x - 80,
    "power, not its logarithm": lambda x: (10**x - 1) / 1e4 * np.linspace(1, 0, 96)[:, np.newaxis] ** 40,
    "louder than sound can be": lambda x: x + 9,
    "beat-synchronised clips among full-rate ones": by_beat,
}
"""The same of logmel arrays. 9: of 16-bit numbers that were not scaled."""

ARRAY_FAULTS: dict[str, Plant] = {
    **{name: arrays(change) for name, change in CHANGES.items()},
    "unreadable array": truncate,
    "row without array": lambda folder: array_path(folder / "train", ids(folder, "train")[3]).unlink(),
}
"""Name -> what plants it, in genre and affect folders alike."""

LOGMEL_FAULTS: dict[str, Plant] = {
    **{name: arrays(change) for name, change in LOGMEL_CHANGES.items()},
    **{name: ARRAY_FAULTS[name] for name in ("unreadable array", "row without array")},
}

GENRE_FAULTS: dict[str, Plant] = {
    "unusable id": cells(slice(0, 2), lambda row: ["../" + row[0], row[1]]),
    "unknown class": cells(slice(0, 3), lambda row: [row[0], "Rcok"]),
    "shifted columns": cells(slice(0, 4), lambda row: [*row[::-1]]),
    "missing label": cells(slice(0, 2), lambda row: [row[0], ""]),
    "duplicate id": edit("train", lambda rows: [*rows, rows[0]]),
    "array without row": edit("train", lambda rows: [row for i, row in enumerate(rows) if i % 20]),
    "splits look swapped": swap,
    "clip in two splits": copy_clip("test"),
    "same content under two ids": copy_clip("train"),
    "class shares differ": take_out("train", lambda rows: rows[::2]),
    "class missing from test": take_out("test", lambda rows: []),
    "class missing from train": take_out("train", lambda rows: []),
    "test split looks cut": keep_few,
    "group in two splits": share_group,
    "id in two splits": share_id,
}

AFFECT_FAULTS: dict[str, Plant] = {
    "label out of range": cells(slice(0, 3), lambda row: [*row[:-1], "1.5"]),
    "label not a number": cells(slice(0, 3), lambda row: [*row[:-1], "high"]),
    "shifted columns": cells(slice(4, 7), lambda row: ["0", *row]),
    "missing labels": cells(slice(0, None, 2), lambda row: [*row[:-1], ""]),
    "constant labels": cells(slice(0, None), lambda row: [*row[:-1], "0.5"]),
}

"""What each array on disk holds, measured once: read in parallel, kept in the cache by path, size and time."""

import hashlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mtmusic.constants import FEATURE_BINS, FEATURE_ROWS, MEL_FLOOR_DB
from mtmusic.data.quality.thresholds import threshold
from mtmusic.data.spectrograms import array_kind, as_float32, read_stored, usable
from mtmusic.errors import UserError
from mtmusic.files import cache_folder, write_text

READERS = 8  # threads; reading, decompressing and hashing hold no lock
PROGRESS_AFTER_SECONDS = 2

CACHE_VERSION = 2
"""Goes up with every change of what is measured, so that the cache of an older version is not used."""

LEAST_VARIANCE = 1e-6  # of a bin whose changes are looked at


@dataclass(frozen=True)
class ArrayMeasurements:
    """What one array holds.

    problem: why it cannot be used at all, in one line; "" for one that can. rows, frames: its shape as stored, 0 where
    it has no two dimensions. mel_*, in dB or of logmel, and chroma_* are of its finite values, NaN where it has not the
    rows of its kind, which is `feature`, "fused" or "logmel". floor_share: of frames whose every mel bin lies at the
    floor, -80 dB or 0. zero_frames: whose every mel bin is 0. chroma_peaks: share of frames whose largest chroma is 1,
    or which are silent. chroma_change: mean squared difference of neighbouring frames over twice the variance, mean
    over bins: near 1 for unrelated frames, near 0 for alike ones; mel_change: that of logmel.
    nan_share: of values that are NaN or infinite. digest: hash of the numbers as float32, equal for equal clips
    whatever their names and formats.
    """

    problem: str = ""
    rows: int = 0
    frames: int = 0
    dtype: str = ""
    mel_min: float = math.nan
    mel_max: float = math.nan
    mel_mean: float = math.nan
    mel_std: float = math.nan
    floor_share: float = math.nan
    zero_frames: int = 0
    chroma_min: float = math.nan
    chroma_max: float = math.nan
    chroma_peaks: float = math.nan
    chroma_change: float = math.nan
    nan_share: float = math.nan
    digest: str = ""
    feature: str = "fused"
    mel_change: float = 0.0


def measure_arrays(paths: Sequence[Path]) -> list[ArrayMeasurements]:
    """The measurements of each array, from the cache where its file has not changed; a bar where it takes long."""
    cached = {folder: _read_cache(folder) for folder in {path.parent for path in paths}}
    stamps = [_stamp(path) for path in paths]
    before = [cached[path.parent].get((path.name, *stamp)) for path, stamp in zip(paths, stamps, strict=True)]
    unknown = [path for path, known in zip(paths, before, strict=True) if known is None]
    with ThreadPoolExecutor(READERS) as readers:
        measured = readers.map(measure_array, unknown)
        fresh = iter([*tqdm(measured, "Checking arrays", len(unknown), delay=PROGRESS_AFTER_SECONDS, unit="clip")])
    arrays = [known or next(fresh) for known in before]
    for folder in {path.parent for path in unknown}:
        here = [i for i, path in enumerate(paths) if path.parent == folder]
        _write_cache(folder, cached[folder] | {(paths[i].name, *stamps[i]): arrays[i] for i in here})
    return arrays


def measure_array(path: Path) -> ArrayMeasurements:
    """Reads one array; never raises for what is wrong with it."""
    kind = array_kind(path)
    try:
        stored = read_stored(path)
    except UserError as error:
        return ArrayMeasurements(problem=str(error), feature=kind)
    problem = ""
    try:
        usable(stored, path)
    except UserError as error:
        problem = str(error)
    array = as_float32(stored)
    rows, frames = array.shape if array.ndim == 2 else (0, 0)
    levels: dict[str, Any] = {}
    if rows == FEATURE_BINS[kind] and np.isfinite(array).any(axis=1).all():
        with np.errstate(all="ignore"):  # huge numbers, squared
            finite = np.where(np.isfinite(array), array, np.nan)
            levels = _fused_levels(finite) if kind == "fused" else _logmel_levels(finite)
    return ArrayMeasurements(
        problem=problem,
        rows=rows,
        frames=frames,
        dtype=str(stored.dtype.newbyteorder("=")),
        nan_share=float(1 - np.isfinite(array).mean()) if array.size else 0.0,
        digest=hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest(),
        feature=kind,
        **levels,
    )


def _logmel_levels(mel: np.ndarray) -> dict[str, Any]:
    """(96, frames), which may hold some NaN, to its measurements."""
    return _mel_levels(mel, np.abs(mel) <= threshold("logmel_silent")) | {"mel_change": _change(mel)}


def _mel_levels(mel: np.ndarray, floor: np.ndarray) -> dict[str, Any]:
    """(bins, frames), and which of the values are at the floor, to the measurements of mel."""
    return {
        "mel_min": float(np.nanmin(mel)),
        "mel_max": float(np.nanmax(mel)),
        "mel_mean": float(np.nanmean(mel, dtype=np.float64)),
        "mel_std": float(np.nanstd(mel, dtype=np.float64)),
        "floor_share": float(floor.all(axis=0).mean()),
        "zero_frames": int((mel == 0).all(axis=0).sum()),
    }


def _fused_levels(array: np.ndarray) -> dict[str, Any]:
    """(140, frames), which may hold some NaN, to the measurements of mel and chroma."""
    mel, chroma = array[FEATURE_ROWS["mel"]], array[FEATURE_ROWS["chroma"]]
    peaks = chroma.max(axis=0)
    return _mel_levels(mel, np.abs(mel - MEL_FLOOR_DB) <= threshold("at_floor_db")) | {
        "chroma_min": float(np.nanmin(chroma)),
        "chroma_max": float(np.nanmax(chroma)),
        "chroma_peaks": float(((peaks >= threshold("chroma_peak")) | (peaks == 0)).mean()),
        "chroma_change": _change(chroma),
    }


def _change(array: np.ndarray) -> float:
    """(bins, frames) -> see ArrayMeasurements; 0 where nothing changes."""
    variance = np.nanvar(array, axis=1, dtype=np.float64)
    moving = variance > LEAST_VARIANCE
    if not moving.any():
        return 0.0
    differences = np.nanmean(np.diff(array[moving], axis=1) ** 2, axis=1, dtype=np.float64)
    return float((differences / (2 * variance[moving])).mean())


Key = tuple[str, int, int]
"""A file's name, size in bytes and time of its last change in nanoseconds."""


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return status.st_size, status.st_mtime_ns


def _cache_path(folder: Path) -> Path:
    name = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=12).hexdigest()
    return cache_folder() / "facts" / f"{name}.json"


def _read_cache(folder: Path) -> dict[Key, ArrayMeasurements]:
    """Empty where there is none, or one that cannot be read: then the arrays are measured anew."""
    try:
        content = json.loads(_cache_path(folder).read_text(encoding="utf-8"))
        if content["version"] != CACHE_VERSION:
            return {}
        return {(name, size, time): ArrayMeasurements(**array) for name, size, time, array in content["arrays"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_cache(folder: Path, arrays: dict[Key, ArrayMeasurements]) -> None:
    """Of the files that are there now and can be used. A cache that cannot be written is done without."""
    there = {(path.name, *_stamp(path)) for path in folder.iterdir()} if folder.is_dir() else set()
    rows = [[*key, asdict(array)] for key, array in arrays.items() if key in there and not array.problem]
    with suppress(OSError):
        write_text(_cache_path(folder), json.dumps({"version": CACHE_VERSION, "arrays": rows}))

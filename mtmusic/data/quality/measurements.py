"""Measures each array on disk, in parallel. The measurements are cached by path, size and modification time."""

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

READERS = 8  # threads; reading, decompressing and hashing release the GIL
PROGRESS_AFTER_SECONDS = 2

CACHE_VERSION = 2
"""Increased with every change of the measurements, so that older caches are not used."""

LEAST_VARIANCE = 1e-6  # bins of lower variance are left out of `_change`


@dataclass(frozen=True)
class ArrayMeasurements:
    """Measurements of one array.

    problem: why the array cannot be used, in one line, or "".
    feature: the kind of the array, "fused" or "logmel".
    rows, frames: the shape as stored, 0 if the array is not two-dimensional.
    mel_*: statistics of the finite values of mel, in dB or in logmel. NaN if the number of rows is wrong.
    chroma_*: statistics of the finite values of chroma, NaN as for mel.
    floor_share: share of frames whose mel bins are all at the floor: -80 dB, or 0 in logmel.
    zero_frames: number of frames whose mel bins are all 0.
    chroma_peaks: share of frames that are silent or whose largest chroma is 1.
    chroma_change: mean squared difference of successive frames / (2 * variance), averaged over bins. It is near 1 for
    unrelated frames, and near 0 for similar ones.
    mel_change: the same for logmel.
    nan_share: share of values that are NaN or infinite.
    digest: hash of the values as float32. Equal clips have equal hashes, whatever their names and file formats.
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
    """Measures arrays. The measurements of unchanged files come from the cache. A slow call shows a progress bar."""
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
    """Measures one array. A bad array does not raise an error, but has a `problem`."""
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
        with np.errstate(all="ignore"):  # squares of huge numbers overflow
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
    """(96, frames), possibly with NaN -> the measurements of logmel."""
    return _mel_levels(mel, np.abs(mel) <= threshold("logmel_silent")) | {"mel_change": _change(mel)}


def _mel_levels(mel: np.ndarray, floor: np.ndarray) -> dict[str, Any]:
    """(bins, frames), and a mask of the values at the floor -> the measurements of mel."""
    return {
        "mel_min": float(np.nanmin(mel)),
        "mel_max": float(np.nanmax(mel)),
        "mel_mean": float(np.nanmean(mel, dtype=np.float64)),
        "mel_std": float(np.nanstd(mel, dtype=np.float64)),
        "floor_share": float(floor.all(axis=0).mean()),
        "zero_frames": int((mel == 0).all(axis=0).sum()),
    }


def _fused_levels(array: np.ndarray) -> dict[str, Any]:
    """(140, frames), possibly with NaN -> the measurements of mel and chroma."""
    mel, chroma = array[FEATURE_ROWS["mel"]], array[FEATURE_ROWS["chroma"]]
    peaks = chroma.max(axis=0)
    return _mel_levels(mel, np.abs(mel - MEL_FLOOR_DB) <= threshold("at_floor_db")) | {
        "chroma_min": float(np.nanmin(chroma)),
        "chroma_max": float(np.nanmax(chroma)),
        "chroma_peaks": float(((peaks >= threshold("chroma_peak")) | (peaks == 0)).mean()),
        "chroma_change": _change(chroma),
    }


def _change(array: np.ndarray) -> float:
    """(bins, frames) -> `chroma_change` or `mel_change` of ArrayMeasurements, 0 for constant arrays."""
    variance = np.nanvar(array, axis=1, dtype=np.float64)
    moving = variance > LEAST_VARIANCE
    if not moving.any():
        return 0.0
    differences = np.nanmean(np.diff(array[moving], axis=1) ** 2, axis=1, dtype=np.float64)
    return float((differences / (2 * variance[moving])).mean())


Key = tuple[str, int, int]
"""A file's name, size in bytes and modification time in nanoseconds."""


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
    """Reads the folder's cache. Empty if there is none or it cannot be read, so that the arrays are measured again."""
    try:
        content = json.loads(_cache_path(folder).read_text(encoding="utf-8"))
        if content["version"] != CACHE_VERSION:
            return {}
        return {(name, size, time): ArrayMeasurements(**array) for name, size, time, array in content["arrays"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_cache(folder: Path, arrays: dict[Key, ArrayMeasurements]) -> None:
    """Writes the measurements of existing, usable files. A cache that cannot be written is left out silently."""
    there = {(path.name, *_stamp(path)) for path in folder.iterdir()} if folder.is_dir() else set()
    rows = [[*key, asdict(array)] for key, array in arrays.items() if key in there and not array.problem]
    with suppress(OSError):
        write_text(_cache_path(folder), json.dumps({"version": CACHE_VERSION, "arrays": rows}))

"""Reads and writes arrays on disk.

A fused array is `(140, frames)`: rows 0 to 127 are mel in dB, rows 128 to 139 chroma. A logmel array is `(96, frames)`:
log10(1 + 10000 * power).
"""

import gzip
import io
import math
import os
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np

from mtmusic.constants import FEATURE_BINS, FEATURE_ROWS, PAD_VALUE
from mtmusic.errors import UserError
from mtmusic.files import whole_file

SUFFIXES = {
    "fused": (".fused.full.npy", ".fused.full.npy.gz"),
    "logmel": (".logmel.npy", ".logmel.npy.gz"),
}
"""The suffixes of each kind of array."""

FLOAT_BYTES = (2, 4, 8)

_PARSER = threading.Lock()
"""Held while NumPy parses a header by Python's ast, which sometimes fails in threads (cpython issue 106905, 3.11)."""


def array_path(folder: Path, clip_id: str, kind: str | None = None) -> Path | None:
    """Finds a clip's array in a folder. A name with accents is found in both of Unicode's forms.

    Args:
        folder: The folder of a split.
        clip_id: The clip's id.
        kind: "fused" or "logmel", by default either.

    Returns:
        The path of the .npy or .npy.gz file, or None.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.data.spectrograms import array_path
        >>> array_path(Path("data/genre_beat/train"), "1").as_posix()
        'data/genre_beat/train/1.fused.full.npy'
    """
    suffixes = SUFFIXES[kind] if kind else [suffix for both in SUFFIXES.values() for suffix in both]
    names = dict.fromkeys([clip_id, *(unicodedata.normalize(form, clip_id) for form in ("NFC", "NFD"))])
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in suffixes)
    # unlike Path.exists, os.path.exists does not raise for a name that is too long
    return next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110


def array_kind(path: Path) -> str:
    """The kind of an array, by the file's name.

    Args:
        path: The file.

    Returns:
        "logmel" or "fused".

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.data.spectrograms import array_kind
        >>> array_kind(Path("1.fused.full.npy")), array_kind(Path("1.logmel.npy.gz"))
        ('fused', 'logmel')
    """
    return "logmel" if path.name.endswith(SUFFIXES["logmel"]) else "fused"


def require_feature(path: Path, feature: str) -> None:
    """Checks that an array holds a feature, by its kind.

    Args:
        path: The array's file.
        feature: "mel", "chroma", "fused" or "logmel".

    Raises:
        UserError: The array does not hold the feature.
    """
    if array_kind(path) == "logmel" and feature != "logmel":
        raise UserError(
            f'Expected the feature "logmel" of a logmel array, got "{feature}" for {path}: '
            "the recipe pretrained takes logmel arrays"
        )
    if array_kind(path) == "fused" and feature == "logmel":
        raise UserError(
            f'Expected the feature "mel", "chroma" or "fused" of a fused array, got "logmel" for {path}: '
            "mtmusic extract-features makes logmel arrays from songs"
        )


def read_array(path: Path) -> np.ndarray:
    """Reads an array.

    Args:
        path: A .npy file or a .npy.gz file.

    Returns:
        The array in float32: `(96, frames)` if the name is a logmel array's, else `(140, frames)`.

    Raises:
        UserError: The file is not a complete array of this many rows and at least one frame, its dtype is not float16,
            float32 or float64, or it holds NaN, infinite numbers or PAD_VALUE. The message names the file. Pickled data
            is never loaded.

    Examples:
        >>> from mtmusic.data.spectrograms import read_array
        >>> clips = mtmusic.read_genre_labels("data/genre_beat")
        >>> read_array(clips.paths[0]).shape[0]
        140
    """
    return usable(read_stored(path), path)


def read_stored(path: Path) -> np.ndarray:
    """Reads an array as it is stored, of any shape.

    Args:
        path: A .npy file or a .npy.gz file.

    Returns:
        The stored array.

    Raises:
        UserError: The file is not a whole array of floating-point numbers.
    """
    with _opened(path) as file:
        shape, fortran_order, dtype = _read_header(file, path)
        content = file.read()  # to the end, where gzip checks the checksum
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"its header states {shape} of {dtype}, but {len(content)} bytes follow")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")


def usable(stored: np.ndarray, path: Path) -> np.ndarray:
    """Checks the numbers of an array.

    Args:
        stored: The stored array.
        path: The array's file. Its name states the kind.

    Returns:
        The array in float32.

    Raises:
        UserError: The array has another shape, NaN, infinite numbers, or values at or below PAD_VALUE.
    """
    _require_shape(stored.shape, path)
    array = as_float32(stored)
    if not np.isfinite(array).all():
        raise UserError(
            f"Expected finite numbers, got {np.count_nonzero(~np.isfinite(array))} NaN or infinite in {path}"
        )
    if array.min() <= PAD_VALUE:
        what = "dB and chroma" if array_kind(path) == "fused" else "values"
        raise UserError(f"Expected {what} above {PAD_VALUE:g}, which means padding, got {array.min():g} in {path}")
    return array


def as_float32(stored: np.ndarray) -> np.ndarray:
    """Converts an array to float32. Numbers beyond its range become infinite.

    Args:
        stored: The array.

    Returns:
        The array in float32.
    """
    with np.errstate(all="ignore"):
        return stored.astype(np.float32)


def read_spectrogram(path: Path, feature: str) -> np.ndarray:
    """Reads one feature of an array, time first.

    Args:
        path: A .npy file or a .npy.gz file.
        feature: "mel" (128 bins), "chroma" (12 bins) or "fused" (140 bins). "logmel" (96 bins) for a logmel array.

    Returns:
        The spectrogram `(frames, bins)` in float32.

    Raises:
        UserError: The array does not hold the feature, or cannot be used, see `read_array`.

    Examples:
        >>> from mtmusic.data.spectrograms import read_spectrogram
        >>> clips = mtmusic.read_genre_labels("data/genre_beat")
        >>> read_spectrogram(clips.paths[0], "chroma").shape[1]
        12
    """
    require_feature(path, feature)
    array = read_array(path)
    return np.ascontiguousarray((array if feature == "logmel" else array[FEATURE_ROWS[feature]]).T)


def array_frames(path: Path) -> int:
    """The number of frames of an array, from the file's header only.

    Args:
        path: A .npy file or a .npy.gz file.

    Returns:
        The number of frames.

    Raises:
        UserError: The header cannot be read, or is of another shape.

    Examples:
        >>> from mtmusic.data.spectrograms import array_frames, read_array
        >>> path = mtmusic.read_genre_labels("data/genre_beat").paths[0]
        >>> array_frames(path) == read_array(path).shape[1]
        True
    """
    with _opened(path) as file:
        shape, _, _ = _read_header(file, path)
        _require_shape(shape, path)
        return shape[1]


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array. The file's name determines its kind, and a name that ends in .gz compresses it.

    Args:
        path: The file.
        array: `(140, frames)`, or `(96, frames)` for logmel.

    Raises:
        ValueError: The array has another shape.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.data.spectrograms import read_array, write_array
        >>> path = Path("arrays/silence.logmel.npy.gz")
        >>> write_array(path, np.zeros((96, 63), "float32"))
        >>> read_array(path).shape
        (96, 63)
    """
    bins = FEATURE_BINS[array_kind(path)]
    if array.ndim != 2 or array.shape[0] != bins:
        raise ValueError(f"Expected ({bins}, frames), got {array.shape} for {path}")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)  # without a timestamp, so that equal arrays give equal files
    with whole_file(path) as beside:
        beside.write_bytes(content)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Opens the file's .npy bytes. Errors inside the block become a UserError that names the file."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(IO[bytes], file)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # gzip, zlib and NumPy's header parser raise many kinds of exceptions
        reason = (
            "empty file" if path.is_file() and path.stat().st_size == 0 else str(error) or "the file ends too early"
        )
        raise UserError(f"Expected a whole .npy array, got an unreadable one in {path}: {reason}") from error


def _read_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns the array's shape, whether it is in Fortran order, and its dtype. Raises UserError for other dtypes."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f".npy version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with _PARSER:
        shape, fortran_order, dtype = read(file)
    if dtype.hasobject:
        raise UserError(f"Expected numbers, got pickled Python objects (refused) in {path}")
    if dtype.kind != "f" or dtype.itemsize not in FLOAT_BYTES:
        raise UserError(f"Expected float16, float32 or float64, got {dtype} in {path}")
    return shape, fortran_order, dtype


def _require_shape(shape: tuple[int, ...], path: Path) -> None:
    bins = FEATURE_BINS[array_kind(path)]
    if len(shape) != 2 or shape[0] != bins:
        raise UserError(f"Expected ({bins}, frames), got {shape} in {path}")
    if shape[1] < 1:
        raise UserError(f"Expected at least one frame, got none in {path}")

"""Oracle: np.load and np.save. What is refused must be refused by the file's name, and never unpickled."""

import gzip
import io
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtmusic.data.spectrograms import array_frames, array_kind, array_path, read_array, read_spectrogram, write_array
from mtmusic.errors import UserError

Fused = Callable[..., np.ndarray]
SaveArray = Callable[..., Path]

NAMES = ("1.fused.full.npy", "1.fused.full.npy.gz")


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_header(header: str) -> bytes:
    """A .npy file of this header and no data."""
    line = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line.encode()


# --- reading


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
def test_every_number_format_is_read_as_float32(
    tmp_path: Path, fused: Fused, save_array: SaveArray, dtype: str, order: str, name: str
) -> None:
    array = np.asarray(fused(5), dtype=dtype, order=order)
    read = read_array(save_array(tmp_path / name, array))
    assert read.dtype == np.float32
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array.astype(np.float32))


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_both_header_versions_are_read(tmp_path: Path, fused: Fused, version: tuple[int, int]) -> None:
    path = tmp_path / NAMES[0]
    with path.open("wb") as file:
        np.lib.format.write_array(file, fused(), version=version)
    np.testing.assert_array_equal(read_array(path), fused())
    assert array_frames(path) == 3


@pytest.mark.parametrize(
    ("feature", "first", "last"), [("mel", 0, 127), ("chroma", 128, 139), ("fused", 0, 139)], ids=str
)
def test_a_feature_is_its_rows_time_first(
    tmp_path: Path, fused: Fused, save_array: SaveArray, feature: str, first: int, last: int
) -> None:
    array = fused(4)
    spectrogram = read_spectrogram(save_array(tmp_path / NAMES[0], array), feature)
    assert spectrogram.shape == (4, last - first + 1)
    assert spectrogram.flags.c_contiguous
    for frame in range(4):
        for row in range(first, last + 1):
            assert spectrogram[frame, row - first] == array[row, frame]


@pytest.mark.parametrize("name", NAMES)
def test_array_frames_reads_the_header_alone(tmp_path: Path, fused: Fused, save_array: SaveArray, name: str) -> None:
    path = save_array(tmp_path / name, np.full((140, 7), np.nan))
    assert array_frames(path) == 7
    with pytest.raises(UserError):
        read_array(path)


def test_array_path_prefers_npy_and_tells_none(tmp_path: Path) -> None:
    assert array_path(tmp_path, "1") is None
    (tmp_path / NAMES[1]).touch()
    assert array_path(tmp_path, "1") == tmp_path / NAMES[1]
    (tmp_path / NAMES[0]).touch()
    assert array_path(tmp_path, "1") == tmp_path / NAMES[0]


# --- what is refused

WRONG_ARRAYS = {
    "rank 1": (np.zeros(140), "Expected (140, frames), got (140,)"),
    "rank 3": (np.zeros((140, 3, 1)), "Expected (140, frames), got (140, 3, 1)"),
    "rank 0": (np.zeros(()), "Expected (140, frames), got ()"),
    "128 rows": (np.zeros((128, 60)), "Expected (140, frames), got (128, 60)"),
    "time first": (np.zeros((60, 140)), "Expected (140, frames), got (60, 140)"),
    "no frames": (np.zeros((140, 0)), "Expected at least one frame, got none"),
    "int": (np.zeros((140, 3), np.int64), "Expected float16, float32 or float64, got int64"),
    "bool": (np.zeros((140, 3), bool), "Expected float16, float32 or float64, got bool"),
    "complex": (np.zeros((140, 3), np.complex64), "Expected float16, float32 or float64, got complex64"),
    "text": (np.full((140, 3), "x"), "Expected float16, float32 or float64, got <U1"),
    "fields": (np.zeros((140, 3), "f4,f4"), "Expected float16, float32 or float64, got [("),
    "objects": (np.full((140, 3), None), "Expected numbers, got pickled Python objects (refused)"),
}

WRONG_VALUES = {
    "NaN": (np.nan, "Expected finite numbers, got 1 NaN or infinite"),
    "infinity": (np.inf, "Expected finite numbers, got 1 NaN or infinite"),
    "minus infinity": (-np.inf, "Expected finite numbers, got 1 NaN or infinite"),
    "beyond float32": (1e300, "Expected finite numbers, got 1 NaN or infinite"),
    "padding": (-1024, "Expected dB and chroma above -1024, which means padding, got -1024"),
}

GOOD = npy(np.zeros((140, 3), np.float32))
GOOD_GZ = gzip.compress(GOOD, mtime=0)
NOISE_GZ = gzip.compress(npy(np.random.default_rng(0).random((140, 30), dtype=np.float32)), mtime=0)

DAMAGED = {
    "empty": (NAMES[0], b"", "empty file"),
    "empty gz": (NAMES[1], b"", "empty file"),
    "truncated in the data": (NAMES[0], GOOD[:-1], "but 1679 bytes follow"),
    "truncated after the header": (NAMES[0], GOOD[:128], "but 0 bytes follow"),
    "truncated in the header": (NAMES[0], GOOD[:60], "EOF"),
    "truncated in the magic": (NAMES[0], GOOD[:5], "EOF"),
    "two arrays": (NAMES[0], GOOD + GOOD, "(140, 3) of float32, but 3488 bytes follow"),
    "text file": (NAMES[0], b"Id\tGenre\n1042\tRock\n", "the magic string is not correct"),
    "zip archive": (NAMES[0], b"PK\x03\x04" + bytes(200), "the magic string is not correct"),
    "gz named npy": (NAMES[0], GOOD_GZ, "the magic string is not correct"),
    "npy named gz": (NAMES[1], GOOD, "Not a gzipped file"),
    "truncated gz": (NAMES[1], GOOD_GZ[: len(GOOD_GZ) // 2], "Compressed file ended"),
    "gz without its checksum": (NAMES[1], GOOD_GZ[:-8], "Compressed file ended"),
    "gz of other blocks": (NAMES[1], GOOD_GZ[:20] + b"\xff" * 20 + GOOD_GZ[40:], "Error"),
    "gz with a bit turned": (NAMES[1], NOISE_GZ[:5000] + bytes([NOISE_GZ[5000] ^ 1]) + NOISE_GZ[5001:], ""),
    "gz with a wrong checksum": (NAMES[1], GOOD_GZ[:-8] + bytes(4) + GOOD_GZ[-4:], "CRC check failed"),
    "unknown version": (NAMES[0], GOOD[:6] + b"\x09\x00" + GOOD[8:], "version"),
    "header of other content": (NAMES[0], with_header("{'shape': (140, 3)}"), "does not contain the correct keys"),
    "header not closed": (NAMES[0], with_header("{'shape': (140, 3), 'descr': ("), ""),
    "header of code": (NAMES[0], with_header("__import__('os').getcwd()"), ""),
    "mixed keys": (NAMES[0], with_header("{b'shape': (140, 3), 'descr': '<f4', 'fortran_order': False}"), ""),
    "long double": (NAMES[0], with_header("{'descr': '<f16', 'fortran_order': False, 'shape': (140, 3)}"), ""),
    "negative frames": (
        NAMES[0],
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (140, -3)}"),
        "(140, -3) of float32, but 0 bytes follow",
    ),
    "more frames than memory": (
        NAMES[0],
        with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (140, {10**15})}}"),
        "but 0 bytes follow",
    ),
    "more frames than an integer holds": (
        NAMES[0],
        with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (140, {10**20})}}"),
        "but 0 bytes follow",
    ),
}  # fmt: skip


def assert_refused(read: Callable[[Path], object], path: Path, reason: str) -> None:
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert reason.lower() in str(error.value).lower()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("array", "reason"), WRONG_ARRAYS.values(), ids=WRONG_ARRAYS)
def test_an_array_of_another_kind_is_refused_from_its_header(
    tmp_path: Path, save_array: SaveArray, array: np.ndarray, reason: str, name: str
) -> None:
    path = save_array(tmp_path / name, array)
    assert_refused(read_array, path, reason)
    assert_refused(array_frames, path, reason)


@pytest.mark.parametrize(("value", "reason"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_value_that_no_array_may_hold_is_refused(
    tmp_path: Path, fused: Fused, save_array: SaveArray, value: float, reason: str
) -> None:
    array = fused(3).astype(float)
    array[17, 1] = value
    assert_refused(read_array, save_array(tmp_path / NAMES[0], array), reason)


@pytest.mark.parametrize(("name", "content", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(read_array, tmp_path / name, reason)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_in_the_place_of_an_array_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert_refused(read_array, tmp_path / name, "directory")
    assert_refused(array_frames, tmp_path / name, "directory")


def test_a_missing_array_is_refused(tmp_path: Path) -> None:
    assert_refused(read_array, tmp_path / NAMES[0], "No such file")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(damage=st.dictionaries(st.integers(0, len(GOOD) - 1), st.integers(0, 255), min_size=1, max_size=4))
def test_any_damage_is_read_or_refused_but_never_anything_else(
    tmp_path_factory: pytest.TempPathFactory, damage: dict[int, int]
) -> None:
    content = bytearray(GOOD)
    for position, value in damage.items():
        content[position] = value
    path = tmp_path_factory.getbasetemp() / NAMES[0]
    path.write_bytes(content)
    with suppress(UserError):
        assert read_array(path).shape[0] == 140


class CreatesAFile:
    """Unpickling it creates the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", NAMES)
def test_pickled_objects_are_never_unpickled(tmp_path: Path, save_array: SaveArray, name: str) -> None:
    created = tmp_path / "created"
    path = save_array(tmp_path / name, np.full((140, 3), CreatesAFile(created)))
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        np.load(file, allow_pickle=True)
    assert created.exists()  # so it would have been seen
    created.unlink()
    assert_refused(read_array, path, "pickled Python objects (refused)")
    assert_refused(array_frames, path, "pickled Python objects (refused)")
    assert not created.exists()


def test_a_plain_pickle_is_never_unpickled(tmp_path: Path) -> None:
    created = tmp_path / "created"
    path = tmp_path / NAMES[0]
    path.write_bytes(pickle.dumps(CreatesAFile(created)))
    assert_refused(read_array, path, "the magic string is not correct")
    assert not created.exists()


# --- writing


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_written_array_is_read_again(tmp_path: Path, fused: Fused, dtype: type, name: str) -> None:
    path = tmp_path / "new folder" / name
    array = fused(6).astype(dtype)
    write_array(path, array)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        stored = np.load(file)
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, array)
    np.testing.assert_array_equal(read_array(path), array.astype(np.float32))
    assert list(path.parent.iterdir()) == [path]


def test_equal_arrays_are_equal_gz_files(tmp_path: Path, fused: Fused, monkeypatch: pytest.MonkeyPatch) -> None:
    write_array(tmp_path / "1.fused.full.npy.gz", fused())
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_array(tmp_path / "2.fused.full.npy.gz", fused())
    assert (tmp_path / "1.fused.full.npy.gz").read_bytes() == (tmp_path / "2.fused.full.npy.gz").read_bytes()


@pytest.mark.parametrize("shape", [(128, 3), (3, 140), (140,), (140, 3, 1)], ids=str)
def test_a_wrong_shape_is_not_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Expected \(140, frames\)"):
        write_array(tmp_path / NAMES[0], np.zeros(shape))
    assert not list(tmp_path.iterdir())


def test_objects_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        write_array(tmp_path / NAMES[0], np.full((140, 3), None))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, fused: Fused, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    write_array(path, fused(3))

    def full_disk(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_array(path, fused(9))
    assert list(tmp_path.iterdir()) == [path]
    assert array_frames(path) == 3


# --- logmel

LOGMEL_NAMES = ("1.logmel.npy", "1.logmel.npy.gz")


def logmel(frames: int) -> np.ndarray:
    return np.random.default_rng(frames).uniform(0, 6, (96, frames)).astype(np.float16)


@pytest.mark.parametrize("name", LOGMEL_NAMES)
def test_a_logmel_array_is_written_and_read_whole(tmp_path: Path, name: str) -> None:
    path, array = tmp_path / name, logmel(7)
    write_array(path, array)
    assert array_kind(path) == "logmel"
    assert array_path(tmp_path, "1") == array_path(tmp_path, "1", "logmel") == path
    assert array_path(tmp_path, "1", "fused") is None
    assert array_frames(path) == 7
    np.testing.assert_array_equal(read_array(path), array.astype(np.float32))
    spectrogram = read_spectrogram(path, "logmel")
    np.testing.assert_array_equal(spectrogram, array.T.astype(np.float32))
    assert spectrogram.flags.c_contiguous


@pytest.mark.parametrize("name", LOGMEL_NAMES)
@pytest.mark.parametrize("shape", [(140, 3), (7, 96), (96,)], ids=str)
def test_another_shape_is_no_logmel_array(
    tmp_path: Path, save_array: SaveArray, name: str, shape: tuple[int, ...]
) -> None:
    path = save_array(tmp_path / name, np.zeros(shape))
    for read in (read_array, array_frames):
        assert_refused(read, path, f"Expected (96, frames), got {shape} in")
    with pytest.raises(ValueError, match=r"Expected \(96, frames\)"):
        write_array(tmp_path / name, np.zeros(shape))


@pytest.mark.parametrize(("value", "told"), [(np.nan, "1 NaN or infinite"), (-1024, "Expected values above -1024")])
def test_a_value_that_no_logmel_array_may_hold_is_refused(
    tmp_path: Path, save_array: SaveArray, value: float, told: str
) -> None:
    array = logmel(3).astype(float)
    array[17, 1] = value
    assert_refused(read_array, save_array(tmp_path / LOGMEL_NAMES[0], array), told)


@pytest.mark.parametrize(
    ("name", "feature", "told"),
    [
        ("1.fused.full.npy", "logmel", 'the feature "mel", "chroma" or "fused" of a fused array, got "logmel"'),
        *(
            ("1.logmel.npy", feature, f'Expected the feature "logmel" of a logmel array, got "{feature}"')
            for feature in ("mel", "chroma", "fused")
        ),
    ],
)
def test_a_feature_of_the_other_kind_is_refused(tmp_path: Path, name: str, feature: str, told: str) -> None:
    write_array(tmp_path / name, np.zeros((96 if "logmel" in name else 140, 3)))
    assert_refused(lambda path: read_spectrogram(path, feature), tmp_path / name, told)


# --- real arrays


@pytest.mark.real
def test_real_full_rate_arrays_are_float16_gz(real_data: Path) -> None:
    paths = sorted((real_data / "emotify" / "fma_genre_spectrograms" / "train").iterdir())
    assert len(paths) == 300
    assert all(path.name.endswith(".fused.full.npy.gz") for path in paths)
    for path in paths[::60]:
        with gzip.open(path) as file:
            stored = np.load(file)
        assert stored.dtype == np.float16
        np.testing.assert_array_equal(read_spectrogram(path, "fused"), stored.T.astype(np.float32))
        assert array_frames(path) == stored.shape[1]


@pytest.mark.real
def test_real_beat_arrays_are_float32_in_their_range(real_data: Path) -> None:
    for path in sorted((real_data / "emotify" / "fma_genre_spectrograms_beat" / "train").iterdir())[::30]:
        assert path.name.endswith(".fused.full.npy")
        assert np.load(path).dtype == np.float32
        mel, chroma = read_spectrogram(path, "mel"), read_spectrogram(path, "chroma")
        assert abs(mel.max()) < 1e-5  # the difference of two rounded logarithms
        assert mel.min() >= -80
        assert chroma.min() >= 0
        assert chroma.max() <= 1


@pytest.mark.real
def test_real_logmel_arrays_are_float16_gz(real_data: Path) -> None:
    paths = sorted((real_data / "moods" / "train").iterdir())
    assert len(paths) == 452
    for path in paths[::100]:
        with gzip.open(path) as file:
            stored = np.load(file)
        assert stored.dtype == np.float16
        assert stored.shape == (96, array_frames(path))
        np.testing.assert_array_equal(read_spectrogram(path, "logmel"), stored.T.astype(np.float32))
        assert 0 <= stored.min() < 4 < stored.max() < 7

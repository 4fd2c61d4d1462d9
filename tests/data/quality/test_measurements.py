"""What an array holds, measured against numbers that a reader can check, and measured once."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtmusic.data.quality import measurements
from mtmusic.data.quality.measurements import ArrayMeasurements, measure_array, measure_arrays

Fused = Callable[..., np.ndarray]
SaveArray = Callable[..., Path]


@pytest.fixture
def array() -> np.ndarray:
    """Four frames: mel of -10, -80, 0 and -30 dB; chroma from 0.25 to 1, but for a third frame of 0.5 alone."""
    mel = np.repeat([[-10.0, -80.0, 0.0, -30.0]], 128, axis=0)
    chroma = np.repeat([[1.0, 0.0, 0.5, 1.0]], 12, axis=0)
    chroma[0, 0] = 0.25
    return np.concatenate([mel, chroma]).astype(np.float32)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the arrays that were read."""
    names: list[str] = []

    def counted(path: Path) -> ArrayMeasurements:
        names.append(path.name.split(".")[0])
        return measure_array(path)

    monkeypatch.setattr(measurements, "measure_array", counted)
    return names


def test_levels_are_those_of_the_array(tmp_path: Path, array: np.ndarray, save_array: SaveArray) -> None:
    found = measure_array(save_array(tmp_path / "1.fused.full.npy", array.astype(np.float16)))
    assert (found.problem, found.rows, found.frames, found.dtype) == ("", 140, 4, "float16")
    assert (found.mel_min, found.mel_max, found.mel_mean) == (-80, 0, -30)
    assert found.mel_std == pytest.approx(np.std([-10, -80, 0, -30]))
    assert (found.floor_share, found.zero_frames, found.nan_share) == (0.25, 1, 0)
    assert (found.chroma_min, found.chroma_max) == (0, 1)
    assert found.chroma_peaks == 0.75  # a silent frame counts as a peak, one of 0.5 does not


def test_values_that_are_missing_are_counted_and_left_out(
    tmp_path: Path, array: np.ndarray, save_array: SaveArray
) -> None:
    array[:14, 2] = (np.nan, np.inf) * 7
    found = measure_array(save_array(tmp_path / "1.fused.full.npy", array))
    assert "14 NaN or infinite" in found.problem
    assert found.nan_share == pytest.approx(14 / 560)
    assert (found.mel_min, found.mel_max) == (-80, 0)


@pytest.mark.parametrize(
    ("shape", "rows", "frames"), [((7, 140), 7, 140), ((128, 5), 128, 5), ((140,), 0, 0), ((140, 0), 140, 0)]
)
def test_another_shape_is_reported_without_levels(
    tmp_path: Path, save_array: SaveArray, shape: tuple[int, ...], rows: int, frames: int
) -> None:
    found = measure_array(save_array(tmp_path / "1.fused.full.npy", np.zeros(shape)))
    assert found.problem.startswith("Expected")
    assert (found.rows, found.frames) == (rows, frames)
    assert math.isnan(found.mel_max)


def test_what_cannot_be_read_has_no_measurements(tmp_path: Path) -> None:
    path = tmp_path / "1.fused.full.npy"
    path.write_bytes(b"not an array")
    assert str(measure_array(path)) == str(ArrayMeasurements(problem=measure_array(path).problem))  # NaN is not NaN
    assert str(path) in measure_array(path).problem


def test_measurements_are_in_the_order_of_the_paths(tmp_path: Path, fused: Fused, save_array: SaveArray) -> None:
    paths = [save_array(tmp_path / f"{i % 2}" / f"{i}.fused.full.npy", fused(i + 1)) for i in range(20)]
    paths.insert(5, tmp_path / "absent.fused.full.npy")
    for _ in range(2):  # the second time from the cache
        found = measure_arrays(paths)
        assert "absent" in found.pop(5).problem
        assert [array.frames for array in found] == list(range(1, 21))


def test_an_array_is_read_once(tmp_path: Path, fused: Fused, save_array: SaveArray, reads: list[str]) -> None:
    paths = [save_array(tmp_path / f"{i}.fused.full.npy", fused(3, i)) for i in range(3)]
    first = measure_arrays(paths)
    assert measure_arrays(paths[::-1]) == first[::-1]
    assert sorted(reads) == ["0", "1", "2"]


def test_a_changed_array_is_read_again(tmp_path: Path, fused: Fused, save_array: SaveArray, reads: list[str]) -> None:
    paths = [save_array(tmp_path / f"{i}.fused.full.npy", fused(3, i)) for i in range(3)]
    before = measure_arrays(paths)
    save_array(paths[1], fused(3, 9))
    after = measure_arrays(paths)
    assert reads[3:] == ["1"]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]


def test_a_bad_array_is_read_again_each_time(tmp_path: Path, save_array: SaveArray, reads: list[str]) -> None:
    path = save_array(tmp_path / "1.fused.full.npy", np.zeros((128, 3)))
    assert str(measure_arrays([path])) == str(measure_arrays([path]))
    assert reads == ["1", "1"]


@pytest.mark.parametrize("content", ["", "[1]", '{"version": 1}', '{"version": 0, "arrays": []}'])
def test_a_cache_that_cannot_be_used_is_made_anew(
    tmp_path: Path,
    fused: Fused,
    save_array: SaveArray,
    reads: list[str],
    monkeypatch: pytest.MonkeyPatch,
    content: str,
) -> None:
    monkeypatch.setenv("MTMUSIC_CACHE", str(tmp_path / "cache"))
    path = save_array(tmp_path / "data" / "1.fused.full.npy", fused(3))
    first = measure_arrays([path])
    [cached] = (tmp_path / "cache" / "facts").iterdir()
    cached.write_text(content)
    assert measure_arrays([path]) == first
    assert measure_arrays([path]) == first
    assert reads == ["1", "1"]
    assert json.loads(cached.read_text())["version"] == measurements.CACHE_VERSION


def test_without_a_cache_folder_it_goes_on(
    tmp_path: Path, fused: Fused, save_array: SaveArray, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MTMUSIC_CACHE", str(tmp_path / "file"))
    path = save_array(tmp_path / "1.fused.full.npy", fused(3))
    assert str(measure_arrays([path])) == str(measure_arrays([path]))
    assert reads == ["1", "1"]


def test_levels_of_logmel_are_in_its_units(tmp_path: Path, save_array: SaveArray) -> None:
    mel = np.repeat([[0.0, 1.0, 3.0, 0.0]], 96, axis=0).astype(np.float16)
    mel[0, 3] = 0.0625
    found = measure_array(save_array(tmp_path / "1.logmel.npy", mel))
    assert (found.problem, found.feature, found.rows, found.frames) == ("", "logmel", 96, 4)
    assert (found.mel_min, found.mel_max) == (0, 3)
    assert found.mel_mean == pytest.approx(1 + 0.0625 / 384)
    assert (found.floor_share, found.zero_frames, found.nan_share) == (0.25, 1, 0)
    assert math.isnan(found.chroma_max)


def test_change_of_logmel_tells_frames_that_are_alike_from_those_that_are_not(
    tmp_path: Path, save_array: SaveArray
) -> None:
    ramp = np.tile(np.arange(100.0) / 20, (96, 1))
    unrelated = np.random.default_rng(0).uniform(0, 5, (96, 400))
    for array, expected, tolerance in ((ramp, 6 / (100**2 - 1), 1e-4), (unrelated, 1, 0.05)):
        found = measure_array(save_array(tmp_path / "1.logmel.npy", array))
        assert found.mel_change == pytest.approx(expected, abs=tolerance)

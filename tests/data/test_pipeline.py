"""Oracle: a NumPy loop that reads and pads clip by clip."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mtmusic.constants import FEATURE_BINS, FEATURE_ROWS, PAD_VALUE
from mtmusic.data import pipeline
from mtmusic.data.labels import Clips
from mtmusic.data.pipeline import make_dataset
from mtmusic.data.spectrograms import write_array
from mtmusic.errors import UserError

Batch = tuple[np.ndarray, np.ndarray]
ClipsOf = Callable[[Sequence[int]], Clips]
Fused = Callable[..., np.ndarray]
SaveArray = Callable[..., Path]

LENGTHS = (5, 2, 9, 1, 4, 4, 7)
MODES = {
    "ragged": {},
    "fixed": {"frames": 6},
    "shuffled": {"shuffle": True},
    "cached": {"cache": "memory"},
    "cached, shuffled": {"cache": "memory", "shuffle": True},
    "cached in a file, shuffled": {"cache": "file", "shuffle": True},
    "bucketed": {"buckets": 3},
    "bucketed, shuffled": {"buckets": 3, "shuffle": True},
    "bucketed, cached, shuffled": {"buckets": 3, "shuffle": True, "cache": "memory"},
    "fixed, so not bucketed": {"frames": 6, "buckets": 3},
}


@pytest.fixture(params=MODES.values(), ids=MODES)
def mode(request: pytest.FixtureRequest, tmp_path: Path) -> dict:
    return request.param | ({"cache": tmp_path / "cache"} if request.param.get("cache") == "file" else {})


def epoch(ds: tf.data.Dataset) -> list[Batch]:
    return list(ds.as_numpy_iterator())


def order(batches: list[Batch]) -> list[int]:
    """The clips' positions, where these are the targets."""
    return [int(target) for _, targets in batches for target in targets]


def padded(clips: Clips, positions: Sequence[int], feature: str, frames: int | None) -> np.ndarray:
    """(len(positions), frames, bins) by a loop."""
    arrays = [np.load(clips.paths[i])[FEATURE_ROWS[feature]].T for i in positions]
    frames = frames or max(len(array) for array in arrays)
    batch = np.full((len(arrays), frames, FEATURE_BINS[feature]), PAD_VALUE, np.float32)
    for row, array in zip(batch, arrays, strict=True):
        row[: len(array)] = array[:frames]
    return batch


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for (x, y), (other_x, other_y) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)


# --- content


@pytest.mark.parametrize("feature", ["mel", "chroma", "fused"])
@pytest.mark.parametrize("frames", [None, 4, 12], ids=["ragged", "cut", "padded"])
def test_batches_are_the_arrays_padded(clips_of_lengths: ClipsOf, feature: str, frames: int | None) -> None:
    clips = clips_of_lengths(LENGTHS)
    batches = epoch(make_dataset(clips, feature, batch_size=3, frames=frames))
    assert [len(y) for _, y in batches] == [3, 3, 1]
    assert order(batches) == list(range(7))
    for x, y in batches:
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, padded(clips, y, feature, frames))


def test_every_mode_gives_each_clip_once_and_exactly_and_knows_its_batches(
    clips_of_lengths: ClipsOf, mode: dict
) -> None:
    clips = clips_of_lengths(LENGTHS)
    ds = make_dataset(clips, "mel", batch_size=2, **mode)
    for _ in range(2):
        batches = epoch(ds)
        assert len(ds) == len(batches)
        assert sorted(order(batches)) == list(range(7))
        for x, y in batches:
            np.testing.assert_array_equal(x, padded(clips, y, "mel", mode.get("frames")))


@pytest.mark.parametrize("count", [1, 8], ids=["a single clip", "eight clips"])
def test_clips_of_one_length_need_no_padding(clips_of_lengths: ClipsOf, mode: dict, count: int) -> None:
    ds = make_dataset(clips_of_lengths([6] * count), "chroma", batch_size=3, **mode)
    batches = epoch(ds)
    assert len(ds) == len(batches) == -(-count // 3)
    assert sorted(order(batches)) == list(range(count))
    assert all(x.shape[1:] == (6, 12) and (x >= 0).all() for x, _ in batches)


def test_shapes_are_known_before_a_batch_is_read(clips_of_lengths: ClipsOf, mode: dict) -> None:
    spectrogram, target = make_dataset(clips_of_lengths(LENGTHS), "fused", batch_size=2, **mode).element_spec
    assert (spectrogram.dtype, spectrogram.shape.as_list()) == (tf.float32, [None, mode.get("frames"), 140])
    assert (target.dtype, target.shape.as_list()) == (tf.int64, [None])


def test_test_is_padded_as_train(clips_of_lengths: ClipsOf) -> None:
    """With frames given, clips of any length make batches of one shape, and a clip's row is the same in both."""
    clips = clips_of_lengths([4, 9, 2])
    train = epoch(make_dataset(clips, frames=6))[0][0]
    test = epoch(make_dataset(clips.take([0, 2]), frames=6))[0][0]
    assert train.shape[1:] == test.shape[1:] == (6, 128)
    np.testing.assert_array_equal(train[[0, 2]], test)


def test_padding_is_pad_value_and_never_0_db(clips_of_lengths: ClipsOf) -> None:
    x, _ = epoch(make_dataset(clips_of_lengths([2, 5])))[0]
    assert (x[0, 2:] == -1024).all()
    assert (x[1] >= -80).all()


@pytest.mark.parametrize("feature", ["mel", "fused"])
def test_silence_is_not_padding(clips_of_lengths: ClipsOf, save_array: SaveArray, feature: str) -> None:
    clips = clips_of_lengths([3, 5])
    silence = np.zeros((140, 3), np.float32)
    silence[:128] = -80
    save_array(clips.paths[0], silence)
    x, _ = epoch(make_dataset(clips, feature))[0]
    padding = (x == PAD_VALUE).any(axis=-1)
    np.testing.assert_array_equal(padding, [[False] * 3 + [True] * 2, [False] * 5])
    assert (x[0, :3, :128] == -80).all()


@pytest.mark.parametrize("buckets", [1, 2])
def test_affect_targets_are_a_row_a_clip(clips_of_lengths: ClipsOf, buckets: int) -> None:
    targets = np.array([[0.1, 0.2, 0.3], [0.4, np.nan, 0.6], [0.7, 0.8, 0.9]], np.float32)
    clips = replace(clips_of_lengths([2, 2, 6]), targets=targets, classes=(), tasks=("a", "b", "c"))
    batches = epoch(make_dataset(clips, batch_size=2, buckets=buckets))
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), targets)
    assert [y.shape for _, y in batches] == [(2, 3), (1, 3)]


def test_genre_targets_are_one_number_a_clip(clips_of_lengths: ClipsOf) -> None:
    _, y = epoch(make_dataset(clips_of_lengths([2, 3])))[0]
    assert y.shape == (2,)
    assert y.dtype == np.int64


def test_a_path_may_hold_spaces_and_any_letters(tmp_path: Path, fused: Fused, save_array: SaveArray) -> None:
    path = save_array(tmp_path / "Été, 夏" / "1.fused.full.npy.gz", fused(3).astype(np.float16))
    x, _ = epoch(make_dataset(Clips(("1",), (path,), np.array([0]))))[0]
    np.testing.assert_array_equal(x[0], fused(3).astype(np.float16)[:128].T)


# --- shuffle


@pytest.mark.parametrize("cache", [None, "memory", "file"])
@pytest.mark.parametrize("buckets", [1, 3])
def test_shuffled_epochs_differ_and_follow_the_seed(
    clips_of_lengths: ClipsOf, tmp_path: Path, cache: str | None, buckets: int
) -> None:
    clips = clips_of_lengths([3, 4, 5] * 6)

    def two_epochs(seed: int, run: str) -> list[list[int]]:
        place = tmp_path / run if cache == "file" else cache
        ds = make_dataset(clips, "chroma", 4, shuffle=True, seed=seed, cache=place, buckets=buckets)
        return [order(epoch(ds)) for _ in range(2)]

    first, second = two_epochs(7, "a")
    assert sorted(first) == sorted(second) == list(range(18))
    assert first != second
    assert first != list(range(18))
    assert two_epochs(7, "b") == [first, second]
    assert two_epochs(8, "c") != [first, second]


def test_a_file_grouped_by_class_is_mixed(clips_of_lengths: ClipsOf) -> None:
    clips = replace(clips_of_lengths([1] * 40), targets=np.repeat([0, 1], 20), classes=("Pop", "Rock"))
    for _, y in epoch(make_dataset(clips, "chroma", 20, shuffle=True)):
        assert 0 < y.sum() < 20


def test_a_shuffle_that_holds_few_clips_loses_none(clips_of_lengths: ClipsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SHUFFLED_CLIPS", 3)
    ds = make_dataset(clips_of_lengths([2] * 12), "chroma", 4, shuffle=True, cache="memory")
    assert sorted(order(epoch(ds))) == sorted(order(epoch(ds))) == list(range(12))


def test_without_shuffle_every_epoch_is_in_order(clips_of_lengths: ClipsOf) -> None:
    ds = make_dataset(clips_of_lengths(LENGTHS), "chroma", 2)
    assert order(epoch(ds)) == order(epoch(ds)) == list(range(7))


# --- cache


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"buckets": 3}, {"frames": 6}], ids=str)
def test_memory_and_file_cache_give_the_same_batches(clips_of_lengths: ClipsOf, tmp_path: Path, options: dict) -> None:
    clips = clips_of_lengths(LENGTHS)
    memory = make_dataset(clips, "mel", 2, cache="memory", **options)
    file = make_dataset(clips, "mel", 2, cache=tmp_path / "cache", **options)
    for _ in range(2):
        assert_same(epoch(memory), epoch(file))


def test_without_shuffle_a_cache_changes_nothing(clips_of_lengths: ClipsOf) -> None:
    clips = clips_of_lengths(LENGTHS)
    cached = make_dataset(clips, batch_size=2, cache="memory")
    for _ in range(2):
        assert_same(epoch(cached), epoch(make_dataset(clips, batch_size=2)))


@pytest.mark.parametrize("cache", ["memory", "file"])
def test_a_cached_array_is_read_once(clips_of_lengths: ClipsOf, tmp_path: Path, cache: str) -> None:
    clips = clips_of_lengths([2, 3])
    ds = make_dataset(clips, cache=tmp_path / "cache" if cache == "file" else cache)
    first = epoch(ds)
    for path in clips.paths:
        path.unlink()
    assert_same(epoch(ds), first)


def test_without_a_cache_an_array_is_read_anew(clips_of_lengths: ClipsOf, fused: Fused, save_array: SaveArray) -> None:
    clips = clips_of_lengths([2, 3])
    ds = make_dataset(clips, "fused")
    epoch(ds)
    save_array(clips.paths[0], fused(2, seed=99))
    np.testing.assert_array_equal(epoch(ds)[0][0][0, :2], fused(2, seed=99).T)


# --- buckets


def mixed_lengths() -> list[int]:
    """As the lab's beat-synchronised clips: mean 60, sd 15, from 14 to 129."""
    return np.random.default_rng(0).normal(60, 15, 64).round().astype(int).clip(14, 129).tolist()


def padding(batches: list[Batch]) -> int:
    return sum(int((x[:, :, 0] == PAD_VALUE).sum()) for x, _ in batches)


def test_buckets_reduce_the_padding_and_keep_every_clip(clips_of_lengths: ClipsOf) -> None:
    clips = clips_of_lengths(mixed_lengths())
    plain = epoch(make_dataset(clips, "chroma", 8, shuffle=True))
    bucketed = epoch(make_dataset(clips, "chroma", 8, shuffle=True, buckets=4))
    assert sorted(order(bucketed)) == list(range(64))
    assert padding(bucketed) < 0.6 * padding(plain)


def test_a_batch_holds_the_clips_of_one_bucket(clips_of_lengths: ClipsOf) -> None:
    clips = clips_of_lengths([1, 9, 2, 8, 1, 9, 2, 8])
    batches = epoch(make_dataset(clips, "chroma", 2, buckets=2))
    lengths = [sorted(int((x[i, :, 0] != PAD_VALUE).sum()) for i in range(len(x))) for x, _ in batches]
    assert sorted(map(tuple, lengths)) == [(1, 2), (1, 2), (8, 9), (8, 9)]


def test_more_buckets_than_lengths_are_no_harm(clips_of_lengths: ClipsOf) -> None:
    batches = epoch(make_dataset(clips_of_lengths([3, 3, 4]), "chroma", 2, buckets=10))
    assert sorted(order(batches)) == [0, 1, 2]
    assert padding(batches) == 0


# --- logmel


def logmel_clips(folder: Path) -> Clips:
    """The target is the clip's position, and the value of each frame its number."""
    paths = tuple(folder / f"{i}.logmel.npy" for i in range(len(LENGTHS)))
    for path, frames in zip(paths, LENGTHS, strict=True):
        write_array(path, np.tile(np.arange(frames, dtype=np.float16), (96, 1)))
    ids = tuple(map(str, range(len(LENGTHS))))
    return Clips(ids, paths, np.arange(len(LENGTHS)), classes=ids)


@pytest.mark.parametrize("buckets", [1, 3])
def test_logmel_batches_are_the_arrays_padded(tmp_path: Path, buckets: int) -> None:
    batches = epoch(make_dataset(logmel_clips(tmp_path), "logmel", batch_size=3, buckets=buckets))
    assert sorted(order(batches)) == list(range(len(LENGTHS)))
    for x, y in batches:
        assert x.dtype == np.float32
        assert x.shape == (len(y), max(LENGTHS[i] for i in y), 96)
        for clip, i in zip(x, y, strict=True):
            expected = np.concatenate([np.arange(LENGTHS[i]), np.full(len(clip) - LENGTHS[i], PAD_VALUE)])
            np.testing.assert_array_equal(clip, np.tile(expected[:, None], (1, 96)))


@pytest.mark.parametrize("feature", ["mel", "chroma", "fused"])
def test_logmel_arrays_hold_no_other_feature(tmp_path: Path, feature: str) -> None:
    told = rf'Expected the feature "logmel" of a logmel array, got "{feature}" for .*0\.logmel\.npy'
    with pytest.raises(UserError, match=told):
        make_dataset(logmel_clips(tmp_path), feature)


def test_fused_arrays_hold_no_logmel(clips_of_lengths: ClipsOf) -> None:
    told = r'Expected the feature "mel", "chroma" or "fused" of a fused array, got "logmel" for .*0\.fused\.full\.npy'
    with pytest.raises(UserError, match=told):
        make_dataset(clips_of_lengths(LENGTHS), "logmel")

"""Splits: seeded, stratified, never parting a group."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtmusic.data.labels import Clips, read_affect_labels, read_genre_labels
from mtmusic.data.splits import hold_out, k_fold, stratification, subset
from mtmusic.errors import UserError

NAMES = ("Blues", "Jazz", "Pop", "Rock")


def genre_clips(targets: Sequence[int], groups: Sequence[str] | None = None) -> Clips:
    ids = tuple(str(i) for i in range(len(targets)))
    return Clips(
        ids,
        tuple(Path("train", f"{i}.fused.full.npy") for i in ids),
        np.array(targets, dtype=np.int64),
        classes=NAMES[: max(targets) + 1],
        groups=None if groups is None else np.array(groups),
    )


def affect_clips(targets: np.ndarray, groups: Sequence[str] | None = None) -> Clips:
    """targets (clips, tasks)."""
    ids = tuple(str(i) for i in range(len(targets)))
    return Clips(
        ids,
        tuple(Path("train", f"{i}.fused.full.npy") for i in ids),
        targets.astype(np.float32),
        tasks=("valence", "energy", "danceability")[: targets.shape[1]],
        groups=None if groups is None else np.array(groups),
    )


def random_affect(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3))


def assert_parts(whole: Clips, first: Clips, second: Clips) -> None:
    """Every clip is in one of the two, with its own path and target, and no group is in both."""
    assert sorted(first.ids + second.ids) == sorted(whole.ids)
    for part in (first, second):
        rows = [whole.ids.index(i) for i in part.ids]
        assert part.paths == tuple(whole.paths[row] for row in rows)
        np.testing.assert_array_equal(part.targets, whole.targets[rows])
        assert (part.classes, part.tasks) == (whole.classes, whole.tasks)
    if whole.groups is not None:
        assert not set(first.groups) & set(second.groups)


# --- hold-out


def test_hold_out_parts_by_the_fraction() -> None:
    clips = genre_clips([0, 1, 2, 3] * 25)
    for fraction, held in ((0.2, 20), (0.25, 25), (0.5, 50)):
        kept, validation = hold_out(clips, fraction)
        assert (len(kept), len(validation)) == (100 - held, held)
        assert_parts(clips, kept, validation)


def test_hold_out_keeps_each_class_share() -> None:
    clips = genre_clips([0] * 100 + [1] * 50 + [2] * 30 + [3] * 20)  # grouped by class, as the lab's files
    kept, held = hold_out(clips, 0.2)
    assert kept.counts() == {"Blues": 80, "Jazz": 40, "Pop": 24, "Rock": 16}
    assert held.counts() == {"Blues": 20, "Jazz": 10, "Pop": 6, "Rock": 4}


def test_hold_out_balances_the_quartiles_of_a_target() -> None:
    targets = np.linspace(0, 1, 200)[:, None]
    _, held = hold_out(affect_clips(targets), 0.2)
    assert Counter((np.array([int(i) for i in held.ids]) // 50).tolist()) == dict.fromkeys(range(4), 10)


def test_hold_out_keeps_the_order_of_the_file() -> None:
    kept, held = hold_out(genre_clips([0, 1] * 20))
    for part in (kept, held):
        assert list(part.ids) == sorted(part.ids, key=int)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("split", [lambda c, s: hold_out(c, 0.25, s)[1], lambda c, s: next(k_fold(c, 4, s))[1]])
def test_a_split_follows_its_seed(split: Callable[[Clips, int], Clips], grouped: bool) -> None:
    clips = genre_clips([0, 1] * 40, [f"artist {i // 4}" for i in range(80)] if grouped else None)
    assert split(clips, 3).ids == split(clips, 3).ids
    assert len({split(clips, seed).ids for seed in range(5)}) > 1


def test_a_split_does_not_touch_the_global_generator() -> None:
    clips = genre_clips([0, 1] * 20)
    np.random.seed(0)
    first = hold_out(clips, seed=1)[1].ids
    state = np.random.get_state()[1].copy()
    np.random.seed(99)
    assert hold_out(clips, seed=1)[1].ids == first
    np.random.seed(0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_a_split_does_not_depend_on_where_the_folder_lies(data_folder: Callable[..., Path]) -> None:
    labels = "Id\tGenre\n" + "".join(f"{i}\t{('Rock', 'Pop')[i % 2]}\n" for i in range(20))
    parts = [
        hold_out(read_genre_labels(data_folder(labels, range(20), name=name))) for name in ("data", "test/train_test")
    ]
    assert [part.ids for part in parts[0]] == [part.ids for part in parts[1]]


def test_missing_labels_are_tolerated() -> None:
    targets = random_affect(40)
    targets[:10, 0] = np.nan
    targets[5] = np.nan
    clips = affect_clips(targets)
    assert Counter(stratification(clips).tolist()) == dict.fromkeys(range(4), 10)
    assert_parts(clips, *hold_out(clips))


def test_a_task_without_labels_or_without_spread_is_tolerated() -> None:
    targets = random_affect(40)
    targets[:, 1] = np.nan
    targets[:, 2] = 0.5
    order = np.argsort(np.argsort(targets[:, 0]))
    np.testing.assert_array_equal(stratification(affect_clips(targets)), order // 10)


def test_strata_of_several_tasks_weigh_each_task_alike() -> None:
    """A task on a scale of hundredths counts as much as one on the whole range."""
    wide = np.array([0.0, 0.2, 0.8, 1.0])
    narrow = np.array([0.53, 0.50, 0.53, 0.50])
    mean = [(x - x.mean()) / x.std() for x in (wide, narrow)]
    expected = np.argsort(np.argsort(mean[0] + mean[1]))
    np.testing.assert_array_equal(stratification(affect_clips(np.stack([wide, narrow], axis=1))), expected)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_must_lie_between_0_and_1(fraction: float) -> None:
    with pytest.raises(UserError, match="Expected a share between 0 and 1"):
        hold_out(genre_clips([0, 1] * 10), fraction)


@pytest.mark.parametrize(
    "clips",
    [
        genre_clips([0, 0, 0, 0, 1]),
        genre_clips([0] * 98 + [1] * 2),
        genre_clips([0, 1]),
        genre_clips([0]),
        affect_clips(random_affect(3)),
        genre_clips([0, 1] * 10, ["one artist"] * 20),
        genre_clips([0] * 10 + [1] * 10, ["a"] * 10 + [f"b{i}" for i in range(10)]),
    ],
    ids=[
        "a class of one",
        "a rare class",
        "a clip a class",
        "one clip",
        "three affect clips",
        "one group",
        "a class in one group",
    ],
)
def test_too_few_clips_for_a_hold_out(clips: Clips) -> None:
    with pytest.raises(UserError, match=rf"Too few clips for a hold-out of 0.2.*: {len(clips)}|Too few .* folds"):
        hold_out(clips)


def test_the_error_of_too_few_clips_tells_the_counts() -> None:
    with pytest.raises(UserError, match=r"Too few clips for a hold-out of 0\.2: 5 \(Blues 4, Jazz 1\); give more"):
        hold_out(genre_clips([0, 0, 0, 0, 1]))


def test_a_grouped_hold_out_has_about_the_fraction_and_every_class() -> None:
    artists = [f"artist {i // 5}" for i in range(200)]
    clips = genre_clips([i // 5 % 4 for i in range(200)], artists)
    kept, held = hold_out(clips, 0.2)
    assert_parts(clips, kept, held)
    assert held.counts() == dict.fromkeys(NAMES, 10)


GROUPED = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcdefghijkl")), min_size=2, max_size=60)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=GROUPED, fraction=st.sampled_from([0.1, 0.2, 0.34, 0.5, 0.9]), seed=st.integers(0, 9), affect=st.booleans())
def test_hold_out_never_parts_a_group(rows: list[tuple[int, str]], fraction: float, seed: int, affect: bool) -> None:
    targets, groups = zip(*rows, strict=True)
    clips = affect_clips(np.array(targets)[:, None] / 2, groups) if affect else genre_clips(targets, groups)
    with suppress(UserError):
        kept, held = hold_out(clips, fraction, seed)
        assert_parts(clips, kept, held)
        assert len(kept)
        assert len(held)
        if not affect:
            assert set(kept.targets) == set(held.targets) == set(targets)


# --- k-fold


def test_k_fold_puts_each_clip_in_one_fold() -> None:
    clips = genre_clips([0] * 40 + [1] * 20)
    parts = list(k_fold(clips, 5))
    assert len(parts) == 5
    for rest, fold in parts:
        assert_parts(clips, rest, fold)
        assert fold.counts() == {"Blues": 8, "Jazz": 4}
    assert sorted(i for _, fold in parts for i in fold.ids) == sorted(clips.ids)


def test_k_fold_balances_the_quartiles_of_a_target() -> None:
    for _, fold in k_fold(affect_clips(np.linspace(0, 1, 80)[:, None]), 4):
        assert Counter((np.array([int(i) for i in fold.ids]) // 20).tolist()) == dict.fromkeys(range(4), 5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=GROUPED, folds=st.integers(2, 5), seed=st.integers(0, 9))
def test_k_fold_never_parts_a_group(rows: list[tuple[int, str]], folds: int, seed: int) -> None:
    targets, groups = zip(*rows, strict=True)
    clips = genre_clips(targets, groups)
    with suppress(UserError):
        parts = list(k_fold(clips, folds, seed))
        for rest, fold in parts:
            assert_parts(clips, rest, fold)
        assert sorted(i for _, fold in parts for i in fold.ids) == sorted(clips.ids)


@pytest.mark.parametrize(
    ("clips", "folds"),
    [
        (genre_clips([0, 0, 0, 1, 1]), 3),
        (genre_clips([0, 1] * 10), 1),
        (genre_clips([0, 1] * 10, ["a", "a", "b", "b"] * 5), 3),
        (affect_clips(random_affect(11)), 3),
    ],
    ids=["a class of two", "one fold", "two groups", "eleven affect clips"],
)
def test_too_few_clips_for_k_folds(clips: Clips, folds: int) -> None:
    with pytest.raises(UserError, match=f"Too few clips for {folds} folds: {len(clips)}"):
        list(k_fold(clips, folds))


def test_k_fold_needs_each_class_that_occurs_alone() -> None:
    """Known classes may be more than those that the file holds."""
    clips = genre_clips([0, 3] * 10)
    assert [fold.counts() for _, fold in k_fold(clips, 2)] == [{"Blues": 5, "Jazz": 0, "Pop": 0, "Rock": 5}] * 2


# --- subset


@pytest.mark.parametrize("size", [4, 5, 37, 97, 99])
def test_a_subset_has_its_exact_size_and_each_class_share(size: int) -> None:
    clips = genre_clips([0] * 50 + [1] * 30 + [2] * 15 + [3] * 5)
    part = subset(clips, size)
    assert len(part) == len(set(part.ids)) == size
    assert set(part.ids) <= set(clips.ids)
    for name, count in part.counts().items():
        assert count >= 1
        assert abs(count - size * clips.counts()[name] / 100) <= 1


def test_a_subset_holds_a_rare_class_and_a_class_of_one_clip() -> None:
    assert subset(genre_clips([0] * 98 + [1] * 2), 4).counts() == {"Blues": 3, "Jazz": 1}
    assert subset(genre_clips([0] * 99 + [1]), 10).counts() == {"Blues": 9, "Jazz": 1}


def test_a_subset_of_affect_clips_is_balanced_by_quartile() -> None:
    part = subset(affect_clips(np.linspace(0, 1, 80)[:, None]), 20)
    assert Counter((np.array([int(i) for i in part.ids]) // 20).tolist()) == dict.fromkeys(range(4), 5)


def test_a_subset_follows_its_seed_and_keeps_the_order_of_the_file() -> None:
    clips = genre_clips([0, 1] * 40)
    assert subset(clips, 20, 1).ids == subset(clips, 20, 1).ids != subset(clips, 20, 2).ids
    assert list(subset(clips, 20, 1).ids) == sorted(subset(clips, 20, 1).ids, key=int)


@pytest.mark.parametrize("size", [8, 9])
def test_a_subset_of_all_is_all(size: int) -> None:
    clips = genre_clips([0, 1] * 4)
    assert subset(clips, size).ids == clips.ids


@pytest.mark.parametrize("size", [1, 0, -5])
def test_a_subset_below_one_clip_a_class_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"Expected `subset` of 2 clips or more, one per class, got {size}"):
        subset(genre_clips([0, 1] * 4), size)


# --- real folders


@pytest.mark.real
@pytest.mark.parametrize("seed", [0, 1])
def test_no_real_artist_is_in_both_parts(real_data: Path, seed: int) -> None:
    folder = real_data / "emotify"
    genre = read_genre_labels(folder / "fma_genre_spectrograms_beat")
    affect = read_affect_labels(folder / "multitask_dataset_beat")
    for clips in (genre, affect):
        kept, held = hold_out(clips, 0.2, seed)
        assert_parts(clips, kept, held)
        assert 45 <= len(held) <= 75

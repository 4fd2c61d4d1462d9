"""Classes and rates: what is a fault, and what chance, groups and odd songs do to a folder that has none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtmusic.data.labels import Clips
from mtmusic.data.quality.checked_split import CheckedSplit
from mtmusic.data.quality.measurements import ArrayMeasurements
from mtmusic.data.quality.split_checks import check_splits

CLASSES = ("Blues", "Folk", "Jazz", "Rock")
BEAT = {"frames": 60, "chroma_peaks": 0.8, "chroma_change": 0.6}
FULL = {"frames": 1292, "chroma_peaks": 1.0, "chroma_change": 0.05}


def split_of(targets, odd=(), groups=None, first=0) -> CheckedSplit:
    """Clips of these classes; odd: of each what differs from a good beat-synchronised clip's."""
    ids = tuple(str(first + i) for i in range(len(targets)))
    told = [odd[i] if i < len(odd) else {} for i in range(len(targets))]
    usual = {"rows": 140, "dtype": "float32", "mel_min": -80.0, "mel_max": 0.0, "mel_mean": -40.0, "mel_std": 14.0}
    usual |= {"floor_share": 0.0, "chroma_min": 0.0, "chroma_max": 1.0, "nan_share": 0.0} | BEAT
    clips = Clips(ids, (Path(),) * len(ids), np.asarray(targets), classes=CLASSES, groups=groups)
    return CheckedSplit(clips, tuple(ArrayMeasurements(**usual | told[i], digest=ids[i]) for i in range(len(ids))), ())


def names(train, test, beat=True) -> list[str]:
    splits = {"train": train, "test": test}
    return [finding.name for finding in check_splits("absent", splits, beat)]


def shares(counts) -> list[int]:
    return [i for i, count in enumerate(counts) for _ in range(count)]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ((75, 75, 75, 37), (25, 25, 25, 25)),
        ((75, 75, 75, 75), (25, 25, 25, 12)),
        ((160, 320, 80, 40), (40, 80, 10, 10)),
    ],
)
def test_a_class_that_lost_half_its_clips_is_told(train, test):
    assert names(split_of(shares(train)), split_of(shares(test), first=1000)) == ["class shares differ"]


@pytest.mark.parametrize("counts", [(100, 100, 100, 100), (400, 300, 200, 100), (1000, 600, 300, 100)])
def test_a_random_split_is_no_fault(counts):
    told = 0
    for seed in range(100):
        targets = np.random.default_rng(seed).permutation(shares(counts))
        cut = len(targets) // 5
        told += bool(names(split_of(targets[cut:]), split_of(targets[:cut], first=10_000)))
    assert told <= 2  # of 100


def test_a_split_by_artist_is_no_fault():
    """Each of 40 artists has ten clips of one class, so that a split by artist leaves the classes uneven."""
    told = 0
    for seed in range(100):
        artists = np.random.default_rng(seed).permutation(40)
        groups = np.repeat(artists, 10)
        targets = groups % 4
        parts = [
            split_of(targets[at], groups=groups[at].astype(str), first=at.start or 0)
            for at in (slice(100, 400), slice(0, 100))
        ]
        found = names(*parts)
        told += "class shares differ" in found
    assert told <= 5  # of 100


def test_full_rate_clips_are_found_among_beats_even_where_they_are_the_most():
    for odd in ([FULL] * 3, [FULL] * 30, [FULL] * 40):
        found = check_splits("absent", {"train": split_of([0, 1, 2, 3] * 10, odd)}, beat=True)
        assert [(finding.name, len(finding.clips)) for finding in found] == [
            ("full-rate clips among beat-synchronised ones", len(odd))
        ]
        assert found[0].error


def test_beats_are_found_among_full_rate_clips_even_where_they_are_the_most():
    for count in (3, 30, 40):
        odd = [BEAT] * count + [FULL] * (40 - count)
        found = check_splits("absent", {"train": split_of([0, 1, 2, 3] * 10, odd)}, beat=False)
        assert [(finding.name, len(finding.clips)) for finding in found] == [
            ("beat-synchronised clips among full-rate ones", count)
        ]


@pytest.mark.parametrize(
    ("beat", "odd"),
    [
        (True, {"frames": 1200}),  # a song of ten minutes
        (True, {"frames": 40, "chroma_peaks": 1.0}),  # of clear chords
        (True, {"frames": 18, "chroma_peaks": 1.0, "chroma_change": 0.1}),  # of a held one
        (False, FULL | {"frames": 215}),  # five seconds
        (False, FULL | {"chroma_change": 0.28}),  # of unrest
    ],
)
def test_an_odd_song_is_no_fault(beat, odd):
    odd = [odd, *[BEAT if beat else FULL] * 39]
    assert check_splits("absent", {"train": split_of([0, 1, 2, 3] * 10, odd)}, beat) == []


@pytest.mark.parametrize(("rows", "error"), [(["0", "00001"], False), (["00000", "00001"], True)])
def test_rows_of_groups_that_name_no_clip_are_told(tmp_path, rows, error):
    (tmp_path / "groups.csv").write_text("id,group\n" + "".join(f"{name},a\n" for name in rows))
    found = check_splits(tmp_path, {"train": split_of([0, 0, 1, 1])}, True)
    (finding,) = [one for one in found if one.name == "groups of no clip"]
    assert finding.error is error
    count = sum(len(name) > 1 for name in rows)
    assert finding.message.startswith(f"{count} of 2 rows of groups.csv name no clip, for example '0000")


def test_rows_of_groups_whose_clips_are_gone_are_no_fault_where_all_others_have_theirs(tmp_path):
    (tmp_path / "groups.csv").write_text("id,group\n" + "".join(f"{name},a\n" for name in range(6)))
    assert "groups of no clip" not in names(split_of([0, 0]), split_of([1, 1], first=2))
    found = check_splits(tmp_path, {"train": split_of([0, 0, 1, 1])}, True)
    assert "groups of no clip" not in [one.name for one in found]


def test_classes_that_differ_in_case_alone_are_told_with_all_their_clips():
    train = split_of([0, 0, 1, 1, 2, 2, 3, 3])
    train = replace(train, scanned=replace(train.scanned, classes=("Blues", "Folk", "Rock", "rock")))
    (finding,) = [one for one in check_splits("absent", {"train": train}, True) if one.name == "classes of one name"]
    assert (finding.error, finding.message) == (False, "the classes 'Rock' and 'rock' differ only in case or spaces")
    assert finding.clips == ("train/4", "train/5", "train/6", "train/7")

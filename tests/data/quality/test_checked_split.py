"""The check of a whole folder: good clips kept, bad rows and arrays told, and one fingerprint for what was kept."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mtmusic.data.quality.checked_split import (
    checked_affect_split,
    checked_genre_split,
    fingerprint,
    require_good,
)
from mtmusic.errors import UserError

Fused = Callable[..., np.ndarray]
SaveArray = Callable[..., Path]
DataFolder = Callable[..., Path]

LABELS = "Id\tGenre\n1\tRock\n2\tPop\n3\tRock\n"


@pytest.fixture
def bad_folder(data_folder: DataFolder, fused: Fused, save_array: SaveArray) -> Path:
    """Five rows: two good clips (1, of 3 frames, and 5, of 7), no array, a NaN and a cut array."""
    folder = data_folder("Id\tGenre\n1\tRock\n2\tRock\n3\tPop\n4\tPop\n5\tPop\n", [1, 3])
    train = folder / "train"
    save_array(train / "3.fused.full.npy", np.full((140, 3), np.nan))
    (train / "4.fused.full.npy").write_bytes((train / "1.fused.full.npy").read_bytes()[:-1])
    save_array(train / "5.fused.full.npy", fused(7))
    return folder


def test_a_good_folder_is_told_clip_by_clip(data_folder: DataFolder) -> None:
    split = checked_genre_split(data_folder(LABELS, [1, 2, 3]), "train")
    assert split.clips.ids == ("1", "2", "3")
    assert split.frames.tolist() == [3, 3, 3]
    assert len(set(split.digests)) == 3
    assert split.problems == ()


def test_bad_clips_are_left_out_and_told(bad_folder: Path) -> None:
    split = checked_genre_split(bad_folder, "train")
    assert split.clips.ids == ("1", "5")
    assert split.clips.targets.tolist() == [1, 0]
    assert split.frames.tolist() == [3, 7]
    assert len(split.digests) == 2
    told = ["train_labels.txt line 3: no array 2", "train/3.fused.full.npy", "train/4.fused.full.npy"]
    assert len(split.problems) == 3
    for problem, expected in zip(split.problems, told, strict=True):
        assert expected in str(problem)


def test_bad_clips_stop_the_job_and_all_are_listed(bad_folder: Path) -> None:
    with pytest.raises(UserError) as error:
        require_good(bad_folder, {"train": checked_genre_split(bad_folder, "train")})
    heading, *lines = str(error.value).splitlines()
    assert heading == f"Cannot use all of {bad_folder} (`skip_bad=True` leaves these clips out): 3 problems"
    assert len(lines) == 3


def test_skip_bad_goes_on_and_gives_the_list(bad_folder: Path) -> None:
    split = checked_genre_split(bad_folder, "train")
    assert require_good(bad_folder, {"train": split}, skip_bad=True) == split.problems


def test_the_problems_of_all_splits_come_together(bad_folder: Path, data_folder: DataFolder) -> None:
    data_folder("Id\tGenre\n9\tRock\n8\tRock\n", [9], split="test")
    splits = {name: checked_genre_split(bad_folder, name) for name in ("train", "test")}
    told = require_good(bad_folder, splits, skip_bad=True)
    assert len(told) == 4
    assert "test_labels.txt line 3: no array 8" in told[3].text


def test_a_good_folder_gives_no_problems(data_folder: DataFolder) -> None:
    folder = data_folder(LABELS, [1, 2, 3])
    assert require_good(folder, {"train": checked_genre_split(folder, "train")}) == ()


def test_many_problems_of_a_kind_are_one_line(data_folder: DataFolder, save_array: SaveArray) -> None:
    folder = data_folder("Id,valence\n" + "".join(f"{i},0.5\n" for i in range(30)))
    for i in range(30):
        save_array(folder / "train" / f"{i}.fused.full.npy", np.zeros((128, 3)))
    with pytest.raises(
        UserError, match=r"30 times [a-z ]+, for example Expected \(140, frames\), got \(128, 3\) in .*"
    ):
        require_good(folder, {"train": checked_affect_split(folder, "train")})


@pytest.mark.parametrize(
    ("labels", "skip_bad"),
    [("Id\tGenre\n404\tRock\n", True), ("Id\tGenre\n1\tOld-Time\n", False)],
    ids=["every row bad", "every class dropped"],
)
def test_a_split_without_a_clip_is_refused(data_folder: DataFolder, labels: str, skip_bad: bool) -> None:
    folder = data_folder(labels, [1])
    with pytest.raises(UserError, match=r"Expected clips in .*train_labels\.txt, got none that can be used"):
        require_good(folder, {"train": checked_genre_split(folder, "train")}, skip_bad)


def test_an_affect_folder_is_checked_too(data_folder: DataFolder) -> None:
    folder = data_folder("Id,valence,energy\n1,0.5,\n2,2,0\n3,,1\n", [1, 2, 3])
    split = checked_affect_split(folder, "train")
    assert split.clips.ids == ("1", "3")
    assert len(split.problems) == 1
    assert "line 3: expected labels from 0 to 1, got 2,0" in split.problems[0].text


def test_a_file_that_cannot_be_used_at_all_stops_the_check(data_folder: DataFolder) -> None:
    with pytest.raises(UserError, match="got an empty file"):
        checked_genre_split(data_folder(""), "train")


def test_groups_stay_with_the_good_clips(bad_folder: Path) -> None:
    (bad_folder / "groups.csv").write_text("id,group\n1,a\n3,b\n5,c\n")
    assert list(checked_genre_split(bad_folder, "train").clips.groups) == ["group a", "group c"]


# --- fingerprint


def print_of(folder: Path, classes: str = "lab") -> str:
    return fingerprint({"train": checked_genre_split(folder, "train", classes)})


def rewrite(folder: Path, save: Callable[[Path, np.ndarray], object], ids: Sequence[int] = (1, 2, 3)) -> None:
    for i in ids:
        path = folder / "train" / f"{i}.fused.full.npy"
        save(path, np.load(path))


@pytest.fixture
def reference(data_folder: DataFolder) -> str:
    return print_of(data_folder(LABELS, [1, 2, 3], name="reference"))


@pytest.mark.parametrize(
    "labels",
    [
        "Id\tGenre\n3\tRock\n1\tRock\n2\tPop\n",
        "Id\tGenre\n1.beatsync.fused.npy.gz\tRock\n2.full.fused.npy.gz\tPop\n3\tRock\n",
        "Id\tGenre\n1\tPsych-Rock\n2\tPop\n3\tRock\n",
    ],
    ids=["another order", "another spelling", "a name merged into the same class"],
)
def test_the_fingerprint_stays_for_the_same_clips(data_folder: DataFolder, reference: str, labels: str) -> None:
    assert print_of(data_folder(labels, [1, 2, 3])) == reference


@pytest.mark.parametrize(
    "convert",
    [lambda x: x.astype(np.float64), lambda x: x.astype(">f4"), np.asfortranarray],
    ids=["float64", "big-endian", "Fortran order"],
)
def test_the_fingerprint_stays_for_another_number_format(
    data_folder: DataFolder, reference: str, convert: Callable[[np.ndarray], np.ndarray]
) -> None:
    folder = data_folder(LABELS, [1, 2, 3])
    rewrite(folder, lambda path, array: np.save(path, convert(array)))
    assert print_of(folder) == reference


def test_the_fingerprint_stays_for_compressed_arrays(data_folder: DataFolder, reference: str) -> None:
    assert print_of(data_folder(LABELS, [1, 2, 3], suffix=".npy.gz")) == reference


@pytest.mark.parametrize(
    "labels",
    [
        "Id\tGenre\n1\tPop\n2\tPop\n3\tRock\n",
        "Id\tGenre\n1\tRock\n2\tBlues\n3\tRock\n",
        "Id\tGenre\n1\tRock\n2\tPop\n",
    ],
    ids=["another label", "another class", "a clip less"],
)
def test_the_fingerprint_changes_with_the_labels(data_folder: DataFolder, reference: str, labels: str) -> None:
    assert print_of(data_folder(labels, [1, 2, 3])) != reference


def test_the_fingerprint_changes_with_an_id(data_folder: DataFolder, reference: str) -> None:
    assert print_of(data_folder(LABELS.replace("2\tPop", "4\tPop"), [1, 4, 3])) != reference


def test_the_fingerprint_changes_with_one_value(data_folder: DataFolder, reference: str) -> None:
    def nudge(path: Path, array: np.ndarray) -> None:
        array[139, 2] = np.nextafter(array[139, 2], np.float32(1))
        np.save(path, array)

    folder = data_folder(LABELS, [1, 2, 3])
    rewrite(folder, nudge, [2])
    assert print_of(folder) != reference


def test_the_fingerprint_changes_when_two_arrays_change_places(data_folder: DataFolder, reference: str) -> None:
    assert print_of(data_folder(LABELS, [3, 2, 1])) != reference


def test_the_fingerprint_changes_with_an_affect_label_or_a_task(data_folder: DataFolder) -> None:
    texts = ("Id,valence\n1,0.5\n", "Id,valence\n1,0.501\n", "Id,valence\n1,\n", "Id,energy\n1,0.5\n")
    prints = [
        fingerprint({"train": checked_affect_split(data_folder(text, [1], name=str(i)), "train")})
        for i, text in enumerate(texts)
    ]
    assert len(set(prints)) == len(texts)


# --- real folders


@pytest.mark.real
def test_real_beat_folders_are_good(real_data: Path) -> None:
    folder = real_data / "emotify"
    genre = {name: checked_genre_split(folder / "fma_genre_spectrograms_beat", name) for name in ("train", "test")}
    affect = {"train": checked_affect_split(folder / "multitask_dataset_beat", "train")}
    for splits in (genre, affect):
        assert require_good(folder, splits) == ()
    assert genre["train"].clips.counts() == dict.fromkeys(("Classical", "Electronic", "Pop", "Rock"), 75)
    assert genre["test"].clips.counts() == dict.fromkeys(("Classical", "Electronic", "Pop", "Rock"), 25)
    assert len(affect["train"].clips) == 300
    assert not set(genre["train"].digests) & set(genre["test"].digests)

"""Affect folders to splits: by artist, the same for every task, and refused where nothing could be learnt."""

import shutil

import numpy as np
import pytest

from mtmusic.data.folder import (
    LoadOptions,
    data_table,
    load_affect_data,
    load_affect_split,
    load_genre_data,
    load_pool,
    pooled_clips,
    select_tasks,
    song_names,
)
from mtmusic.data.labels import read_affect_labels
from mtmusic.data.spectrograms import array_kind
from mtmusic.errors import UserError
from tests import faults
from tests.folders import write_tiny_affect_folder, write_tiny_genre_folder

TASKS = ("valence", "energy", "danceability")


def artists(clips) -> set[str]:
    return set(clips.groups)


def spoil(folder, edit):
    path = folder / "train_labels.txt"
    path.write_text(edit(path.read_text()))


def without(task_column: int, keep: int = 0):
    """An edit that takes the task's labels away, but for the first `keep` clips'."""

    def edit(text: str) -> str:
        rows = [line.split(",") for line in text.splitlines()]
        for row in rows[1 + keep :]:
            row[task_column] = ""
        return "\n".join(",".join(row) for row in rows)

    return edit


def test_without_test_labels_the_clips_are_split_in_three_by_artist(affect_folder):
    data = load_affect_data(LoadOptions(affect_folder, seed=1))
    splits = data.splits
    assert list(splits) == ["train", "validation", "test"]
    assert sum(len(clips) for clips in splits.values()) == 30
    assert data.held_out_test
    assert data.beat
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not artists(splits[one]) & artists(splits[other])
    assert load_affect_data(LoadOptions(affect_folder, seed=1)).splits["test"].ids == splits["test"].ids
    assert load_affect_data(LoadOptions(affect_folder, seed=2)).splits["test"].ids != splits["test"].ids
    for changed in ({"subset": 18}, {"validation": 0.34}):
        assert load_affect_data(LoadOptions(affect_folder, seed=1, **changed)).splits["test"].ids == splits["test"].ids


def test_a_test_label_file_with_a_header_alone_is_none(affect_folder):
    (affect_folder / "test_labels.txt").write_text("Id,valence,energy,danceability\n\n")
    assert load_affect_data(LoadOptions(affect_folder)).held_out_test


def test_labels_of_a_test_split_are_used(tmp_path):
    data = load_affect_data(LoadOptions(write_tiny_affect_folder(tmp_path / "a_beat", test_labels=True)))
    assert not data.held_out_test
    assert {int(i) >= 1000 for i in data.splits["test"].ids} == {True}
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 30


def test_a_task_is_selected_with_the_clips_that_have_its_label(affect_folder):
    rows = (affect_folder / "train_labels.txt").read_text().splitlines()
    rows[1] = rows[1].split(",")[0] + ",," + ",".join(rows[1].split(",")[2:])  # clip 1 has no valence
    (affect_folder / "train_labels.txt").write_text("\n".join(rows))
    data = load_affect_data(LoadOptions(affect_folder))
    energy, valence = select_tasks(data, ("energy",)), select_tasks(data, ("valence",))
    count = [sum(len(clips) for clips in part.splits.values()) for part in (energy, valence)]
    assert count == [30, 29]
    assert energy.tasks == ("energy",)
    labelled = read_affect_labels(affect_folder)
    at = labelled.ids.index(energy.splits["test"].ids[0])
    assert energy.splits["test"].targets[0] == labelled.targets[at, 1]
    both = select_tasks(data, ("danceability", "energy"))
    assert both.splits["test"].tasks == ("danceability", "energy")
    with pytest.raises(UserError, match="Expected tasks among valence, energy, danceability, got arousal"):
        select_tasks(data, ("arousal",))


def constant(text: str) -> str:
    header, *rows = text.splitlines()
    return "\n".join([header, *(row.rsplit(",", 1)[0] + ",0.5" for row in rows)])


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (without(2), "Expected 3 labels of energy or more, got 0 among the train clips"),
        (without(2, keep=2), "Expected 3 labels of energy or more, got [012] among"),
        (constant, "Expected labels of danceability that differ, got only 0.5"),
    ],
    ids=["none", "two", "constant"],
)  # fmt: skip
def test_labels_that_teach_nothing_are_refused(affect_folder, edit, expected):
    spoil(affect_folder, edit)
    data = load_affect_data(LoadOptions(affect_folder))
    with pytest.raises(UserError, match=expected):
        select_tasks(data, TASKS)
    assert select_tasks(data, ("valence",)).tasks == ("valence",)  # the others do not stand in its way


def test_the_splits_of_a_folder_have_the_same_tasks_in_whatever_order(tmp_path):
    folder = write_tiny_affect_folder(tmp_path / "a_beat", test_labels=True)
    path = folder / "test_labels.txt"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join([row[0], *row[:0:-1]]) for row in rows))
    turned = load_affect_data(LoadOptions(folder)).splits["test"]
    assert turned.tasks == TASKS
    np.testing.assert_allclose(turned.targets[0], [float(cell) for cell in rows[1][1:]], atol=1e-6)
    path.write_text("\n".join(",".join(row[:3]) for row in rows))
    with pytest.raises(
        UserError, match="Expected the tasks of train, valence, energy, danceability, got valence, energy"
    ):
        load_affect_data(LoadOptions(folder))


def test_one_split_alone_has_the_tasks_of_a_model(affect_folder):
    data = load_affect_split(LoadOptions(affect_folder), "train", ("energy",))
    assert (data.tasks, len(data.splits["train"])) == (("energy",), 30)


def test_the_table_has_the_counts_by_task(affect_folder):
    table = data_table(load_affect_data(LoadOptions(affect_folder)))
    lines = table.splitlines()
    assert "The test split has no labels: a part of the labelled clips is held out for the test" in lines
    assert ["labels", "of", "train", "validation", "test"] in [line.split() for line in lines]
    energy = next(line.split() for line in lines if line.startswith("energy"))
    assert sum(map(int, energy[1:])) == 30


def test_songs_are_named_as_extraction_knew_them(tmp_path):
    assert song_names(tmp_path) == {}
    (tmp_path / "songs.csv").write_bytes(b"id,path\n1,/music/Blues/a b.mp3\nE\xcc\x81,/music/Jazz/\xff.mp3\n3,c.mp3\n")
    assert song_names(tmp_path) == {"1": "Blues/a b.mp3", "\u00c9": "Jazz/\ufffd.mp3", "3": "c.mp3"}


# --- the checks before training


def test_a_clean_folder_is_one_line_of_the_table(affect_folder):
    table = data_table(load_affect_data(LoadOptions(affect_folder)))
    assert "Checks: 30 clips, nothing found" in table.splitlines()


def test_a_warning_is_in_the_table_and_strict_stops_on_it(genre_folder):
    faults.ARRAY_FAULTS["constant chroma"](genre_folder)
    table = data_table(load_genre_data(LoadOptions(genre_folder)))
    warnings = [line for line in table.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 1
    assert "constant chroma (3 clips: train/1, train/11, train/21): expected chroma that varies" in warnings[0]
    with pytest.raises(UserError, match=r'Cannot use .*`checks="off"` continues.*constant chroma'):
        load_genre_data(LoadOptions(genre_folder, checks="strict"))
    assert load_genre_data(LoadOptions(genre_folder, checks="off")).checks == "off"


@pytest.mark.parametrize("name", ["louder than 0 dB", "clip in two splits"])
def test_what_cannot_be_right_stops_it(genre_folder, name):
    (faults.ARRAY_FAULTS | faults.GENRE_FAULTS)[name](genre_folder)
    with pytest.raises(UserError, match=f"(?s)Cannot .*{name}"):
        load_genre_data(LoadOptions(genre_folder))
    assert load_genre_data(LoadOptions(genre_folder, checks="off")).checks == "off"


def test_skip_bad_leaves_out_what_cannot_be_right(genre_folder):
    faults.ARRAY_FAULTS["louder than 0 dB"](genre_folder)
    data = load_genre_data(LoadOptions(genre_folder, skip_bad=True))
    assert sum(len(data.splits[split]) for split in ("train", "validation")) == 21
    assert ["louder than 0 dB" in line for line in data.left_out] == [True] * 3


def test_what_cannot_be_read_stops_it_though_the_checks_are_off(genre_folder):
    faults.truncate(genre_folder)
    with pytest.raises(UserError, match=r"Expected a whole .npy array"):
        load_genre_data(LoadOptions(genre_folder, checks="off"))


def test_the_fingerprint_is_the_same_without_the_checks(genre_folder):
    checked, unchecked = (load_genre_data(LoadOptions(genre_folder, checks=checks)) for checks in ("on", "off"))
    assert checked.fingerprint == unchecked.fingerprint


# --- every split as one pool


def test_every_labelled_clip_of_every_split_is_there(genre_folder):
    clips, splits = pooled_clips(load_pool(LoadOptions(genre_folder)))
    assert len(clips) == 33
    assert [splits.count(split) for split in ("train", "test")] == [24, 9]
    assert clips.groups is None
    assert clips.classes == ("Blues", "Jazz", "Rock")


@pytest.mark.parametrize(
    "test_labels", ["Id,valence,energy,danceability\n", None, "Id,valence,energy,danceability\n1000,,,\n"]
)
def test_a_test_split_without_labels_is_left_out(affect_folder, test_labels):
    path = affect_folder / "test_labels.txt"
    if test_labels is not None:
        path.write_text(test_labels)
    clips, splits = pooled_clips(load_pool(LoadOptions(affect_folder)))
    assert len(clips) == 30
    assert {*splits} == {"train"}
    assert len(set(clips.groups)) == 15


def test_equal_contents_are_in_one_group_and_no_fault(tmp_path):
    folder = write_tiny_affect_folder(tmp_path / "affect_beat", test_labels=True)
    shutil.copy(folder / "train" / "1.fused.full.npy", folder / "test" / "1000.fused.full.npy")
    data = load_pool(LoadOptions(folder))
    assert data.findings == ()
    clips, _ = pooled_clips(data)
    group = dict(zip(clips.ids, clips.groups, strict=True))
    assert group["1"] == group["2"] == group["1000"] == group["1001"] != group["3"]
    assert len(set(clips.groups)) == 17


def test_equal_contents_are_grouped_without_a_file_of_groups_too(genre_folder):
    shutil.copy(genre_folder / "train" / "1.fused.full.npy", genre_folder / "test" / "1001.fused.full.npy")
    clips, _ = pooled_clips(load_pool(LoadOptions(genre_folder)))
    assert len(set(clips.groups)) == 32


def test_a_file_of_groups_stands_in_for_the_folders(affect_folder, tmp_path):
    (tmp_path / "mine.csv").write_text("id,group\n" + "".join(f"{i},{i % 5}\n" for i in range(1, 31)))
    clips, _ = pooled_clips(load_pool(LoadOptions(affect_folder)), tmp_path / "mine.csv")
    np.testing.assert_array_equal(clips.groups, [f"group {int(i) % 5}" for i in clips.ids])
    (tmp_path / "other.csv").write_text("id,group\n900,1\n")
    with pytest.raises(UserError, match=r"found none of their ids in .*other\.csv"):
        pooled_clips(load_pool(LoadOptions(affect_folder)), tmp_path / "other.csv")
    with pytest.raises(UserError, match=r"columns id,group, got no such file: .*nowhere\.csv"):
        pooled_clips(load_pool(LoadOptions(affect_folder)), tmp_path / "nowhere.csv")


def test_a_class_that_train_lacks_is_known_all_the_same(genre_folder):
    path = genre_folder / "test_labels.txt"
    path.write_text(path.read_text().replace("Blues", "Folk"))
    assert load_pool(LoadOptions(genre_folder)).splits["train"].classes == ("Blues", "Folk", "Jazz", "Rock")


# --- logmel


@pytest.mark.parametrize("name", ["moods", "moods_beat"])
def test_a_logmel_folder_is_loaded(tmp_path, name):
    folder = write_tiny_affect_folder(tmp_path / name, ("valence", "arousal"), feature="logmel")
    data = load_affect_data(LoadOptions(folder))
    assert (data.feature, data.beat, data.findings) == ("logmel", False, ())
    assert {array_kind(path) for clips in data.splits.values() for path in clips.paths} == {"logmel"}
    assert f"Folder: {folder} (logmel)" in data_table(data)
    assert load_pool(LoadOptions(folder, beat=False)).feature == "logmel"
    with pytest.raises(UserError, match=r"Expected `beat=False`, since logmel arrays are never beat-synchronised, in"):
        load_affect_data(LoadOptions(folder, beat=True))


def test_a_fused_folder_is_told_from_a_logmel_one(affect_folder, tmp_path):
    assert load_affect_data(LoadOptions(affect_folder)).feature == "fused"
    genre = write_tiny_genre_folder(tmp_path / "logmel", feature="logmel")
    assert load_genre_data(LoadOptions(genre)).feature == "logmel"


@pytest.mark.real
def test_the_real_logmel_folder(real_data):
    data = load_affect_data(LoadOptions(real_data / "moods"))
    assert (data.feature, data.beat, data.tasks, data.findings) == ("logmel", False, ("valence", "arousal"), ())
    assert sum(map(len, data.splits.values())) == 452
    assert not artists(data.splits["train"]) & artists(data.splits["test"])

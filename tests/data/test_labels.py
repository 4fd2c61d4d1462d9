"""Every quirk of the lab's label files, and every way in which a label file can be wrong."""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from mtmusic.data.labels import (
    LAB_CLASSES,
    Clips,
    array_ids,
    clip_id,
    concatenate,
    folder_feature,
    genre_mapping,
    is_beat_synchronised,
    is_synthetic,
    near_twins,
    read_affect_labels,
    read_features_json,
    read_genre_labels,
    scan_affect_labels,
    scan_genre_labels,
    scan_unlabelled,
    write_affect_labels,
    write_genre_labels,
)
from mtmusic.data.spectrograms import read_array, write_array
from mtmusic.errors import UserError

DataFolder = Callable[..., Path]

RAW_TRAIN = dict.fromkeys(LAB_CLASSES, 160) | {"Metal": 153, "Trip-Hop": 137, "Soundtrack": 124, "Post-Rock": 95}
RAW_TEST = dict.fromkeys(LAB_CLASSES, 40) | {"Metal": 38, "Trip-Hop": 34, "Soundtrack": 30, "Post-Rock": 23}
MERGED_TRAIN = {
    "Blues": 160, "Classical": 160, "Electronic": 320, "Folk": 320, "Hip-Hop": 160,
    "Jazz": 160, "Metal": 313, "Pop": 160, "Rock": 415, "Trip-Hop": 137,
}  # fmt: skip
MERGED_TEST = {
    "Blues": 40, "Classical": 40, "Electronic": 80, "Folk": 80, "Hip-Hop": 40,
    "Jazz": 40, "Metal": 78, "Pop": 40, "Rock": 103, "Trip-Hop": 34,
}  # fmt: skip


def genre_rows(*rows: tuple[str | int, str]) -> str:
    return "Id\tGenre\n" + "".join(f"{name}\t{genre}\n" for name, genre in rows)


# --- the lab's quirks


@pytest.mark.parametrize("suffix", [".npy", ".npy.gz"])
@pytest.mark.parametrize(
    "written",
    ["1042.fused.full.npy.gz", "1042.full.fused.npy.gz", "1042.beatsync.fused.npy.gz", "1042"],
    ids=["full", "full-test", "beatsync", "bare"],
)
def test_every_spelling_of_a_name_finds_its_array(data_folder: DataFolder, written: str, suffix: str) -> None:
    folder = data_folder(genre_rows((written, "Rock")), [1042], suffix=suffix)
    clips = read_genre_labels(folder)
    assert clips.ids == ("1042",)
    assert clips.paths == (folder / "train" / f"1042.fused.full{suffix}",)


def test_bare_integers_of_an_affect_file_find_their_arrays(data_folder: DataFolder) -> None:
    clips = read_affect_labels(data_folder("Id,valence\n2322,0.153\n", [2322]))
    assert clips.ids == ("2322",)
    assert clips.paths[0].name == "2322.fused.full.npy"


def test_npy_is_taken_before_npy_gz(data_folder: DataFolder) -> None:
    data_folder(genre_rows((1, "Rock")), [1], suffix=".npy.gz")
    folder = data_folder(genre_rows((1, "Rock")), [1], suffix=".npy")
    assert read_genre_labels(folder).paths[0].name == "1.fused.full.npy"


def test_clip_id_is_the_text_before_the_first_dot() -> None:
    assert clip_id(" 1042.beatsync.fused.npy.gz ") == "1042"
    assert clip_id("song-a") == "song-a"


def test_the_same_id_in_two_folders_is_two_songs(data_folder: DataFolder) -> None:
    genre = read_genre_labels(data_folder(genre_rows((9, "Rock"), (7, "Pop")), [9, 7], name="fma_genre_spectrograms"))
    affect = read_affect_labels(data_folder("Id,valence\n7,0.5\n", [7], name="multitask_dataset"))
    assert genre.ids[1] == affect.ids[0] == "7"
    assert genre.paths[1] != affect.paths[0]
    assert not np.array_equal(read_array(genre.paths[1]), read_array(affect.paths[0]))


def test_a_file_grouped_by_class_keeps_its_order(data_folder: DataFolder) -> None:
    folder = data_folder(genre_rows((5, "Pop"), (3, "Pop"), (4, "Blues"), (1, "Blues")), [1, 3, 4, 5])
    clips = read_genre_labels(folder)
    assert clips.ids == ("5", "3", "4", "1")
    np.testing.assert_array_equal(clips.targets, [1, 1, 0, 0])
    assert clips.targets.dtype == np.int64


@pytest.mark.parametrize(
    ("raw", "merged", "rows", "kept"),
    [(RAW_TRAIN, MERGED_TRAIN, 3069, 2305), (RAW_TEST, MERGED_TEST, 765, 575)],
    ids=["train", "test"],
)
def test_the_lab_mapping_turns_the_raw_counts_into_the_merged_ones(
    raw: dict[str, int], merged: dict[str, int], rows: int, kept: int
) -> None:
    counts: Counter[str | None] = Counter()
    for genre, count in raw.items():
        counts[LAB_CLASSES[genre]] += count
    del counts[None]
    assert counts == merged
    assert len(raw) == 20
    assert (sum(raw.values()), sum(merged.values())) == (rows, kept)


def test_twenty_raw_genres_become_ten_classes(data_folder: DataFolder) -> None:
    folder = data_folder(genre_rows(*enumerate(reversed(LAB_CLASSES))), range(20))
    clips = read_genre_labels(folder)
    assert clips.counts() == {
        "Blues": 1, "Classical": 1, "Electronic": 2, "Folk": 2, "Hip-Hop": 1,
        "Jazz": 1, "Metal": 2, "Pop": 1, "Rock": 3, "Trip-Hop": 1,
    }  # fmt: skip


def test_all_keeps_every_raw_genre_as_its_own_class(data_folder: DataFolder) -> None:
    clips = read_genre_labels(data_folder(genre_rows(*enumerate(LAB_CLASSES)), range(20)), classes="all")
    assert clips.classes == tuple(sorted(LAB_CLASSES))
    assert clips.counts() == dict.fromkeys(LAB_CLASSES, 1)


def test_classes_are_in_alphabetical_order_whatever_the_order_of_the_rows(data_folder: DataFolder) -> None:
    rows = [(1, "Rock"), (2, "Trip-Hop"), (3, "Blues"), (4, "Jazz")]
    first = read_genre_labels(data_folder(genre_rows(*rows), [1, 2, 3, 4], name="a"))
    second = read_genre_labels(data_folder(genre_rows(*rows[::-1]), [1, 2, 3, 4], name="b"))
    assert first.classes == second.classes == ("Blues", "Jazz", "Rock", "Trip-Hop")
    np.testing.assert_array_equal(first.targets, [2, 3, 0, 1])
    np.testing.assert_array_equal(second.targets, [1, 0, 3, 2])


def test_known_classes_keep_their_order_and_their_place(data_folder: DataFolder) -> None:
    """A test file that lacks a class must not shift the others' indices."""
    folder = data_folder(genre_rows((1, "Rock"), (2, "Blues")), [1, 2], split="test")
    clips = read_genre_labels(folder, "test", known=("Blues", "Jazz", "Rock"))
    np.testing.assert_array_equal(clips.targets, [2, 0])
    assert clips.counts() == {"Blues": 1, "Jazz": 0, "Rock": 1}


def test_affect_tasks_are_the_header_in_its_order(data_folder: DataFolder) -> None:
    clips = read_affect_labels(data_folder("Id,energy,calmness,Awe\n2,0.1,0.2,0.3\n1,1,0,0.5\n", [1, 2]))
    assert clips.tasks == ("energy", "calmness", "Awe")
    assert clips.ids == ("2", "1")
    np.testing.assert_array_equal(clips.targets, np.array([[0.1, 0.2, 0.3], [1, 0, 0.5]], np.float32))
    assert clips.targets.dtype == np.float32


def test_affect_targets_do_not_hold_the_ids(data_folder: DataFolder) -> None:
    clips = read_affect_labels(data_folder("Id,valence,energy,danceability\n1,0.2,0.3,0.4\n", [1]))
    assert clips.targets.shape == (1, 3)
    np.testing.assert_allclose(clips.targets, [[0.2, 0.3, 0.4]], rtol=1e-6)


def test_an_empty_cell_is_a_missing_label(data_folder: DataFolder) -> None:
    clips = read_affect_labels(data_folder("Id,valence,energy\n1,0.5,\n2,,\n3, ,1\n", [1, 2, 3]))
    np.testing.assert_array_equal(clips.targets, [[0.5, np.nan], [np.nan, np.nan], [np.nan, 1]])
    assert clips.counts() == {"valence": 1, "energy": 1}


def test_an_affect_test_folder_without_labels_leaves_train_readable(
    data_folder: DataFolder, fused: Callable[..., np.ndarray], save_array: Callable[..., Path]
) -> None:
    folder = data_folder("Id,valence\n1,0.5\n", [1])
    save_array(folder / "test" / "2.fused.full.npy", fused())
    assert read_affect_labels(folder).ids == ("1",)
    with pytest.raises(UserError, match=r"Expected the label file .*test_labels\.txt, got none"):
        read_affect_labels(folder, "test")


def test_a_split_does_not_depend_on_the_word_test_in_a_parent_folder(data_folder: DataFolder) -> None:
    folder = data_folder(genre_rows((1, "Rock")), [1], "train", name="test/my test_data/train_test")
    data_folder(genre_rows((2, "Pop")), [2], "test", name="test/my test_data/train_test")
    data_folder(genre_rows((3, "Jazz")), [3], "validation", name="test/my test_data/train_test")
    for split, clip in (("train", "1"), ("test", "2"), ("validation", "3")):
        clips = read_genre_labels(folder, split)
        assert clips.ids == (clip,)
        assert clips.paths[0].parent == folder / split


def test_a_folder_may_be_given_as_text(data_folder: DataFolder) -> None:
    folder = data_folder(genre_rows((1, "Rock")), [1])
    assert read_genre_labels(f"{folder}/").paths == read_genre_labels(folder).paths


@pytest.mark.parametrize(
    "labels",
    [
        b"Id\tGenre\r\n1.fused.full.npy.gz\tRock\r\n2.fused.full.npy.gz\tHip-Hop\r\n",
        b"\xef\xbb\xbfId\tGenre\n1\tRock\n2\tHip-Hop\n",
        b"\nId\tGenre\n\n1\tRock\n  \n\t\n2\tHip-Hop\n\n\n",
        b"Id\tGenre\n1\tRock\n2\tHip-Hop",
        b"ID\tgenre\n1\tRock\n2\tHip-Hop\n",
        b"Id \tGenre\n 1\tRock \n2 \t Hip-Hop\n",
    ],
    ids=["crlf", "byte-order mark", "blank lines", "no final newline", "header's case", "spaces"],
)
def test_harmless_variants_of_a_label_file_are_accepted(data_folder: DataFolder, labels: bytes) -> None:
    clips = read_genre_labels(data_folder(labels, [1, 2]))
    assert clips.ids == ("1", "2")
    assert clips.classes == ("Hip-Hop", "Rock")
    np.testing.assert_array_equal(clips.targets, [1, 0])


# --- groups, and how the folder was made


def test_groups_are_read_and_a_clip_without_one_is_its_own(data_folder: DataFolder) -> None:
    folder = data_folder(genre_rows((1, "Rock"), (2, "Rock"), (3, "Rock"), (4, "Rock")), [1, 2, 3, 4])
    (folder / "groups.csv").write_text('id,group\n1,"Hall, Oates"\n2.fused.full.npy,"Hall, Oates"\n3,4\n')
    groups = read_genre_labels(folder).groups
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3  # the group named 4 is not the clip named 4


def test_without_groups_csv_there_are_no_groups(data_folder: DataFolder) -> None:
    assert read_genre_labels(data_folder(genre_rows((1, "Rock")), [1])).groups is None


@pytest.mark.parametrize("content", ["clip,artist\n1,a\n", "id,group\n1,a,b\n", "id,group\n1\n"])
def test_a_broken_groups_csv_is_refused(data_folder: DataFolder, content: str) -> None:
    folder = data_folder(genre_rows((1, "Rock")), [1])
    (folder / "groups.csv").write_text(content)
    with pytest.raises(UserError, match=r"Expected two columns, id,group, got others in .*groups\.csv"):
        read_genre_labels(folder)


@pytest.mark.parametrize(
    ("name", "written", "features", "expected"),
    [
        ("data", "1", {"beat": True}, True),
        ("data_beat", "1.beatsync.fused.npy.gz", {"beat": False}, False),
        ("data", "1.beatsync.fused.npy.gz", None, True),
        ("data_beat", "1", {"sample_rate": 22050}, True),
        ("data", "1.fused.full.npy.gz", None, None),
    ],
    ids=["features.json", "features.json first", "labels", "folder name", "unknown"],
)
def test_beat_is_told_from_the_folder(
    data_folder: DataFolder, name: str, written: str, features: dict | None, expected: bool | None
) -> None:
    folder = data_folder(genre_rows((written, "Rock")), [1], name=name)
    if features is not None:
        (folder / "features.json").write_text(json.dumps(features))
    assert is_beat_synchronised(folder) is expected


def test_synthetic_is_told_from_features_json(tmp_path: Path) -> None:
    assert not is_synthetic(tmp_path)
    (tmp_path / "features.json").write_text('{"synthetic": true}')
    assert is_synthetic(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"beat": "yes"}', b"\xff\xfe"])
def test_a_broken_features_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "features.json").write_bytes(content)
    with pytest.raises(UserError, match=r"in .*features\.json"):
        read_features_json(tmp_path)


# --- Clips


def test_take_keeps_rows_together(data_folder: DataFolder) -> None:
    folder = data_folder(genre_rows((1, "Rock"), (2, "Pop"), (3, "Jazz")), [1, 2, 3])
    (folder / "groups.csv").write_text("id,group\n1,a\n2,b\n3,c\n")
    clips = read_genre_labels(folder).take([2, 0])
    assert clips.ids == ("3", "1")
    assert [path.name[0] for path in clips.paths] == ["3", "1"]
    assert [clips.classes[i] for i in clips.targets] == ["Jazz", "Rock"]
    assert list(clips.groups) == ["group c", "group a"]
    assert len(clips) == 2


def test_concatenate_joins_equal_splits_and_refuses_others() -> None:
    first = Clips(("1",), (Path("a"),), np.array([0]), classes=("Pop",), groups=np.array(["x"]))
    second = Clips(("2",), (Path("b"),), np.array([0]), classes=("Pop",))
    both = concatenate(first, first)
    assert both.ids == ("1", "1")
    assert list(both.groups) == ["x", "x"]
    assert concatenate(first, second).groups is None
    with pytest.raises(ValueError, match="equal classes and tasks"):
        concatenate(first, Clips(("2",), (Path("b"),), np.array([0]), classes=("Rock",)))


# --- writing


@pytest.mark.parametrize("name", ["{id}.fused.full.npy.gz", "{id}.full.fused.npy.gz", "{id}.beatsync.fused.npy.gz"])
def test_written_genre_labels_are_read_again(data_folder: DataFolder, name: str) -> None:
    folder = data_folder("", [3, 1])
    write_genre_labels(folder, "train", ["3", "1"], ["Punk", "Jazz"], name)
    expected = f"Id\tGenre\n{name.format(id=3)}\tPunk\n{name.format(id=1)}\tJazz\n"
    assert (folder / "train_labels.txt").read_text() == expected
    clips = read_genre_labels(folder)
    assert clips.ids == ("3", "1")
    assert clips.classes == ("Jazz", "Metal")


def test_written_affect_labels_are_read_again(data_folder: DataFolder) -> None:
    folder = data_folder("", [3, 1])
    values = np.array([[0.1534, np.nan], [1, 0]])
    write_affect_labels(folder, "train", ["3", "1"], ["valence", "energy"], values)
    assert (folder / "train_labels.txt").read_text() == "Id,valence,energy\n3,0.153,\n1,1.000,0.000\n"
    np.testing.assert_array_equal(
        read_affect_labels(folder).targets, np.array([[0.153, np.nan], [1, 0]], dtype=np.float32)
    )


# --- bad folders and files

GENRE_FILES = {
    "empty": (b"", "got an empty file"),
    "blank": (b"\n \n", "got an empty file"),
    "header alone": (b"Id\tGenre\n", "got only the header"),
    "NUL byte": (b"Id\tGenre\n1\tRock\n2\tRock\0\n", "Expected text, got a NUL byte in"),
    "not UTF-8": (b"Id\tGenre\n1\tChanson fran\xe7aise\n", "Expected UTF-8 text, got other bytes at 23"),
    "UTF-16": ("Id\tGenre\n1\tRock\n".encode("utf-16"), "Expected UTF-8 text, got other bytes at 0"),
    "wrong header": (b"id\tclass\n1\tRock\n", "Expected the header Id<TAB>Genre of a genre folder, got 'id|class'"),
    "no header": (b"1\tRock\n2\tRock\n", "Expected the header Id<TAB>Genre of a genre folder, got '1|Rock'"),
    "commas": (b"Id,Genre\n1,Rock\n", "Expected the header Id<TAB>Genre of a genre folder, got 'Id,Genre'"),
    "affect file": (b"Id,valence\n1,0.5\n", "Expected the header Id<TAB>Genre"),
    "open quote": (b'Id\tGenre\n1\t"Rock\n2\tRock\n', "got a broken one"),
    "endless cell": (b"Id\tGenre\n1\t" + b"R" * 200_000, "got a broken one"),
}

GENRE_ROWS = {
    "no class": ("1\t\n", "line 2: clip 1 has no class"),
    "no class, by a spreadsheet": ("1\tN/A\n", "line 2: clip 1 has no class: 'N/A'"),
    "one column": ("1\n", "line 2: expected 2 columns, got 1"),
    "three columns": ("1\tRock\tloud\n", "line 2: expected 2 columns, got 3"),
    "no array": ("404\tRock\n", "line 2: no array 404.fused.full.npy (or .npy.gz) in train/"),
    "too long a name": ("4" * 400 + "\tRock\n", "line 2: no array 444"),
    "twice": ("1\tRock\n\n1.fused.full.npy\tRock\n", "line 4: the id 1 has a second row"),
    "no id": ("\tRock\n", "line 2: expected an id without"),
    "hidden": (".1\tRock\n", "line 2: expected an id without"),
    "slash": ("sub/1\tRock\n", "line 2: expected an id without '/', '\\' and '..', got 'sub/1'"),
    "absolute": ("/etc/passwd\tRock\n", "line 2: expected an id without '/', '\\' and '..', got '/etc/passwd'"),
    "backslash": ("sub\\1\tRock\n", "line 2: expected an id without '/', '\\' and '..', got 'sub\\\\1'"),
    "dots": ("..\tRock\n", "line 2: expected an id without '/', '\\' and '..', got '..'"),
    "dots inside": ("1..npy\tRock\n", "line 2: expected an id without '/', '\\' and '..', got '1..npy'"),
    "unknown class": ("1\tPolka\n2\tRock\n", "line 2: the class mapping does not know 'Polka'"),
}

AFFECT_FILES = {
    "no task": ("Id\n1\n", "Expected the header Id,<task>,... of an affect folder, got 'Id'"),
    "first column": ("valence,Id\n0.5,1\n", "Expected the header Id,<task>,... of an affect folder, got 'valence|Id'"),
    "no header": ("1,0.5\n2,0.5\n", "Expected the header Id,<task>,... of an affect folder, got '1|0.5'"),
    "task twice": ("Id,valence,valence\n1,0.5,0.5\n", "Expected the header Id,<task>"),
    "task without name": ("Id,valence,\n1,0.5,0.5\n", "Expected the header Id,<task>"),
    "tabs": ("Id\tvalence\n1\t0.5\n", "Expected the header Id,<task>"),
}


@pytest.mark.parametrize("missing", ["", "nan", "NA", "N/A", "None", "null", "-"])
def test_missing_values_as_tables_write_them(data_folder: DataFolder, missing: str) -> None:
    clips = read_affect_labels(data_folder(f"Id,valence,energy\n1,{missing},0.5\n2,0.25,{missing}\n", [1, 2]))
    np.testing.assert_array_equal(clips.targets, [[np.nan, 0.5], [0.25, np.nan]])


@pytest.mark.parametrize("name", ["song", "Warning", "tags", "split", "true_valence", "genre.Rock"])
def test_names_that_answers_and_runs_need_are_no_tasks(data_folder: DataFolder, name: str) -> None:
    with pytest.raises(UserError, match=f"Expected task names that mtmusic's files do not use, got {name}"):
        read_affect_labels(data_folder(f"Id,{name}\n1,0.5\n", [1]))


@pytest.mark.parametrize(("table", "disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_either_unicode_form_are_one(data_folder: DataFolder, table: str, disk: str) -> None:
    name, group = (unicodedata.normalize(table, text) for text in ("Beyoncé", "Céline"))
    folder = data_folder(f"Id\tGenre\n{name}\tChanson\n", [unicodedata.normalize(disk, name)])
    (folder / "groups.csv").write_text(f"id,group\n{unicodedata.normalize(disk, name)},{group}\n")
    clips = read_genre_labels(folder, classes="all")
    assert len(clips) == 1
    assert clips.paths[0].is_file()
    assert clips.groups == ["group " + unicodedata.normalize("NFC", group)]
    assert array_ids(folder, "train") == set(clips.ids)


def test_near_twins_differ_in_case_or_spaces_alone() -> None:
    names = ["Rock", "rock", "Hip Hop", "HipHop", "Jazz", "Rock", "Hip-Hop"]
    assert near_twins(names) == [("Hip Hop", "HipHop"), ("Rock", "rock")]


AFFECT_ROWS = {
    "word": ("1,loud,0.5\n", "line 2: could not convert string to float: 'loud'"),
    "decimal comma": ('1,"0,5",0.5\n', "line 2: could not convert string to float: '0,5'"),
    "above 1": ("1,0.5,1.001\n", "line 2: expected labels from 0 to 1, got 0.5,1.001"),
    "below 0": ("1,-0.1,0.5\n", "line 2: expected labels from 0 to 1, got -0.1,0.5"),
    "inf": ("1,0.5,inf\n", "line 2: expected labels from 0 to 1, got 0.5,inf"),
    "too few columns": ("1,0.5\n", "line 2: expected 3 columns, got 2"),
    "too many columns": ("1,0.5,0.5,0.5\n", "line 2: expected 3 columns, got 4"),
    "no array": ("404,0.5,0.5\n", "line 2: no array 404.fused.full.npy (or .npy.gz) in train/"),
    "twice": ("1,0.5,0.5\n1,0.6,0.6\n", "line 3: the id 1 has a second row"),
    "path": ("../1,0.5,0.5\n", "line 2: expected an id without '/', '\\' and '..', got '../1'"),
}


def assert_refused(error: pytest.ExceptionInfo[UserError], file: Path, reason: str) -> None:
    assert str(file) in str(error.value)
    assert reason in str(error.value)


@pytest.mark.parametrize("read", [read_genre_labels, read_affect_labels])
def test_no_such_folder(tmp_path: Path, read: Callable[[Path], Clips]) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path / "absent")
    assert_refused(error, tmp_path / "absent", "Expected a data folder, got no such folder")


@pytest.mark.parametrize("read", [read_genre_labels, read_affect_labels])
def test_a_folder_without_a_label_file(tmp_path: Path, read: Callable[[Path], Clips]) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert_refused(error, tmp_path / "train_labels.txt", "is " + str(tmp_path) + " a data folder?")


@pytest.mark.parametrize(("content", "reason"), GENRE_FILES.values(), ids=GENRE_FILES)
def test_an_unusable_genre_file(data_folder: DataFolder, content: bytes, reason: str) -> None:
    folder = data_folder(content, [1, 2])
    with pytest.raises(UserError) as error:
        read_genre_labels(folder)
    assert_refused(error, folder / "train_labels.txt", reason)


@pytest.mark.parametrize(("rows", "reason"), GENRE_ROWS.values(), ids=GENRE_ROWS)
def test_an_unusable_genre_row(data_folder: DataFolder, rows: str, reason: str) -> None:
    folder = data_folder("Id\tGenre\n" + rows, [1, 2])
    with pytest.raises(UserError) as error:
        read_genre_labels(folder)
    assert_refused(error, folder / "train_labels.txt", reason)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "reason"), AFFECT_FILES.values(), ids=AFFECT_FILES)
def test_an_unusable_affect_file(data_folder: DataFolder, content: str, reason: str) -> None:
    folder = data_folder(content, [1, 2])
    with pytest.raises(UserError) as error:
        read_affect_labels(folder)
    assert_refused(error, folder / "train_labels.txt", reason)


@pytest.mark.parametrize(("rows", "reason"), AFFECT_ROWS.values(), ids=AFFECT_ROWS)
def test_an_unusable_affect_row(data_folder: DataFolder, rows: str, reason: str) -> None:
    folder = data_folder("Id,valence,energy\n" + rows, [1, 2])
    with pytest.raises(UserError) as error:
        read_affect_labels(folder)
    assert_refused(error, folder / "train_labels.txt", reason)
    assert "\n" not in str(error.value)


def test_a_class_that_train_does_not_hold_is_refused_in_test(data_folder: DataFolder) -> None:
    folder = data_folder(genre_rows((1, "Jazz"), (2, "Rock")), [1, 2], split="test")
    with pytest.raises(UserError, match=r"test_labels\.txt line 2: class 'Jazz' is not one of Blues, Rock"):
        read_genre_labels(folder, "test", known=("Blues", "Rock"))


def test_several_problems_are_listed_in_one_error(data_folder: DataFolder) -> None:
    folder = data_folder(genre_rows((1, "Polka"), (2, "Rock"), (404, "Rock")), [1, 2])
    with pytest.raises(UserError) as error:
        read_genre_labels(folder)
    heading, *lines = str(error.value).splitlines()
    assert heading == f"Cannot use {folder}/train_labels.txt: 2 problems"
    assert [line.split(":")[0].split()[-1] for line in lines] == ["2", "4"]


def test_many_problems_of_a_kind_are_one_line_with_their_number(data_folder: DataFolder) -> None:
    folder = data_folder("Id,valence\n" + "".join(f"{i},0.5\n" for i in range(100, 125)))
    with pytest.raises(
        UserError, match=r"labels\.txt: 25 times row without array, for example .* line 2: no array 100"
    ):
        read_affect_labels(folder)


def test_genres_of_one_s_own_are_one_line_that_says_what_to_give(data_folder: DataFolder) -> None:
    rows = genre_rows(*((number, f"Polka {number}") for number in range(1, 8)))
    folder = data_folder(rows, range(1, 8))
    shown = "Polka 1, Polka 2, Polka 3, Polka 4, Polka 5 and 2 more"
    with pytest.raises(UserError) as error:
        read_genre_labels(folder)
    path = folder / "train_labels.txt"
    expected = (
        f'Expected genres that the class mapping knows, got {shown} in {path}: `classes="all"` makes each genre a class'
    )
    assert str(error.value) == expected
    for classes in ("all", "lab"):  # a model's classes
        with pytest.raises(UserError, match=r'Expected genres of the classes Blues, Rock, .*as \{"Polka 1": "Blues"\}'):
            read_genre_labels(folder, classes=classes, known=("Blues", "Rock"))


def test_scan_leaves_bad_rows_out_and_tells_them(data_folder: DataFolder) -> None:
    genre = data_folder(genre_rows((1, "Rock"), (404, "Rock"), (2, "Jazz")), [1, 2], name="genre")
    affect = data_folder("Id,valence\n1,7\n2,0.5\n", [1, 2], name="affect")
    clips, problems = scan_genre_labels(genre, "train")
    assert (clips.ids, len(problems)) == (("1", "2"), 1)
    clips, problems = scan_affect_labels(affect, "train")
    assert (clips.ids, len(problems)) == (("2",), 1)


# --- a class mapping of the user's own


def test_a_json_file_maps_and_drops_classes(data_folder: DataFolder, tmp_path: Path) -> None:
    folder = data_folder(genre_rows((1, "Rock"), (2, "Polka"), (3, "Noise")), [1, 2, 3])
    file = tmp_path / "classes.json"
    file.write_bytes(b'\xef\xbb\xbf{"Rock": "Loud", "Noise": null, "Polka": "Dance"}')
    clips = read_genre_labels(folder, classes=str(file))
    assert clips.ids == ("1", "2")
    assert clips.classes == ("Dance", "Loud")


def test_a_mapping_may_be_given_as_it_is(data_folder: DataFolder) -> None:
    folder = data_folder(genre_rows((1, "Rock"), (2, "Pop")), [1, 2])
    assert read_genre_labels(folder, classes={"Rock": "Loud", "Pop": None}).classes == ("Loud",)
    assert genre_mapping("lab") is LAB_CLASSES
    assert genre_mapping("all") is None


@pytest.mark.parametrize(
    "content",
    [None, b"", b'{"Rock": ', b"\xff{}", b'["Rock"]', b'{"Rock": 1}', b'{"Rock": ""}', b'{"Rock": ["Loud"]}', b"null"],
    ids=["missing", "empty", "broken", "not UTF-8", "list", "number", "empty name", "nested", "null"],
)
def test_a_classes_file_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "classes.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match='Expected `classes` "lab", "all" or a JSON file') as error:
        genre_mapping(str(file))
    assert str(file) in str(error.value)


# --- real folders


@pytest.mark.real
@pytest.mark.parametrize("name", ["fma_genre_spectrograms", "fma_genre_spectrograms_beat"])
def test_real_genre_folders(real_data: Path, name: str) -> None:
    folder = real_data / "emotify" / name
    train = read_genre_labels(folder)
    test = read_genre_labels(folder, "test", known=train.classes)
    assert train.counts() == dict.fromkeys(("Classical", "Electronic", "Pop", "Rock"), 75)
    assert test.counts() == dict.fromkeys(("Classical", "Electronic", "Pop", "Rock"), 25)
    assert not set(train.groups) & set(test.groups)
    assert is_beat_synchronised(folder) is (True if name.endswith("_beat") else None)


@pytest.mark.real
def test_real_affect_folder(real_data: Path) -> None:
    clips = read_affect_labels(real_data / "emotify" / "multitask_dataset_beat")
    assert clips.tasks == ("calmness", "power", "joyful_activation")
    assert clips.targets.shape == (300, 3)
    assert clips.counts() == dict.fromkeys(clips.tasks, 300)


def test_class_weights_are_those_of_scikit_learn() -> None:
    targets = np.array([0, 2, 2, 0, 2, 1])
    clips = Clips(tuple("abcdef"), tuple(Path(name) for name in "abcdef"), targets, classes=("x", "y", "z"))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert clips.class_weights() == pytest.approx(expected.tolist())
    assert replace(clips, classes=("x", "y", "z", "absent")).class_weights()[3] == 6 / 4


# --- logmel


def logmel_folder(folder: Path, ids: tuple[int, ...] = (1,), suffix: str = ".npy") -> Path:
    for i in ids:
        write_array(folder / "train" / f"{i}.logmel{suffix}", np.full((96, 3), i))
    return folder


@pytest.mark.parametrize("suffix", [".npy", ".npy.gz"])
@pytest.mark.parametrize("written", ["1", "1.logmel.npy", "1.logmel.npy.gz"])
def test_logmel_arrays_are_found(data_folder: DataFolder, written: str, suffix: str) -> None:
    folder = logmel_folder(data_folder(genre_rows((written, "Rock"))), suffix=suffix)
    clips = read_genre_labels(folder)
    assert (clips.ids, clips.paths) == (("1",), (folder / "train" / f"1.logmel{suffix}",))
    assert is_beat_synchronised(folder) is False


def test_a_row_without_its_logmel_array_is_told_by_its_name(data_folder: DataFolder) -> None:
    folder = logmel_folder(data_folder("Id,valence\n1,0.5\n2,0.5\n"))
    with pytest.raises(UserError, match=r"line 3: no array 2\.logmel\.npy \(or \.npy\.gz\) in train/"):
        read_affect_labels(folder)


def test_the_kind_of_a_folder(data_folder: DataFolder) -> None:
    assert folder_feature(data_folder("", [1], name="fused")) == "fused"
    assert folder_feature(data_folder("", name="empty")) == "fused"
    folder = logmel_folder(data_folder("", name="logmel"))
    (folder / "train" / "._1.fused.full.npy").touch()  # a Mac's
    assert folder_feature(folder) == "logmel"
    for text, expected in ('{"feature": "logmel"}', "logmel"), ('{"beat": false}', "fused"):
        (folder / "features.json").write_text(text)
        assert folder_feature(folder) == expected
    (folder / "features.json").write_text('{"feature": "mfcc"}')
    with pytest.raises(UserError, match=r'Expected the feature "fused" or "logmel", got \'mfcc\' in .*features\.json'):
        folder_feature(folder)


def test_a_folder_of_both_kinds_is_refused(data_folder: DataFolder) -> None:
    folder = logmel_folder(data_folder(genre_rows((1, "Rock"), (2, "Pop")), [2]))
    with pytest.raises(UserError, match=r"Expected arrays of one kind, got fused and logmel ones in"):
        read_genre_labels(folder)
    (folder / "features.json").write_text('{"feature": "logmel", "beat": false}')
    clips, (problem,) = scan_genre_labels(folder, "train")
    assert clips.ids == ("1",)
    assert "no array 2.logmel.npy" in problem.text


def test_shifted_columns_name_logmel_arrays_too(data_folder: DataFolder) -> None:
    folder = logmel_folder(data_folder(genre_rows(("Rock", "1.logmel.npy"))))
    _, (problem,) = scan_genre_labels(folder, "train")
    assert problem.kind == "shifted columns"


def test_arrays_without_labels_are_listed(data_folder: DataFolder) -> None:
    folder = logmel_folder(data_folder(""), (10, 9))
    clips, problems = scan_unlabelled(folder, "train")
    assert (clips.ids, problems) == (("9", "10"), [])
    assert array_ids(folder, "train") == {"9", "10"}

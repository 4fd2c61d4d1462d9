"""FMA's tables: a small one to check by eye, the real ones recounted, and every way in which they can be wrong."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mtmusic.datasets.fma_tables import (
    affect_clips,
    genre_clips,
    of_size,
    read_checksums,
    read_echonest,
    read_tracks,
    song_path,
)
from mtmusic.errors import UserError

GENRES = """genre_id,#tracks,parent,title,top_level
8,868,0,Old-Time / Historic,8
21,8389,0,Hip-Hop,21
25,9261,12,Punk,12
"""
TRACKS = """,album,artist,set,set,track
,information,id,split,subset,genre_top
track_id,,,,,
2,"<p>Two lines, a comma
and a ""quote"".</p>",1,training,small,Hip-Hop
3,,1,training,medium,Old-Time / Historic
133297,,7,validation,small,Hip-Hop
20,"1
2
3",4,test,large,
"""
ECHONEST = """,echonest,echonest,echonest,echonest
,audio_features,audio_features,audio_features,social_features
,energy,danceability,valence,energy
track_id,,,,
2,0.25,0.5,0.75,9
3,1.0,,0,9
"""


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    for name, text in {"genres": GENRES, "tracks": TRACKS, "echonest": ECHONEST}.items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    return tmp_path


# --- what is read


def test_rows_with_texts_of_many_lines_are_one_track_each(metadata: Path) -> None:
    tracks = read_tracks(metadata)
    assert {i: (t.split, t.size, t.artist, t.genre) for i, t in tracks.items()} == {
        2: ("train", "small", "1", "Hip-Hop"),
        3: ("train", "medium", "1", "Old-Time / Historic"),
        133297: ("validation", "small", "7", "Hip-Hop"),
        20: ("test", "large", "4", ""),
    }


def test_labels_come_in_the_tasks_order_and_missing_ones_are_nan(metadata: Path) -> None:
    echonest = read_echonest(metadata)
    assert list(echonest) == [2, 3]
    assert echonest[2] == (0.75, 0.25, 0.5)
    np.testing.assert_array_equal(echonest[3], [0, 1, np.nan])


@pytest.mark.parametrize(
    ("size", "ids"), [("small", {2, 133297}), ("medium", {2, 3, 133297}), ("large", {2, 3, 20, 133297})]
)
def test_a_size_holds_the_smaller_ones(metadata: Path, size: str, ids: set[int]) -> None:
    assert of_size(read_tracks(metadata), size) == ids


@pytest.mark.parametrize(
    ("track_id", "name"), [(2, "000/000002.mp3"), (99134, "099/099134.mp3"), (133297, "133/133297.mp3")]
)
def test_songs_lie_a_thousand_a_folder(track_id: int, name: str) -> None:
    assert song_path(Path("fma_small"), track_id) == Path("fma_small") / name


def test_genre_clips_keep_the_official_split(metadata: Path) -> None:
    parts = genre_clips([3, 133297, 2], read_tracks(metadata), Path("audio"))
    assert {split: part.ids for split, part in parts.items()} == {
        "train": ("2", "3"),
        "validation": ("133297",),
        "test": (),
    }
    assert parts["train"].classes == parts["test"].classes == ("Hip-Hop", "Old-Time / Historic")
    assert parts["train"].targets.tolist() == [0, 1]
    assert parts["train"].groups is not None
    assert parts["train"].groups.tolist() == ["1", "1"]
    assert parts["validation"].paths == (Path("audio/133/133297.mp3"),)


def test_checksums_are_read_by_song_and_need_not_be_there(tmp_path: Path) -> None:
    assert read_checksums(tmp_path) == {}
    (tmp_path / "checksums").write_text(f"{'0a' * 20}  000/000002.mp3\n{'1b' * 20}  README.txt\n")
    assert read_checksums(tmp_path) == {
        tmp_path / "000/000002.mp3": "0a" * 20,
        tmp_path / "README.txt": "1b" * 20,
    }


# --- the real tables


def raw_rows(path: Path, levels: int) -> list[dict[str, str]]:
    """The table's rows by column name, with nothing of mtmusic: an oracle."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    names = ["/".join(column) for column in zip(*lines[:levels], strict=True)]
    return [dict(zip(["id", *names[1:]], line, strict=True)) for line in lines[levels + 1 :]]


@pytest.mark.real
def test_the_real_tracks_are_those_of_the_file(real_data: Path) -> None:
    raw = raw_rows(real_data / "fma_metadata" / "tracks.csv", 2)
    tracks = read_tracks(real_data / "fma_metadata")
    assert [str(i) for i in tracks] == [row["id"] for row in raw]
    assert [(t.artist, t.genre, t.size) for t in tracks.values()] == [
        (row["artist/id"], row["track/genre_top"], row["set/subset"]) for row in raw
    ]
    assert Counter(t.split for t in tracks.values()) == {"train": 292, "validation": 3, "test": 5}
    assert [len(of_size(tracks, size)) for size in ("small", "medium", "large")] == [24, 50, 300]


@pytest.mark.real
def test_the_real_affect_split_splits_no_artist_and_loses_no_track(real_data: Path) -> None:
    tracks, echonest = read_tracks(real_data / "fma_metadata"), read_echonest(real_data / "fma_metadata")
    raw = {row["id"]: row for row in raw_rows(real_data / "fma_metadata" / "echonest.csv", 3)}
    assert len(echonest) == len(raw) == 1500
    assert [np.isnan(column).sum() for column in np.transpose(list(echonest.values()))] == [2, 0, 2]

    parts = affect_clips({i: echonest[i] for i in echonest if i in tracks}, tracks, Path("audio"), seed=1)
    train, test = parts["train"], parts["test"]
    assert train.groups is not None
    assert test.groups is not None
    assert not set(train.groups) & set(test.groups)
    assert set(train.ids) | set(test.ids) == {i for i in raw if int(i) in tracks}
    assert len(train) + len(test) == 160
    for part in parts.values():
        expected = [
            [float(raw[i][f"echonest/audio_features/{task}"] or "nan") for task in part.tasks] for i in part.ids
        ]
        np.testing.assert_array_equal(part.targets, np.float32(expected))


@pytest.mark.real
def test_an_equal_seed_makes_an_equal_affect_split(real_data: Path) -> None:
    tracks, echonest = read_tracks(real_data / "fma_metadata"), read_echonest(real_data / "fma_metadata")
    usable = {i: echonest[i] for i in echonest if i in tracks}
    test_ids = [affect_clips(usable, tracks, Path("audio"), seed)["test"].ids for seed in (1, 1, 2, 3)]
    assert test_ids[0] == test_ids[1]
    assert len(set(test_ids)) > 1


# --- wrong tables


@pytest.mark.parametrize("name", ["tracks", "genres"])
def test_an_absent_table_is_named(metadata: Path, name: str) -> None:
    (metadata / f"{name}.csv").unlink()
    with pytest.raises(UserError, match=rf"Expected FMA's table .*{name}\.csv, got no such file"):
        read_tracks(metadata)


def test_an_absent_echonest_table_is_named(metadata: Path) -> None:
    (metadata / "echonest.csv").unlink()
    with pytest.raises(UserError, match=r"Expected FMA's table .*echonest\.csv, got no such file"):
        read_echonest(metadata)


HEADER = TRACKS[: TRACKS.index("2,")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", r"Expected the column set/split of FMA's table, got none in .*tracks\.csv"),
        (TRACKS.splitlines()[0] + "\n", r"Expected the column set/split of FMA's table, got none in .*tracks\.csv"),
        (TRACKS.replace("genre_top", "genre"), r"Expected the column track/genre_top .* got none in .*tracks\.csv"),
        (TRACKS.replace("track_id", "id"), r"Expected header line 3 to begin with track_id, got \['id'\] in .*tracks"),
        (HEADER + "2,,1,training,small\n", r"Expected 6 columns, got 5 in .*tracks\.csv line 4"),
        (HEADER + "two,,1,training,small,Hip-Hop\n", r"Expected a number as track_id, got 'two' in .*csv line 4"),
        (HEADER + "-2,,1,training,small,Hip-Hop\n", r"Expected a number as track_id, got '-2' in .*csv line 4"),
        (HEADER + "2,,1,training,small,\n" * 2, r"Expected each track_id once, got 2 again in .*tracks\.csv line 5"),
        (HEADER + "2,,1,train,small,\n", r"Expected training, validation, test in the column set/split, got 'train'"),
        (HEADER + "2,,1,test,tiny,\n", r"Expected small, medium, large in the column set/subset, got 'tiny'"),
        (HEADER + "2,,1,test,small,Punk\n", r"Expected .*Hip-Hop in the column track/genre_top, got 'Punk' in .* 4"),
        (HEADER + '2,"an open quote,1,test,small,\n', r"Expected FMA's table, got a broken one in .*tracks\.csv"),
    ],
    ids=[
        "empty", "truncated", "column", "track_id", "short", "words", "negative", "twice", "split", "size", "genre",
        "quote",
    ],
)  # fmt: skip
def test_a_wrong_tracks_table_is_told_with_file_and_column(metadata: Path, table: str, message: str) -> None:
    (metadata / "tracks.csv").write_text(table, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_tracks(metadata)


def test_a_table_of_other_bytes_is_told(metadata: Path) -> None:
    (metadata / "tracks.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"got a broken one in .*tracks\.csv"):
        read_tracks(metadata)


@pytest.mark.parametrize("cell", ["1.5", "-0.1", "high", "nan"])
def test_a_label_outside_0_to_1_is_told_with_column_and_line(metadata: Path, cell: str) -> None:
    (metadata / "echonest.csv").write_text(ECHONEST.replace("0.75", cell), encoding="utf-8")
    message = rf"from 0 to 1 in the column echonest/audio_features/valence, got '{cell}' in .*echonest\.csv line 5"
    with pytest.raises(UserError, match=message):
        read_echonest(metadata)


def test_an_unknown_size_is_told(metadata: Path) -> None:
    with pytest.raises(UserError, match="Expected a size of FMA, small, medium, large, got 'full'"):
        of_size(read_tracks(metadata), "full")


def test_a_broken_line_of_checksums_is_told(tmp_path: Path) -> None:
    (tmp_path / "checksums").write_text(f"{'0a' * 20}  000/000002.mp3\nabc 000/000003.mp3\n")
    with pytest.raises(UserError, match=r"got 'abc 000/000003\.mp3' in .*checksums line 2"):
        read_checksums(tmp_path)

"""What of FMA goes where, and what is left out and why: a small table to check by eye."""

import csv
import hashlib
from pathlib import Path

import pytest

from mtmusic.datasets.fma import FmaPlan, genre_folders, plan_fma, plan_table
from mtmusic.datasets.fma_tables import song_path
from mtmusic.errors import UserError

TRACKS = [
    ("", "artist", "set", "set", "track"),
    ("", "id", "split", "subset", "genre_top"),
    ("track_id", "", "", "", ""),
    ("2", "1", "training", "small", "Rock"),
    ("3", "1", "training", "small", "Hip-Hop"),
    ("4", "2", "training", "medium", "Rock"),
    ("5", "3", "validation", "small", "Rock"),
    ("6", "4", "test", "small", "Hip-Hop"),
    ("7", "5", "test", "large", ""),
    ("8", "6", "training", "small", "Rock"),  # its song is not there
    ("9", "", "training", "small", "Rock"),  # no artist
    ("99134", "6", "training", "small", "Rock"),  # known not to decode
    *[(str(i), str(i // 2), "training", "large", "Rock") for i in range(20, 40)],  # their songs are not there
]
ECHONEST = [
    ("", *["echonest"] * 3),
    ("", *["audio_features"] * 3),
    ("", "danceability", "energy", "valence"),
    ("track_id", "", "", ""),
    ("2", "0.5", "0.25", "0.75"),
    ("3", "", "0.25", "0.75"),
    ("4", "0.1", "0.2", "0.3"),
    ("5", "", "", ""),  # no label
    ("6", "0.4", "0.4", "0.4"),
    ("7", "0.9", "0.9", "0.9"),
    ("8", "0.6", "0.6", "0.6"),
    ("10", "0.7", "0.7", "0.7"),  # not in tracks.csv; nor is its song there
    *[(str(i), "0.5", "0.5", f"0.{i}") for i in range(20, 40)],
]
GENRES = [("genre_id", "#tracks", "parent", "title", "top_level"), (12, 1, 0, "Rock", 12), (21, 1, 0, "Hip-Hop", 21)]
SONGS = (2, 3, 4, 5, 6, 7, 9, 11, 99134)  # 11 is not in tracks.csv


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """metadata/ with the three tables, and audio/ with songs that hold their own number as text."""
    (tmp_path / "metadata").mkdir()
    for name, table in {"tracks": TRACKS, "echonest": ECHONEST, "genres": GENRES}.items():
        with (tmp_path / "metadata" / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
    for track_id in SONGS:
        song = song_path(tmp_path / "audio", track_id)
        song.parent.mkdir(parents=True, exist_ok=True)
        song.write_text(str(track_id))
    return tmp_path


def plan(folder: Path, size: str = "large", seed: int = 0) -> FmaPlan:
    return plan_fma(folder / "audio", folder / "metadata", size, seed)


def reasons(folder: Path, counts: dict[str, int]) -> dict[str, int]:
    return {reason.replace(f" in {folder / 'audio'}", ""): count for reason, count in counts.items() if count}


def test_the_genre_folder_has_the_official_split(folder: Path) -> None:
    splits = plan(folder).splits["genre"]
    assert {split: clips.ids for split, clips in splits.items()} == {
        "train": ("2", "3", "4"),
        "validation": ("5",),
        "test": ("6",),
    }


def test_the_affect_folder_has_every_label_and_splits_no_artist(folder: Path) -> None:
    train, test = plan(folder).splits["affect"].values()
    assert sorted((*train.ids, *test.ids)) == ["2", "3", "4", "6", "7"]
    assert train.groups is not None
    assert test.groups is not None
    assert not set(train.groups) & set(test.groups)


def test_what_is_left_out_is_counted_by_its_first_reason(folder: Path) -> None:
    left_out = plan(folder).left_out
    assert reasons(folder, left_out["genre"]) == {
        "not in tracks.csv, so the artist is not known": 1,
        "no artist in tracks.csv": 1,
        "no genre_top": 1,
        "known not to decode": 1,
        "no audio": 21,
    }
    assert reasons(folder, left_out["affect"]) == {
        "not in tracks.csv, so the artist is not known": 1,
        "no label": 1,
        "no audio": 21,
    }


def test_a_smaller_size_keeps_the_affect_split(folder: Path) -> None:
    small, large = plan(folder, "small").splits, plan(folder, "large").splits
    assert small["genre"]["train"].ids == ("2", "3")
    for split, clips in small["affect"].items():
        assert clips.ids == tuple(i for i in large["affect"][split].ids if i in ("2", "3", "6"))


def test_songs_with_a_wrong_sum_are_left_out_and_listed(folder: Path) -> None:
    sums = {i: hashlib.sha1(str(i).encode()).hexdigest() for i in SONGS} | {4: "0" * 40, 7: "1" * 40}
    lines = [f"{digest}  {song_path(Path(), i)}\n" for i, digest in sums.items()]
    (folder / "audio" / "checksums").write_text("".join(lines) + f"{'2' * 40}  README.txt\n")
    result = plan(folder)
    assert result.wrong_sums == tuple(song_path(folder / "audio", i) for i in (4, 7))
    assert result.splits["genre"]["train"].ids == ("2", "3")
    assert reasons(folder, result.left_out["genre"])["wrong sha1 sum"] == 1  # track 7 has no genre_top anyway
    assert reasons(folder, result.left_out["affect"])["wrong sha1 sum"] == 2


def test_the_plan_as_a_table(folder: Path) -> None:
    lines = [line.split() for line in plan_table(plan(folder)).splitlines()]
    assert ["genre", "train", "validation", "test"] in lines
    assert ["Rock", "2", "1", "0"] in lines
    assert ["Hip-Hop", "1", "0", "1"] in lines
    assert ["1", "left", "out:", "no", "genre_top"] in lines


def test_a_genre_model_can_be_trained_on_the_genre_folders(folder: Path) -> None:
    assert genre_folders(plan(folder), Path("out"), "both") == [Path("out/genre"), Path("out/genre_beat")]


def test_clips_too_few_to_split_by_artist_make_no_affect_folder(folder: Path) -> None:
    with (folder / "metadata" / "echonest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(ECHONEST[:7])
    result = plan(folder)
    assert result.splits["affect"] == {}
    assert len(result.splits["genre"]["train"]) == 3
    (problem,) = reasons(folder, result.left_out["affect"])
    assert problem.startswith("Too few clips for a hold-out of 0.2 that keeps groups together: 3 in 2 groups")


# --- bad input


def test_no_song_at_all_is_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"Expected the 7 songs of size small as 000/000002\.mp3 below .*empty, got none"
    ):
        plan_fma(folder / "empty", folder / "metadata")


def test_an_absent_audio_folder_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"got no folder: .*absent"):
        plan_fma(folder / "absent", folder / "metadata")


def test_an_unknown_size_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="Expected a size of FMA, small, medium, large, got 'tiny'"):
        plan(folder, "tiny")


def test_songs_elsewhere_than_in_fmas_scheme_are_none(folder: Path) -> None:
    (folder / "flat" / "001").mkdir(parents=True)
    (folder / "flat" / "000002.mp3").touch()
    (folder / "flat" / "001" / "000002.mp3").touch()
    with pytest.raises(UserError, match="got none of them"):
        plan_fma(folder / "flat", folder / "metadata")

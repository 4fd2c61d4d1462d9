"""FMA's tables and a few songs to data folders, with the label files recounted row by row from the raw tables."""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from threadpoolctl import threadpool_limits

from mtmusic.audio.features import full_and_beat_spectrograms
from mtmusic.audio.loading import load_waveform
from mtmusic.constants import SAMPLE_RATE
from mtmusic.data.labels import is_beat_synchronised, read_affect_labels, read_genre_labels
from mtmusic.data.spectrograms import read_array
from mtmusic.datasets.array_folder import lock_folders

Script = Callable[[str], ModuleType]

TASKS = ("valence", "energy", "danceability")


def write_song(audio: Path, track_id: int, seconds: float = 2.0) -> Path:
    """A tone of its own in FMA's folder scheme."""
    song = audio / f"{track_id // 1000:03d}" / f"{track_id:06d}.mp3"
    song.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    soundfile.write(song, 0.5 * np.sin(2 * np.pi * (200 + track_id % 997) * time), SAMPLE_RATE)
    return song


def raw_table(path: Path, levels: int) -> dict[str, dict[str, str]]:
    """The table's rows by track id and column name, with nothing of mtmusic: an oracle."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    names = ["/".join(column) for column in zip(*lines[:levels], strict=True)]
    return {line[0]: dict(zip(names, line, strict=True)) for line in lines[levels + 1 :]}


def rows_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# --- the real tables

SONGS = (2, 5, 10, 20, 140, 148, 181, 182, 424, 459, 1293)  # 1293 is in echonest.csv alone


@pytest.fixture(scope="module")
def real_folders(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """audio/ with short songs under real track ids and FMA's checksums, of which that of 10 is wrong."""
    folder = tmp_path_factory.mktemp("fma")
    sums = {i: hashlib.sha1(write_song(folder / "audio", i).read_bytes()).hexdigest() for i in SONGS} | {10: "0" * 40}
    lines = [f"{digest}  000/{i:06d}.mp3\n" for i, digest in sums.items() if i < 1000]
    (folder / "audio" / "checksums").write_text("".join(lines))
    return folder


@pytest.mark.real
def test_the_label_files_are_the_raw_tables_rows(
    script: Script, real_data: Path, real_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio, out, metadata = real_folders / "audio", real_folders / "data", real_data / "fma_metadata"
    command = ["--audio", str(audio), "--metadata", str(metadata), "--out", str(out), "--size", "large", "--both"]
    assert script("prepare_fma").main([*command, "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"Left out, wrong sha1 sum (download it again): {audio / '000/000010.mp3'}" in printed
    assert f"Train with: mtmusic train-genre --data {out / 'genre_beat'} --classes all --recipe best" in printed

    for ending in ("", "_beat"):
        check_genre_labels(out / f"genre{ending}", raw_table(metadata / "tracks.csv", 2))
        check_affect_labels(out / f"affect{ending}", metadata)
        assert is_beat_synchronised(out / f"affect{ending}") is bool(ending)
    with threadpool_limits(1):  # as a worker has it: with more threads a machine may sum in another order
        full, beat = full_and_beat_spectrograms(load_waveform(audio / "000/000002.mp3", duration=2.0))
    for folder, array in {"genre": full, "affect": full, "genre_beat": beat, "affect_beat": beat}.items():
        (place,) = (out / folder).glob("*/2.fused.full.npy")
        np.testing.assert_array_equal(read_array(place), array)


def check_genre_labels(folder: Path, tracks: dict[str, dict[str, str]]) -> None:
    usable = [i for i in map(str, SONGS) if i in tracks and i != "10" and tracks[i]["track/genre_top"]]
    for split, name in (("train", "training"), ("validation", "validation"), ("test", "test")):
        ids = [i for i in usable if tracks[i]["set/split"] == name]
        rows = [f"{i}.fused.full.npy.gz\t{tracks[i]['track/genre_top']}" for i in ids]
        assert rows_of(folder / f"{split}_labels.txt") == ["Id\tGenre", *rows]
        assert read_genre_labels(folder, split, "all").ids == tuple(ids)  # every array is there
    groups = [f"{i},{tracks[i]['artist/id']}" for i in usable]
    assert Counter(rows_of(folder / "groups.csv")) == Counter(["id,group", *groups])


def check_affect_labels(folder: Path, metadata: Path) -> None:
    tracks, echonest = raw_table(metadata / "tracks.csv", 2), raw_table(metadata / "echonest.csv", 3)
    usable = [i for i in map(str, SONGS) if i in tracks and i != "10" and i in echonest]
    labels = {i: [float(echonest[i][f"echonest/audio_features/{task}"]) for task in TASKS] for i in usable}
    parts = {split: rows_of(folder / f"{split}_labels.txt") for split in ("train", "test")}
    assert [rows.pop(0) for rows in parts.values()] == ["Id,valence,energy,danceability"] * 2
    expected = [",".join([i, *(f"{value:.3f}" for value in values)]) for i, values in labels.items()]
    assert sorted(parts["train"] + parts["test"]) == sorted(expected)
    artists = {split: {tracks[row.split(",")[0]]["artist/id"] for row in rows} for split, rows in parts.items()}
    assert artists["train"]
    assert artists["test"]
    assert not artists["train"] & artists["test"]
    assert [len(read_affect_labels(folder, split)) for split in parts] == [len(rows) for rows in parts.values()]


@pytest.mark.real
def test_a_dry_run_counts_and_writes_nothing(
    script: Script, real_data: Path, real_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio, out, metadata = real_folders / "audio", tmp_path / "data", real_data / "fma_metadata"
    command = ["--audio", str(audio), "--metadata", str(metadata), "--out", str(out), "--size", "large", "--dry-run"]
    assert script("prepare_fma").main(command) == 0
    assert not out.exists()
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in printed]
    tracks = raw_table(metadata / "tracks.csv", 2)
    chosen = [tracks[str(i)] for i in SONGS if str(i) in tracks and i != 10]
    for genre in {row["track/genre_top"] for row in chosen} - {""}:
        splits = Counter(row["set/split"] for row in chosen if row["track/genre_top"] == genre)
        assert [genre, *(str(splits[name]) for name in ("training", "validation", "test"))] in lines
    without_genre = [row for row in tracks.values() if not row["track/genre_top"]]
    absent = [i for i in raw_table(metadata / "echonest.csv", 3) if i not in tracks]
    assert f"{len(without_genre)} left out: no genre_top" in printed
    assert f"{len(absent)} left out: not in tracks.csv, so the artist is not known" in printed


# --- a small hand-written table

TRACKS = """,album,artist,set,set,track
,information,id,split,subset,genre_top
track_id,,,,,
2,"<p>Two lines, a comma
and a ""quote"".</p>",1,training,small,Hip-Hop
3,,1,training,small,Old-Time / Historic
4,,2,validation,small,Hip-Hop
5,,3,test,small,Hip-Hop
"""
ECHONEST = """,echonest,echonest,echonest
,audio_features,audio_features,audio_features
,danceability,energy,valence
track_id,,,
2,0.5,0.25,0.75
3,,0.126,1.0
"""
GENRES = "genre_id,#tracks,parent,title,top_level\n8,868,0,Old-Time / Historic,8\n21,8389,0,Hip-Hop,21\n"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The arguments for a table of four songs below tmp_path/audio, and twenty of other artists that are absent."""
    (tmp_path / "metadata").mkdir()
    others = range(10, 30)
    tracks = TRACKS + "".join(f"{i},,{i},training,medium,Hip-Hop\n" for i in others)
    echonest = ECHONEST + "".join(f"{i},0.5,0.5,0.{i}\n" for i in others)
    for name, text in {"tracks": tracks, "echonest": echonest, "genres": GENRES}.items():
        (tmp_path / "metadata" / f"{name}.csv").write_text(text, encoding="utf-8")
    for track_id in (2, 3, 4, 5):
        write_song(tmp_path / "audio", track_id, seconds=0.5)
    folders = [("--audio", "audio"), ("--metadata", "metadata"), ("--out", "data")]
    return [*(word for flag, name in folders for word in (flag, str(tmp_path / name))), "--jobs", "1"]


def test_labels_of_a_small_table_row_by_row(script: Script, command: list[str], tmp_path: Path) -> None:
    assert script("prepare_fma").main(command) == 0
    assert rows_of(tmp_path / "data/genre/train_labels.txt") == [
        "Id\tGenre",
        "2.fused.full.npy.gz\tHip-Hop",
        "3.fused.full.npy.gz\tOld-Time / Historic",
    ]
    assert rows_of(tmp_path / "data/genre/validation_labels.txt") == ["Id\tGenre", "4.fused.full.npy.gz\tHip-Hop"]
    assert rows_of(tmp_path / "data/genre/test_labels.txt") == ["Id\tGenre", "5.fused.full.npy.gz\tHip-Hop"]
    (affect,) = (tmp_path / "data/affect").glob("*_labels.txt")  # one artist, so one part
    assert rows_of(affect) == ["Id,valence,energy,danceability", "2,0.750,0.250,0.500", "3,1.000,0.126,"]
    assert rows_of(tmp_path / "data/affect/groups.csv") == ["id,group", "2,1", "3,1"]
    assert rows_of(tmp_path / "data/failures.csv") == ["path,reason"]


def test_a_song_that_fails_is_told_and_comes_with_the_next_call(
    script: Script, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    song = tmp_path / "audio/000/000003.mp3"
    song.write_bytes(b"")
    assert script("prepare_fma").main(command) == 1
    assert f"Failed: Expected audio, got an empty file: {song}" in capsys.readouterr().out
    assert rows_of(tmp_path / "data/failures.csv")[1].startswith(f"{song},")
    assert len(rows_of(tmp_path / "data/genre/train_labels.txt")) == 2
    kept = tmp_path / "data/genre/train/2.fused.full.npy"
    before = kept.stat().st_mtime_ns

    write_song(tmp_path / "audio", 3, seconds=0.5)
    assert script("prepare_fma").main(command) == 0
    assert read_genre_labels(tmp_path / "data/genre", "train", "all").ids == ("2", "3")
    assert kept.stat().st_mtime_ns == before
    assert rows_of(tmp_path / "data/failures.csv") == ["path,reason"]


def test_another_seed_moves_arrays_and_what_a_killed_run_left_is_cleared(
    script: Script, command: list[str], tmp_path: Path
) -> None:
    assert script("prepare_fma").main(command) == 0
    place = next((tmp_path / "data").glob("*/train/*.npy"))
    (place.parents[1] / "test").mkdir(exist_ok=True)
    moved = place.rename(place.parents[1] / "test" / place.name)
    half_written = place.with_name(f".0123456789ab.{place.name}")
    half_written.write_bytes(b"half")
    assert script("prepare_fma").main(command) == 0
    assert place.exists()
    assert not moved.exists()
    assert not half_written.exists()


def test_a_second_run_into_one_folder_is_refused(
    script: Script, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lock_folders([tmp_path / "data"]):
        assert script("prepare_fma").main(command) == 2
    assert "Another run is writing" in capsys.readouterr().err


# --- bad input


def test_a_folder_with_other_things_is_not_touched(
    script: Script, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data/affect").mkdir(parents=True)
    (tmp_path / "data/affect/thesis.tex").touch()
    assert script("prepare_fma").main(command) == 2
    assert "new folder, or one that this command made" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "data").rglob("*")) == ["affect", "thesis.tex"]


def test_an_absent_table_ends_in_one_line(
    script: Script, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metadata/echonest.csv").unlink()
    assert script("prepare_fma").main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: Expected FMA's table {tmp_path / 'metadata/echonest.csv'}, got no such file")
    assert error.count("\n") == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("flag", "value"), [("--size", "tiny"), ("--seed", "one"), ("--seed", "-1"), ("--beat", "--both")]
)
def test_wrong_flags_are_refused(script: Script, command: list[str], flag: str, value: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        script("prepare_fma").main([*command, flag, value])


@pytest.mark.parametrize(("flag", "value"), [("--jobs", "0")])
def test_wrong_numbers_are_refused(
    script: Script, command: list[str], flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("prepare_fma").main([*command, flag, value]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: Expected {flag} of ")
    assert error.endswith(f"got {value}\n")

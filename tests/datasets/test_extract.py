"""Data folders of songs that last six seconds: labels, splits, resuming, and everything that may be wrong."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import distributed
import numpy as np
import pytest
import soundfile

from mtmusic.audio import extraction
from mtmusic.audio.extraction import Excerpt
from mtmusic.audio.synthesis import synthesise
from mtmusic.data.labels import folder_feature, read_affect_labels, read_genre_labels
from mtmusic.data.spectrograms import array_kind, read_array
from mtmusic.datasets.extract import Extraction, ExtractOptions, extract_features
from mtmusic.datasets.song_labels import labels_from_table
from mtmusic.errors import UserError
from tests import faults

SCRIPT = Path(__file__).parents[2] / "scripts" / "extract_features.py"

Extract = Callable[..., Extraction]


@pytest.fixture(scope="module")
def waveforms() -> dict[str, np.ndarray]:
    return {genre: synthesise(genre, 0, 6.0)[0] for genre in ("Jazz", "Metal", "Rock")}


@pytest.fixture
def music(tmp_path: Path, waveforms: dict[str, np.ndarray]) -> Path:
    """music/<genre>/<number>.wav: two songs of each of three genres, with names that collide."""
    for genre, waveform in waveforms.items():
        (tmp_path / "music" / genre).mkdir(parents=True)
        for number in (1, 2):
            soundfile.write(tmp_path / "music" / genre / f"{number}.wav", waveform, 22_050)
    return tmp_path / "music"


@pytest.fixture
def extract(tmp_path: Path, music: Path) -> Extract:
    """extract(**options) on the music into `data`, five seconds a song, in this process."""

    def run(*songs: Path, **options: object) -> Extraction:
        given = {"excerpt": Excerpt(duration=5.0), "jobs": 1, "test_share": 0.5, "rate": "beat"} | options
        return extract_features(ExtractOptions(songs or (music,), tmp_path / "data", **given))

    return run


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))[1:]


def arrays_below(folder: Path) -> list[Path]:
    """Every array, read whole; there is nothing else in train/ and test/, hidden or not."""
    paths = sorted(path for split in ("train", "test") for path in (folder / split).glob("*"))
    for path in paths:
        assert not path.name.startswith(".")
        read_array(path)
    return paths


def test_without_labels_every_array_goes_to_test(extract: Extract, music: Path, tmp_path: Path) -> None:
    done = extract(rate="both", excerpt=Excerpt(0.5, 5.0, "float16"), gzip=True)
    ids = {i: Path(path) for i, path in rows_of(tmp_path / "data" / "songs.csv")}
    assert sorted(ids.values()) == sorted(music.rglob("*.wav"))
    assert done.splits == dict.fromkeys(ids, "test")
    for name, beat in (("data", False), ("data_beat", True)):
        folder = tmp_path / name
        assert [path.name for path in arrays_below(folder)] == [f"{i}.fused.full.npy.gz" for i in sorted(ids)]
        assert not list(folder.glob("*labels*"))
        content = json.loads((folder / "features.json").read_text())
        assert content.pop("versions").keys() == {"mtmusic", "soundfile", "soxr", "numpy", "scipy"}
        excerpt = {"offset": 0.5, "duration": 5.0, "dtype": "float16"}
        assert content == {"feature": "fused", "sample_rate": 22_050, "hop_length": 512, "beat": beat, **excerpt}
    assert read_array(arrays_below(tmp_path / "data")[0]).shape == (140, 1 + 5 * 22_050 // 512)


@pytest.mark.parametrize("gzip", [False, True])
def test_logmel(extract: Extract, tmp_path: Path, caplog: pytest.LogCaptureFixture, gzip: bool) -> None:
    caplog.set_level("INFO")
    done = extract(feature="logmel", rate="full", genres_from_folders=True, gzip=gzip)
    folder = tmp_path / "data"
    assert [one.path for one in done.folders] == [folder]
    clips = read_genre_labels(folder, "train", "all")
    ending = ".logmel.npy.gz" if gzip else ".logmel.npy"
    assert [path.name for path in clips.paths] == [f"{i}{ending}" for i in clips.ids]
    assert {read_array(path).shape for path in arrays_below(folder)} == {(96, 1 + 5 * 16_000 // 256)}
    content = json.loads((folder / "features.json").read_text())
    assert content.pop("versions").keys() == {"mtmusic", "soundfile", "soxr", "numpy", "scipy"}
    assert content == {
        "feature": "logmel", "sample_rate": 16_000, "n_fft": 512, "hop_length": 256, "bands": 96, "beat": False,
        "offset": 0.0, "duration": 5.0, "dtype": "float32",
    }  # fmt: skip
    assert f"Folder: {folder} (logmel, genre labels)" in caplog.messages
    assert done.trainable == (folder,)
    assert folder_feature(folder) == "logmel"


def test_logmel_goes_on_where_it_stopped(extract: Extract, tmp_path: Path) -> None:
    extract(feature="logmel", rate="full")
    first, *others = arrays_below(tmp_path / "data")
    times = [path.stat().st_mtime_ns for path in others]
    first.rename(first.with_name(f".{first.name}.1.tmp"))  # as a run that was killed leaves it
    extract(feature="logmel", rate="full")
    assert arrays_below(tmp_path / "data") == [first, *others]
    assert [path.stat().st_mtime_ns for path in others] == times


@pytest.mark.parametrize("rate", ["beat", "both"])
def test_logmel_has_no_beats(extract: Extract, tmp_path: Path, rate: str) -> None:
    with pytest.raises(UserError, match=f'Logmel arrays are never beat-synchronised: leave out `rate="{rate}"`'):
        extract(feature="logmel", rate=rate)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("first", "second"), [("fused", "logmel"), ("logmel", "fused")])
def test_a_folder_holds_one_kind(extract: Extract, tmp_path: Path, first: str, second: str) -> None:
    extract(feature=first, rate="full")
    with pytest.raises(UserError, match=rf"data holds {first} arrays, now {second}: give another folder"):
        extract(feature=second, rate="full")
    assert {array_kind(path) for path in arrays_below(tmp_path / "data")} == {first}


def test_a_folder_of_before_the_feature_was_written_goes_on(extract: Extract, tmp_path: Path) -> None:
    extract()
    path = tmp_path / "data" / "features.json"
    content = json.loads(path.read_text())
    del content["feature"]
    path.write_text(json.dumps(content))
    extract()
    assert json.loads(path.read_text())["feature"] == "fused"


def test_labels_from_folders(extract: Extract, tmp_path: Path) -> None:
    done = extract(genres_from_folders=True)
    train, test = (read_genre_labels(tmp_path / "data", split, "all") for split in ("train", "test"))
    paths = dict(rows_of(tmp_path / "data" / "songs.csv"))
    for clips in (train, test):
        assert clips.counts() == {"Jazz": 1, "Metal": 1, "Rock": 1}
        assert [Path(paths[i]).parent.name for i in clips.ids] == [clips.classes[t] for t in clips.targets]
    assert done.splits == dict.fromkeys(train.ids, "train") | dict.fromkeys(test.ids, "test")


def test_a_table_of_genres_tasks_and_groups(extract: Extract, music: Path, tmp_path: Path) -> None:
    lines = [
        f"{genre}/{n}.wav,{genre},artist {n},0.{n},{'' if n == 2 else 1}"
        for genre in ("Jazz", "Metal", "Rock")
        for n in (1, 2)
    ]
    lines[0] = lines[0].replace(",0.1,1", ",,")  # no value
    table = tmp_path / "table.csv"
    table.write_text(
        "\ufeffPath,Genre,Group,valence,energy\r\n" + "\r\n".join([*lines, "gone.wav,Rock,,0.5,0.5"]) + "\r\n"
    )
    extract(labels=table)
    genres = {split: read_genre_labels(tmp_path / "data", split, "all") for split in ("train", "test")}
    values = {split: read_affect_labels(tmp_path / "data_affect", split) for split in ("train", "test")}
    for split in ("train", "test"):
        assert len(genres[split]) == 3
        assert len(set(genres[split].groups)) == 1
        assert set(values[split].ids) <= set(genres[split].ids)  # one split for both folders
        assert values[split].tasks == ("valence", "energy")
    assert len(values["train"]) + len(values["test"]) == 5
    for clips in values.values():
        for group, (valence, energy) in zip(clips.groups, clips.targets, strict=True):
            assert valence == np.float32(0.1 if group == "group artist 1" else 0.2)
            assert energy == 1 if group == "group artist 1" else np.isnan(energy)


def test_a_table_of_tasks_by_id(extract: Extract, waveforms: dict[str, np.ndarray], tmp_path: Path) -> None:
    for number in range(8):
        soundfile.write(tmp_path / f"song {number}.wav", waveforms["Jazz"], 22_050)
    table = tmp_path / "table.csv"
    table.write_text("id,valence\n" + "".join(f"song {n},0.{n}\n" for n in range(8)))
    done = extract(tmp_path, labels=table, test_share=0.5)
    assert not (tmp_path / "data_affect").exists()
    found = {i: round(float(v), 3) for s in ("train", "test") for i, (v,) in labels_of(tmp_path / "data", s)}
    assert found == {f"song_{n}": n / 10 for n in range(8)}
    assert done.found == 8 + 6  # those in music/ have no label


def labels_of(folder: Path, split: str) -> Iterator[tuple[str, np.ndarray]]:
    clips = read_affect_labels(folder, split)
    return zip(clips.ids, clips.targets, strict=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Expected the columns path or id, and genre or tasks, got ''"),
        ("genre\nRock\n", "Expected the columns path or id"),
        ("path\nRock/1.wav\n", "and genre or tasks, got 'path'"),
        (b"path,genre\nRock/1.wav,\xff\n", "Expected a table in CSV and UTF-8"),
        ("path,genre\nRock/1.wav\n", "Expected 2 columns, got 1 in .* line 2"),
        ("path,genre\nRock/1.wav,Rock\nRock/1.wav,Jazz\n", "line 3: the song .* has a second row"),
        ("path,valence\nRock/1.wav,happy\n", "line 2: expected numbers from 0 to 1 for the tasks valence, got happy"),
        ("path,valence\nRock/1.wav,1.5\n", "from 0 to 1 .* got 1.5"),
        (
            "path,genre\nRock/9.wav,Rock\n",
            "got none: 1 of 1 rows name no song, for example 'Rock/9.wav'; a song's id is",
        ),
        ("path,genre\nRock/1.wav,Ro\0ck\n", "got a NUL byte in .* line 2"),
        ("path,warning\nRock/1.wav,0.5\n", "Expected task names .* got warning"),
        ('path,"valence, mean"\nRock/1.wav,0.5\n', "Expected task names without comma.* got 'valence, mean'"),
        (",path,valence\n0,Rock/1.wav,0.5\n", "Expected task names .* got ''"),
        (
            "path,valence,Valence\nRock/1.wav,0.5,0.5\n",
            "Expected different task names, got 'Valence' and 'valence'",
        ),
        ("path,valence\nRock/1.wav,0.00_1\n", "from 0 to 1 .* got 0.00_1"),
        ("path,valence,energy\nRock/1.wav,0.5,nan\n", "Expected labels of energy in .* got none: leave the column out"),
        ("path,genre\nRock/1.wav,Rock\n", "Too few clips for a hold-out"),
    ],
)
def test_refuses_a_table(extract: Extract, tmp_path: Path, text: str | bytes, told: str) -> None:
    (tmp_path / "table.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=told):
        extract(labels=tmp_path / "table.csv")
    assert not (tmp_path / "data").exists()


def test_an_id_names_the_file_of_that_name_and_no_other(
    extract: Extract, waveforms: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Ids hold ASCII alone, so that 01 光 and 01 夜 look alike there; a spreadsheet left an empty column."""
    (tmp_path / "songs").mkdir()
    for name in ("01 夜", "02 夜", "03 海", "04 海"):
        soundfile.write(tmp_path / "songs" / f"{name}.wav", waveforms["Jazz"], 22_050)
    rows = ["01 光,Rock,,", "01 夜,Rock,,", "02 夜,Rock,,", "03 海,Jazz,,", "04 海,Jazz,,"]
    (tmp_path / "table.csv").write_text("\n".join(["id,genre,,", *rows]), encoding="utf-8")
    done = extract(tmp_path / "songs", labels=tmp_path / "table.csv")
    assert (len(done.splits), done.unknown) == (4, ("01 光",))


def test_groups_are_compared_in_one_form_and_a_missing_one_is_none(tmp_path: Path) -> None:
    artists = [unicodedata.normalize(form, "Beyoncé") for form in ("NFC", "NFD")] * 2 + ["NA", "-", "Sade", "Sade"]
    rows = []
    for number, artist in enumerate(artists):
        rows.append(f"{number},{('Rock', 'Jazz')[number // 4]},{artist}")
    (tmp_path / "table.csv").write_text("\n".join(["id,genre,group", *rows]), encoding="utf-8")
    ids = {tmp_path / "songs" / f"{number}.wav": str(number) for number in range(8)}
    groups = labels_from_table(tmp_path / "table.csv", ids, [tmp_path / "songs"]).groups
    assert groups == {**dict.fromkeys("0123", "Beyoncé"), "6": "Sade", "7": "Sade"}


@pytest.mark.parametrize("column", ["path", "id"])
def test_names_in_either_unicode_form_are_one_song(
    extract: Extract, waveforms: dict[str, np.ndarray], tmp_path: Path, column: str
) -> None:
    names = ["Beyoncé 1", "Beyoncé 2", "plain 1", "plain 2"]
    folder = tmp_path / "mac"
    folder.mkdir()
    for name in names:
        soundfile.write(folder / f"{unicodedata.normalize('NFD', name)}.wav", waveforms["Jazz"], 22_050)
    ending = ".wav" if column == "path" else ""
    rows = [f"{unicodedata.normalize('NFC', name)}{ending},{name[:5]}" for name in names]
    (tmp_path / "table.csv").write_text("\n".join([f"{column},genre", *rows]))
    done = extract(folder, labels=tmp_path / "table.csv")
    assert (len(done.splits), done.unknown) == (4, ())


def test_rows_that_name_no_song_are_counted_and_told(
    extract: Extract, waveforms: dict[str, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Leading zeros are lost by spreadsheets; the songs of the other rows are extracted."""
    (tmp_path / "songs").mkdir()
    for number in range(6):
        soundfile.write(tmp_path / "songs" / f"00{number}.wav", waveforms["Jazz"], 22_050)
    rows = ["000,Rock", "001,Rock", "002,N/A", "3,Jazz", "9,Jazz", ",", "004,rock", "005,rock"]
    (tmp_path / "table.csv").write_text("\n".join(["id,genre", *rows]))
    done = extract(tmp_path / "songs", labels=tmp_path / "table.csv")
    assert done.unknown == ("3", "9")
    assert len(done.splits) == 4  # 002 has no genre
    assert (
        "2 of 7 rows name no song, for example '3'; a song's id is for example '000', its path '000.wav'" in caplog.text
    )
    assert "the genres 'Rock' and 'rock' differ only in case or spaces" in caplog.text


def test_earlier_songs_without_a_label_and_those_that_change_their_split_are_counted(
    extract: Extract, music: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = extract(genres_from_folders=True, seed=0).splits
    assert "warning" not in caplog.text
    after = extract(genres_from_folders=True, seed=1).splits
    moved = sum(before[i] != after[i] for i in before)
    assert f"{moved} songs of {tmp_path / 'data'} move between train and test" in caplog.text
    shutil.rmtree(music / "Jazz")
    extract(genres_from_folders=True, seed=1)
    assert f"2 earlier songs of {tmp_path / 'data'} now have no label" in caplog.text


def test_a_second_run_computes_nothing_and_moves_what_changed_its_split(extract: Extract, tmp_path: Path) -> None:
    seeds = [extract(genres_from_folders=True, seed=seed).splits for seed in (0, 1)]
    before = {path.name: path.stat().st_mtime_ns for path in arrays_below(tmp_path / "data")}
    assert seeds[0] != seeds[1]
    assert extract(genres_from_folders=True, seed=0).splits == seeds[0]
    after = {path.name: path.stat().st_mtime_ns for path in arrays_below(tmp_path / "data")}
    assert after == before
    assert len(read_genre_labels(tmp_path / "data", "train", "all")) == 3


def test_refuses_arrays_made_in_another_way_and_other_things(extract: Extract, tmp_path: Path) -> None:
    extract()
    with pytest.raises(UserError, match=r"made with duration 5.0, now 4.0: give another folder"):
        extract(excerpt=Excerpt(duration=4.0))
    with pytest.raises(UserError, match="made with beat True, now False"):
        extract(rate="full")
    (tmp_path / "data" / "features.json").unlink()
    with pytest.raises(UserError, match="holds other things"):
        extract()


def test_a_full_disk(extract: Extract, music: Path, tmp_path: Path) -> None:
    extract(music / "Jazz", rate="both")
    with (
        faults.file_size_limit(100_000),
        pytest.raises(OSError, match=r"File too large: '/.*/data"),
    ):  # a full-rate array
        extract(rate="both")
    with faults.file_size_limit(0), pytest.raises(UserError, match=r"Cannot write to .*/data: File too large"):
        extract(rate="both")
    assert len(arrays_below(tmp_path / "data")) == 2
    assert extract(rate="both").failed == ()
    assert len(arrays_below(tmp_path / "data")) == len(arrays_below(tmp_path / "data_beat")) == 6


def test_what_is_refused_leaves_no_folder(extract: Extract, music: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,genre\nnowhere.wav,Rock\n")
    with pytest.raises(UserError):
        extract(labels=tmp_path / "labels.csv")
    with pytest.raises(UserError, match="No dask scheduler answers"):
        extract(scheduler="127.0.0.1")
    with faults.file_size_limit(9000), pytest.raises(OSError, match="File too large"):  # no array
        extract(rate="both")
    assert {path.name for path in tmp_path.iterdir()} == {"labels.csv", "music"}
    (tmp_path / "data").mkdir()  # is not ours
    with pytest.raises(UserError):
        extract(labels=tmp_path / "labels.csv")
    assert (tmp_path / "data").is_dir()


def bad_songs(folder: Path, waveform: np.ndarray) -> list[Path]:
    """Files with nothing to extract."""
    (folder / "text.mp3").write_text("no music\n" * 100)
    (folder / "empty.wav").touch()
    (folder / "link.flac").symlink_to("nowhere")
    (folder / "unknown.m4a").write_bytes(b"x" * 1000)
    soundfile.write(folder / "nan.wav", np.where(np.arange(len(waveform)) == 7, np.nan, waveform), 22_050, "FLOAT")
    return [folder / name for name in ("empty.wav", "link.flac", "nan.wav", "text.mp3", "unknown.m4a")]


def odd_songs(folder: Path, waveform: np.ndarray) -> list[str]:
    """Files that are unusual and good; of the truncated one the half that is there."""
    (folder / "folder.wav").mkdir()
    soundfile.write(folder / "folder.wav" / "inside.wav", waveform, 22_050)
    soundfile.write(folder / "short.wav", waveform[:4410], 22_050)
    soundfile.write(folder / "long.wav", np.tile(waveform[::3], 110), 8_000)
    soundfile.write(folder / "low.wav", waveform[::3], 8_000)
    soundfile.write(folder / "high.wav", np.repeat(waveform, 4), 96_000)
    soundfile.write(os.fsencode(folder / "name_\udce9.wav"), waveform, 22_050, format="WAV")  # no valid UTF-8
    soundfile.write(folder / "six.wav", np.outer(waveform, np.linspace(0.1, 1, 6)), 22_050)
    soundfile.write(folder / "cut.mp3", waveform, 22_050)
    content = (folder / "cut.mp3").read_bytes()
    (folder / "cut.mp3").write_bytes(content[: len(content) // 2])
    return ["cut", "high", "inside", "long", "low", "name", "short", "six"]


def test_bad_songs_are_listed_and_the_others_done(
    extract: Extract,
    waveforms: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    bad, odd = bad_songs(folder, waveforms["Rock"]), odd_songs(folder, waveforms["Rock"])
    done = extract(folder)
    assert [outcome.path for outcome in done.failed] == bad
    assert [Path(path) for path, _ in rows_of(tmp_path / "data" / "failures.csv")] == bad
    for path, reason in rows_of(tmp_path / "data" / "failures.csv"):
        assert path in reason
    assert [path.name.split(".")[0] for path in arrays_below(tmp_path / "data")] == odd
    assert f"warning: {folder / 'short.wav'} is short: 0.2 s" in caplog.messages
    assert "cut.mp3 is truncated" in caplog.text
    assert "failed=5" in capsys.readouterr().err


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """The program as a group of processes, which are killed together."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def many(tmp_path: Path, waveforms: dict[str, np.ndarray]) -> Path:
    """24 songs in one folder."""
    (tmp_path / "many").mkdir()
    for number in range(24):
        soundfile.write(tmp_path / "many" / f"{number}.wav", waveforms["Metal"], 22_050)
    return tmp_path / "many"


def test_two_runs_at_once_and_one_killed_and_started_again(extract: Extract, many: Path, tmp_path: Path) -> None:
    process = start(SCRIPT, many, tmp_path / "data", "--beat", "--duration", 5, "--jobs", 2)
    wait_for(lambda: len(list(tmp_path.glob("data/test/*.npy"))) >= 3, process)
    with pytest.raises(UserError, match=r"Another run is writing .*data: wait for it"):
        extract(many)
    kill(process)
    half_written = tmp_path / "data" / "test" / ".0123456789ab.5.fused.full.npy"
    half_written.write_bytes(b"\x93NUMPY")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("data/test/*.npy") if path != half_written}
    assert 3 <= len(before) < 24
    assert extract(many).failed == ()
    assert len(arrays_below(tmp_path / "data")) == 24
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.fixture
def cluster() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler on loopback, and its two workers, a process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    quiet = ("--no-dashboard", "--host", "127.0.0.1")
    processes = [start("-m", "distributed.cli.dask_scheduler", "--port", port, *quiet)]
    for _ in range(2):
        worker = ("-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", 1, *quiet)
        processes.append(start(*worker))
    try:
        with distributed.Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address, processes[1:]
    finally:
        for process in processes:
            if process.poll() is None:
                kill(process)


def test_a_cluster_one_of_whose_workers_is_killed(
    extract: Extract,
    many: Path,
    tmp_path: Path,
    cluster: tuple[str, list[subprocess.Popen[bytes]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, workers = cluster
    monkeypatch.setattr(extraction, "load_with_doubts", None)  # this process does no song itself
    written_when_killed = []

    def kill_one() -> None:
        written = lambda: len(list(tmp_path.glob("data/test/*.npy")))  # noqa: E731
        wait_for(lambda: written() >= 3, workers[0])
        kill(workers[0])
        written_when_killed.append(written())

    killer = threading.Thread(target=kill_one)
    killer.start()
    done = extract(many, scheduler=address)
    killer.join()
    assert done.failed == ()
    assert 3 <= written_when_killed[0] < 24
    assert workers[1].poll() is None
    assert len([path for path in tmp_path.glob("data/test/*.npy") if not path.name.startswith(".")]) == 24
    with pytest.raises(UserError, match=f"Expected two cores or more at {address}, got one"):
        extract(scheduler=address)


def test_failures_that_leave_a_genre_without_a_song_to_train_on_are_logged(
    extract: Extract, music: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mtmusic.datasets")
    done = extract(genres_from_folders=True)
    splits = done.splits
    assert done.trainable == (tmp_path / "data",)
    assert caplog.messages == [
        "Songs: 6; train 3, test 3, without a label 0",
        f"Folder: {tmp_path / 'data'} (beat-synchronised, genre labels)",
    ]
    caplog.clear()
    ids = {Path(path): i for i, path in rows_of(tmp_path / "data" / "songs.csv")}
    shutil.rmtree(tmp_path / "data")
    trained = next(path for path, i in ids.items() if splits[i] == "train" and path.parent.name == "Jazz")
    trained.write_bytes(b"")
    done = extract(genres_from_folders=True)
    assert ([outcome.path for outcome in done.failed], done.trainable) == ([trained], ())
    assert caplog.messages[1] == f"Failed: 1, listed in {tmp_path / 'data' / 'failures.csv'}"
    assert caplog.messages[3].startswith(f"warning: Jazz has no song in {tmp_path / 'data' / 'train'}: add songs")


def test_few_songs_of_few_groups_are_split_as_far_as_the_groups_allow(extract: Extract, tmp_path: Path) -> None:
    rows = [f"{genre}/{n}.wav,{genre},{genre} {n}" for genre in ("Jazz", "Metal", "Rock") for n in (1, 2)]
    table = tmp_path / "table.csv"
    table.write_text("path,genre,group\n" + "\n".join(rows) + "\n")
    splits = extract(labels=table, test_share=0.5).splits
    assert sorted(splits.values()) == ["test"] * 3 + ["train"] * 3

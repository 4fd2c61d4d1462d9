"""Finding songs, their ids, and one song's arrays; real workers are tested with the job and the script."""

import gc
import os
import re
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
from threadpoolctl import threadpool_info, threadpool_limits

from mtmusic.audio import extraction
from mtmusic.audio.extraction import (
    Excerpt,
    InOrder,
    Outcome,
    Song,
    extract_song,
    extract_songs,
    find_songs,
    plain_id,
    song_ids,
)
from mtmusic.audio.features import full_and_beat_spectrograms, logmel_spectrogram
from mtmusic.audio.loading import load_waveform
from mtmusic.audio.synthesis import synthesise
from mtmusic.errors import UserError
from tests.folders import PROJECT


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def song(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "song.wav", synthesise("Rock", 0, 6.0)[0], 22_050)
    return tmp_path / "song.wav"


def test_finds_songs_below_folders_and_files_as_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    songs = tmp_path / "songs"
    touch(songs / "b" / "x.MP3", songs / "a.flac", songs / "x.wav" / "deep.ogg", songs / "notes.txt")
    touch(songs / "._a.flac", songs / ".trash" / "z.wav", tmp_path / "odd.name")
    (songs / "broken.wav").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    expected = ["odd.name", "songs/a.flac", "songs/b/x.MP3", "songs/broken.wav", "songs/x.wav/deep.ogg"]
    found = find_songs([Path("songs"), Path("odd.name"), songs / "a.flac"])
    assert found == [tmp_path / name for name in expected]


def test_logs_once_what_the_folders_hold_besides_songs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    touch(tmp_path / "a.wav", tmp_path / "cover.JPG", tmp_path / ".hidden.txt", tmp_path / ".trash" / "b.txt")
    find_songs([tmp_path])
    assert caplog.messages == []
    touch(tmp_path / "a.mid")
    find_songs([tmp_path])
    touch(*(tmp_path / "b" / name for name in ("b.TXT", "c.txt", "d.txt", "README", "01. No suffix", "e.kar")))
    find_songs([tmp_path, tmp_path / "b", tmp_path / "b" / "e.kar"])
    touch(*(tmp_path / f"x.{i}" for i in range(9)))
    find_songs([tmp_path])
    assert caplog.messages == [
        "Not songs: 1 file (.mid)",
        "Not songs: 6 files (.txt, no suffix, .mid)",
        "Not songs: 16 files (.txt, no suffix, .mid, .kar, .0, ...)",
    ]


def test_refuses_places_without_songs(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="found none in"):
        find_songs([tmp_path])
    with pytest.raises(UserError, match=r"no such file: .*absent"):
        find_songs([tmp_path / "absent"])


def test_subfolders_that_cannot_be_read_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(*(tmp_path / name / "a.wav" for name in ("open", "shut", "locked")))
    scandir = os.scandir

    def refuse(folder: str) -> object:
        if Path(folder).name in ("shut", "locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read all
    assert find_songs([tmp_path]) == [tmp_path / "open" / "a.wav"]
    (line,) = caplog.messages
    assert re.fullmatch(r"warning: left out 2 folders that cannot be read: \S+/(shut|locked): Permission denied", line)
    with pytest.raises(UserError, match=r"Cannot read the folder .*shut: Permission denied"):
        find_songs([tmp_path / "open", tmp_path / "shut"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000002", "000002"),
        ("03 - Ça va?", "03_-_Ça_va"),
        ("a.b__c", "a_b__c"),
        ("...", "song"),
        ("夜を\n歩く", "夜を_歩く"),
        ("हिन्दी\udcff", "हिन्दी"),
        ("C\u0327a", "Ça"),
    ],
)
def test_plain_ids(name: str, expected: str) -> None:
    assert plain_id(name) == expected


def test_ids_are_names_and_unique_where_names_collide() -> None:
    paths = [Path("/m/a/01.wav"), Path("/m/b/01.mp3"), Path("/m/b/Two.mp3"), Path("/m/c/two.mp3"), Path("/m/c/3.mp3")]
    ids = song_ids(paths, {})
    assert ids[paths[4]] == "3"
    assert [i.rpartition("-")[0] for i in ids.values()] == ["01", "01", "Two", "two", ""]
    assert len({i.lower() for i in ids.values()}) == 5
    assert ids == song_ids(paths[::-1], {})


def test_ids_of_names_too_long_are_cut() -> None:
    assert plain_id("a" * 100) == "a" * 100
    name = "a" * 240
    assert re.fullmatch("a{89}-[0-9a-f]{10}", plain_id(name))
    assert plain_id(name) != plain_id(name + "b")
    assert re.fullmatch("夜{29}-[0-9a-f]{10}", plain_id("夜" * 80))
    first, second = song_ids([Path(f"/m/a/{name}.wav"), Path(f"/m/b/{name}.wav")], {}).values()
    assert first != second
    assert len(first) == len(second) == 111


def test_ids_stay_when_songs_join() -> None:
    old = song_ids([Path("/m/a/01.wav")], {})
    new = song_ids([Path("/m/a/01.wav"), Path("/m/b/01.wav")], old)
    assert old == {Path("/m/a/01.wav"): "01"}
    assert new[Path("/m/a/01.wav")] == "01"
    assert new[Path("/m/b/01.wav")].startswith("01-")
    assert song_ids([Path("/m/b/01.wav")], new) == {Path("/m/b/01.wav"): new[Path("/m/b/01.wav")]}


@pytest.mark.parametrize("kinds", [("full",), ("beat",), ("full", "beat")])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_songs_arrays(song: Path, kinds: tuple[str, ...], dtype: str) -> None:
    written: dict[Path, np.ndarray] = {}
    places = {kind: (Path(kind), Path(f"{kind} again")) for kind in kinds}
    outcome = extract_song(Song(song, **places), Excerpt(0.5, 5.0, dtype), written.__setitem__)
    assert (outcome.path, outcome.failure, outcome.doubts) == (song, "", ())
    with threadpool_limits(1):  # sums in another order differ in the last digit
        arrays = dict(zip(("full", "beat"), full_and_beat_spectrograms(load_waveform(song, 0.5, 5.0)), strict=True))
    assert set(written) == {place for kind in kinds for place in places[kind]}
    for kind in kinds:
        for place in places[kind]:
            assert written[place].dtype == dtype
            np.testing.assert_array_equal(written[place], arrays[kind].astype(dtype))


def test_one_thread_a_song(song: Path) -> None:
    threads = []

    def write(*_: object) -> None:
        threads.extend(pool["num_threads"] for pool in threadpool_info())

    extract_song(Song(song, (Path("full"),)), Excerpt(), write)
    assert set(threads) == {1}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("Unable to allocate 5 GiB"), "MemoryError: Unable to allocate 5 GiB"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (UserError("said already"), "said already"),
    ],
)
def test_what_fails_is_told(song: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str) -> None:
    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr(extraction, "load_with_doubts", load)
    (outcome,) = extract_songs([Song(song, (Path("full"),))], Excerpt(), lambda *_: None, jobs=1)
    assert (outcome.path, outcome.failure) == (song, told)


def test_an_array_that_cannot_be_written_ends_it(song: Path) -> None:
    def write(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(extract_songs([Song(song, (Path("full"),)), Song(song, (Path("other"),))], Excerpt(), write, jobs=1))


@pytest.mark.parametrize("loudness", [1e7, 1e25, 1e30])
@pytest.mark.parametrize("kinds", [("full",), ("beat",), ("full", "beat")])
def test_samples_too_loud_to_square_are_refused(tmp_path: Path, kinds: tuple[str, ...], loudness: float) -> None:
    samples = np.random.default_rng(0).normal(size=6 * 22_050) * loudness
    soundfile.write(tmp_path / "a.wav", samples, 22_050, subtype="FLOAT")
    song = Song(tmp_path / "a.wav", **{kind: (Path(kind),) for kind in kinds})
    outcome = extract_song(song, Excerpt(), lambda *_: None)
    assert outcome.failure == f"Expected samples from -1 to 1, got far larger values in {song.path}"


def test_a_song_that_may_not_be_read(song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read all
    outcome = extract_song(Song(song, (Path("full"),)), Excerpt(), lambda *_: None)
    assert outcome.failure == f"Cannot read {song}: Permission denied"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "127.0.0.1", "foo://x", "mute"])
def test_a_scheduler_that_does_not_answer(
    song: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], address: str
) -> None:
    monkeypatch.setattr(extraction, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        if address == "mute":
            address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(UserError, match=f"No dask scheduler answers at {address}: start one with"):
            extract_songs([Song(song)], Excerpt(), lambda *_: None, scheduler=address)
    gc.collect()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("workers", "told"), [(0, "No workers at"), (1, "Expected two cores or more at")])
def test_a_cluster_that_is_too_small_is_refused_at_once(
    song: Path, monkeypatch: pytest.MonkeyPatch, workers: int, told: str
) -> None:
    monkeypatch.setattr(extraction, "CONNECT_SECONDS", 1)
    settings = {"threads_per_worker": 1, "dashboard_address": ":0", "processes": False}
    with (
        pytest.importorskip("distributed").LocalCluster(n_workers=workers, **settings) as cluster,
        pytest.raises(UserError, match=told),
    ):
        extract_songs([Song(song)], Excerpt(), lambda *_: None, scheduler=cluster.scheduler_address)


def test_without_distributed(song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"`scheduler` needs dask\.distributed .*: pip install distributed"):
        list(extract_songs([Song(song)], Excerpt(), lambda *_: None, scheduler="tcp://127.0.0.1:9"))


def save_unless_third(path: Path, array: np.ndarray) -> None:
    if path.stem == "3":
        os._exit(1)
    np.save(path, array)


def songs_of(song: Path, folder: Path) -> list[Song]:
    """Five songs, whose arrays are to be 1.npy to 5.npy."""
    for number in "12345":
        (folder / f"{number}.wav").hardlink_to(song)
    return [Song(folder / f"{number}.wav", (folder / f"{number}.npy",)) for number in "12345"]


def check_that_the_third_failed(outcomes: list[Outcome], folder: Path) -> None:
    told = "its worker process was killed: a damaged file, or too little memory"
    assert sorted((o.path.name, o.failure) for o in outcomes) == [
        (f"{number}.wav", told if number == "3" else "") for number in "12345"
    ]
    assert sorted(path.name for path in folder.glob("*.npy")) == ["1.npy", "2.npy", "4.npy", "5.npy"]


def test_a_song_that_kills_its_worker_fails_alone(song: Path, tmp_path: Path) -> None:
    songs = songs_of(song, tmp_path)
    check_that_the_third_failed(list(extract_songs(songs, Excerpt(), save_unless_third, jobs=2)), tmp_path)


def name_unless_third(path: Path) -> str:
    if path.stem == "3":
        os._exit(1)
    return path.name


@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_in_order_the_one_that_kills_its_worker_fails_alone(ahead: int) -> None:
    paths = [Path(number) for number in "5432167"]
    assert list(InOrder(name_unless_third, paths, 2, ahead)) == [
        (path, None if path.name == "3" else path.name) for path in paths
    ]


def test_what_only_dies_next_to_others_does_not_fail(tmp_path: Path) -> None:
    paths = [tmp_path / number for number in "123"]
    assert list(InOrder(dies_once, paths, 2)) == [(path, path.name) for path in paths]


def dies_once(path: Path) -> str:
    if path.name == "2" and not path.exists():
        path.touch()
        os._exit(1)
    return path.name


def test_one_job_works_as_it_is_asked_and_in_this_process() -> None:
    done: list[Path] = []
    results = InOrder(lambda path: done.append(path) or os.getpid(), [Path("a"), Path("b")], jobs=1)
    assert done == []
    assert next(results) == (Path("a"), os.getpid())
    assert done == [Path("a")]
    results.close()
    assert list(results) == []


def test_what_is_dropped_is_not_begun(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(40)]
    with closing(InOrder(Path.touch, paths, jobs=2, ahead=40)) as results:
        next(results)
    assert list(results) == []
    gc.collect()
    assert len(list(tmp_path.iterdir())) < 40


@pytest.mark.parametrize("results", ["InOrder(slow, paths, 2)", "parallel_map(slow, dict(zip(paths, paths)), 2)"])
def test_workers_end_with_a_killed_parent(results: str) -> None:
    """They hold the parent's standard output, which ends when the last of them does."""
    code = (
        "import os, time\nfrom pathlib import Path\nfrom mtmusic.audio.extraction import InOrder, parallel_map\n"
        "def slow(path):\n    time.sleep(0.1)\n    return os.getpid()\n"
        f"paths = [*map(Path, map(str, range(9999)))]\nfor result in {results}: print(*result, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    workers = {int(child.stdout.readline().split()[1]) for _ in range(6)}
    assert child.pid not in workers
    child.kill()
    child.communicate(timeout=20)


def test_a_song_that_kills_its_worker_on_a_cluster(song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two songs are with the cluster at a time."""
    monkeypatch.setattr(extraction, "IN_FLIGHT", 2)
    distributed = pytest.importorskip("distributed")
    songs = songs_of(song, tmp_path)
    at_once = {"distributed.scheduler.allowed-failures": 0}
    with (
        pytest.importorskip("dask").config.set(at_once),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        address = cluster.scheduler_address
        outcomes = list(extract_songs(songs, Excerpt(), save_unless_third, scheduler=address))
    check_that_the_third_failed(outcomes, tmp_path)


def test_a_songs_logmel(song: Path) -> None:
    written: dict[str, np.ndarray] = {}
    places = Song(song, full=(Path("full"),), logmel=(Path("one"), Path("other")))
    outcome = extract_song(places, Excerpt(1.0, 5.0, "float16"), lambda path, array: written.update({str(path): array}))
    assert outcome == Outcome(song)
    expected = logmel_spectrogram(load_waveform(song, 1.0, 5.0, 16_000)).astype("float16")
    assert expected.shape == (96, 1 + 5 * 16_000 // 256)
    np.testing.assert_array_equal(written["one"], expected)
    np.testing.assert_array_equal(written["other"], expected)
    assert written["full"].shape == (140, 1 + 5 * 22_050 // 512)

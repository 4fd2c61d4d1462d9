"""Finding songs, their ids, and one song's arrays; real workers are tested with the job and the script."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from threadpoolctl import threadpool_info, threadpool_limits

from mtmusic.audio import extraction
from mtmusic.audio.extraction import Excerpt, Song, extract_song, extract_songs, find_songs, plain_id, song_ids
from mtmusic.audio.features import full_and_beat_spectrograms
from mtmusic.audio.loading import load_waveform
from mtmusic.audio.synthesis import synthesise
from mtmusic.errors import UserError


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


def test_refuses_places_without_songs(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="found none in"):
        find_songs([tmp_path])
    with pytest.raises(UserError, match=r"no such file: .*absent"):
        find_songs([tmp_path / "absent"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("000002", "000002"), ("03 - Ça va?", "03_-_a_va"), ("a.b", "a_b"), ("...", "song"), ("夜", "song")],
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
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (UserError("said already"), "said already"),
    ],
)
def test_what_fails_is_told(song: Path, error: Exception, told: str) -> None:
    def write(*_: object) -> None:
        raise error

    (outcome,) = extract_songs([Song(song, (Path("full"),))], Excerpt(), write, jobs=1)
    assert (outcome.path, outcome.failure) == (song, told)


@pytest.mark.filterwarnings("ignore:.*(overflow|invalid value):RuntimeWarning")
def test_samples_too_loud_to_square_are_refused(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(size=6 * 22_050) * 1e30
    soundfile.write(tmp_path / "a.wav", samples, 22_050, subtype="FLOAT")
    outcome = extract_song(Song(tmp_path / "a.wav", (Path("full"),)), Excerpt(), lambda *_: None)
    assert "a.wav" in outcome.failure


def test_a_scheduler_that_does_not_answer(song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match=r"No dask scheduler answers at tcp://127\.0\.0\.1:9:"):
        list(extract_songs([Song(song)], Excerpt(), lambda *_: None, scheduler="tcp://127.0.0.1:9"))


def test_without_distributed(song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install \"mtmusic\[cluster\]\""):
        list(extract_songs([Song(song)], Excerpt(), lambda *_: None, scheduler="tcp://127.0.0.1:9"))


def kill_self(*_: object) -> None:
    os.kill(os.getpid(), 9)


def test_a_worker_killed_is_told(song: Path) -> None:
    with pytest.raises(UserError, match="A worker process was killed"):
        list(extract_songs([Song(song, (Path("full"),))] * 2, Excerpt(), kill_self, jobs=2))

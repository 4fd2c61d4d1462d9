"""The script from end to end: songs in folders, and real recordings, to folders that the data wing reads."""

import importlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from mtmusic.audio.synthesis import synthesise
from mtmusic.constants import FEATURE_ROWS
from mtmusic.data.labels import is_beat_synchronised, read_genre_labels
from mtmusic.data.spectrograms import read_array

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """main("songs", "data", "--beat") -> the exit code."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module("extract_features")
    return lambda *arguments: module.main([str(argument) for argument in arguments])


def test_songs_in_genre_folders_become_a_data_folder(main, tmp_path: Path, monkeypatch, capsys) -> None:
    for genre in ("Jazz", "Metal", "Trip Hop"):
        (tmp_path / "music" / genre).mkdir(parents=True)
        for number in range(3):
            waveform, _ = synthesise(genre.replace(" ", "-"), number, 6.0)
            soundfile.write(tmp_path / "music" / genre / f"{number}.flac", waveform, 22_050)
    (tmp_path / "music" / "Jazz" / "bad.wav").touch()
    monkeypatch.chdir(tmp_path)
    flags = ("--both", "--genres-from-folders", "--test-share", 0.34, "--jobs", 1)
    assert main("music", "data", *flags) == 1
    output = capsys.readouterr().out.splitlines()
    assert output[0] == "Songs: 10; train 6, test 3, without a label 0"
    assert output[-1] == f"Train: mtmusic train-genre --data {tmp_path}/data_beat --classes all --recipe best"
    for folder, beat in ((Path("data"), False), (Path("data_beat"), True)):
        train, test = (read_genre_labels(folder, split, "all") for split in ("train", "test"))
        assert train.classes == test.classes == ("Jazz", "Metal", "Trip Hop")
        assert len(train) + len(test) == 9
        assert is_beat_synchronised(folder) is beat
        frames = [read_array(path).shape[1] for path in (*train.paths, *test.paths)]
        assert all(2 < n < 30 for n in frames) if beat else set(frames) == {1 + 6 * 22_050 // 512}
    Path("music/Jazz/bad.wav").unlink()
    assert main("music", "data", *flags) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("absent", "data"), "error: Expected a song or a folder of songs, got no such file: absent"),
        ((".", "data", "--jobs", "0"), "error: Expected --jobs of 1 or more, got 0"),
        ((".", "data", "--duration", "0"), "error: Expected --duration above 0"),
        ((".", "data", "--duration", "inf"), "error: Expected --duration above 0"),
        ((".", "data", "--offset", "nan"), "error: Expected --duration above 0"),
        (("a.wav", "a.wav"), "error: Cannot write to "),
        (
            ("a.wav", "data", "--feature", "logmel", "--both"),
            "error: Logmel arrays are never beat-synchronised: leave out --both",
        ),
        (
            ("a.wav", "data", "--beat", "--feature", "logmel"),
            "error: Logmel arrays are never beat-synchronised: leave out --beat",
        ),
        (
            ("a.wav", "data", "--labels", "absent.csv"),
            "error: Expected a table of labels, got no such file: absent.csv",
        ),
    ],
)
def test_refuses_in_one_line(main, tmp_path: Path, monkeypatch, capsys, arguments, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.wav").touch()
    assert main(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(told)


def lab_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Full rate and beat-synchronised, by the calls that the lab's helper code makes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        waveform, rate = librosa.load(path, duration=30.0)
    _, beats = librosa.beat.beat_track(y=librosa.effects.hpss(waveform)[1], sr=rate)
    mel = librosa.feature.melspectrogram(y=waveform, sr=rate, n_fft=2048, hop_length=512, n_mels=128)
    chroma = librosa.feature.chroma_cqt(y=waveform, sr=rate, hop_length=512)
    by_beat = [librosa.util.sync(array, beats, aggregate=np.median) for array in (mel, chroma)]
    full, beat = (np.vstack([librosa.power_to_db(m, ref=np.max), c]) for m, c in ((mel, chroma), by_beat))
    return full, beat


@pytest.mark.real
def test_recordings_become_the_labs_arrays(main, real_data: Path, tmp_path: Path) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    for name in ("trumpet", "Vibe_Ace"):  # five seconds, and more than thirty
        (path,) = (real_data / "audio").glob(f"*{name}*.ogg")
        shutil.copy(path, songs / f"{name}.ogg")
    assert main(songs, tmp_path / "data", "--both", "--jobs", 1) == 0
    assert json.loads((tmp_path / "data" / "features.json").read_text())["duration"] == 30
    for song in songs.iterdir():
        for folder, expected in zip(("data", "data_beat"), lab_arrays(song), strict=True):
            array = read_array(tmp_path / folder / "test" / f"{song.stem}.fused.full.npy")
            assert array.shape == expected.shape
            for feature, tolerance in (("mel", 1e-2), ("chroma", 1e-3)):
                rows = FEATURE_ROWS[feature]
                np.testing.assert_allclose(array[rows], expected[rows], atol=tolerance)


@pytest.mark.parametrize(
    ("command", "folder", "expected"),
    [
        (("train_genre", "--data"), "my music", "'data/my music' --genres-from-folders"),
        (("train_genre", "--data"), "my music/Rock", "data/Rock --labels labels.csv"),
        (("train_affect", "--data"), "my music", "'data/my music' --labels labels.csv"),
        (("validate_data",), "my music", "'data/my music' --genres-from-folders"),
    ],
)
def test_songs_in_the_place_of_a_data_folder_need_extraction(
    script, tmp_path, monkeypatch, capsys, command, folder, expected
):
    """That is said before all else, as that there is a finished run."""
    monkeypatch.chdir(tmp_path)
    Path("my music/Rock").mkdir(parents=True)
    Path("my music/Rock/a.mp3").touch()
    Path("run").mkdir()
    Path("run/metrics.json").touch()
    name, *flags = command
    out = ("--out", "run") if flags else ()
    assert script(name).main([*flags, folder, *out]) == 2
    assert capsys.readouterr().err == (
        f"error: Expected a data folder, got songs in {folder}: make a data folder with "
        f"mtmusic extract-features '{folder}' {expected}\n"
    )

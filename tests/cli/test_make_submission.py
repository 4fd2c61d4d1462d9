"""make_submission.py: every test clip, in the scored format, in the order of the label file's header."""

import csv
import random
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from mtmusic.data.spectrograms import read_spectrogram, write_array
from tests.folders import tiny_array, write_tiny_affect_folder, write_tiny_genre_folder

SHORT = ("--batch-size", "8", "--epochs", "2", "--learning-rate", "0.01")
FLAT_CNN = ("--pooling", "flatten", "--frames", "16", *SHORT)
LSTM = ("--backbone", "lstm", "--units", "8", *SHORT)
TASKS = ["valence", "energy", "danceability"]

pytestmark = pytest.mark.usefixtures("small_cnn")


def train(script, folder: Path, out: Path, *flags: str, network: tuple[str, ...] = FLAT_CNN) -> Path:
    assert script("train_affect").main(["--data", str(folder), "--out", str(out), *network, *flags]) == 0
    return out


@pytest.fixture(scope="module")
def finished(script, tmp_path_factory) -> tuple[Path, Path]:
    """A data folder and a multitask run. Not to be changed."""
    place = tmp_path_factory.mktemp("finished")
    folder = write_tiny_affect_folder(place / "affect_beat", test=12)
    return folder, train(script, folder, place / "run", "--multitask", network=LSTM)


def submit(script, model: Path | list[Path], folder: Path, out: Path, *flags: str) -> int:
    models = model if isinstance(model, list) else [model]
    return script("make_submission").main(
        ["--model", *map(str, models), "--data", str(folder), "--out", str(out), *flags]
    )


def read(path: Path) -> tuple[list[str], list[list[str]]]:
    header, *rows = csv.reader(path.read_text().splitlines())
    return header, rows


def test_the_lab_format_holds_every_test_clip_sorted_with_three_decimals(script, finished, tmp_path, capsys):
    folder, run = finished
    out = tmp_path / "solution.txt"
    assert submit(script, run, folder, out) == 0
    header, rows = read(out)
    assert header == ["Id.fused.full.npy.gz", *TASKS]
    assert [row[0] for row in rows] == [f"{number}.fused.full.npy.gz" for number in range(1000, 1012)]
    model = keras.models.load_model(run / "model.keras")
    for row in rows:
        clip = read_spectrogram(folder / "test" / f"{row[0].split('.')[0]}.fused.full.npy", "mel")
        assert [float(cell) for cell in row[1:]] == pytest.approx(
            model.predict(clip[None], verbose=0)[0].tolist(), abs=6e-4
        )
        assert all(len(cell) == 5 and 0 <= float(cell) <= 1 for cell in row[1:])
    printed = capsys.readouterr().out
    assert f"kaggle competitions submit -c multitask-affective-music-lab-2022 -f {out}" in printed
    assert submit(script, run, folder, out) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert submit(script, run, folder, out, "--overwrite") == 0


def test_the_plain_format_keeps_the_order_of_the_label_file(script, tmp_path, capsys, quick_figures):
    folder = write_tiny_affect_folder(tmp_path / "a_beat", tasks=("power", "calm"))
    (folder / "test" / "1000.fused.full.npy").rename(folder / "test" / "9.fused.full.npy")
    (folder / "test" / "._1001.fused.full.npy").write_bytes(b"a Mac's own")
    write_array(folder / "test" / "extra.fused.full.npy.gz", tiny_array(-30, 20, np.random.default_rng(0)))
    run = train(script, folder, tmp_path / "run", "--multitask")
    assert submit(script, run, folder, tmp_path / "plain.csv", "--header", "plain") == 0
    header, rows = read(tmp_path / "plain.csv")
    assert header == ["Id", "power", "calm"]
    assert [row[0] for row in rows] == ["9", "1001", "1002", "1003", "1004", "1005", "extra"]
    assert submit(script, run, folder, tmp_path / "lab.txt") == 2
    error = capsys.readouterr().err
    assert "Expected models of valence, energy, danceability for the lab's file, got power, calm" in error
    assert not (tmp_path / "lab.txt").exists()


def test_a_shuffled_label_file_gives_the_same_submission(script, finished, tmp_path, quick_figures):
    folder = Path(shutil.copytree(finished[0], tmp_path / "affect_beat"))
    path = folder / "train_labels.txt"
    header, *rows = path.read_text().splitlines()
    random.Random(0).shuffle(rows)
    path.write_text("\n".join([header, *rows]) + "\n")
    run = train(script, folder, tmp_path / "run", "--multitask", network=LSTM)
    for model, name in ((finished[1], "one"), (run, "other")):
        assert submit(script, model, folder, tmp_path / name) == 0
    assert (tmp_path / "one").read_text() == (tmp_path / "other").read_text()


def test_columns_go_by_name_where_the_model_has_another_order(script, tmp_path, quick_figures):
    folder = write_tiny_affect_folder(tmp_path / "a_beat", tasks=("danceability", "valence", "energy"))
    run = train(script, folder, tmp_path / "run", "--multitask")
    for header in ("lab", "plain"):
        assert submit(script, run, folder, tmp_path / header, "--header", header) == 0
    assert read(tmp_path / "plain")[0] == ["Id", "danceability", "valence", "energy"]
    assert read(tmp_path / "lab")[0][1:] == TASKS
    for plain, lab in zip(read(tmp_path / "plain")[1], read(tmp_path / "lab")[1], strict=True):
        assert lab[1:] == [plain[2], plain[3], plain[1]]


def test_models_of_one_task_each_make_one_file(script, finished, tmp_path, capsys, quick_figures):
    folder, _ = finished
    train(script, folder, tmp_path)
    models = [tmp_path / f"{task}_cnn" for task in ("energy", "valence", "danceability")]
    assert submit(script, models, folder, tmp_path / "solution.txt") == 0
    assert read(tmp_path / "solution.txt")[0][1:] == TASKS
    assert submit(script, models[:2], folder, tmp_path / "two.txt") == 2
    assert "or the missing models" in capsys.readouterr().err
    assert submit(script, [models[0], *models], folder, tmp_path / "four.txt") == 2
    assert "models of different tasks" in capsys.readouterr().err


def empty(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    (folder / "test").mkdir()


BAD = {
    "no test folder": (lambda f: shutil.rmtree(f / "test"), (), "test/"),
    "no arrays": (empty, (), "got none"),
    "a broken array": (lambda f: (f / "test" / "1003.fused.full.npy").write_bytes(b"x"), (), "1003.fused.full.npy"),
    "a name of another kind": (
        lambda f: (f / "test" / "1003.fused.full.npy").rename(f / "test" / "1003.beat.fused.full.npy"),
        (),
        "got 1003.beat.fused.full.npy",
    ),
    "a folder to write": (lambda f: None, ("--out", "."), "got ., which is not a file"),
    "another rate": (lambda f: None, ("--no-beat",), "Expected beat-synchronised clips"),
    "no such folder": (lambda f: None, ("--data", "nowhere"), "nowhere"),
}


@pytest.mark.parametrize(("spoil", "flags", "expected"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_and_no_file(script, finished, tmp_path, capsys, spoil, flags, expected):
    folder = Path(shutil.copytree(finished[0], tmp_path / "affect_beat"))
    spoil(folder)
    assert submit(script, finished[1], folder, tmp_path / "solution.txt", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["affect_beat"]


def test_a_genre_model_is_refused(script, finished, tmp_path, capsys, quick_figures):
    genre = write_tiny_genre_folder(tmp_path / "genre_beat")
    assert script("train_genre").main(["--data", str(genre), "--out", str(tmp_path / "genre"), *LSTM]) == 0
    assert submit(script, tmp_path / "genre", finished[0], tmp_path / "solution.txt") == 2
    assert "got a genre model" in capsys.readouterr().err


def test_a_file_that_does_not_hold_what_was_predicted_is_not_written(script, finished, tmp_path, capsys, monkeypatch):
    folder, run = finished

    def misread(path):
        return [str(number) for number in range(1000, 1012)], TASKS, np.zeros((12, 3))

    monkeypatch.setattr("mtmusic.training.submission.read_submission", misread)
    assert submit(script, run, folder, tmp_path / "solution.txt") == 2
    assert "to hold the predictions" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_the_unlabelled_real_clips_get_a_submission(script, real_data, tmp_path):
    folder = real_data / "emotify" / "multitask_dataset_beat"
    run = train(script, folder, tmp_path / "run", "--multitask", "--batch-size", "32")
    assert submit(script, run, folder, tmp_path / "plain.csv", "--header", "plain") == 0
    header, rows = read(tmp_path / "plain.csv")
    assert header == ["Id", "calmness", "power", "joyful_activation"]
    assert len(rows) == 100

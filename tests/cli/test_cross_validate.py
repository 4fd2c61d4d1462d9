"""cross_validate.py on tiny folders: what it writes is read and computed again."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from mtmusic.data.labels import read_affect_labels
from mtmusic.evaluation import bootstrap
from mtmusic.training import recipes
from mtmusic.training import train as training
from mtmusic.training.crossval import study as cross_validation
from tests.folders import write_tiny_affect_folder, write_tiny_genre_folder

FLAGS = ("--folds", "2", "--seeds", "2", "--epochs", "1")
TASKS = ["valence", "energy", "danceability"]


@pytest.fixture(scope="module", autouse=True)
def small(quick_module_figures):
    """Small networks, and few resamples."""
    with pytest.MonkeyPatch.context() as patched:
        lstm = replace(recipes.LAB_LSTM, units=4, batch_size=8)
        patched.setitem(recipes.NAMED_RECIPES, "lab-lstm", lstm)
        patched.setitem(recipes.NAMED_RECIPES, "lab-cnn", replace(recipes.LAB_CNN, blocks=((4, 3),), frames=16))
        patched.setattr(bootstrap, "RESAMPLES", 200)
        yield


def run(script, folder: Path, out: Path, *flags: str) -> int:
    return script("cross_validate").main(["--data", str(folder), "--out", str(out), *FLAGS, *flags])


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def answers(out: Path, name: str, fold: int, seed: int) -> list[dict[str, str]]:
    with (out / "predictions" / f"{name}_fold{fold}_seed{seed}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def genre(script, tmp_path_factory) -> tuple[Path, Path]:
    """A folder and its cross-validation. Not to be changed."""
    place = tmp_path_factory.mktemp("genre")
    folder = write_tiny_genre_folder(place / "tiny_beat")
    ids = [*range(1, 25), *range(1000, 1009)]
    (folder / "groups.csv").write_text("id,group\n" + "".join(f"{i},{i // 2}\n" for i in ids))
    assert run(script, folder, place / "out", "--recipe", "lab-cnn", "--baseline") == 0
    return folder, place / "out"


@pytest.fixture(scope="module")
def affect(script, tmp_path_factory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("affect")
    folder = write_tiny_affect_folder(place / "affect_beat", train=44)
    (folder / "test_labels.txt").write_text("Id," + ",".join(TASKS) + "\n")
    assert run(script, folder, place / "out", "--recipe", "lab-cnn", "--baseline") == 0
    return folder, place / "out"


def test_every_labelled_clip_is_tested_once_a_seed_and_no_group_is_in_two_folds(genre):
    for name, seeds in (("lab-cnn", (0, 1)), ("svc", (0,)), ("majority", (0,))):
        for seed in seeds:
            folds = [answers(genre[1], name, fold, seed) for fold in (1, 2)]
            assert sorted(int(row["id"]) for rows in folds for row in rows) == [*range(1, 25), *range(1000, 1009)]
            assert not {row["group"] for row in folds[0]} & {row["group"] for row in folds[1]}
    assert {row["split"] for row in folds[0]} == {"train", "test"}


def test_the_numbers_of_genre_are_those_of_the_answers(genre):
    results = read_json(genre[1] / "results.json")
    assert (results["kind"], results["clips"], results["groups"], results["seeds"]) == ("genre", 33, 18, [0, 1])
    for name, seeds in (("lab-cnn", (0, 1)), ("svc", (0,))):
        pairs = [
            [
                [[row[key] for row in answers(genre[1], name, fold, seed)] for key in ("true", "predicted")]
                for fold in (1, 2)
            ]
            for seed in seeds
        ]
        hits = [np.mean([accuracy_score(*fold) for fold in of_seed]) for of_seed in pairs]
        f1 = [np.mean([f1_score(*fold, average="macro", zero_division=0) for fold in of_seed]) for of_seed in pairs]
        row = results["recipes"][name]
        assert row["accuracy"]["mean"] == pytest.approx(np.mean(hits))
        assert row["macro_f1"]["mean"] == pytest.approx(np.mean(f1), abs=0.02)
        assert row["accuracy"]["sd"] == (pytest.approx(np.std(hits, ddof=1)) if len(seeds) > 1 else None)
        assert row["accuracy"]["low"] <= row["accuracy"]["mean"] <= row["accuracy"]["high"]
    pairs = [f"{row['first']} {row['second']}" for row in results["comparisons"]]
    assert pairs == ["lab-cnn svc", "lab-cnn majority", "svc majority"]
    costs = results["recipes"]["lab-cnn"]["costs"]
    assert costs["parameters"] == 9 * 4 + 4 * 4 + (8 * 64 * 4 * 3 + 3)
    assert costs["milliseconds_per_clip"] > 0
    assert results["recipes"]["svc"]["costs"]["seconds_per_epoch"] is None


def test_the_numbers_of_affect_are_those_of_the_answers(affect):
    folder, out = affect
    results = read_json(out / "results.json")
    labels = read_affect_labels(folder)
    rho = np.zeros((2, 2, 3))
    for fold in (1, 2):
        for seed in (0, 1):
            rows = answers(out, "lab-cnn", fold, seed)
            for i, task in enumerate(TASKS):
                true = [labels.targets[labels.ids.index(row["id"]), i] for row in rows]
                rho[fold - 1, seed, i] = stats.spearmanr(true, [float(row[task]) for row in rows]).statistic
    row = results["recipes"]["lab-cnn"]
    assert row["rho"]["mean"] == pytest.approx(rho.mean())
    assert row["rho"]["sd"] == pytest.approx(rho.mean(axis=(0, 2)).std(ddof=1))
    for i, task in enumerate(TASKS):
        assert row[f"rho_{task}"]["mean"] == pytest.approx(rho[:, :, i].mean())
    assert results["recipes"]["mean"]["rho"] == {"mean": 0.0, "sd": None, "low": 0.0, "high": 0.0}
    assert list(results["recipes"]) == ["lab-cnn", "svr", "ridge", "mean"]


def test_the_page_holds_everything_and_nothing_from_elsewhere(genre, affect):
    for _, out in (genre, affect):
        page = (out / "report.html").read_text()
        assert "mtmusic cross-validate --data" in page
        assert "milliseconds per clip" in page
        assert 'src="http' not in page
        assert page.count("<img ") == (4 if out == genre[1] else 5)


def test_a_stopped_run_goes_on_and_does_nothing_twice(script, genre_folder, tmp_path, monkeypatch, capsys):
    trained: list[tuple[int, int]] = []
    original = cross_validation._train

    def train(study, training):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((training.fold, training.seed))
        original(study, training)

    monkeypatch.setattr(cross_validation, "_train", train)
    out = tmp_path / "out"
    assert run(script, genre_folder, out, "--recipe", "lab-cnn") == 130
    kept = {path: path.read_bytes() for path in (out / "predictions").iterdir()}
    assert len(kept) == 4
    assert not (out / "results.json").exists()
    again: list[tuple[int, int]] = []
    monkeypatch.setattr(
        cross_validation, "_train", lambda study, one: (again.append((one.fold, one.seed)), original(study, one))
    )
    assert run(script, genre_folder, out, "--recipe", "lab-cnn") == 0
    assert sorted(trained + again) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert run(script, genre_folder, out, "--recipe", "lab-cnn", "--baseline") == 0
    assert len(again) == 2 + 4
    monkeypatch.setattr(cross_validation, "_train", original)
    assert run(script, genre_folder, out, "--baseline") == 0  # what was finished stays beside it
    assert list(read_json(out / "results.json")["recipes"]) == ["svc", "majority", "lab-cnn"]
    assert run(script, genre_folder, out, "--baseline", "--epochs", "2") == 0
    assert "Left out: lab-cnn, which was trained here with other settings or seeds" in capsys.readouterr().out


def test_what_is_overwritten_stands_until_the_new_one_is_whole(script, genre, tmp_path, monkeypatch):
    folder, out = genre[0], Path(shutil.copytree(genre[1], tmp_path / "out"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def stop(study, training):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cross_validation, "_train", stop)
        assert run(script, folder, out, "--baseline", "--folds", "3", "--overwrite") == 130
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert run(script, folder, out, "--baseline", "--folds", "3", "--overwrite") == 0
    assert read_json(out / "results.json")["folds"] == 3
    assert not list((out / "predictions").glob("lab-cnn*"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_settings_are_refused(script, genre, tmp_path, capsys):
    folder = genre[0]
    out = Path(shutil.copytree(genre[1], tmp_path / "out"))
    assert run(script, folder, out, "--recipe", "lab-lstm", "--folds", "3", "--seed", "1") == 2
    assert "it was made with other folds and seed; give the same settings" in capsys.readouterr().err
    assert run(script, folder, out, "--recipe", "lab-cnn", "--epochs", "2") == 2
    assert "lab-cnn was trained there with other settings" in capsys.readouterr().err
    (out / "predictions" / "svc_fold1_seed0.csv").write_text("id\n1\n")
    assert run(script, folder, out, "--baseline") == 2
    assert "Expected the predictions of a training in" in capsys.readouterr().err
    for broken in (out / "predictions" / "svc_fold1_seed0.json", out / "results.json", out / "settings.json"):
        broken.write_text("{")
        assert run(script, folder, out, "--baseline") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"Expected a file of a cross-validation, got {broken}" in line


def test_devices_reach_each_training(script, genre, tmp_path, monkeypatch, capsys):
    given, original = [], training.fit

    def fit(*arguments, devices, **others):
        given.append(devices)
        return original(*arguments, **others)

    monkeypatch.setattr(training, "fit", fit)
    for module in (training, cross_validation):
        monkeypatch.setattr(module, "find_devices", lambda wanted: [f"CPU:{n}" for n in range(int(wanted))])
    assert run(script, genre[0], tmp_path / "out", "--recipe", "lab-lstm", "--seeds", "1", "--devices", "2") == 0
    assert given == [["CPU:0", "CPU:1"]] * 2
    assert run(script, genre[0], tmp_path / "out", "--recipe", "lab-lstm", "--devices", "9") == 2
    assert "Expected --devices of 8 at most, got 9: each gets a part" in capsys.readouterr().err


BAD = {
    "many devices": ("genre", ("--devices", "9"), "--devices of"),
    "one fold": ("genre", ("--folds", "1"), "--folds of 2 or more"),
    "no seed": ("genre", ("--seeds", "0"), "--seeds of 1 or more"),
    "no epoch": ("genre", ("--epochs", "0"), "--epochs of 1 or more"),
    "no frame": ("genre", ("--frames", "0"), "--frames of 1 or more"),
    "no share": ("genre", ("--shares", "0", "50"), "Expected --shares from 1 to 100 percent, got 0"),
    "unknown recipe": ("genre", ("--recipe", "leder"), "got leder"),
    "task of genre": ("genre", ("--task", "valence"), "got a genre folder"),
    "classes of affect": ("affect", ("--classes", "all"), "got an affect folder"),
    "unknown task": ("affect", ("--task", "joy"), "Expected a task among valence, energy, danceability, got joy"),
    "no such groups": ("affect", ("--groups", "nowhere.csv"), "columns id,group, got no such file: nowhere.csv"),
    "largest seed": ("genre", ("--seed", "4294967295", "--seeds", "2"), "seeds up to 4294967295"),
    "too many folds": ("genre", ("--folds", "30"), "Too few clips for 30 folds"),
    "no folder": ("nowhere", (), "no such folder"),
}


@pytest.mark.parametrize(("kind", "flags", "expected"), BAD.values(), ids=BAD)
def test_what_cannot_be_done_is_told_in_one_line(script, genre, affect, tmp_path, capsys, kind, flags, expected):
    folder = {"genre": genre[0], "affect": affect[0], "nowhere": tmp_path / "nowhere"}[kind]
    assert run(script, folder, tmp_path / "out", "--recipe", "lab-lstm", *flags) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_best_recipe_has_the_clips_to_learn_from_as_centres(script, affect, tmp_path):
    assert run(script, affect[0], tmp_path / "out", "--recipe", "best", "--seeds", "1") == 0
    costs = read_json(tmp_path / "out" / "results.json")["recipes"]["best"]["costs"]
    tested = [len(answers(tmp_path / "out", "best", fold, 0)) for fold in (1, 2)]

    def parameters(centres: int) -> int:
        """Biases; mean and deviation; of each centre its features, its row of the whitening, its weights of 3 tasks."""
        return 3 + 2 * 325 + centres * (325 + centres + 3)

    assert parameters(10) < costs["parameters"] < parameters(max(tested))


def test_one_task_is_learnt_alone(script, affect, tmp_path):
    assert run(script, affect[0], tmp_path / "out", "--task", "energy", "--recipe", "lab-lstm", "--seeds", "1") == 0
    row = read_json(tmp_path / "out" / "results.json")["recipes"]["lab-lstm"]
    assert row["rho"] == row["rho_energy"]
    assert "rho_valence" not in row


def test_few_groups_and_clips_without_one_are_told(script, genre_folder, tmp_path, capsys):
    ids = [*range(1, 25), *range(1000, 1009)]
    (tmp_path / "groups.csv").write_text("id,group\n" + "".join(f"{i},{i % 12}\n" for i in ids[2:]))
    flags = ("--baseline", "--groups", str(tmp_path / "groups.csv"))
    assert run(script, genre_folder, tmp_path / "out", *flags) == 0
    printed = capsys.readouterr().out
    assert "2 of 33 clips are in no group" in printed
    assert "groups. Intervals are drawn over groups, so they are too narrow" in printed


def test_a_task_alone_has_a_folder_of_its_own_and_needs_labels(script, affect, tmp_path, monkeypatch, capsys):
    folder = Path(shutil.copytree(affect[0], tmp_path / "affect_beat"))
    monkeypatch.chdir(tmp_path)
    assert script("cross_validate").main(["--data", str(folder), "--baseline", "--task", "energy", *FLAGS]) == 0
    assert (tmp_path / "saved_models" / "cross_validation_affect_beat_energy" / "report.html").is_file()
    labels = (folder / "train_labels.txt").read_text().splitlines()
    column = labels[0].split(",").index("energy")
    emptied = [row.split(",") for row in labels[1:]]
    for row in emptied:
        row[column] = ""
    (folder / "train_labels.txt").write_text("\n".join([labels[0], *map(",".join, emptied)]) + "\n")
    capsys.readouterr()
    assert run(script, folder, tmp_path / "out", "--task", "energy", "--baseline") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Expected labels of energy, got none in {folder}" in line


def test_strict_looks_at_labels_too(script, affect, tmp_path, capsys):
    folder = Path(shutil.copytree(affect[0], tmp_path / "affect_beat"))
    labels = (folder / "train_labels.txt").read_text().splitlines()
    emptied = [row.rpartition(",")[0] + "," if number % 3 == 1 else row for number, row in enumerate(labels)]
    (folder / "train_labels.txt").write_text("\n".join(emptied) + "\n")
    assert run(script, folder, tmp_path / "out", "--baseline", "--strict") == 2
    assert "danceability" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_fold_needs_two_classes_to_learn_from(script, tmp_path, capsys):
    folder = write_tiny_genre_folder(tmp_path / "tiny_beat", ("Folk", "Rock"))
    rows = [
        row.split("\t")
        for name in ("train", "test")
        for row in (folder / f"{name}_labels.txt").read_text().splitlines()[1:]
    ]
    of_one = "".join(f"{name.partition('.')[0]},{'all' if genre == 'Folk' else name}\n" for name, genre in rows)
    (folder / "groups.csv").write_text("id,group\n" + of_one)
    assert run(script, folder, tmp_path / "out", "--baseline") == 2
    assert "Expected two classes or more, got only Rock among the training clips" in capsys.readouterr().err


@pytest.mark.real
def test_baselines_of_real_clips_hear_more_than_the_majority(script, real_data, tmp_path):
    folder = real_data / "emotify" / "fma_genre_spectrograms_beat"
    main = script("cross_validate").main
    assert main(["--data", str(folder), "--baseline", "--out", str(tmp_path / "out")]) == 0
    results = read_json(tmp_path / "out" / "results.json")
    assert results["clips"] == 400
    assert results["recipes"]["svc"]["accuracy"]["mean"] > 0.55
    assert results["recipes"]["majority"]["accuracy"]["mean"] < 0.35
    assert results["comparisons"][0]["accuracy"]["low"] > 0.2

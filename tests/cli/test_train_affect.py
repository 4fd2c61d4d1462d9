"""train_affect.py, evaluate.py and compare_runs.py on tiny folders: what they write is read."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import stats

from mtmusic.data.labels import read_affect_labels
from tests import faults
from tests.folders import PROJECT, write_tiny_affect_folder, write_tiny_genre_folder

TINY_LSTM = ("--backbone", "lstm", "--units", "8", "--batch-size", "8", "--epochs", "3", "--learning-rate", "0.01")
TINY = ("--pooling", "flatten", "--frames", "16", "--batch-size", "8", "--epochs", "3", "--learning-rate", "0.01")

pytestmark = pytest.mark.usefixtures("small_cnn")
TINY_CNN = ("--frames", "16", "--batch-size", "8", "--epochs", "1")
TASKS = ["valence", "energy", "danceability"]
RUN_FILES = {
    "model.keras", "card.json", "metrics.json", "predictions.csv", "history.csv", "clips.csv", "figures", "report.html",
    "examples.npz",
}  # fmt: skip


def train(script, folder: Path, out: Path, *flags: str) -> int:
    return script("train_affect").main(["--data", str(folder), "--out", str(out), *flags])


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(script, tmp_path_factory) -> tuple[Path, Path]:
    """A data folder, and a multitask run that was trained on it, pictures and all. Not to be changed."""
    place = tmp_path_factory.mktemp("finished")
    folder = write_tiny_affect_folder(place / "affect_beat")
    assert train(script, folder, place / "affect_lstm", "--multitask", *TINY_LSTM) == 0
    return folder, place / "affect_lstm"


def test_a_run_holds_all_that_the_contract_names(finished):
    folder, out = finished
    assert {path.name for path in out.iterdir()} == RUN_FILES
    card, metrics = read_json(out / "card.json"), read_json(out / "metrics.json")
    assert (card["task"], card["targets"], card["feature"], card["beat"]) == ("affect", TASKS, "mel", True)
    assert card["label_means"]["valence"] == pytest.approx(0.5, abs=0.2)
    assert card["data"]["labels"]["train"]["energy"] == card["data"]["clips"]["train"]
    assert sum(card["data"]["clips"].values()) == 30
    assert set(metrics["weights"]) == set(TASKS)
    assert "log_variances" not in metrics
    assert metrics["model_trained_on"] == metrics["judged_model_trained_on"] == "train"

    rows = [row for row in read_csv(out / "predictions.csv") if row["split"] == "test"]
    assert len(rows) == card["data"]["clips"]["test"]
    for task in TASKS:
        true, predicted = (np.array([float(row[name]) for row in rows]) for name in (f"true_{task}", task))
        assert metrics["test"]["spearman"][task] == pytest.approx(stats.spearmanr(true, predicted).statistic)
        assert metrics["test"]["per_task"][task]["mse"] == pytest.approx(np.mean((true - predicted) ** 2), rel=1e-3)
        constant = np.mean((true - card["label_means"][task]) ** 2)
        assert metrics["test"]["per_task"][task]["mse_constant"] == pytest.approx(constant, rel=1e-3)
    labels = read_affect_labels(folder)
    at = labels.ids.index(rows[0]["id"])
    assert [float(rows[0][f"true_{task}"]) for task in TASKS] == pytest.approx(labels.targets[at].tolist())

    examples = np.load(out / "examples.npz")
    model = keras.models.load_model(out / "model.keras")
    np.testing.assert_allclose(model.predict(examples["spectrogram"], verbose=0), examples["prediction"], atol=1e-5)
    assert {path.stem for path in (out / "figures").iterdir()} == {
        "learning_curves", "scatter_test", "scatter_validation", "calibration_test", "residuals_test",
        "value_histograms", "spectrograms",
    }  # fmt: skip


def test_the_best_epoch_is_the_one_of_the_lowest_normalised_validation_error(finished):
    _, out = finished
    history = read_csv(out / "history.csv")
    assert {"val_normalized_mse", "val_spearman", "val_spearman_energy", "normalized_mse"} <= set(history[0])
    errors = [float(row["val_normalized_mse"]) for row in history]
    metrics = read_json(out / "metrics.json")
    assert metrics["best_epoch"] == int(np.argmin(errors)) + 1
    validation = metrics["validation"]
    variances = {task: 1 / weight for task, weight in metrics["weights"].items()}  # the default weights
    expected = np.mean([validation["per_task"][task]["mse"] / variances[task] for task in TASKS])
    assert min(errors) == pytest.approx(expected, rel=1e-3)
    best = history[metrics["best_epoch"] - 1]
    assert float(best["val_spearman"]) == pytest.approx(validation["spearman"]["mean"], abs=1e-5)


def test_clips_csv_tells_content_and_what_was_learnt(finished):
    _, out = finished
    rows = read_csv(out / "clips.csv")
    assert {row["split"]: row["trained"] for row in rows} == {"train": "1", "validation": "0", "test": "0"}
    assert len({row["content"] for row in rows}) == len(rows) == 30


def test_each_task_is_trained_in_turn_into_the_parent(script, affect_folder, tmp_path, quick_figures, capsys):
    out = tmp_path / "runs"
    assert train(script, affect_folder, out, *TINY, "--epochs", "1") == 0
    assert sorted(path.name for path in out.iterdir()) == ["danceability_cnn", "energy_cnn", "valence_cnn"]
    cards = [read_json(out / f"{task}_cnn" / "card.json") for task in TASKS]
    assert [(card["task"], card["targets"]) for card in cards] == [(task, [task]) for task in TASKS]
    tests = [[row["id"] for row in read_csv(out / f"{task}_cnn" / "predictions.csv")] for task in TASKS]
    assert tests[0] == tests[1] == tests[2]
    assert train(script, affect_folder, out, *TINY, "--epochs", "1") == 2
    assert "valence_cnn holds a finished run" in capsys.readouterr().err
    shutil.rmtree(out / "energy_cnn")
    assert train(script, affect_folder, out, *TINY, "--epochs", "1", "--resume") == 0
    assert (out / "energy_cnn" / "report.html").is_file()
    assert capsys.readouterr().out.count("is a finished run. There is nothing to resume") == 2


@pytest.mark.parametrize(
    "flags",
    [
        ("--task", "energy", *TINY_CNN, "--pooling", "flatten", "--overfit-batch", "--learning-rate", "0.01"),
        ("--multitask", *TINY_LSTM, "--loss", "huber", "--weights", "valence=.4,energy=.2,danceability=.2"),
        ("--multitask", "--pooling", "masked", "--feature", "fused", *TINY_CNN[2:]),
        ("--task", "valence", *TINY, "--subset", "20", "--validation", "0.25", "--test", "0.34"),
    ],
    ids=["one cnn", "weighted huber", "masked fused", "subset"],
)
def test_every_network_trains(script, affect_folder, tmp_path, flags, quick_figures, capsys):
    out = tmp_path / "run"
    assert train(script, affect_folder, out, *flags) == 0
    metrics = read_json(out / "metrics.json")
    assert np.isfinite(metrics["test"]["spearman"]["mean"])
    if "--weights" in flags:
        assert metrics["weights"] == {"valence": 0.4, "energy": 0.2, "danceability": 0.2}
    if "--overfit-batch" in flags:
        assert "Overfit check: three batches, normalized_mse" in capsys.readouterr().out
    if "--subset" in flags:
        clips = read_json(out / "card.json")["data"]["clips"]
        assert clips["train"] + clips["validation"] == 20
        assert clips["test"] == 10


def test_two_runs_with_one_seed_are_equal_and_learned_weights_are_told(script, affect_folder, tmp_path, quick_figures):
    flags = ("--multitask", "--learned-weights", *TINY)
    metrics = []
    for name in ("a", "b"):
        assert train(script, affect_folder, tmp_path / name, *flags, "--seed", "5") == 0
        metrics.append(read_json(tmp_path / name / "metrics.json"))
        metrics[-1].pop("seconds_per_epoch")
    assert metrics[0] == metrics[1]
    model = keras.models.load_model(tmp_path / "a" / "model.keras")
    learned = model.get_layer("uncertainty").log_variances.numpy()
    np.testing.assert_allclose([metrics[0]["log_variances"][task] for task in TASKS], learned, rtol=1e-6)
    np.testing.assert_allclose([metrics[0]["weights"][task] for task in TASKS], np.exp(-learned) / 2, rtol=1e-5)
    start = np.log(np.var(read_affect_labels(affect_folder).targets, axis=0))
    assert np.abs(learned - start).max() < 1  # moved from about there
    assert not np.allclose(learned, start)


def test_missing_labels_are_left_out_by_task(script, affect_folder, tmp_path, quick_figures):
    path = affect_folder / "train_labels.txt"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for number, row in enumerate(rows[1:]):
        if number % 3 == 0:
            row[2] = ""
    path.write_text("\n".join(",".join(row) for row in rows))
    assert train(script, affect_folder, tmp_path / "run", "--multitask", *TINY) == 0
    metrics, card = (read_json(tmp_path / "run" / name) for name in ("metrics.json", "card.json"))
    assert metrics["test"]["per_task"]["energy"]["clips"] < metrics["test"]["clips"]
    assert sum(card["data"]["labels"][split]["energy"] for split in card["data"]["labels"]) == 20
    written = read_csv(tmp_path / "run" / "predictions.csv")
    assert "" in {row["true_energy"] for row in written}
    assert "" not in {row["energy"] for row in written}


def test_retraining_on_all_judges_before_it_learns_the_test_part(script, affect_folder, tmp_path, quick_figures):
    flags = ("--multitask", *TINY)
    assert train(script, affect_folder, tmp_path / "plain", *flags) == 0
    assert train(script, affect_folder, tmp_path / "all", *flags, "--retrain-on-all") == 0
    plain, everything = (read_json(tmp_path / name / "metrics.json") for name in ("plain", "all"))
    assert everything["test"] == plain["test"]
    assert everything["model_trained_on"] == "train+validation+test"
    assert everything["judged_model_trained_on"] == "train"
    assert {row["trained"] for row in read_csv(tmp_path / "all" / "clips.csv")} == {"1"}
    page = (tmp_path / "all" / "report.html").read_text()
    assert "The test scores are those of a model that was trained on train only" in page
    assert "The test scores are those of" not in (tmp_path / "plain" / "report.html").read_text()
    models = [keras.models.load_model(tmp_path / name / "model.keras") for name in ("plain", "all")]
    assert not np.array_equal(models[0].get_weights()[0], models[1].get_weights()[0])

    labelled = write_tiny_affect_folder(tmp_path / "labelled_beat", test_labels=True)
    assert train(script, labelled, tmp_path / "both", *flags, "--retrain-on-all") == 0
    both = read_json(tmp_path / "both" / "metrics.json")
    assert both["model_trained_on"] == both["judged_model_trained_on"] == "train+validation"


def test_a_killed_multitask_run_resumes_with_its_learned_weights(script, affect_folder, tmp_path, quick_figures):
    flags = ["--multitask", "--learned-weights", *TINY_LSTM[:6], "--epochs", "14", "--learning-rate", "0.02"]
    assert train(script, affect_folder, tmp_path / "straight", *flags) == 0
    straight = read_json(tmp_path / "straight" / "metrics.json")

    out, work = tmp_path / "run", tmp_path / "run.partial" / "checkpoints"
    command = [sys.executable, "-c", faults.WITH_EVERY_CHECKPOINT, "train_affect"]
    command += ["--data", str(affect_folder), "--out", str(out), *flags]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(work.glob("epoch-00005")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    record = read_json(max(work.glob("epoch-*")) / "record.json")
    assert 5 <= record["epochs"] < straight["epochs"]

    assert train(script, affect_folder, out, *flags, "--resume") == 0
    history = [read_csv(path / "history.csv") for path in (tmp_path / "straight", out)]
    assert history[1][: record["epochs"]] == history[0][: record["epochs"]]
    errors = [float(row["val_normalized_mse"]) for row in history[1]]
    resumed = read_json(out / "metrics.json")
    assert resumed["best_epoch"] == int(np.argmin(errors)) + 1
    assert set(resumed["log_variances"]) == set(TASKS)


def edit_labels(edit):
    def spoil(folder: Path) -> None:
        path = folder / "train_labels.txt"
        path.write_text("\n".join(edit([line.split(",") for line in path.read_text().splitlines()])))

    return spoil


def cells(change):
    """Changes the cells of the first clip's row."""

    def edit(rows):
        change(rows[1])
        return [",".join(row) for row in rows]

    return edit_labels(edit)


def constant(rows):
    return [",".join(row if i == 0 else [*row[:3], "0.5"]) for i, row in enumerate(rows)]


def nothing(folder: Path) -> None:
    pass


BAD = {
    "label over one": (cells(lambda row: row.__setitem__(1, "1.2")), (), "line 2: expected labels from 0 to 1"),
    "label below zero": (cells(lambda row: row.__setitem__(1, "-0.1")), (), "line 2: expected labels from 0 to 1"),
    "no number": (cells(lambda row: row.__setitem__(1, "high")), (), "line 2: could not convert"),
    "missing column": (cells(lambda row: row.pop()), (), "line 2: expected 4 columns, got 3"),
    "duplicate id": (cells(lambda row: row.__setitem__(0, "2")), (), "the id 2 has a second row"),
    "no array": (lambda f: (f / "train" / "1.fused.full.npy").unlink(), (), "no array 1.fused.full.npy"),
    "constant labels": (edit_labels(constant), (), "labels of danceability that differ"),
    "task unknown": (nothing, ("--task", "arousal"), "Expected tasks among valence, energy, danceability, got arousal"),
    "weights for one task": (nothing, ("--task", "energy", "--weights", "energy=1"), "with --multitask"),
    "weights incomplete": (nothing, ("--multitask", "--weights", "valence=1"), "got no weight of energy, danceability"),
    "weights negative": (nothing, ("--multitask", "--weights", "valence=-1,energy=1,danceability=1"), "0 or more"),
    "weights unknown": (
        nothing,
        ("--multitask", "--weights", "a=1,valence=1,energy=1,danceability=1"),
        "got a weight of a",
    ),
    "unfreeze without freeze": (nothing, ("--unfreeze-after", "3"), "Expected --from with --freeze"),
    "test share": (nothing, ("--test", "1.5"), "between 0 and 1"),
    "too few artists": (nothing, ("--test", "0.05"), "Too few clips"),
    "diverged": (nothing, ("--task", "energy", "--learning-rate", "1e38"), "lower --learning-rate"),
    "a name that is taken": (
        edit_labels(lambda rows: [",".join([*row[:3], "mean" if i == 0 else row[3]]) for i, row in enumerate(rows)]),
        (),
        "Expected task names that mtmusic's files do not use, got mean",
    ),
    "names of one folder": (
        edit_labels(
            lambda rows: [",".join(["Id", "a b", "a_b", "c"] if i == 0 else row) for i, row in enumerate(rows)]
        ),
        (),
        "Expected tasks whose runs' folders differ",
    ),
    "out is here": (nothing, ("--task", "energy", "--out", "."), "a folder with a name, got ."),
    "no folder": (nothing, ("--data", "nowhere"), "no such folder"),
}


@pytest.mark.parametrize(("spoil", "flags", "expected"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_exit_code_2_and_nothing_written(
    script, affect_folder, tmp_path, capsys, spoil, flags, expected
):
    spoil(affect_folder)
    assert train(script, affect_folder, tmp_path / "run", *TINY_LSTM, *flags) == 2
    *others, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert expected in error
    assert all(line.startswith("Training:") for line in others if line)  # the progress line
    assert [path.name for path in tmp_path.iterdir()] == ["affect_beat"]


def test_genre_and_affect_folders_are_told_apart(script, affect_folder, genre_folder, tmp_path, capsys):
    assert train(script, genre_folder, tmp_path / "run", *TINY) == 2
    assert "mtmusic train-genre takes genre folders" in capsys.readouterr().err
    assert script("train_genre").main(["--data", str(affect_folder), "--out", str(tmp_path / "run")]) == 2
    assert "mtmusic train-affect takes affect folders" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["valence", "valence=x", "a=1,a=2"])
def test_weights_are_task_and_number(script, affect_folder, tmp_path, text, capsys):
    with pytest.raises(SystemExit) as ended:
        train(script, affect_folder, tmp_path / "run", "--multitask", "--weights", text)
    assert ended.value.code == 2
    assert "--weights" in capsys.readouterr().err


def test_evaluate_judges_an_affect_model_as_its_training_did(script, finished, tmp_path, capsys, quick_figures):
    folder, run = finished[0], Path(shutil.copytree(finished[1], tmp_path / "run"))
    main = script("evaluate").main
    assert main(["--model", str(run), "--data", str(folder)]) == 2
    assert "give --split train" in capsys.readouterr().err
    assert main(["--model", str(run), "--data", str(folder), "--split", "train"]) == 0
    printed = capsys.readouterr().out
    assert "spearman" in printed
    learnt = sum(int(row["trained"]) for row in read_csv(run / "clips.csv"))
    assert f"The model was trained on {learnt} of these 30 clips, by content" in printed
    page = (run / "evaluations" / "affect_beat_train" / "report.html").read_text()
    assert f"The model was trained on {learnt} of these clips." in page
    out = run / "evaluations" / "affect_beat_train"
    everything = {row["id"]: row for row in read_csv(out / "predictions.csv")}
    assert len(everything) == 30
    for row in read_csv(run / "predictions.csv"):
        again = everything[row["id"]]
        assert [float(again[task]) for task in TASKS] == pytest.approx([float(row[task]) for task in TASKS], abs=1e-5)
    two = write_tiny_affect_folder(tmp_path / "two_beat", tasks=("valence", "energy"), test_labels=True)
    assert main(["--model", str(run), "--data", str(two)]) == 2
    assert "Expected tasks among valence, energy, got danceability" in capsys.readouterr().err
    assert main(["--model", str(run), "--data", str(folder), "--split", "train", "--no-beat"]) == 2
    assert "beat-synchronised" in capsys.readouterr().err
    assert main(["--model", str(run), "--data", str(folder), "--split", "train", "--classes", "all"]) == 2
    assert "with a genre model only" in capsys.readouterr().err


def test_runs_are_compared_on_the_clips_that_they_judged(script, finished, tmp_path, capsys, quick_figures):
    folder, multitask = finished
    assert train(script, folder, tmp_path, *TINY) == 0
    main, joined = script("compare_runs").main, "+".join(str(tmp_path / f"{task}_cnn") for task in TASKS)
    capsys.readouterr()
    assert main([str(multitask), joined, str(tmp_path / "energy_cnn"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "Spearman's rho on the same" in printed
    comparison = read_json(tmp_path / "out" / "comparison.json")
    assert (tmp_path / "out" / "figures" / "comparison.png").is_file()
    rho = {task: read_json(tmp_path / f"{task}_cnn" / "metrics.json")["test"]["spearman"][task] for task in TASKS}
    assert {task: comparison["runs"][joined][task]["value"] for task in TASKS} == pytest.approx(rho, abs=1e-6)
    ours = read_json(multitask / "metrics.json")["test"]["spearman"]
    difference = comparison["differences"][joined]["mean"]
    assert difference["value"] == pytest.approx(ours["mean"] - np.mean(list(rho.values())), abs=1e-6)
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert set(comparison["differences"][str(tmp_path / "energy_cnn")]) == {"energy"}


def test_runs_that_cannot_be_compared_are_refused(script, finished, tmp_path, capsys, quick_figures):
    _, multitask = finished
    main = script("compare_runs").main
    renamed, relabelled = (Path(shutil.copytree(multitask, tmp_path / name)) for name in ("renamed", "relabelled"))
    rows = (multitask / "predictions.csv").read_text().splitlines()
    assert main([str(multitask), str(shutil.copytree(multitask, tmp_path / "a+b"))]) == 0
    (renamed / "predictions.csv").write_text("\n".join(f"9{row}" if number else row for number, row in enumerate(rows)))
    cells = rows[-1].split(",")
    (relabelled / "predictions.csv").write_text("\n".join([*rows[:-1], ",".join([*cells[:2], "0.1234", *cells[3:]])]))
    genre = write_tiny_genre_folder(tmp_path / "genre_beat")
    assert script("train_genre").main(["--data", str(genre), "--out", str(tmp_path / "genre"), *TINY]) == 0
    capsys.readouterr()
    assert main([str(multitask), str(renamed)]) == 0
    assert "renamed was evaluated on 6 other clips, so it has no difference" in capsys.readouterr().out
    assert main([str(multitask), str(relabelled)]) == 0
    assert "relabelled was evaluated on 6 other clips, so it has no difference" in capsys.readouterr().out
    for runs, expected in (
        ([multitask], "two runs or more"),
        ([multitask, multitask], "each run once"),
        ([multitask, tmp_path / "nowhere"], "model.keras"),
        ([multitask, tmp_path / "genre"], "only runs of affect, got both"),
        ([multitask, f"{tmp_path / 'genre'}+{multitask}"], "joined runs of affect, got a genre run"),
        ([multitask, f"{multitask}+{renamed}"], "joined runs of different tasks"),
        ([multitask, f"{multitask}+{multitask}"], "joined runs of different tasks"),
    ):
        assert main([str(run) for run in runs]) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert len(error.splitlines()) == 1


@pytest.mark.real
def test_real_clips_train_and_are_judged(script, real_data, tmp_path):
    folder = real_data / "emotify" / "multitask_dataset_beat"
    assert train(script, folder, tmp_path / "run", "--multitask", *TINY, "--batch-size", "32") == 0
    card = read_json(tmp_path / "run" / "card.json")
    assert card["targets"] == ["calmness", "power", "joyful_activation"]
    assert sum(card["data"]["clips"].values()) == 300


def test_strict_looks_at_the_tasks_that_are_trained(script, affect_folder, tmp_path, capsys, quick_figures):
    faults.cells(slice(0, None, 3), lambda row: [*row[:-1], ""])(affect_folder)  # a third of danceability
    flags = ["--data", str(affect_folder), "--out", str(tmp_path / "run"), *TINY, "--strict"]
    assert script("train_affect").main([*flags, "--task", "danceability"]) == 2
    assert "missing labels" in capsys.readouterr().err
    assert script("train_affect").main([*flags, "--task", "valence"]) == 0
    assert "nothing found" in capsys.readouterr().out

"""train_genre.py and evaluate.py on tiny folders: what they write is read."""

import base64
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import keras
import numpy as np
import pytest

from mtmusic.data.spectrograms import read_array, write_array
from mtmusic.evaluation.bootstrap import Fold, cross_scores
from mtmusic.training.compare import own_scores, read_predictions
from tests import faults
from tests.folders import PROJECT, write_tiny_genre_folder

RUN_FILES = {
    "model.keras", "card.json", "metrics.json", "predictions.csv", "history.csv", "clips.csv", "figures", "report.html",
    "examples.npz",
}  # fmt: skip
TINY_LSTM = ("--backbone", "lstm", "--units", "8", "--batch-size", "8", "--epochs", "3", "--learning-rate", "0.01")
TINY = ("--frames", "16", "--batch-size", "8", "--epochs", "3", "--learning-rate", "0.01")

pytestmark = pytest.mark.usefixtures("small_cnn")


def train(script, folder: Path, out: Path, *flags: str) -> int:
    return script("train_genre").main(["--data", str(folder), "--out", str(out), *flags])


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


class Images(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "img":
            self.sources.append(given["src"])
        self.links += [given[name] for name in ("href", "src") if given.get(name, "").startswith(("http", "//"))]


@pytest.fixture(scope="module")
def finished(script, tmp_path_factory) -> tuple[Path, Path]:
    """A data folder, and a run that was trained on it, pictures and all. Not to be changed."""
    place = tmp_path_factory.mktemp("finished")
    folder = write_tiny_genre_folder(place / "tiny_beat")
    assert train(script, folder, place / "run", *TINY_LSTM) == 0
    return folder, place / "run"


def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


def test_a_run_holds_all_that_the_contract_names(finished):
    _, out = finished
    assert {path.name for path in out.iterdir()} == RUN_FILES
    assert not list(out.parent.glob("*.partial"))

    card, metrics = read_json(out / "card.json"), read_json(out / "metrics.json")
    assert (card["task"], card["classes"], card["feature"]) == ("genre", ["Blues", "Jazz", "Rock"], "mel")
    assert (card["beat"], card["frames"], card["seed"], card["data"]["demo"]) == (True, None, 0, False)
    assert card["metrics"]["test"]["accuracy"] == metrics["test"]["accuracy"]
    assert card["command"].startswith("mtmusic train-genre --data")
    assert metrics["epochs"] == 3
    assert 1 <= metrics["best_epoch"] <= 3
    assert metrics["seconds_per_epoch"] > 0
    assert metrics["model_trained_on"] == "train"
    assert 0 <= metrics["test"]["accuracy_low"] <= metrics["test"]["accuracy"] <= metrics["test"]["accuracy_high"] <= 1

    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    tested = [row for row in rows if row["split"] == "test"]
    assert len(tested) == 9
    assert np.mean([row["true"] == row["predicted"] for row in tested]) == pytest.approx(metrics["test"]["accuracy"])
    assert all(sum(float(row[name]) for name in card["classes"]) == pytest.approx(1, abs=1e-4) for row in rows)
    assert len((out / "history.csv").read_text().splitlines()) == 4

    examples = np.load(out / "examples.npz")
    model = keras.models.load_model(out / "model.keras")
    assert examples["spectrogram"].shape[0] == 8
    np.testing.assert_allclose(model.predict(examples["spectrogram"], verbose=0), examples["prediction"], atol=1e-5)


def test_the_terminal_shows_counts_network_report_and_page(script, genre_folder, tmp_path, capsys, quick_figures):
    out = tmp_path / "run"
    assert train(script, genre_folder, out, *TINY, "--overfit-batch", "--epochs", "1") == 0
    printed = capsys.readouterr().out
    assert re.search(r"Jazz +6 +2 +3", printed)
    assert "Overfit check: three batches" in printed
    assert "backbone (Functional)" in printed
    assert "macro" in printed
    assert str(out / "report.html") in printed
    assert (out / "figures" / "loss_curve.png").is_file()


def test_the_report_is_one_page_without_outside_addresses(script, genre_folder, tmp_path):
    out = tmp_path / "run"
    train(script, genre_folder, out, "--frames", "16", "--batch-size", "8", "--epochs", "1")
    page = Images()
    page.feed((out / "report.html").read_text())
    pictures = {path.read_bytes() for path in (out / "figures").glob("*.png")}
    embedded = {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in page.sources}
    assert embedded == pictures
    names = {path.stem for path in (out / "figures").iterdir()}
    assert names == {"learning_curves", "confusion_test", "confusion_validation", "spectrograms", "activations"}
    assert page.links == []
    assert read_json(out / "card.json")["frames"] == 16


def test_two_runs_with_one_seed_give_equal_metrics_and_another_seed_does_not(
    script, genre_folder, tmp_path, quick_figures
):
    flags = ("--frames", "16", "--batch-size", "8", "--epochs", "2")
    metrics = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        train(script, genre_folder, tmp_path / name, *flags, "--seed", seed)
        metrics.append(read_json(tmp_path / name / "metrics.json"))
        metrics[-1].pop("seconds_per_epoch")
    histories = [(tmp_path / name / "history.csv").read_text() for name in "abc"]
    assert metrics[0] == metrics[1]
    assert histories[0] == histories[1] != histories[2]


def test_retraining_on_all_saves_and_judges_that_model(script, genre_folder, tmp_path, quick_figures):
    out = tmp_path / "run"
    assert train(script, genre_folder, out, *TINY, "--retrain-on-all") == 0
    metrics = read_json(out / "metrics.json")
    assert metrics["model_trained_on"] == "train+validation"
    assert {path.name for path in out.iterdir()} == RUN_FILES


@pytest.mark.parametrize(
    "flags",
    [
        ("--backbone", "cnn", "--pooling", "masked", "--feature", "chroma"),
        ("--backbone", "cnn", "--frames", "16", "--feature", "fused"),
        ("--backbone", "lstm", "--units", "4", "--layers", "2", "--bidirectional", "--feature", "fused"),
        ("--backbone", "lstm", "--units", "4", "--frames", "10", "--subset", "12", "--validation", "0.25"),
        ("--backbone", "statistics", "--feature", "chroma"),
    ],
    ids=["masked chroma", "flat fused", "deep lstm", "cut subset", "statistics of chroma"],
)
def test_every_network_trains(script, genre_folder, tmp_path, flags, quick_figures):
    out = tmp_path / "run"
    assert train(script, genre_folder, out, *flags, "--epochs", "1", "--batch-size", "8") == 0
    assert read_json(out / "metrics.json")["epochs"] == 1
    if "--subset" in flags:
        counts = read_json(out / "card.json")["data"]["clips"]
        assert sum(counts["train"].values()) + sum(counts["validation"].values()) == 12
        assert sum(counts["test"].values()) == 9


def test_a_network_that_computes_in_bfloat16_trains_and_is_fine_tuned_in_float32(
    script, genre_folder, tmp_path, monkeypatch, quick_figures
):
    monkeypatch.setattr("mtmusic.training.recipes.supported", lambda precision: precision)
    quick = ("--epochs", "1", "--batch-size", "8")
    half, single = tmp_path / "half", tmp_path / "single"
    assert train(script, genre_folder, half, "--precision", "bfloat16", "--frames", "16", *quick) == 0
    assert train(script, genre_folder, single, "--from", str(half), *quick) == 0
    for run, precision in ((half, "bfloat16"), (single, "float32")):
        assert read_json(run / "card.json")["recipe"]["precision"] == precision
        layer = keras.models.load_model(run / "model.keras").get_layer("backbone").get_layer("block1_conv")
        assert layer.compute_dtype == precision


def test_the_best_recipe_compares_with_the_clips_it_learnt_from(script, genre_folder, tmp_path, quick_figures):
    out = tmp_path / "run"
    assert (
        train(script, genre_folder, out, "--recipe", "best", "--batch-size", "8", "--epochs", "2", "--overfit-batch")
        == 0
    )
    card, metrics = read_json(out / "card.json"), read_json(out / "metrics.json")
    learnt = sum(card["data"]["clips"]["train"].values())
    assert metrics["judged_model_trained_on"] == "train"
    assert card["architecture"]["centres"] == learnt
    kernel = keras.models.load_model(out / "model.keras").get_layer("backbone").get_layer("block1_kernel")
    assert np.abs(kernel.clips).max(axis=1).all()  # every centre is a clip
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert {row["split"] for row in rows} == {"validation", "test"}
    other, again = write_tiny_genre_folder(tmp_path / "other_beat", ("Folk", "Pop"), seed=1), tmp_path / "again"
    flags = ("--from", str(out), "--freeze", "all", "--epochs", "1", "--batch-size", "8")
    assert train(script, other, again, *flags) == 0
    assert read_json(again / "card.json")["recipe"]["learning_rate"] == 0.02  # as a kernel learns, without --recipe
    before, after = (keras.models.load_model(run / "model.keras").get_layer("backbone") for run in (out, again))
    assert all(np.array_equal(a, b) for a, b in zip(before.get_weights(), after.get_weights(), strict=True))


def test_a_backbone_goes_on_from_another_run(script, genre_folder, tmp_path, capsys, quick_figures):
    source = tmp_path / "source"
    train(script, genre_folder, source, "--frames", "16", "--batch-size", "8", "--epochs", "1")
    other = write_tiny_genre_folder(tmp_path / "other_beat", ("Folk", "Pop"), seed=1)
    out = tmp_path / "transferred"
    capsys.readouterr()
    flags = ("--from", str(source), "--freeze", "all", "--epochs", "1", "--batch-size", "8", "--frames", "24")
    assert train(script, other, out, *flags) == 0
    printed = capsys.readouterr().out
    assert "Fresh:     genre" in printed
    assert "Frozen:    block1_conv" in printed
    before, after = (keras.models.load_model(run / "model.keras").get_layer("backbone") for run in (source, out))
    assert all(np.array_equal(a, b) for a, b in zip(before.get_weights(), after.get_weights(), strict=True))
    assert after.input_shape == (None, 24, 128)
    assert train(script, other, tmp_path / "again", "--from", str(source), "--feature", "chroma") == 2
    assert "Expected --from without --feature" in capsys.readouterr().err
    assert train(script, other, tmp_path / "again", "--from", str(source), "--no-beat", "--skip-checks") == 2
    assert "Expected beat-synchronised clips" in capsys.readouterr().err


def test_a_validation_folder_is_used(script, genre_folder, tmp_path, quick_figures):
    (genre_folder / "test").rename(genre_folder / "validation")
    (genre_folder / "test_labels.txt").rename(genre_folder / "validation_labels.txt")
    write_tiny_genre_folder(tmp_path / "more_beat", test=2, seed=5)
    (tmp_path / "more_beat" / "test").rename(genre_folder / "test")
    (tmp_path / "more_beat" / "test_labels.txt").rename(genre_folder / "test_labels.txt")
    train(script, genre_folder, tmp_path / "run", *TINY)
    counts = read_json(tmp_path / "run" / "card.json")["data"]["clips"]
    assert {split: sum(counts[split].values()) for split in counts} == {"train": 24, "validation": 9, "test": 6}


def test_skip_bad_trains_on_the_rest_and_says_what_it_left_out(script, genre_folder, tmp_path, capsys, quick_figures):
    (genre_folder / "train" / "3.fused.full.npy").write_bytes(b"")
    assert train(script, genre_folder, tmp_path / "run", *TINY) == 2
    assert not (tmp_path / "run").exists()
    capsys.readouterr()
    assert train(script, genre_folder, tmp_path / "run", *TINY, "--skip-bad") == 0
    assert "Left out: Expected a whole .npy array" in capsys.readouterr().out
    counts = read_json(tmp_path / "run" / "card.json")["data"]["clips"]
    assert sum(counts["train"].values()) + sum(counts["validation"].values()) == 23


def test_a_finished_run_is_refused_then_overwritten(script, finished, tmp_path, capsys, quick_figures):
    folder, out = finished[0], copied(finished, tmp_path)
    before = (out / "card.json").read_bytes()
    assert train(script, folder, out, *TINY) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert train(script, folder, out, *TINY, "--resume") == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert (out / "card.json").read_bytes() == before
    assert train(script, folder, out, *TINY, "--seed", "1", "--epochs", "1", "--overwrite") == 0
    assert read_json(out / "card.json")["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_old_run_stays_where_the_new_one_fails(script, finished, tmp_path, capsys):
    folder, out = finished[0], copied(finished, tmp_path)
    before = (out / "card.json").read_bytes()
    assert train(script, folder, out, *TINY, "--overwrite", "--learning-rate", "1e38") == 2
    assert "lower --learning-rate" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (out / "card.json").read_bytes() == before


def contradict_in_validation(folder: Path) -> None:
    """A validation split whose labels are turned by one class: the more the network learns, the worse it does there."""
    other = write_tiny_genre_folder(folder.parent / "other", ("Jazz", "Rock", "Blues"), train=4, test=1, seed=7)
    shutil.move(other / "train", folder / "validation")
    shutil.move(other / "train_labels.txt", folder / "validation_labels.txt")
    shutil.rmtree(other)


def test_a_run_killed_after_its_best_epoch_resumes_and_keeps_it(script, genre_folder, tmp_path, capsys, quick_figures):
    contradict_in_validation(genre_folder)
    flags = [*TINY_LSTM[:6], "--epochs", "60", "--learning-rate", "0.02"]
    assert train(script, genre_folder, tmp_path / "straight", *flags) == 0
    straight = read_json(tmp_path / "straight" / "metrics.json")
    assert straight["epochs"] == straight["best_epoch"] + 15 < 60  # the patience ended it

    out, work = tmp_path / "run", tmp_path / "run.partial" / "checkpoints"
    command = [sys.executable, "-c", faults.WITH_EVERY_CHECKPOINT, "train_genre"]
    command += ["--data", str(genre_folder), "--out", str(out), *flags]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    last = straight["best_epoch"] + 4
    while not list(work.glob(f"epoch-{last:05d}")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    record = read_json(max(work.glob("epoch-*")) / "record.json")
    assert record["best_epoch"] == straight["best_epoch"] < record["epochs"] < straight["epochs"]

    assert train(script, genre_folder, out, *flags) == 2
    assert "--resume continues it" in capsys.readouterr().err
    assert train(script, genre_folder, out, *flags[:-1], "0.01", "--resume") == 2
    assert "learning_rate 0.02, now 0.01" in capsys.readouterr().err
    assert train(script, genre_folder, out, *flags, "--resume") == 0
    resumed = read_json(out / "metrics.json")
    assert (resumed["epochs"], resumed["best_epoch"]) == (straight["epochs"], straight["best_epoch"])
    assert resumed["test"] == straight["test"]
    history = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    assert len(history) == resumed["epochs"]
    losses = [float(row["val_loss"]) for row in history]
    assert losses[: record["epochs"]] == record["history"]["val_loss"]
    assert int(np.argmin(losses)) + 1 == resumed["best_epoch"]
    assert {path.name for path in out.iterdir()} == RUN_FILES


def test_a_validation_loss_that_is_no_number_is_said_in_one_line(script, genre_folder, tmp_path, capsys):
    flags = ("--backbone", "lstm", "--units", "8", "--epochs", "3", "--learning-rate", "1e38")  # one batch an epoch
    assert train(script, genre_folder, tmp_path / "run", *flags) == 2
    assert "lower --learning-rate" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny_beat"]


def break_pickle(folder):
    np.save(folder / "train" / "1.fused.full.npy", np.array([{}], dtype=object), allow_pickle=True)


def break_several(folder):
    for number in range(1, 24):
        write_array(folder / "train" / f"{number}.fused.full.npy", np.full((140, 3), np.nan, "float32"))


def one_class(folder):
    for split in ("train", "test"):
        path = folder / f"{split}_labels.txt"
        path.write_text(path.read_text().replace("Blues", "Rock").replace("Jazz", "Rock"))


def no_good_clip_of_a_class(folder):
    for number in range(1, 9):
        (folder / "train" / f"{number}.fused.full.npy").write_bytes(b"")


BAD = {
    "no good clip of a class": (no_good_clip_of_a_class, ("--skip-bad",), "Expected usable clips of Blues"),
    "no such folder": (lambda f: None, ("--data", "nowhere"), "no such folder"),
    "pickled array": (break_pickle, (), "pickled"),
    "several bad files": (break_several, (), "23 times "),
    "one class": (one_class, (), "two classes"),
    "frames under the pooling": (lambda f: None, ("--backbone", "cnn", "--frames", "3"), "4 frames"),
    "frames below one": (lambda f: None, ("--frames", "0"), "--frames"),
    "a split too small": (lambda f: None, ("--validation", "0.05"), "hold-out"),
    "a share over one": (lambda f: None, ("--validation", "2"), "between 0 and 1"),
    "freeze without from": (lambda f: None, ("--freeze", "all"), "--from"),
    "no run to start from": (lambda f: None, ("--from", "nowhere"), "model.keras"),
    "units for a cnn": (lambda f: None, ("--backbone", "cnn", "--units", "5"), "--backbone lstm only"),
    "a rate of nothing": (lambda f: None, ("--learning-rate", "nan"), "--learning-rate"),
    "no epochs": (lambda f: None, ("--epochs", "0"), "--epochs"),
    "subset below the classes": (lambda f: None, ("--subset", "2"), "subset"),
    "unknown class mapping": (lambda f: None, ("--classes", "nowhere.json"), "nowhere.json"),
    "out below a file": (lambda f: None, ("--out", "{folder}/train_labels.txt/run"), "train_labels.txt"),
    "text out": (lambda f: (f / "note.txt").write_text("mine"), ("--out", "{folder}"), "holds other things"),
}


@pytest.mark.parametrize(("spoil", "flags", "expected"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_message_exit_code_2_and_nothing_written(
    script, genre_folder, tmp_path, capsys, spoil, flags, expected
):
    spoil(genre_folder)
    out = tmp_path / "run"
    flags = [flag.format(folder=genre_folder) for flag in flags]
    backbone = () if {"--backbone", "--from"} & {*flags} else ("--backbone", "lstm")
    assert train(script, genre_folder, out, *backbone, *flags) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert expected in captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny_beat"]


def test_without_tensorboard_its_logs_are_refused_before_training(script, genre_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert train(script, genre_folder, tmp_path / "run", "--tensorboard") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: --tensorboard needs TensorBoard (")
    assert captured.err.endswith("): pip install tensorboard\n")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny_beat"]


def test_a_folder_that_does_not_tell_its_frame_rate_is_asked_about(script, tmp_path, capsys, quick_figures):
    folder = write_tiny_genre_folder(tmp_path / "tiny")
    for split in ("train", "test"):
        path = folder / f"{split}_labels.txt"
        path.write_text(path.read_text().replace("beatsync.fused", "fused.full"))
    assert train(script, folder, tmp_path / "run", *TINY) == 2
    assert "give --beat or --no-beat" in capsys.readouterr().err
    assert train(script, folder, tmp_path / "run", *TINY, "--epochs", "1", "--no-beat") == 2
    assert "beat-synchronised clips among full-rate ones (33 clips" in capsys.readouterr().err
    assert train(script, folder, tmp_path / "run", *TINY, "--epochs", "1", "--no-beat", "--skip-checks") == 0
    assert read_json(tmp_path / "run" / "card.json")["beat"] is False


def test_a_model_is_judged_with_the_classes_that_it_was_trained_with(script, tmp_path, capsys, quick_figures):
    folder = write_tiny_genre_folder(tmp_path / "tiny_beat", ("Metal", "Post-Punk", "Punk"))
    out = tmp_path / "run"
    assert train(script, folder, out, *TINY, "--classes", "all") == 0
    assert script("evaluate").main(["--model", str(out), "--data", str(folder)]) == 0
    judged = read_json(out / "evaluations" / "tiny_beat_test" / "metrics.json")["test"]
    assert judged == read_json(out / "metrics.json")["test"]
    assert list(judged["per_class"]) == ["Metal", "Post-Punk", "Punk"]


def test_a_negative_seed_is_refused(script, genre_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        train(script, genre_folder, tmp_path / "run", "--seed", "-1")
    assert ended.value.code == 2
    assert "expected 0 to 4294967295" in capsys.readouterr().err


def test_evaluate_writes_the_same_report_for_a_saved_model(script, finished, tmp_path, capsys):
    genre_folder, out = finished[0], copied(finished, tmp_path)
    before = (out / "metrics.json").read_bytes()
    main = script("evaluate").main
    assert main(["--model", str(out), "--data", str(genre_folder)]) == 0
    folder = out / "evaluations" / "tiny_beat_test"
    assert read_json(folder / "metrics.json")["test"] == read_json(out / "metrics.json")["test"]
    assert {path.name for path in folder.iterdir()} == RUN_FILES - {
        "model.keras", "history.csv", "clips.csv", "examples.npz",
    }  # fmt: skip
    assert main(["--model", str(out / "model.keras"), "--data", str(genre_folder), "--split", "train"]) == 0
    page = (out / "evaluations" / "tiny_beat_train" / "report.html").read_text()
    assert "<h2>Results</h2>" in page
    assert f"an evaluation on {genre_folder}, without training" in page
    assert main(["--model", str(out), "--data", str(genre_folder), "--out", str(out)]) == 2
    assert "holds a model" in capsys.readouterr().err
    assert (out / "model.keras").is_file()
    assert (out / "metrics.json").read_bytes() == before


def test_evaluate_refuses_what_the_model_was_not_made_for(script, finished, tmp_path, capsys):
    main = script("evaluate").main
    genre_folder, out = finished
    other = write_tiny_genre_folder(tmp_path / "other_beat", ("Folk", "Rock"))
    assert main(["--model", str(out), "--data", str(other)]) == 2
    assert "'Folk' is not one of Blues, Jazz, Rock" in capsys.readouterr().err
    assert main(["--model", str(out), "--data", str(genre_folder), "--no-beat"]) == 2
    assert "beat-synchronised" in capsys.readouterr().err
    assert main(["--model", str(tmp_path), "--data", str(genre_folder)]) == 2
    assert "model.keras" in capsys.readouterr().err
    assert not (out / "evaluations").exists()


def test_genre_runs_are_compared_on_the_clips_that_they_judged(script, finished, tmp_path, capsys, quick_figures):
    other = copied(finished, tmp_path)
    with (other / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["Blues"] = "2"  # always Blues
    with (other / "predictions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert script("compare_runs").main([str(finished[1]), str(other), "--out", str(tmp_path / "out")]) == 0
    assert "Scores on the same 9 test clips" in capsys.readouterr().out
    comparison = read_json(tmp_path / "out" / "comparison.json")
    report = read_json(finished[1] / "metrics.json")["test"]
    ours, difference = comparison["runs"][str(finished[1])], comparison["differences"][str(other)]
    assert ours["accuracy"]["value"] == pytest.approx(report["accuracy"])
    assert ours["macro_f1"]["value"] == pytest.approx(report["macro_f1"])
    assert difference["accuracy"]["value"] == pytest.approx(report["accuracy"] - 3 / 9)
    assert difference["accuracy"]["low"] <= difference["accuracy"]["value"] <= difference["accuracy"]["high"]


def test_compared_runs_are_drawn_by_the_folders_groups(script, tmp_path, quick_figures):
    folder, out = write_tiny_genre_folder(tmp_path / "tiny_beat"), tmp_path / "run"
    ids = [*range(1, 25), *range(1000, 1009)]
    (folder / "groups.csv").write_text("id,group\n" + "".join(f"{i},artist {i // 3}\n" for i in ids))
    assert train(script, folder, out, *TINY) == 0
    predictions = read_predictions(str(out))
    assert predictions.groups.tolist() == [f"group artist {int(i) // 3}" for i in predictions.ids]
    (out / "clips.csv").unlink()
    assert read_predictions(str(out)).groups.tolist() == [f"clip {i}" for i in predictions.ids]
    known, alone = own_scores(predictions), own_scores(read_predictions(str(out)))
    assert known["accuracy"]["value"] == alone["accuracy"]["value"]
    (row,) = cross_scores([Fold(predictions.groups, predictions.true)], {"run": [[predictions.predicted]]}, ())[
        "recipes"
    ].values()
    assert (known["accuracy"]["low"], known["macro_f1"]["high"]) == (row["accuracy"]["low"], row["macro_f1"]["high"])


@pytest.mark.real
def test_real_clips_train_and_are_judged(script, real_data, tmp_path):
    folder = real_data / "emotify" / "fma_genre_spectrograms_beat"
    flags = ("--backbone", "lstm", "--units", "16", "--epochs", "2")
    assert train(script, folder, tmp_path / "run", *flags) == 0
    card = read_json(tmp_path / "run" / "card.json")
    assert card["classes"] == ["Classical", "Electronic", "Pop", "Rock"]
    assert sum(card["data"]["clips"]["test"].values()) == 100
    assert read_array(folder / "train" / "1001.fused.full.npy").shape[0] == 140


def test_the_checks_stop_a_training_or_are_told(script, genre_folder, tmp_path, capsys, quick_figures):
    faults.ARRAY_FAULTS["constant chroma"](genre_folder)
    assert train(script, genre_folder, tmp_path / "run", *TINY, "--strict") == 2
    assert "constant chroma (3 clips: train/1, train/11, train/21)" in capsys.readouterr().err
    assert not list(tmp_path.glob("run*"))
    assert train(script, genre_folder, tmp_path / "run", *TINY) == 0
    assert "Warning: constant chroma" in capsys.readouterr().out
    faults.ARRAY_FAULTS["louder than 0 dB"](genre_folder)
    assert train(script, genre_folder, tmp_path / "loud", *TINY) == 2
    assert capsys.readouterr().err.count("louder than 0 dB: expected mel from -80 to 0 dB") == 3
    assert train(script, genre_folder, tmp_path / "loud", *TINY, "--skip-checks") == 0
    assert "Checks: off, except for files that cannot be read" in capsys.readouterr().out

"""finetune_valence.py on tiny folders: what is loaded, frozen and compared."""

import csv
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.folders import write_tiny_affect_folder, write_tiny_genre_folder

CNN = ("--frames", "16", "--batch-size", "8", "--epochs", "2")

pytestmark = pytest.mark.usefixtures("small_cnn")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def source(script, tmp_path_factory) -> Path:
    """A genre run. Not to be changed."""
    place = tmp_path_factory.mktemp("source")
    folder = write_tiny_genre_folder(place / "genre_beat")
    assert script("train_genre").main(["--data", str(folder), "--out", str(place / "genre_cnn"), *CNN]) == 0
    return place / "genre_cnn"


def finetune(script, folder: Path, source: Path, out: Path, *flags: str) -> int:
    main = script("finetune_valence").main
    return main(["--data", str(folder), "--from", str(source), "--out", str(out), *flags])


def backbones(*runs: Path) -> list[list[np.ndarray]]:
    return [keras.models.load_model(run / "model.keras").get_layer("backbone").get_weights() for run in runs]


def equal(first: list[np.ndarray], second: list[np.ndarray]) -> list[bool]:
    return [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]


def test_a_frozen_backbone_is_the_source_bit_by_bit(script, affect_folder, source, tmp_path, capsys, quick_figures):
    out = tmp_path / "run"
    assert finetune(script, affect_folder, source, out, "--freeze", "all", *CNN[2:]) == 0
    printed = capsys.readouterr().out
    for line in ("Loaded:    backbone of", "Fresh:     valence", "Frozen:    block1_conv", "Trainable: 513 of"):
        assert line in printed
    assert all(equal(*backbones(source, out)))
    card = read_json(out / "card.json")
    assert (card["task"], card["frames"], card["feature"]) == ("valence", 16, "mel")
    assert card["source"] == {
        "run": str(source), "task": "genre", "transferred": "all", "demo": False, "test_clips_learnt": [],
    }  # fmt: skip
    assert "was trained on none of the test clips" in (out / "report.html").read_text()


def test_a_named_recipe_trains_and_a_fine_tune_takes_its_settings_alone(script, affect_folder, tmp_path, capsys):
    genre, leader = write_tiny_genre_folder(tmp_path / "genre_beat"), tmp_path / "leader"
    flags = ("--recipe", "leader", "--epochs", "1")
    assert script("train_genre").main(["--data", str(genre), "--out", str(leader), *flags]) == 0
    card = read_json(leader / "card.json")
    assert (card["feature"], card["frames"], card["architecture"]["dense"]) == ("fused", 128, 128)
    assert card["recipe"]["patience"] == 237  # 4500 over the 19 clips to train on
    flags = ("--recipe", "lab-lstm", "--freeze", "all", "--epochs", "1")
    assert finetune(script, affect_folder, leader, tmp_path / "run", *flags) == 0
    again = read_json(tmp_path / "run" / "card.json")
    assert again["architecture"] == card["architecture"]
    assert (again["recipe"]["batch_size"], again["recipe"]["patience"]) == (32, 15)
    assert "Frozen:    block1_conv" in capsys.readouterr().out
    assert all(equal(*backbones(leader, tmp_path / "run")))


def test_an_unfrozen_one_is_not_and_other_frames_keep_it(script, affect_folder, source, tmp_path, quick_figures):
    out = tmp_path / "run"
    flags = ("--freeze", "1", "--frames", "32", "--task", "energy", *CNN[2:])
    assert finetune(script, affect_folder, source, out, *flags) == 0
    same = equal(*backbones(source, out))
    assert same[:5] == [True] * 5  # block 1: kernel, and the four of its BatchNorm
    assert not any(same[5:])
    assert read_json(out / "card.json")["frames"] == 32


def test_one_block_is_transferred_and_frozen_and_the_rest_starts_fresh(
    script, affect_folder, source, tmp_path, capsys, quick_figures
):
    out = tmp_path / "run"
    assert finetune(script, affect_folder, source, out, "--transfer", "1", "--freeze", "1", *CNN[2:]) == 0
    assert "Fresh:     block2_conv" in capsys.readouterr().out
    same = equal(*backbones(source, out))
    assert same[:5] == [True] * 5
    assert not any(same[5:])
    assert read_json(out / "card.json")["source"]["transferred"] == "1"
    assert "The backbone's first 1 block started from" in (out / "report.html").read_text()
    scratch = tmp_path / "scratch"
    assert finetune(script, affect_folder, source, scratch, "--transfer", "0", *CNN[2:]) == 0
    assert not any(equal(*backbones(source, scratch)))


def test_in_two_stages_the_backbone_moves_only_in_the_second(
    script, affect_folder, source, tmp_path, capsys, quick_figures
):
    assert finetune(script, affect_folder, source, tmp_path / "one", "--unfreeze-after", "2", *CNN[2:]) == 2
    assert "nothing would be unfrozen" in capsys.readouterr().err
    flags = (*CNN[2:4], "--epochs", "5", "--learning-rate", "0.01", "--unfreeze-after", "2")
    assert finetune(script, affect_folder, source, tmp_path / "two", *flags) == 0
    assert "Epoch 2: from here on all layers are trained, at a tenth of the learning rate" in capsys.readouterr().out
    metrics = read_json(tmp_path / "two" / "metrics.json")
    history = list(csv.DictReader((tmp_path / "two" / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in history] == ["1", "2", "3", "4", "5"]
    errors = [float(row["val_normalized_mse"]) for row in history]
    assert metrics["best_epoch"] == int(np.argmin(errors)) + 1
    assert any(equal(*backbones(source, tmp_path / "two"))) is (metrics["best_epoch"] <= 2)
    assert not list((tmp_path / "two").rglob("epoch-*"))


def test_scratch_is_compared_on_the_same_clips(script, affect_folder, source, tmp_path, capsys, quick_figures):
    out = tmp_path / "run"
    assert finetune(script, affect_folder, source, out, "--compare-scratch", *CNN[2:]) == 0
    scratch = tmp_path / "run_scratch"
    printed = capsys.readouterr().out
    assert f"{out} minus {scratch}" in printed
    comparison = read_json(out / "comparison.json")
    values = [read_json(run / "metrics.json")["test"]["spearman"]["valence"] for run in (out, scratch)]
    assert comparison["differences"][str(scratch)]["valence"]["value"] == pytest.approx(values[0] - values[1], abs=1e-6)
    assert "Compared with other runs" in (out / "report.html").read_text()
    cards = [read_json(run / "card.json") for run in (out, scratch)]
    assert cards[0]["architecture"] == cards[1]["architecture"]
    assert "source" not in cards[1]
    assert finetune(script, affect_folder, source, out, "--compare-scratch", *CNN[2:]) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert finetune(script, affect_folder, source, out, "--compare-scratch", *CNN[2:], "--resume") == 0


def test_test_clips_that_the_source_learnt_from_are_named(script, source, tmp_path, capsys, quick_figures):
    """By content: the genre folder has the affect folder's clips under other ids."""
    affect = write_tiny_affect_folder(tmp_path / "affect_beat")
    genre = write_tiny_genre_folder(tmp_path / "genre_beat", ("Blues", "Jazz"), train=15)
    for number in range(1, 31):
        shutil.copy(affect / "train" / f"{number}.fused.full.npy", genre / "train" / f"{31 - number}.fused.full.npy")
    assert script("train_genre").main(["--data", str(genre), "--out", str(tmp_path / "genre"), *CNN]) == 0
    capsys.readouterr()
    out = tmp_path / "run"
    assert finetune(script, affect, tmp_path / "genre", out, "--freeze", "all", *CNN[2:]) == 0
    learnt = [
        str(31 - int(row["id"]))
        for row in csv.DictReader((tmp_path / "genre" / "clips.csv").read_text().splitlines())
        if row["trained"] == "1"
    ]
    test = [r["id"] for r in csv.DictReader((out / "clips.csv").read_text().splitlines()) if r["split"] == "test"]
    expected = [clip_id for clip_id in test if clip_id in learnt]
    assert read_json(out / "card.json")["source"]["test_clips_learnt"] == expected
    assert f"was trained on {len(expected)} of the {len(test)} test clips: " in capsys.readouterr().out
    assert f"test clips: {', '.join(expected)}." in (out / "report.html").read_text()

    again = tmp_path / "again"  # a chain: what the source's source learnt from counts too
    assert finetune(script, affect, out, again, "--task", "energy", "--freeze", "all", *CNN[2:]) == 0
    assert read_json(again / "card.json")["source"]["test_clips_learnt"] == expected

    train = script("train_genre").main
    flags = ("--data", str(genre), "--out", str(tmp_path / "clean"), "--leave-out", str(out), *CNN)
    assert train([*flags]) == 0
    assert f"clips that {out} was evaluated on" in capsys.readouterr().out
    assert len((tmp_path / "clean" / "clips.csv").read_text().splitlines()) == 1 + 30 + 6 - len(test)
    assert train([*flags[:4], "--overwrite", "--leave-out", str(tmp_path), *CNN]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")

    (tmp_path / "genre" / "clips.csv").unlink()
    assert finetune(script, affect, tmp_path / "genre", tmp_path / "old", "--freeze", "all", *CNN[2:]) == 0
    assert read_json(tmp_path / "old" / "card.json")["source"]["test_clips_learnt"] is None


def test_a_run_is_not_resumed_with_another_source(script, affect_folder, source, tmp_path, capsys, monkeypatch):
    """Told by the model's content: the other one stands at the same path."""
    run, out = Path(shutil.copytree(source, tmp_path / "genre")), tmp_path / "run"

    def stop(model, batches, held, config, checkpoints, **settings):
        (checkpoints / "epoch-00001").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("mtmusic.training.train.fit", stop)
    assert finetune(script, affect_folder, run, out, *CNN[2:]) == 130
    assert f"{out}.partial keeps the run: --resume continues it, and --overwrite restarts it" in capsys.readouterr().err
    model = keras.models.load_model(run / "model.keras")
    model.get_layer("genre").set_weights([weight + 1 for weight in model.get_layer("genre").get_weights()])
    model.save(run / "model.keras")
    assert finetune(script, affect_folder, run, out, *CNN[2:], "--resume") == 2
    assert "it was started with from" in capsys.readouterr().err


def make_lambda(run: Path) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(lambda x: x)])
    model.save(run / "model.keras")


def make_short(run: Path) -> None:
    content = (run / "model.keras").read_bytes()
    (run / "model.keras").write_bytes(content[: len(content) // 2])


def make_unfitting(run: Path) -> None:
    card = read_json(run / "card.json")
    card["architecture"]["feature"] = "chroma"
    (run / "card.json").write_text(json.dumps(card))


BAD = {
    "truncated": (make_short, (), "cannot be loaded"),
    "lambda": (make_lambda, (), "cannot be loaded"),
    "no card": (lambda run: (run / "card.json").unlink(), (), "card.json"),
    "a card of another model": (make_unfitting, (), "Expected"),
    "no genre model": (shutil.rmtree, (), "make a genre model with mtmusic train-genre"),
    "another feature": (lambda run: None, ("--feature", "chroma"), "Expected --from without --feature"),
    "another rate": (lambda run: None, ("--no-beat", "--skip-checks"), "Expected beat-synchronised clips"),
    "blocks": (lambda run: None, ("--freeze", "3"), "0 to 2"),
    "transferred blocks": (lambda run: None, ("--transfer", "3"), "--transfer"),
    "fresh and frozen": (
        lambda run: None,
        ("--transfer", "1", "--freeze", "2"),
        "got block2_conv frozen with random weights",
    ),
    "out is here": (lambda run: None, ("--out", "."), "a folder with a name, got ."),
    "task": (lambda run: None, ("--task", "arousal"), "got arousal"),
    "frames below the pooling": (lambda run: None, ("--frames", "3"), "4 frames"),
    "stages": (lambda run: None, ("--unfreeze-after", "0"), "--unfreeze-after of 1 or more"),
    "stages of nothing": (lambda run: None, ("--unfreeze-after", "2", "--freeze", "none"), "--freeze all or N"),
}


@pytest.mark.parametrize(("spoil", "flags", "expected"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_exit_code_2_and_nothing_written(
    script, affect_folder, source, tmp_path, capsys, spoil, flags, expected
):
    run = Path(shutil.copytree(source, tmp_path / "genre"))
    spoil(run)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert finetune(script, affect_folder, run, tmp_path / "run", "--compare-scratch", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before

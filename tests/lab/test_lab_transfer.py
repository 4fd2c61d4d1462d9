"""Step 9's second part: the pretrained trunk, the kernel machine and a CNN on the same folds. No network is trained."""

import importlib
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtmusic.cli import common
from mtmusic.evaluation import bootstrap
from mtmusic.lab import transfer
from mtmusic.lab.plan import AFFECT, QUICK, Lab, write_up
from mtmusic.lab.transfer import pretrained
from mtmusic.training.crossval import study
from tests.folders import write_tiny_affect_folder

ROW = {"mean": 0.5, "low": 0.4, "high": 0.6}
FIRST_PART = {
    "task": "valence", "source": "step_07/cnn_seed0", "candidates": {"step_07/cnn_seed0": 0.5},
    "rho": {"random weights": ROW, "1 block, tuned": ROW}, "step_8": {"cnn": ROW, "lstm": ROW},
    "random": "random weights", "highest": "1 block, tuned", "lowest": "1 block, tuned", "highest_less_random": ROW,
    "learnt": [], "clips": 9,
}  # fmt: skip


@pytest.fixture
def lab(tmp_path, monkeypatch, quick_figures) -> Lab:
    """With the affect folder at full rate alone. In the place of each network: answers, the better the earlier."""
    write_tiny_affect_folder(tmp_path / "data" / AFFECT, train=80, test=0, feature="logmel")

    def network(given, training, cut, recipe) -> tuple[np.ndarray, dict]:
        rng = np.random.default_rng(training.seed)
        noise = 0.1 + 0.3 * transfer.RECIPES.index(training.name)
        return cut.test.targets + rng.normal(0, noise, cut.test.targets.shape), {}

    monkeypatch.setattr(study, "_network", network)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    return Lab(tmp_path / "data", common.command, tmp_path / "lab", QUICK, seeds=1, seed=3)


def sentences_and_pictures(lab: Lab, found: dict | None, why: str) -> tuple[list[str], list[str]]:
    part = write_up(lab, 9, {**FIRST_PART, "pretrained": found}, why=why).part
    return list(part.sentences[4:]), [picture.path for picture in part.pictures]


def test_the_trunk_is_compared_on_the_same_folds_and_shares(lab, trunk):
    found, why, command = pretrained(lab)
    assert why == ""
    assert (found["clips"], found["groups"], found["folds"]) == (80, 40, 2)
    assert {share: [*row["recipes"]] for share, row in found["shares"].items()} == {
        "50": [*transfer.RECIPES], "100": [*transfer.RECIPES],
    }  # fmt: skip
    about, scores = sentences_and_pictures(lab, found, why)[0]
    assert "on the same 2 folds of 80 full-rate clips of 40 groups" in about
    assert "the same head on the same network with random weights" in about
    rho = {name: row["rho"] for name, row in found["recipes"].items()}
    assert rho["pretrained"]["mean"] > rho["kernel"]["mean"] > rho["random-trunk"]["mean"]
    assert f"pretrained has {rho['pretrained']['mean']:.3f} (" in scores
    gain = rho["pretrained"]["mean"] - rho["random-trunk"]["mean"]
    assert f"Pretrained minus random-trunk is {gain:+.3f} on the same clips" in scores
    picture = sentences_and_pictures(lab, found, why)[1][-1]
    assert (lab.out / picture).is_file()
    assert (lab.out / "step_09" / "pretrained" / "report.html").is_file()

    by_share, by_task = transfer._tables(found)
    assert by_share.header == ("", "50 %", "100 %")
    assert by_share.rows[0][2].startswith(f"{rho['pretrained']['mean']:.3f} (")
    assert by_task.header == ("", "minus kernel", "minus random-trunk")
    assert [row[0] for row in by_task.rows] == ["rho", "rho_valence", "rho_energy", "rho_danceability"]
    assert by_task.rows[0][2].startswith(f"{gain:.3f} (")

    _, name, *flags = shlex.split(command)
    arguments = importlib.import_module(f"mtmusic.cli.{name.replace('-', '_')}").parser().parse_args(flags)
    given = (arguments.folder, arguments.recipes, arguments.shares, arguments.seed, arguments.frames, arguments.epochs)
    assert given == (lab.data / AFFECT, [*transfer.RECIPES], [50, 100], 3, QUICK.frames, QUICK.epochs)


def test_a_share_of_too_few_clips_is_left_out(lab, trunk):
    folder = lab.data / AFFECT
    shutil.rmtree(folder)
    write_tiny_affect_folder(folder, train=48, test=0, feature="logmel")
    found, why, _ = pretrained(lab)
    assert why == ""
    assert found["shares"] is None
    assert transfer._tables(found)[0].header == ("", "100 %")
    assert len(sentences_and_pictures(lab, found, why)[1]) == 1


def test_what_is_missing_is_told_in_one_sentence(lab, trunk, tmp_path, monkeypatch):
    left_out = "The comparison with the pretrained trunk, musicnn, is left out: "

    def told(lab: Lab) -> str:
        found, why, command = pretrained(lab)
        assert (found, command) == (None, "")
        (sentence,), pictures = sentences_and_pictures(lab, found, why)
        assert len(pictures) == 1
        return sentence.removeprefix(left_out)

    few = tmp_path / "few"
    write_tiny_affect_folder(few / AFFECT, train=10, test=0, feature="logmel")
    assert told(replace(lab, data=few)).startswith(f"it cannot run on {AFFECT}: Too few clips for a hold-out")
    assert told(replace(lab, data=Path("nowhere"))) == f"there is no {AFFECT}, whose clips are at full rate."
    monkeypatch.setenv("MTMUSIC_CACHE", str(tmp_path / "empty"))
    assert told(lab) == "its weights are missing (mtmusic get-pretrained fetches them)."

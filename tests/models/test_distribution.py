"""Two devices against one: what they learn is the same. The trainings are `tests.two_devices`'s."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtmusic.errors import UserError
from mtmusic.models.distribution import find_devices
from tests.folders import PROJECT, write_tiny_genre_folder
from tests.two_devices import CASES, config_of

SAME = 1e-4
ROUNDING = {"bfloat16 cnn": 5e-3, "musicnn": 2e-3}
"""Of a case whose activations keep two to three digits, and of one with ten normalisations; the others stay within
SAME."""


FLAGS = ("--backbone", "lstm", "--units", "4", "--batch-size", "6", "--epochs", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("devices")
    write_tiny_genre_folder(place / "tiny_beat")
    return place


@pytest.fixture(scope="module")
def trainings(place) -> dict:
    """What the process with two devices says; its script writes the run "two"."""
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "scripts")])
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
    command = [sys.executable, "-m", "tests.two_devices", "train_genre", *FLAGS, "--devices", "all"]
    command += ["--data", str(place / "tiny_beat"), "--out", str(place / "two")]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_two_devices_learn_what_one_does_epoch_by_epoch(trainings, case):
    one, two = trainings[case]["one"], trainings[case]["two"]
    assert list(one) == list(two)
    assert len(one["loss"]) == config_of(case).epochs
    rounding = ROUNDING.get(case, SAME)
    assert np.ptp(one["loss"]) > 10 * rounding
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=0, atol=rounding, err_msg=name)


def test_the_model_and_its_optimizer_are_those_of_one_device(trainings):
    assert all(trainings[case]["same config"] for case in CASES)
    assert max(trainings["apart"]) < 1e-3


def test_what_two_devices_left_one_goes_on_with(trainings):
    np.testing.assert_allclose(trainings["resumed"]["two"], trainings["resumed"]["one"], rtol=0, atol=SAME)


def test_the_overfit_check_gives_the_same_on_two_devices(trainings):
    one, two = trainings["overfit"]
    np.testing.assert_allclose(two, one, rtol=0, atol=SAME)


@pytest.mark.parametrize(
    ("wanted", "said"), [("0", "of 1 or more"), ("-1", "of 1 or more"), ("two", 'or "all", got two'), ("99", "at most")]
)
def test_devices_that_are_not_there_are_refused(wanted, said):
    with pytest.raises(UserError, match=rf"Expected `devices` .*{said}"):
        find_devices(wanted)


def test_one_device_or_all():
    assert len(find_devices("1")) == 1
    assert find_devices("all")[:1] == find_devices("1")


def test_the_script_on_two_devices_writes_what_it_does_on_one(script, trainings, place, quick_figures):
    assert script("train_genre").main([*FLAGS, "--data", str(place / "tiny_beat"), "--out", str(place / "one")]) == 0
    curves = {}
    for run, devices in (("one", 1), ("two", 2)):
        assert json.loads((place / run / "metrics.json").read_text())["devices"] == devices
        rows = csv.reader((place / run / "history.csv").read_text().splitlines()[1:])
        curves[run] = [[float(cell) for cell in row] for row in rows]
    np.testing.assert_allclose(curves["two"], curves["one"], rtol=0, atol=SAME)
    assert "--devices all" in json.loads((place / "two" / "card.json").read_text())["command"]


@pytest.mark.parametrize(
    ("flags", "said"), [(("--devices", "99"), "--devices of"), (("--devices", "many"), "got many")]
)
@pytest.mark.parametrize("name", ["train_genre", "train_affect"])
def test_a_script_says_in_one_line_that_devices_are_not_there(script, tmp_path, capsys, name, flags, said):
    assert script(name).main([*flags, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())

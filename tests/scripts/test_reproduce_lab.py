"""The lab in one command, on a small demo corpus: what it wrote is read."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from joblib import Parallel

from mtmusic.evaluation import metrics
from mtmusic.jobs import demo, lab, lab_affect, lab_genre
from mtmusic.jobs.lab import STEPS, LabOptions, reproduce_lab
from mtmusic.jobs.lab_plan import GENRE, Scale
from mtmusic.models import backbones

SMALL = Scale(
    "quick", subset=40, epochs=2, frames=16, units=8, batch_size=8, timing_epochs=2, overfit_epochs=3, blocks=(0, 1)
)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def numbers(content: Any) -> Iterator[float]:
    """All in there, however deep."""
    if isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from numbers(part)
    elif isinstance(content, float):
        yield content


def losses(content: Any) -> Iterator[tuple[float, float]]:
    """The first and the last of every training that is told of."""
    if isinstance(content, dict):
        if "first_loss" in content:
            yield content["first_loss"], content["last_loss"]
        for part in content.values():
            yield from losses(part)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "demo"
    with pytest.MonkeyPatch.context() as patched:  # in threads: processes would not see the shorter songs
        patched.setattr(demo, "SECONDS", 4.0)
        patched.setattr(demo, "Parallel", partial(Parallel, backend="threading"))
        demo.make_demo_corpus(folder, clips_a_genre=7, affect=36)
    return folder


@pytest.fixture(scope="module")
def resumed(corpus, tmp_path_factory, quick_module_figures) -> tuple[LabOptions, dict[str, bytes], list[str]]:
    """A lab that was stopped within step 8 and started again: its options, what stood before the second start, and
    what was trained after it. Not to be changed."""
    options = LabOptions(corpus, tmp_path_factory.mktemp("out") / "lab", SMALL, seeds=1, command="python lab")
    trained: list[str] = []
    killed: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backbones, "CNN_BLOCKS", ((8, 3), (4, 3)))
        patched.setattr(lab_genre, "LSTMS", lab_genre.LSTMS[:2])
        patched.setattr(metrics, "RESAMPLES", 200)
        for module, name in ((lab_affect, "train_affect"), (lab_genre, "train_genre")):
            original = getattr(module, name)

            def train(given, original=original):
                trained.append(f"{given.out.parent.name}/{given.out.name}")
                if trained[-1] == "step_08/cnn_seed0" and not killed:
                    killed.append(trained[-1])
                    raise KeyboardInterrupt
                return original(given)

            patched.setattr(module, name, train)
        with pytest.raises(KeyboardInterrupt):
            reproduce_lab(options)
        before = {str(path): path.read_bytes() for path in options.out.rglob("*.json")}
        trained.clear()
        reproduce_lab(options)
    return options, before, trained


def test_every_step_is_there_with_numbers_and_losses_that_went_down(resumed):
    results = read_json(resumed[0].out / "results.json")
    assert list(results["steps"]) == [str(step.number) for step in STEPS]
    assert all(map(math.isfinite, numbers(results)))
    went = [*losses(results)]
    assert len(went) > 10
    assert all(last < first for first, last in went)
    for check in results["steps"]["5"]["networks"].values():
        assert check["overfit"][-1] < check["overfit"][0]
    assert results["seconds"] == pytest.approx(sum(step["seconds"] for step in results["steps"].values()))
    rates = results["steps"]["2"]
    assert rates["full"]["frames"] > 5 * rates["beat"]["frames"]
    assert {row["comparable"] for row in results["beside_published"]} <= {"no: other data", "no: not measured here"}


def test_a_stopped_lab_does_no_finished_step_and_no_finished_training_twice(resumed):
    options, before, trained = resumed
    assert [path for path, content in before.items() if Path(path).name == "step.json"] != []
    for path, content in before.items():
        if Path(path).name in ("step.json", "metrics.json", "card.json"):
            assert Path(path).read_bytes() == content
    assert [run.partition("/")[0] for run in trained] == ["step_08", "step_08", "step_10", "step_10"]
    log = (options.out / "step_08" / "log.txt").read_text()
    assert log.count("valence_lstm is a finished run: nothing to resume") == 1


def test_the_numbers_are_those_of_the_runs(resumed):
    out = resumed[0].out
    steps = read_json(out / "results.json")["steps"]
    run = read_json(out / "step_05" / "mel_seed0" / "metrics.json")
    assert steps["5"]["networks"]["mel"]["accuracy"]["values"] == [run["test"]["accuracy"]]
    assert steps["6"]["networks"]["mel"]["per_class"] == run["test"]["per_class"]
    run = read_json(out / "step_08" / "lstm_seed0" / "energy_lstm" / "metrics.json")
    assert steps["8"]["rho"]["lstm"]["energy"]["mean"] == pytest.approx(run["test"]["spearman"]["energy"], abs=1e-5)
    frozen = read_json(out / "step_09" / "blocks1_frozen_seed0" / "card.json")
    assert frozen["source"]["transferred"] == "1"
    assert frozen["source"]["run"].endswith(steps["9"]["source"])
    rows = (out / "step_11" / "solution.txt").read_text().splitlines()
    assert rows[0] == "Id.fused.full.npy.gz,valence,energy,danceability"
    assert len(rows) - 1 == steps["11"]["rows"] == 8


def test_the_page_leads_to_every_step_and_its_copy_to_every_picture(resumed):
    out = resumed[0].out
    page, copy = (out / "lab.html").read_text(), (out / "lab.md").read_text()
    for step in STEPS:
        assert page.count(f'href="#step-{step.number}"') == page.count(f'id="step-{step.number}"') == 1
        assert f"## {step.title}" in copy
    assert not re.search(r'(src|href)="(http|//)', page)
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", copy)
    assert len(pictures) == page.count("<img ") > 20
    assert all((out / path).is_file() for _, path in pictures)
    assert all(alt for alt, _ in pictures)
    assert "say nothing about real songs" in page


def test_the_command_of_a_training_repeats_it(resumed, script, tmp_path, quick_figures):
    out = resumed[0].out
    command = read_json(out / "step_05" / "step.json")["part"]["commands"][1].split()
    assert command[:2] == ["python", "scripts/train_genre.py"]
    flags = command[2 : command.index("--out")]
    assert script("train_genre").main([*flags, "--out", str(tmp_path / "again")]) == 0
    original = out / "step_05" / "mel_seed0" / "history.csv"
    assert (tmp_path / "again" / "history.csv").read_text() == original.read_text()
    for step in (8, 9, 10):  # the scripts know all their flags
        for command in read_json(out / f"step_{step:02}" / "step.json")["part"]["commands"]:
            name = command.split()[1].removeprefix("scripts/").removesuffix(".py")
            given = [flag for flag in command.split()[2:] if flag != "--overwrite"]
            assert script(name).main(given) == 2  # a finished run is there


def test_other_settings_are_refused_in_one_line(resumed, script, capsys, tmp_path):
    options = resumed[0]
    main = script("reproduce_lab").main
    data, out = ["--data", str(options.data)], ["--out", str(options.out)]
    assert main([*data, *out, "--quick", "--seeds", "2"]) == 2
    error = capsys.readouterr().err
    assert "it was made with another scale and seeds" in error
    assert len(error.splitlines()) == 1
    assert main([*data, "--out", str(tmp_path / "new"), "--steps", "6"]) == 2
    assert "Expected step 5 before step 6: give --steps 5,6" in capsys.readouterr().err
    assert main(["--data", str(tmp_path), *out]) == 2
    assert "Expected some of fma_genre_spectrograms" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main([*data, "--out", str(tmp_path / "new"), "--steps", "12"]) == 2
    assert "--steps from 1 to 11" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*data, *out, "--steps", "first"])


def test_a_missing_folder_is_named_and_its_steps_are_skipped(corpus, tmp_path, capsys, quick_figures):
    data = Path(shutil.copytree(corpus, tmp_path / "data"))
    shutil.rmtree(data / GENRE)
    options = LabOptions(data, tmp_path / "lab", SMALL, (1, 2, 4), seeds=1)
    results = reproduce_lab(options)
    printed = capsys.readouterr().out
    assert f"Not there: {GENRE}" in printed
    assert results["missing"] == [GENRE]
    assert results["skipped"] == {"2": [GENRE], "3": [GENRE]}
    assert list(results["steps"]) == ["1", "4"]
    assert f"skipped, without {GENRE}" in (tmp_path / "lab" / "lab.html").read_text()
    written = (tmp_path / "lab" / "step_01" / "step.json").stat().st_mtime_ns
    reproduce_lab(LabOptions(data, tmp_path / "lab", SMALL, (4,), seeds=1, overwrite=True))
    assert (tmp_path / "lab" / "step_01" / "step.json").stat().st_mtime_ns == written


def test_what_reads_a_steps_runs_is_touched_by_doing_it_anew():
    assert [step.number for step in STEPS if lab._touched(step, (7,))] == [7, 9]
    assert [step.number for step in STEPS if lab._touched(step, (5,))] == [5, 6, 7, 9]

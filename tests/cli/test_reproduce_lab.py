"""The lab in one command, on a small demo corpus: what it wrote is read."""

import html
import json
import logging
import math
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from joblib import Parallel

from mtmusic.cli import common
from mtmusic.datasets import demo
from mtmusic.errors import UserError
from mtmusic.evaluation import bootstrap
from mtmusic.evaluation.reports.lab import Part
from mtmusic.lab import affect as lab_affect
from mtmusic.lab import genre as lab_genre
from mtmusic.lab import plan as lab_plan
from mtmusic.lab import run as lab
from mtmusic.lab.plan import GENRE, Done, Lab, Scale
from mtmusic.lab.run import STEPS, reproduce_lab

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


def page_text(out: Path) -> str:
    return html.unescape((out / "lab.html").read_text())


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
        patched.setattr(demo, "SECONDS", 3.0)
        patched.setattr(demo, "Parallel", partial(Parallel, backend="threading"))
        demo.make_demo_corpus(folder, clips_a_genre=7, affect=36)
    return folder


@pytest.fixture(scope="module")
def resumed(corpus, tmp_path_factory, quick_module_figures) -> tuple[Lab, dict[str, bytes], list[str]]:
    """A lab that was stopped within step 8 and started again: its options, what stood before the second start, and
    what was trained after it. Not to be changed."""
    options = Lab(corpus, common.command, tmp_path_factory.mktemp("out") / "lab", SMALL, seeds=1)
    trained: list[str] = []
    killed: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(options.out.parent)  # away from the pretrained trunk that a clone may have
        for name in ("RECIPES", "AFFECT_RECIPES"):
            small = {kind: replace(one, blocks=((8, 3), (4, 3))) for kind, one in getattr(lab_plan, name).items()}
            patched.setattr(lab_plan, name, small)
        patched.setattr(bootstrap, "RESAMPLES", 200)
        patched.setattr(lab.keras.utils, "clear_session", lambda free_memory: None)  # a garbage collection each
        for module, name in ((lab_affect, "train_each"), (lab_genre, "train")):
            original = getattr(module, name)

            def train(given, task, original=original):
                trained.append(f"{given.out.parent.name}/{given.out.name}")
                if trained[-1] == "step_08/cnn_seed0" and not killed:
                    killed.append(trained[-1])
                    raise KeyboardInterrupt
                return original(given, task)

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
    steps = results["steps"]
    assert [*steps["5"]["networks"]] == ["mel_full", "mel", "chroma", "fused"]
    curves = [check["overfit"] for check in steps["5"]["networks"].values()] + [steps["7"]["overfit"]]
    curves += [loss for step in ("2", "3") for loss in steps[step]["losses"].values()]
    assert len(curves) == 9
    assert all(curve[-1] < curve[0] for curve in curves)
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
    assert log.count("valence_lstm is a finished run. There is nothing to resume") == 1


def test_the_numbers_are_those_of_the_runs(resumed):
    out = resumed[0].out
    steps = read_json(out / "results.json")["steps"]
    run = read_json(out / "step_05" / "mel_seed0" / "metrics.json")
    assert steps["5"]["networks"]["mel"]["accuracy"]["values"] == [run["test"]["accuracy"]]
    assert steps["6"]["networks"]["mel"]["per_class"] == run["test"]["per_class"]
    for step, first, other in (
        ("7", steps["7"]["train"]["accuracy"], steps["5"]["networks"]["mel"]["accuracy"]),
        ("8", steps["8"]["rho"]["cnn"]["mean"], steps["8"]["rho"]["lstm"]["mean"]),
    ):
        difference = steps[step]["cnn_less_lstm"]
        assert difference["mean"] == pytest.approx(first["mean"] - other["mean"], abs=1e-5)
        assert difference["low"] <= difference["mean"] <= difference["high"]
    assert steps["4"]["flat_cnn_frames"] == SMALL.frames
    run = read_json(out / "step_08" / "lstm_seed0" / "energy_lstm" / "metrics.json")
    assert steps["8"]["rho"]["lstm"]["energy"]["mean"] == pytest.approx(run["test"]["spearman"]["energy"], abs=1e-5)
    frozen = read_json(out / "step_09" / "blocks1_frozen_seed0" / "card.json")
    assert frozen["source"]["transferred"] == "1"
    assert frozen["source"]["run"].endswith(steps["9"]["source"])
    rows = (out / "step_11" / "solution.txt").read_text().splitlines()
    assert rows[0] == "Id.fused.full.npy.gz,valence,energy,danceability"
    assert steps["9"]["pretrained"] is None
    assert len(rows) - 1 == steps["11"]["rows"] == 8


def test_the_page_has_every_step_with_its_sentences_and_pictures(resumed):
    out = resumed[0].out
    page, shown = (out / "lab.html").read_text(), page_text(out)
    parts = [read_json(out / f"step_{step.number:02}" / "step.json")["part"] for step in STEPS]
    for step, part in zip(STEPS, parts, strict=True):
        assert page.count(f'href="#step-{step.number}"') == page.count(f'id="step-{step.number}"') == 1
        assert f"<h2>{step.title}</h2>" in shown
        assert part["sentences"]
        assert all(f"<p>{sentence}</p>" in shown for sentence in part["sentences"])
    assert not re.search(r'(src|href)="(http|//)', page)
    pictures = [picture for part in parts for picture in part["pictures"]]
    assert len(pictures) == page.count("<img ") > 20
    assert all((out / picture["path"]).is_file() for picture in pictures)
    assert all(picture["alt"] and f"<figcaption>{picture['caption']}</figcaption>" in shown for picture in pictures)
    assert "say nothing about real songs" in page
    assert not (out / "lab.md").exists()


def test_a_steps_log_has_what_its_trainings_logged_and_a_line_an_epoch(resumed):
    log = (resumed[0].out / "step_05" / "log.txt").read_text()
    assert log.count("Report: ") == 4
    assert log.count("Total params") == 4
    assert log.count("val_loss") >= 8  # 4 networks, 2 epochs
    assert not logging.getLogger("mtmusic").handlers


def test_the_command_of_a_training_repeats_it(resumed, script, tmp_path, quick_figures):
    out = resumed[0].out
    program, name, *flags = shlex.split(read_json(out / "step_05" / "step.json")["part"]["commands"][1])
    assert (program, name) == ("mtmusic", "train-genre")
    flags[flags.index("--out") + 1] = str(tmp_path / "again")
    assert script("train_genre").main(flags) == 0
    original = out / "step_05" / "mel_seed0" / "history.csv"
    assert (tmp_path / "again" / "history.csv").read_text() == original.read_text()
    for step in (8, 9, 10, 11):  # the commands know all their flags
        for command in read_json(out / f"step_{step:02}" / "step.json")["part"]["commands"]:
            program, name, *flags = shlex.split(command)
            if program == "mtmusic":
                given = [flag for flag in flags if flag != "--overwrite"]
                assert script(name.replace("-", "_")).main(given) == 2  # a finished run, or the submission, is there
    for step in (1, 6):
        for command in read_json(out / f"step_{step:02}" / "step.json")["part"]["commands"]:
            _, name, *flags = shlex.split(command)
            assert script(name.replace("-", "_")).parser().parse_args(flags)


def test_other_settings_are_refused_in_one_line(resumed, script, capsys, tmp_path, monkeypatch):
    options = resumed[0]
    main = script("reproduce_lab").main
    data, out = ["--data", str(options.data)], ["--out", str(options.out)]
    assert main([*data, *out, "--quick", "--seeds", "2"]) == 2
    error = capsys.readouterr().err
    assert "it was made with other scale and seeds" in error
    assert len(error.splitlines()) == 1
    assert main([*data, "--out", str(tmp_path / "new"), "--steps", "6"]) == 2
    assert "Expected step 5 before step 6: give --steps 5,6" in capsys.readouterr().err
    assert main(["--data", str(tmp_path), *out]) == 2
    assert "Expected some of fma_genre_spectrograms" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main([*data, "--out", str(tmp_path / "new"), "--devices", "9"]) == 2
    assert "Expected --devices of" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(lab, "find_devices", lambda wanted: [*range(int(wanted))])
        assert main([*data, "--out", str(tmp_path / "new"), "--devices", "9"]) == 2
    assert "Expected --devices of 8 at most, got 9: the smallest batch" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main([*data, "--out", str(tmp_path / "new"), "--steps", "12"]) == 2
    assert "--steps from 1 to 11" in capsys.readouterr().err
    monkeypatch.setattr(lab, "supported", lambda precision: precision)
    with pytest.raises(UserError, match="it was made with other precision"):
        reproduce_lab(replace(options, precision="bfloat16"))
    for wrong in ("first", "5-3", "7,"):
        with pytest.raises(SystemExit, match="2"):
            main([*data, *out, "--steps", wrong])
        assert f"argument --steps: expected steps such as 1-11 or 5,7-9, got {wrong}; " in capsys.readouterr().err
    assert main([*data, *out, "--seeds", "0"]) == 2
    assert capsys.readouterr().err == "error: Expected --seeds of 1 or more, got 0\n"


def test_a_missing_folder_is_named_and_its_steps_are_skipped(corpus, tmp_path, caplog, quick_figures):
    caplog.set_level(logging.INFO, "mtmusic")
    data = Path(shutil.copytree(corpus, tmp_path / "data"))
    shutil.rmtree(data / GENRE)
    options = Lab(data, common.command, tmp_path / "lab", SMALL, (1, 2, 4), seeds=1)
    results = reproduce_lab(options)
    assert f"Missing folder: {GENRE}" in caplog.messages
    assert f"Step 2: mel at full rate and beat-synchronised: skipped, because {GENRE} is missing" in caplog.messages
    assert not any("Batches" in message for message in caplog.messages)  # of exploring, in the step's log alone
    assert "Batches: " in (tmp_path / "lab" / "step_04" / "log.txt").read_text()
    assert results["missing"] == [GENRE]
    assert results["skipped"] == {"2": [GENRE], "3": [GENRE]}
    assert list(results["steps"]) == ["1", "4"]
    assert f"skipped, because {GENRE} is missing" in (tmp_path / "lab" / "lab.html").read_text()
    written = (tmp_path / "lab" / "step_01" / "step.json").stat().st_mtime_ns
    reproduce_lab(replace(options, steps=(4,), overwrite=True))
    assert (tmp_path / "lab" / "step_01" / "step.json").stat().st_mtime_ns == written


def test_what_reads_a_steps_runs_is_touched_by_doing_it_anew():
    assert [step.number for step in STEPS if lab._touched(step, (7,))] == [7, 9]
    assert [step.number for step in STEPS if lab._touched(step, (5,))] == [5, 6, 7, 9]


@pytest.fixture
def sketched(corpus, tmp_path, monkeypatch) -> tuple[Lab, list[int]]:
    """A finished lab of steps that train nothing, and which were done."""
    done: list[int] = []

    def sketch(number: int) -> lab.Step:
        def do(_: lab_plan.Lab) -> Done:
            done.append(number)
            return Done(Part([f"Step {number} is done."]))

        return STEPS[number - 1]._replace(do=do)

    monkeypatch.setattr(lab.keras.utils, "clear_session", lambda free_memory: None)  # a garbage collection each
    monkeypatch.setattr(lab, "STEPS", tuple(sketch(step.number) for step in STEPS))
    options = Lab(corpus, common.command, tmp_path / "lab", SMALL, seeds=3)
    reproduce_lab(options)
    assert done == [*range(1, 12)]
    done.clear()
    return options, done


def test_doing_a_step_anew_does_those_that_read_its_runs_and_says_so(sketched, caplog):
    caplog.set_level(logging.INFO, "mtmusic")
    options, done = sketched
    results = reproduce_lab(replace(options, steps=(7,), overwrite=True))
    assert done == [7, 9]
    assert [*results["steps"]] == [str(step.number) for step in STEPS]
    logged = [line for line in caplog.messages if "will be repeated. The old step is kept in" in line]
    assert [line.partition(":")[0] for line in logged] == ["Step 7", "Step 9"]
    assert not [*options.out.glob("*.old")]
    page = page_text(options.out)
    assert all(f"<p>Step {step.number} is done.</p>" in page for step in STEPS)


@pytest.mark.parametrize("again", [True, False], ids=["--overwrite again", "goes on"])
def test_doing_anew_that_was_stopped_loses_nothing_and_shows_nothing_that_is_gone(sketched, monkeypatch, again):
    options, done = sketched
    for number in (7, 9):
        (options.out / f"step_{number:02}" / "run").write_text("an hour's work")

    def stopped(_: lab_plan.Lab) -> Done:
        (options.out / "step_07" / "half").touch()
        raise KeyboardInterrupt

    steps = lab.STEPS
    monkeypatch.setattr(lab, "STEPS", tuple(s._replace(do=stopped) if s.number == 7 else s for s in steps))
    with pytest.raises(KeyboardInterrupt):
        reproduce_lab(replace(options, steps=(7,), overwrite=True))
    assert {path.parent.name for path in options.out.rglob("run")} == {"step_07.old", "step_09.old"}
    assert [*read_json(options.out / "results.json")["steps"]] == [str(n) for n in (*range(1, 7), 8, 10, 11)]
    assert "Step 9 is done." not in page_text(options.out)

    monkeypatch.setattr(lab, "STEPS", steps)
    results = reproduce_lab(replace(options, steps=(7,), overwrite=True) if again else options)
    assert done == [7, 9]
    assert [*results["steps"]] == [str(step.number) for step in STEPS]
    assert not [*options.out.rglob("run"), *options.out.glob("*.old")]
    assert (options.out / "step_07" / "half").exists() == (not again)


def test_only_what_is_there_is_done_anew_with_the_asked(sketched):
    options, done = sketched
    shutil.rmtree(options.out / "step_09")
    reproduce_lab(replace(options, steps=(7,), overwrite=True))
    assert done == [7]


def test_a_refusal_removes_nothing(sketched):
    options, done = sketched
    kept = [*options.out.rglob("step.json")]
    with pytest.raises(UserError, match=r"other seeds, and has steps 1, 2, .* too; give `steps` with all"):
        reproduce_lab(replace(options, steps=(7,), seeds=1, overwrite=True))
    shutil.rmtree(options.out / "step_05")
    with pytest.raises(UserError, match="Expected step 5 before step 7"):
        reproduce_lab(replace(options, steps=(7,), overwrite=True))
    assert [path for path in kept if not path.exists()] == [options.out / "step_05" / "step.json"]
    assert done == []


def test_other_settings_with_all_steps_do_the_lab_anew(sketched):
    options, done = sketched
    results = reproduce_lab(replace(options, seeds=1, overwrite=True))
    assert done == [*range(1, 12)]
    assert results["seeds"] == [0]


def test_each_section_has_the_command_that_does_it_anew(sketched, script):
    options, _ = sketched
    commands = re.findall("mtmusic reproduce-lab [^\n<]*", page_text(options.out))
    whole = f"mtmusic reproduce-lab --data {options.data} --out {options.out} --quick --seeds 3"
    anew = whole.replace("--seeds", "--steps {} --seeds") + " --overwrite"
    assert commands == [whole, *(anew.format(step.number) for step in STEPS)]
    assert read_json(options.out / "results.json")["command"] == whole
    module = script("reproduce_lab")
    assert module.steps("0-2,4") == (1, 2, 4)
    arguments = module.parser().parse_args(shlex.split(commands[7])[2:])
    assert (arguments.data, arguments.out, arguments.seeds, arguments.quick) == (options.data, options.out, 3, True)
    assert (arguments.steps, arguments.overwrite) == ((7,), True)

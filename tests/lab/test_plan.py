"""What the steps share: rows of several seeds, words of templates, commands that give a training's options back."""

import importlib
import shlex
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest

from mtmusic.cli import common
from mtmusic.evaluation.reports import html
from mtmusic.evaluation.reports.lab import Picture
from mtmusic.lab.plan import (
    AFFECT_BEAT,
    FULL,
    GENRE_BEAT,
    QUICK,
    Lab,
    affect_options,
    cells,
    finetune_options,
    genre_options,
    interval,
    paragraphs,
    score_table,
    summary,
    versus,
    write_up,
)
from mtmusic.training.affect import AffectTask
from mtmusic.training.recipes import AFFECT_RECIPES, RECIPES

ROW = summary([{"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 0.7, "low": 0.6, "high": 0.8}])
LAB = Lab(Path("data"), common.command, Path("lab"), QUICK, seeds=2, seed=5)


# --- scores


def test_seeds_become_one_row():
    assert ROW["mean"] == pytest.approx(0.6)
    assert ROW["sd"] == pytest.approx(0.1 * 2**0.5)
    assert cells(ROW) == ("0.600", "0.141", "0.500 to 0.700")
    assert interval(ROW) == "0.600 (0.500 to 0.700)"
    one = summary([{"value": 0.9, "low": 0.8, "high": 1.0}])
    assert cells(one) == ("0.900", "-", "0.800 to 1.000")


def test_a_difference_is_shown_where_its_interval_leaves_zero_out():
    difference = {"mean": 0.3, "low": 0.1, "high": 0.5}
    assert versus(difference) == ("+0.300 on the same clips (0.100 to 0.500): the interval does not include 0")
    assert versus(difference | {"low": -0.1}).endswith("(-0.100 to 0.500): the interval includes 0")


def test_a_table_of_scores_has_further_columns_behind_the_interval():
    table = score_table("Accuracy", [("LSTM", ROW, 7)], ("best epoch",), "Batches of 8.")
    assert table.header == ("", "mean", "sd of seeds", "95 % interval", "best epoch")
    assert table.rows == [("LSTM", "0.600", "0.141", "0.500 to 0.700", 7)]
    assert table.caption.startswith("Accuracy. Intervals are ")
    assert table.caption.endswith(" over the seeds. Batches of 8.")


# --- words


@pytest.fixture
def template(monkeypatch):
    """Makes a template of the lab's."""
    templates: dict[str, str] = {}
    monkeypatch.setattr(html, "environment", html.environment.overlay(loader=jinja2.DictLoader(templates)))
    return templates.__setitem__


def test_a_paragraph_is_one_sentence_and_a_picture_one_picture(template):
    words = 'Of {{ lab.seeds }} seeds {{ n }}\nare <good> & "right".\n\n{% if n > 9 %}\nMany.\n{% endif %}\n\n'
    template("step_05.txt", words + '![A line [falling]\nby epoch.](\nstep_05/a.png "The \\"loss\\" (log).")\n')
    done = write_up(LAB, 5, {"n": 3}, commands=["x"], unused=1)
    assert done.part.sentences == ['Of 2 seeds 3 are <good> & "right".']
    assert done.part.pictures == [Picture("step_05/a.png", 'The \\"loss\\" (log).', "A line [falling] by epoch.")]
    assert (done.part.commands, done.numbers) == (["x"], {"n": 3})


def test_a_number_that_a_template_lacks_is_an_error(template):
    template("x.txt", "It is {{ nothing }}.")
    with pytest.raises(jinja2.UndefinedError):
        paragraphs("x.txt")


def test_every_template_of_the_lab_can_be_read():
    names = [name for name in html.environment.list_templates() if name.endswith(".txt")]
    assert {f"step_{number:02}.txt" for number in range(1, 12)} < {*names}
    assert all(html.environment.get_template(name) for name in names)


# --- commands


def arguments_of(command: str):
    """The words, parsed as the command that they name does."""
    _, name, *flags = shlex.split(command)
    return importlib.import_module(f"mtmusic.cli.{name.replace('-', '_')}").parser().parse_args(flags)


def options_of(command: str, recipes=RECIPES):
    """Of a training, as the command makes them."""
    return common.train_options(arguments_of(command), {}, recipes)


def as_typed(options):
    """Without what the lab alone gives."""
    return replace(options, resume=False, overwrite=True, command="", progress=True, verbose=False)


def test_a_command_gives_what_is_not_the_commands_own():
    options = genre_options(LAB, Path("lab/a b"), 1, "lstm", feature="chroma")
    assert options.command == (
        f"mtmusic train-genre --data data/{GENRE_BEAT} --backbone lstm --feature chroma --units 32 --epochs 6 "
        "--subset 64 --seed 1 --overwrite --out 'lab/a b'"
    )


@pytest.mark.parametrize("scale", [QUICK, FULL], ids=["quick", "full"])
def test_a_commands_words_give_the_trainings_options(scale):
    lab = replace(LAB, scale=scale, classes="all", precision="bfloat16", devices="2")
    genre = [
        genre_options(lab, Path("lab/a"), 1, "lstm", beat=False, feature="fused", batch_size=8),
        genre_options(lab, Path("lab/a"), 0, "cnn", retrain_on_all=True),
    ]
    assert [options_of(options.command) for options in genre] == [as_typed(options) for options in genre]
    lab = replace(lab, classes="lab")
    for task in (AffectTask(), AffectTask(multitask=True, learned_weights=True)):
        for backbone in ("cnn", "lstm"):
            options = affect_options(lab, Path("lab/a"), 3, backbone, task)
            assert options_of(options.command, AFFECT_RECIPES) == as_typed(options)
            assert common.filled(AffectTask, arguments_of(options.command)) == task
    for freeze in ("none", "2"):
        options = finetune_options(lab, Path("lab/a"), 2, "energy", source=Path("run"), transfer="2", freeze=freeze)
        assert options_of(options.command) == as_typed(options)
        assert arguments_of(options.command).task == "energy"


def test_precision_and_devices_reach_every_training():
    lab = replace(LAB, precision="bfloat16", devices="2")
    for options in (
        genre_options(lab, Path("run"), 0, "cnn"),
        affect_options(lab, Path("run"), 0, "lstm", AffectTask(multitask=True)),
        finetune_options(lab, Path("run"), 0, "valence", source=Path("source")),
    ):
        assert (options.recipe.precision, options.devices) == ("bfloat16", "2")
        assert "--precision bfloat16" in options.command
        assert "--devices 2" in options.command
        assert options.data.folder.name in (GENRE_BEAT, AFFECT_BEAT)


def test_the_labs_own_command_gives_its_settings():
    arguments = arguments_of(LAB.own_command(steps=7, overwrite=True))
    assert (arguments.data, arguments.out, arguments.quick) == (Path("data"), Path("lab"), True)
    assert (arguments.seeds, arguments.seed, arguments.steps, arguments.overwrite) == (2, 5, (7,), True)
    assert [*LAB.every_seed] == [5, 6]

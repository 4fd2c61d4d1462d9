"""Shared by the lab's steps: the settings, the texts, the options of trainings, and the scores over several seeds."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import PackageLoader

from mtmusic.data.folder import LoadOptions
from mtmusic.datasets.demo import AFFECT_FOLDERS, GENRE_FOLDERS
from mtmusic.evaluation.reports import html
from mtmusic.evaluation.reports.lab import Part, Picture, Table
from mtmusic.files import write_json
from mtmusic.models.trainer import OVERFIT_EPOCHS
from mtmusic.training.affect import AffectTask
from mtmusic.training.compare import JOINT, compare_runs, own_scores, read_predictions
from mtmusic.training.recipes import AFFECT_RECIPES, RECIPES, Recipe
from mtmusic.training.train import TrainOptions

GENRE, GENRE_BEAT = GENRE_FOLDERS[False], GENRE_FOLDERS[True]
AFFECT, AFFECT_BEAT = AFFECT_FOLDERS[False], AFFECT_FOLDERS[True]
FOLDERS = (GENRE, GENRE_BEAT, AFFECT, AFFECT_BEAT)

FULL_RATE_BATCH = 8
"""Batch size of a full-rate LSTM, whose clips are twenty times as long."""

html.loaders.append(PackageLoader(__package__))

PICTURE = re.compile(r'!\[(?P<alt>.*)\]\( ?(?P<path>\S+) "(?P<caption>.*)"\)')
"""A picture in a template, in Markdown: ![alt](path "caption")"""


@dataclass(frozen=True)
class Scale:
    """The scale of the trainings. None leaves a setting to the recipes.

    frames: frames of the flat CNN. blocks: numbers of transferred blocks in step 9.
    """

    name: str = "full"
    subset: int | None = None
    epochs: int | None = None
    frames: int | None = None
    units: int | None = None
    batch_size: int | None = None
    timing_epochs: int = 3
    overfit_epochs: int = OVERFIT_EPOCHS
    blocks: tuple[int, ...] = (0, 1, 2, 3, 4)


FULL = Scale()
QUICK = Scale("quick", subset=64, epochs=6, frames=32, units=32, overfit_epochs=40)


@dataclass(frozen=True)
class Lab:
    """One reproduction of the lab.

    data: the folder that holds the lab's four folders, or some of them.
    command: a function that returns the command line of a command with given values, for the page.
    steps: the steps to run.
    seeds, seed: number of seeds, and the first one.
    classes: see `labels.genre_mapping`.
    precision, devices: see `models.precision` and `models.distribution`. They apply to every training.
    overwrite: whether to repeat finished steps, and existing steps that read their runs. An old step is kept until the
    new one is finished.
    """

    data: Path
    command: Callable[..., str]
    out: Path = Path("saved_models/lab")
    scale: Scale = FULL
    steps: Sequence[int] = range(1, 12)
    seeds: int = 3
    seed: int = 0
    classes: str = "lab"
    precision: str = "float32"
    devices: str = "1"
    overwrite: bool = False

    @property
    def folders(self) -> dict[str, Path]:
        """Those of the lab's four folders that exist."""
        return {name: self.data / name for name in FOLDERS if (self.data / name).is_dir()}

    @property
    def every_seed(self) -> range:
        return range(self.seed, self.seed + self.seeds)

    def step(self, number: int) -> Path:
        return self.out / f"step_{number:02}"

    def relative(self, path: Path) -> str:
        """The path relative to the page's folder, `out`."""
        return path.relative_to(self.out).as_posix()

    def load_options(self, name: str, subset: int | None = None) -> LoadOptions:
        """The options to load one of the folders, with the first seed."""
        return LoadOptions(self.data / name, self.classes, subset=subset, seed=self.seed)

    def own_command(self, **values: Any) -> str:
        """The command line that runs the lab with these settings, and with `values`."""
        names = ("data", "classes", "out", "seeds", "seed", "precision", "devices")
        own = {name: getattr(self, name) for name in names} | {"quick": self.scale.name == QUICK.name}
        return self.command("reproduce-lab", **own, **values)


@dataclass(frozen=True)
class Done:
    """The result of a step: its section of the page, and its numbers for results.json."""

    part: Part
    numbers: dict[str, Any] = field(default_factory=dict)


# --- the texts


def paragraphs(template: str, **values: Any) -> list[str]:
    """Renders a template, and splits the text at blank lines. Each paragraph becomes one line."""
    text = html.render(template, interval=interval, versus=versus, **values)
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip()]


def write_up(
    lab: Lab,
    step: int,
    numbers: dict[str, Any],
    tables: Sequence[Table] = (),
    commands: Sequence[str] = (),
    **values: Any,
) -> Done:
    """Makes the result of a step, with the sentences and pictures of its template. values: other template variables."""
    sentences, pictures = [], []
    for paragraph in paragraphs(f"step_{step:02}.txt", lab=lab, **{**numbers, **values}):
        if found := PICTURE.fullmatch(paragraph):
            pictures.append(Picture(**found.groupdict()))
        else:
            sentences.append(paragraph)
    return Done(Part(sentences, tables, pictures, commands), numbers)


def interval(row: Mapping[str, Any]) -> str:
    """Formats a `summary`: 0.512 (0.430 to 0.590)."""
    return html.interval(row["mean"], row["low"], row["high"])


def versus(difference: Mapping[str, Any]) -> str:
    """Formats a `paired` difference, and states whether its interval includes 0."""
    low, high = difference["low"], difference["high"]
    verdict = "the interval includes 0" if low <= 0 <= high else "the interval does not include 0"
    return f"{difference['mean']:+.3f} on the same clips ({low:.3f} to {high:.3f}): {verdict}"


def cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """The cells of a `summary`: mean, standard deviation over seeds, and interval."""
    sd = "-" if row["sd"] is None else f"{row['sd']:.3f}"
    return f"{row['mean']:.3f}", sd, f"{row['low']:.3f} to {row['high']:.3f}"


def score_table(caption: str, rows: Iterable[Sequence[Any]], more: Sequence[str] = (), note: str = "") -> Table:
    """A table of scores. rows: title, `summary` and further cells. more: the header of the further cells."""
    header = ("", "mean", "sd of seeds", "95 % interval", *more)
    note = f"Intervals are from the bootstrap. Their bounds are means over the seeds. {note}".rstrip()
    return Table(f"{caption}. {note}", header, [(title, *cells(row), *further) for title, row, *further in rows])


# --- the trainings


def genre_options(
    lab: Lab, out: Path, seed: int, backbone: str, beat: bool = True, retrain_on_all: bool = False, **settings: Any
) -> TrainOptions:
    """Options to train a genre model, with the command that reproduces it. settings: settings of the recipe."""
    recipe = replace(_scaled(RECIPES[backbone], lab), **settings)
    options = _options(lab, GENRE_BEAT if beat else GENRE, out, seed, recipe, retrain_on_all=retrain_on_all)
    flags = {"classes": lab.classes, "retrain_on_all": retrain_on_all}
    return _with_command(lab, options, "train-genre", RECIPES[backbone], flags)


def affect_options(lab: Lab, out: Path, seed: int, backbone: str, task: AffectTask | None = None) -> TrainOptions:
    """Like `genre_options`, for affect."""
    options = _options(lab, AFFECT_BEAT, out, seed, _scaled(AFFECT_RECIPES[backbone], lab))
    flags = {"multitask": task.multitask, "learned_weights": task.learned_weights} if task is not None else {}
    return _with_command(lab, options, "train-affect", AFFECT_RECIPES[backbone], flags)


def finetune_options(lab: Lab, out: Path, seed: int, task: str, **transfer: Any) -> TrainOptions:
    """Like `genre_options`, for a fine-tuning. transfer: the source run, and the transferred and frozen blocks."""
    options = _options(lab, AFFECT_BEAT, out, seed, replace(_scaled(Recipe(), lab), frames=None), **transfer)
    return _with_command(lab, options, "finetune-valence", Recipe(), {"task": task, **transfer})


def _options(lab: Lab, folder: str, out: Path, seed: int, recipe: Recipe, **more: Any) -> TrainOptions:
    data = replace(lab.load_options(folder, lab.scale.subset), seed=seed)
    return TrainOptions(data, out, recipe, devices=lab.devices, resume=True, verbose=True, **more)


def _with_command(lab: Lab, options: TrainOptions, name: str, usual: Recipe, flags: Mapping[str, Any]) -> TrainOptions:
    """Adds the command line. usual: the recipe of the command without flags, so that only differences are given."""
    start = vars(replace(usual, backbone="cnn"))
    settings = {name: value for name, value in vars(options.recipe).items() if value != start[name]}
    own: dict[str, Any] = {"data": options.data.folder, "subset": options.data.subset, "seed": options.data.seed}
    own |= {"out": options.out, "devices": options.devices, "overwrite": True}
    return replace(options, command=lab.command(name, **own, **settings, **flags))


def _scaled(recipe: Recipe, lab: Lab) -> Recipe:
    """The recipe with the settings of the lab's scale and precision."""
    scale = lab.scale
    given: dict[str, Any] = {"epochs": scale.epochs, "batch_size": scale.batch_size, "precision": lab.precision}
    given |= {"frames": scale.frames} if recipe.fixed_frames else {}
    given |= {"units": scale.units} if recipe.backbone == "lstm" else {}
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """Reads the JSON file, or computes and writes it, so that a continued step does not compute it again."""
    if not path.is_file():
        write_json(path, compute())
    return json.loads(path.read_text(encoding="utf-8"))


# --- the scores


def summary(values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Summarises {value, low, high} of each seed: the values, their mean and deviation, and the means of the bounds.

    The deviation is None for one seed.
    """
    numbers = [row["value"] for row in values]
    return {
        "values": numbers,
        "mean": float(np.mean(numbers)),
        "sd": float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None,
        "low": float(np.mean([row["low"] for row in values])),
        "high": float(np.mean([row["high"] for row in values])),
    }


def paired(first: Sequence[Sequence[Path]], other: Sequence[Sequence[Path]], measure: str) -> dict[str, Any]:
    """The `summary` of the first network's score minus the other's, paired by the clips of the same test split.

    first, other: for each seed one run, or a run for each task. measure: "accuracy", "mean" or a task.
    """
    names = [(joined(one), joined(two)) for one, two in zip(first, other, strict=True)]
    return summary([compare_runs(pair)["differences"][pair[1]][measure] for pair in names])


def accuracy(runs: Sequence[Path]) -> dict[str, Any]:
    """The `summary` of the test accuracy of genre runs, one for each seed."""
    names = {"value": "accuracy", "low": "accuracy_low", "high": "accuracy_high"}
    tests = [metrics_of(run)["test"] for run in runs]
    return summary([{name: test[key] for name, key in names.items()} for test in tests])


def mean_of(runs: Sequence[Path], split: str, name: str) -> float:
    return float(np.mean([metrics_of(run)[split][name] for run in runs]))


def rho_rows(runs: Sequence[Sequence[Path]]) -> dict[str, dict[str, Any]]:
    """The `summary` of rho on the test split for each task, and for the mean of several. runs: see `paired`."""
    seeds = [own_scores(read_predictions(joined(parts))) for parts in runs]
    return {name: summary([seed[name] for seed in seeds]) for name in seeds[0]}


def joined(parts: Sequence[Path]) -> str:
    """Joins runs of single tasks as `compare_runs` takes them."""
    return JOINT.join(map(str, parts))


def training_facts(run: Path) -> dict[str, Any]:
    """Number and time of the epochs, the best epoch, and the loss of the first and of the last epoch."""
    metrics, loss = metrics_of(run), history(run)["loss"]
    names = ("epochs", "best_epoch", "seconds_per_epoch")
    return {name: metrics[name] for name in names} | {"first_loss": loss[0], "last_loss": loss[-1]}


def history(run: Path) -> dict[str, list[float]]:
    """Reads history.csv of a finished run: the values of each log by epoch."""
    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}


def metrics_of(run: Path) -> dict[str, Any]:
    """Reads metrics.json of a finished run."""
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))

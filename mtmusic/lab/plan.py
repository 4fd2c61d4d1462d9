"""What the lab's steps share: the settings, the words, the trainings, and the scores of several seeds."""

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
"""Clips a step of a full-rate LSTM: its clips are twenty times as long."""

html.loaders.append(PackageLoader(__package__))

PICTURE = re.compile(r'!\[(?P<alt>.*)\]\( ?(?P<path>\S+) "(?P<caption>.*)"\)')
"""In a template, as Markdown has it: ![alt](path "caption")"""


@dataclass(frozen=True)
class Scale:
    """How much is done; None leaves a setting to the recipes. frames: of the flat CNN. blocks: those of step 9."""

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

    data: a folder with some of the lab's four. command: gives the command line of a command with these values, for the
    page. steps: which to do. seeds: how many, from `seed` on. classes: see `labels.genre_mapping`. precision, devices:
    of every training, see models.precision and models.distribution. overwrite: does those steps anew, and those that
    are there and read their runs; an old step is set aside, and goes when the new one is finished.
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
        """Those of the lab's four that are there."""
        return {name: self.data / name for name in FOLDERS if (self.data / name).is_dir()}

    @property
    def every_seed(self) -> range:
        return range(self.seed, self.seed + self.seeds)

    def step(self, number: int) -> Path:
        return self.out / f"step_{number:02}"

    def relative(self, path: Path) -> str:
        """As the page, which lies in `out`, names it."""
        return path.relative_to(self.out).as_posix()

    def load_options(self, name: str, subset: int | None = None) -> LoadOptions:
        """One of the folders, split by the first seed."""
        return LoadOptions(self.data / name, self.classes, subset=subset, seed=self.seed)

    def own_command(self, **values: Any) -> str:
        """The command that does the lab with these settings, and with these values."""
        names = ("data", "classes", "out", "seeds", "seed", "precision", "devices")
        own = {name: getattr(self, name) for name in names} | {"quick": self.scale.name == QUICK.name}
        return self.command("reproduce-lab", **own, **values)


@dataclass(frozen=True)
class Done:
    """What a step hands over: its section of the page, and all its numbers for results.json."""

    part: Part
    numbers: dict[str, Any] = field(default_factory=dict)


# --- the words


def paragraphs(template: str, **values: Any) -> list[str]:
    """The template's text, cut at blank lines; each paragraph in one line."""
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
    """The step with the sentences and pictures of its template. values: what that needs in addition to the numbers."""
    sentences, pictures = [], []
    for paragraph in paragraphs(f"step_{step:02}.txt", lab=lab, **{**numbers, **values}):
        if found := PICTURE.fullmatch(paragraph):
            pictures.append(Picture(**found.groupdict()))
        else:
            sentences.append(paragraph)
    return Done(Part(sentences, tables, pictures, commands), numbers)


def interval(row: Mapping[str, Any]) -> str:
    """0.512 (0.430 to 0.590)"""
    return html.interval(row["mean"], row["low"], row["high"])


def versus(difference: Mapping[str, Any]) -> str:
    """A `paired` difference in words, with what its interval shows."""
    low, high = difference["low"], difference["high"]
    verdict = "the interval includes 0" if low <= 0 <= high else "the interval does not include 0"
    return f"{difference['mean']:+.3f} on the same clips ({low:.3f} to {high:.3f}): {verdict}"


def cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Of a `summary`: mean, sd of seeds, interval."""
    sd = "-" if row["sd"] is None else f"{row['sd']:.3f}"
    return f"{row['mean']:.3f}", sd, f"{row['low']:.3f} to {row['high']:.3f}"


def score_table(caption: str, rows: Iterable[Sequence[Any]], more: Sequence[str] = (), note: str = "") -> Table:
    """rows: title, `summary` and further cells, whose header is `more`."""
    header = ("", "mean", "sd of seeds", "95 % interval", *more)
    note = f"Intervals are from the bootstrap. Their bounds are means over the seeds. {note}".rstrip()
    return Table(f"{caption}. {note}", header, [(title, *cells(row), *further) for title, row, *further in rows])


# --- the trainings


def genre_options(
    lab: Lab, out: Path, seed: int, backbone: str, beat: bool = True, retrain_on_all: bool = False, **settings: Any
) -> TrainOptions:
    """Options to train a genre model, with the command that repeats it. settings: of the recipe."""
    recipe = replace(_scaled(RECIPES[backbone], lab), **settings)
    options = _options(lab, GENRE_BEAT if beat else GENRE, out, seed, recipe, retrain_on_all=retrain_on_all)
    flags = {"classes": lab.classes, "retrain_on_all": retrain_on_all}
    return _with_command(lab, options, "train-genre", RECIPES[backbone], flags)


def affect_options(lab: Lab, out: Path, seed: int, backbone: str, task: AffectTask | None = None) -> TrainOptions:
    """As `genre_options`."""
    options = _options(lab, AFFECT_BEAT, out, seed, _scaled(AFFECT_RECIPES[backbone], lab))
    flags = {"multitask": task.multitask, "learned_weights": task.learned_weights} if task is not None else {}
    return _with_command(lab, options, "train-affect", AFFECT_RECIPES[backbone], flags)


def finetune_options(lab: Lab, out: Path, seed: int, task: str, **transfer: Any) -> TrainOptions:
    """As `genre_options`, with the network of a source. transfer: which, and how much is transferred and frozen."""
    options = _options(lab, AFFECT_BEAT, out, seed, replace(_scaled(Recipe(), lab), frames=None), **transfer)
    return _with_command(lab, options, "finetune-valence", Recipe(), {"task": task, **transfer})


def _options(lab: Lab, folder: str, out: Path, seed: int, recipe: Recipe, **more: Any) -> TrainOptions:
    data = replace(lab.load_options(folder, lab.scale.subset), seed=seed)
    return TrainOptions(data, out, recipe, devices=lab.devices, resume=True, verbose=True, **more)


def _with_command(lab: Lab, options: TrainOptions, name: str, usual: Recipe, flags: Mapping[str, Any]) -> TrainOptions:
    """usual: the recipe that the command takes where no setting is given."""
    start = vars(replace(usual, backbone="cnn"))
    settings = {name: value for name, value in vars(options.recipe).items() if value != start[name]}
    own: dict[str, Any] = {"data": options.data.folder, "subset": options.data.subset, "seed": options.data.seed}
    own |= {"out": options.out, "devices": options.devices, "overwrite": True}
    return replace(options, command=lab.command(name, **own, **settings, **flags))


def _scaled(recipe: Recipe, lab: Lab) -> Recipe:
    """With what the lab's scale and precision give."""
    scale = lab.scale
    given: dict[str, Any] = {"epochs": scale.epochs, "batch_size": scale.batch_size, "precision": lab.precision}
    given |= {"frames": scale.frames} if recipe.fixed_frames else {}
    given |= {"units": scale.units} if recipe.backbone == "lstm" else {}
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """What the JSON file holds; computed and written where it is not there yet: a step that goes on does it once."""
    if not path.is_file():
        write_json(path, compute())
    return json.loads(path.read_text(encoding="utf-8"))


# --- the scores


def summary(values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of {value, low, high}, one a seed: all values, their mean and sd (None for one seed), and the mean bounds."""
    numbers = [row["value"] for row in values]
    return {
        "values": numbers,
        "mean": float(np.mean(numbers)),
        "sd": float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None,
        "low": float(np.mean([row["low"] for row in values])),
        "high": float(np.mean([row["high"] for row in values])),
    }


def paired(first: Sequence[Sequence[Path]], other: Sequence[Sequence[Path]], measure: str) -> dict[str, Any]:
    """The first network's score less the other's, clip by clip of the same test split, as `summary`.

    first, other: of each seed one run, or one a task. measure: "accuracy", "mean" or a task.
    """
    names = [(joined(one), joined(two)) for one, two in zip(first, other, strict=True)]
    return summary([compare_runs(pair)["differences"][pair[1]][measure] for pair in names])


def accuracy(runs: Sequence[Path]) -> dict[str, Any]:
    """Of genre runs, one a seed: the test split's accuracy as `summary`."""
    names = {"value": "accuracy", "low": "accuracy_low", "high": "accuracy_high"}
    tests = [metrics_of(run)["test"] for run in runs]
    return summary([{name: test[key] for name, key in names.items()} for test in tests])


def mean_of(runs: Sequence[Path], split: str, name: str) -> float:
    return float(np.mean([metrics_of(run)[split][name] for run in runs]))


def rho_rows(runs: Sequence[Sequence[Path]]) -> dict[str, dict[str, Any]]:
    """Of each task, and of several their mean: rho of the test split as `summary`. runs: as `paired`."""
    seeds = [own_scores(read_predictions(joined(parts))) for parts in runs]
    return {name: summary([seed[name] for seed in seeds]) for name in seeds[0]}


def joined(parts: Sequence[Path]) -> str:
    """As `compare_runs` takes runs of single tasks."""
    return JOINT.join(map(str, parts))


def training_facts(run: Path) -> dict[str, Any]:
    """Epochs, their time, and the loss of the first and of the last epoch."""
    metrics, loss = metrics_of(run), history(run)["loss"]
    names = ("epochs", "best_epoch", "seconds_per_epoch")
    return {name: metrics[name] for name in names} | {"first_loss": loss[0], "last_loss": loss[-1]}


def history(run: Path) -> dict[str, list[float]]:
    """Of a finished run: each log by epoch."""
    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}


def metrics_of(run: Path) -> dict[str, Any]:
    """Of a finished run: what metrics.json holds."""
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))

"""What the lab's steps share: how much is done, on which folders, where runs lie, and what each hands to the page."""

import csv
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mtmusic.datasets.demo import AFFECT_FOLDERS, GENRE_FOLDERS
from mtmusic.evaluation.reports.lab import Part, Picture
from mtmusic.files import write_json
from mtmusic.models.trainer import OVERFIT_EPOCHS
from mtmusic.training.affect import AffectOptions
from mtmusic.training.genre import GenreOptions
from mtmusic.training.recipes import AFFECT_RECIPES, RECIPES, Recipe
from mtmusic.training.train import TrainOptions

GENRE, GENRE_BEAT = GENRE_FOLDERS[False], GENRE_FOLDERS[True]
AFFECT, AFFECT_BEAT = AFFECT_FOLDERS[False], AFFECT_FOLDERS[True]
FOLDERS = (GENRE, GENRE_BEAT, AFFECT, AFFECT_BEAT)

FULL_RATE_BATCH = 8
"""Clips a step of a full-rate LSTM: its clips are twenty times as long."""

UNNAMED = ("out", "data", "recipe", "command", "resume", "overwrite")
"""Options that are no flags, or stand in front of the others."""

FLAGS = {"source": "from", "error": "loss"}


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
    """One reproduction. folders: those of the lab's four that are there. classes: see `labels.genre_mapping`.

    precision: see models.precision. devices: see replicas.find_devices.
    """

    folders: Mapping[str, Path]
    out: Path
    scale: Scale
    seeds: tuple[int, ...]
    classes: str = "lab"
    precision: str = "float32"
    devices: str = "1"

    def step(self, number: int) -> Path:
        return self.out / f"step_{number:02}"

    def relative(self, path: Path) -> str:
        """As the page, which lies in `out`, names it."""
        return path.relative_to(self.out).as_posix()

    def picture(self, path: Path, caption: str, alt: str) -> Picture:
        return Picture(self.relative(path), caption, alt)


@dataclass(frozen=True)
class Done:
    """What a step hands over: its section of the page, and all its numbers for results.json."""

    part: Part
    numbers: dict[str, Any] = field(default_factory=dict)


def genre_options(
    lab: Lab, out: Path, seed: int, backbone: str, feature: str = "mel", beat: bool = True, **more: Any
) -> GenreOptions:
    """Options of `train_genre`, with the command that repeats it. more: further options; epochs, batch_size: of the
    recipe."""
    own = {name: more.pop(name) for name in ("epochs", "batch_size") if name in more}
    recipe = replace(_scaled(RECIPES[backbone], lab), feature=feature, **own)
    options = GenreOptions(
        out=out,
        data=lab.folders[GENRE_BEAT if beat else GENRE],
        recipe=recipe,
        subset=lab.scale.subset,
        seed=seed,
        classes=lab.classes,
        devices=lab.devices,
        resume=True,
        **more,
    )
    return replace(options, command=command("train_genre", options, RECIPES[backbone]))


def affect_options(lab: Lab, out: Path, seed: int, backbone: str, **more: Any) -> AffectOptions:
    """Options of `train_affect`. more: further options."""
    recipe = _scaled(AFFECT_RECIPES[backbone], lab)
    options = _affect(lab, out, seed, recipe, more)
    return replace(options, command=command("train_affect", options, AFFECT_RECIPES[backbone]))


def finetune_options(lab: Lab, out: Path, seed: int, **more: Any) -> AffectOptions:
    """Options of `finetune`, whose network is its source's. more: further options."""
    recipe = replace(_scaled(Recipe(), lab), frames=None)
    options = _affect(lab, out, seed, recipe, more)
    return replace(options, command=command("finetune_valence", options, Recipe()))


def _affect(lab: Lab, out: Path, seed: int, recipe: Recipe, more: Mapping[str, Any]) -> AffectOptions:
    return AffectOptions(
        out=out,
        data=lab.folders[AFFECT_BEAT],
        recipe=recipe,
        subset=lab.scale.subset,
        seed=seed,
        devices=lab.devices,
        resume=True,
        **more,
    )


def _scaled(recipe: Recipe, lab: Lab) -> Recipe:
    """With what the lab's scale and precision give."""
    scale = lab.scale
    given: dict[str, Any] = {"epochs": scale.epochs, "batch_size": scale.batch_size, "precision": lab.precision}
    given |= {"frames": scale.frames} if recipe.fixed_frames else {}
    given |= {"units": scale.units} if recipe.backbone == "lstm" else {}
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def command(script: str, options: TrainOptions, recipe: Recipe) -> str:
    """The command of a script that does this training anew. recipe: what the script takes where nothing is given."""
    start = replace(recipe, backbone="cnn")
    words = ["python", f"scripts/{script}.py", "--data", str(options.data)]
    words += [*_flags(options.recipe, start), *_flags(options, type(options)()), "--out", str(options.out)]
    return shlex.join([*words, "--overwrite"])


def _flags(given: Any, default: Any) -> Iterator[str]:
    """Of each field that is not the default's."""
    for one in fields(given):
        value = getattr(given, one.name)
        if one.name in UNNAMED or value == getattr(default, one.name):
            continue
        yield f"--{FLAGS.get(one.name, one.name.replace('_', '-'))}"
        if value is not True:
            yield str(value)


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """What the JSON file holds; computed and written where it is not there yet: a step that goes on does it once."""
    if not path.is_file():
        write_json(path, compute())
    return json.loads(path.read_text(encoding="utf-8"))


def history(run: Path) -> dict[str, list[float]]:
    """Of a finished run: each log by epoch."""
    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}


def metrics_of(run: Path) -> dict[str, Any]:
    """Of a finished run: what metrics.json holds."""
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))

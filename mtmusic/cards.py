"""Finds runs and reads their cards. Does not import Keras."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mtmusic.constants import FEATURE_BINS
from mtmusic.errors import UserError
from mtmusic.files import cache_folders

MODEL_FILE, CARD_FILE, EXAMPLES_FILE = "model.keras", "card.json", "examples.npz"
SAVED_MODEL_FILE = "saved_model.pb"
LICENSE_FILE = "LICENSE"

ASSETS = "assets"
"""The folder of a SavedModel that holds its card."""

OWN_BACKBONE = "own"
"""The card's `backbone` for a model that `save_run` saved: the user built the backbone."""

TRUNK = "musicnn"
"""The name of the pretrained trunk's run."""

PRETRAINED = Path(__file__).parent / "models" / "pretrained"
"""The folder of the runs that come with the package."""

MOST_FRAMES = 10**6  # six hours at full rate


def find_run(name: Path | str) -> Path:
    """Finds a run by its path or its name.

    A name is looked up in ./saved_models, in MTMUSIC_CACHE/models, and among the runs that come with the package.
    Returns the given path if no run is found. Raises UserError if the pretrained trunk is missing.
    """
    path = Path(name)
    places = [path]
    if path.name == str(path):
        cached = [folder / "models" for folder in cache_folders()]
        places += [folder / path for folder in (Path("saved_models"), *cached, PRETRAINED)]
    for place in places:
        if place.is_file() or any((place / file).is_file() for file in (MODEL_FILE, SAVED_MODEL_FILE)):
            return place
    if str(name) == TRUNK:
        raise UserError(
            f"Expected the pretrained trunk {TRUNK}, found none: `mtmusic get-pretrained` fetches it, or run this in "
            "the clone where `make setup` fetched it"
        )
    return path


def find_card(run: Path | str) -> dict[str, Any]:
    """Reads the card of a run or of a SavedModel, by path or name as in `find_run`. Raises UserError as `read_card`."""
    path = find_run(run)
    return read_card(path / ASSETS if (path / SAVED_MODEL_FILE).is_file() else locate(path)[0])


def locate(path: Path | str) -> tuple[Path, Path]:
    """Returns the run's folder and its model.keras. Raises UserError if there is none, or for a SavedModel."""
    path = find_run(path)
    file = path if path.suffix == ".keras" else path / MODEL_FILE
    if not file.is_file():
        if (path / SAVED_MODEL_FILE).is_file():
            raise UserError(
                f"Expected a run's folder or its {MODEL_FILE}, got a SavedModel, which can only predict: {path}"
            )
        if converted := [*path.glob("model.tflite"), *path.glob("model.onnx")]:
            raise UserError(
                f"Expected a run's folder or its {MODEL_FILE}, got {converted[0]}, which only its runtime opens"
            )
        raise UserError(f"Expected a run's folder or its {MODEL_FILE}, found no {file}")
    return file.parent, file


def own_folder(path: Path | str) -> Path:
    """Returns the folder for new files of a run: the run's folder.

    The package's folder is not written to: a run that comes with the package gets a folder in ./saved_models.
    """
    folder = locate(path)[0]
    return Path("saved_models") / folder.name if folder.parent == PRETRAINED else folder


def read_card(folder: Path) -> dict[str, Any]:
    """Reads the card next to the model. Raises UserError if it is missing, or not a card of mtmusic."""
    path = folder / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Expected the model's card, got a file that cannot be read: {path}: {error}") from error
    needed = {"task", "feature", "beat", "frames"}
    if isinstance(card, dict):
        needed |= {"genre": {"classes"}, "tags": {"tags"}}.get(str(card.get("task")), {"targets", "label_means"})
    missing = needed - set(card) if isinstance(card, dict) else needed
    if missing:
        raise UserError(
            f"Expected a card with {', '.join(sorted(needed))}, got one without {', '.join(sorted(missing))}: {path}"
        )
    if broken := [name for name, good in _VALUES.items() if name in card and not good(card[name])]:
        raise UserError(
            f"Expected a valid card, got {broken[0]} {card[broken[0]]!r} in {path}: restore the file, or train again"
        )
    if unknown := [task for task in card.get("targets", ()) if task not in card["label_means"]]:
        raise UserError(f"Expected a label mean for each target, got none for {', '.join(unknown)} in {path}")
    return card


def trained_on_demo(card: Mapping[str, Any]) -> bool:
    """Whether the model, or the model whose backbone it started from, was trained on the demo corpus."""
    return bool(card.get("data", {}).get("demo") or card.get("source", {}).get("demo"))


def _is_names(value: Any) -> bool:
    named = isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)
    return named and len(set(value)) == len(value)


def _is_frames(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST_FRAMES  # a bool is an int too


_VALUES: dict[str, Callable[[Any], bool]] = {
    "feature": lambda value: value in tuple(FEATURE_BINS),
    "beat": lambda value: isinstance(value, bool),
    "frames": lambda value: value is None or _is_frames(value),
    "clip_frames": _is_frames,
    "data": lambda value: isinstance(value, dict),
    "source": lambda value: isinstance(value, dict),
    "clip_seconds": lambda value: value is None or (isinstance(value, int | float) and 0 < value < math.inf),
    "sample_rate": lambda value: type(value) is int and value > 0,
    "classes": _is_names,
    "tags": _is_names,
    "trunk": lambda value: isinstance(value, dict) and {"name", "weights", "feature", "features"} <= set(value),
    "targets": _is_names,
    "label_means": lambda value: isinstance(value, dict),
}
"""By key of the card: whether its value is valid."""

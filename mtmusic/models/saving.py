"""A model on disk: model.keras with its card, and clips to check it with. A SavedModel is `savedmodel`'s."""

import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.constants import FEATURE_BINS
from mtmusic.errors import UserError
from mtmusic.files import whole_file, write_json

MODEL_FILE, CARD_FILE, EXAMPLES_FILE = "model.keras", "card.json", "examples.npz"
SAVED_MODEL_FILE = "saved_model.pb"

MOST_FRAMES = 10**6  # six hours at full rate

SAME_MODEL = {"float32": 0.01, "bfloat16": 0.05}
"""How much a model's answers may differ between two machines, as a share of the largest, by its precision: each
machine rounds its own way."""


def save(model: keras.Model, folder: Path, card: Mapping[str, Any], examples: np.ndarray) -> None:
    """Writes model.keras, card.json and examples.npz.

    examples: (clips, frames, bins) as the model takes them; they are stored as `spectrogram` with the model's
    `prediction`, so that whoever exports or moves the model can check it.
    """
    with whole_file(folder / MODEL_FILE) as unfinished:
        model.save(unfinished)
    prediction = model.predict(examples, verbose=0)
    with whole_file(folder / EXAMPLES_FILE) as unfinished:
        np.savez_compressed(unfinished, spectrogram=examples, prediction=prediction)
    write_json(folder / CARD_FILE, card)


def load(path: Path | str) -> tuple[keras.Model, dict[str, Any]]:
    """A run's folder, or its model.keras, to the model and its card.

    Keras's safe mode stays on. Raises UserError where either is missing, broken, or holds code (a Lambda layer), and
    where the card is another model's.
    """
    folder, file = locate(path)
    card = read_card(folder)
    try:
        model = _load_whole(file)
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise UserError(
            f"Expected a model that mtmusic saved, got one that cannot be loaded: {file}: {reason}"
        ) from error
    _require_fit(model, card, folder / CARD_FILE)
    return model, card


def load_model(path: Path | str, **options: Any) -> keras.Model:
    """As keras.models.load_model, with its options, of a run's folder too; the layers of mtmusic are registered.

    Keras warns of an optimizer's state, which a model that only predicts does not need: that is not shown.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer", category=UserWarning)
        return keras.models.load_model(locate(path)[1] if Path(path).is_dir() else path, **options)


def locate(path: Path | str) -> tuple[Path, Path]:
    """The run's folder and its model.keras. Raises UserError where there is none, for a SavedModel too."""
    path = Path(path)
    file = path if path.suffix == ".keras" else path / MODEL_FILE
    if not file.is_file():
        if (path / SAVED_MODEL_FILE).is_file():
            raise UserError(
                f"Expected a run's folder or its {MODEL_FILE}, got an exported SavedModel, which only predicts: {path}"
            )
        raise UserError(f"Expected a run's folder or its {MODEL_FILE}, found no {file}")
    return file.parent, file


def read_card(folder: Path) -> dict[str, Any]:
    """The card next to the model. Raises UserError where it is missing or not one of ours."""
    path = folder / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Expected the model's card, got none that can be read: {path}: {error}") from error
    needed = {"task", "feature", "beat", "frames"}
    if isinstance(card, dict):
        needed |= {"classes"} if card.get("task") == "genre" else {"targets", "label_means"}
    missing = needed - set(card) if isinstance(card, dict) else needed
    if missing:
        raise UserError(f"Expected a card with {', '.join(sorted(needed))}; got none of {sorted(missing)} in {path}")
    if broken := [name for name, good in _VALUES.items() if name in card and not good(card[name])]:
        raise UserError(f"Expected a card as it was written, got {broken[0]} {card[broken[0]]!r} in {path}")
    if unknown := [task for task in card.get("targets", ()) if task not in card["label_means"]]:
        raise UserError(f"Expected a label mean of each target, got none of {', '.join(unknown)} in {path}")
    return card


def answers(model: keras.Model, card: dict[str, Any], spectrograms: np.ndarray) -> dict[str, np.ndarray]:
    """What the model says of (clips, frames, bins): "genre" (clips, classes), probabilities, or (clips, 1) a target."""
    predictions = model.predict(spectrograms, verbose=0)
    if card["task"] == "genre":
        return {"genre": keras.ops.convert_to_numpy(keras.ops.softmax(predictions))}
    return {target: predictions[:, i : i + 1] for i, target in enumerate(card["targets"])}


def read_examples(folder: Path, model: keras.Model) -> np.ndarray:
    """The run's example clips, (clips, frames, bins) as the model takes them.

    Raises UserError where examples.npz is missing, damaged or another model's: of other shapes, or with other answers.
    """
    path = folder / EXAMPLES_FILE
    spectrograms, predictions = _read_npz(path)
    clips = len(predictions) or 1
    if not (
        {spectrograms.dtype, predictions.dtype} == {np.dtype("float32")}
        and _fits(spectrograms, (clips, *model.input_shape[1:]))
        and _fits(predictions, (clips, *model.output_shape[1:]))
    ):
        raise UserError(
            f"Expected float32 clips {model.input_shape} with answers {model.output_shape}, "
            f"got {spectrograms.shape} with {predictions.shape} in {path}"
        )
    difference = np.abs(model.predict(spectrograms, verbose=0) - predictions).max()
    halves = any(layer.compute_dtype == "bfloat16" for layer in model.get_layer("backbone").layers)
    if not difference <= SAME_MODEL["bfloat16" if halves else "float32"] * max(1.0, np.abs(predictions).max()):
        raise UserError(f"Expected this model's answers, got others, {difference:.2g} away, in {path}: train again")
    return spectrograms


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            return stored["spectrogram"], stored["prediction"]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"Expected the run's example clips, got none that can be read: {path}: {error}") from error


def _fits(array: np.ndarray, shape: tuple[int | None, ...]) -> bool:
    """Whether the array has this shape, in which None is any length."""
    return array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))


def trained_on_demo(card: Mapping[str, Any]) -> bool:
    """Whether the model, or the one whose backbone it was started from, learnt from the demo corpus."""
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
    "classes": _is_names,
    "targets": _is_names,
    "label_means": lambda value: isinstance(value, dict),
}
"""What the card's values must be for a model to be fed by them."""


def _require_fit(model: keras.Model, card: dict[str, Any], path: Path) -> None:
    """Raises UserError where the model takes or gives another shape than its card says."""
    frames = card["frames"] if model.input_shape[1] is not None else None  # one of any length may cut its clips
    described = ((None, frames, FEATURE_BINS[card["feature"]]), (None, len(card.get("classes") or card["targets"])))
    if described != (tuple(model.input_shape), tuple(model.output_shape)):
        raise UserError(
            f"Expected the card of a model {tuple(model.input_shape)} -> {tuple(model.output_shape)}, "
            f"got that of {described[0]} -> {described[1]} in {path}"
        )


def _load_whole(file: Path) -> keras.Model:
    """Keras reads weights without comparing the archive's checksums, so that is done first."""
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} in it is damaged")
    return load_model(file)

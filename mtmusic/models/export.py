"""A model on disk: model.keras with its card, and clips to check it with."""

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.errors import UserError
from mtmusic.files import whole_file, write_json

MODEL_FILE, CARD_FILE, EXAMPLES_FILE = "model.keras", "card.json", "examples.npz"


def save(model: keras.Model, folder: Path, card: Mapping[str, Any], examples: np.ndarray) -> None:
    """Writes model.keras, card.json and examples.npz.

    examples: (clips, frames, bins) as the model takes them; they are stored as `spectrogram` beside the model's
    `prediction`, so that whoever exports or moves the model can check it.
    """
    with whole_file(folder / MODEL_FILE) as beside:
        model.save(beside)
    prediction = model.predict(examples, verbose=0)
    with whole_file(folder / EXAMPLES_FILE) as beside:
        np.savez_compressed(beside, spectrogram=examples, prediction=prediction)
    write_json(folder / CARD_FILE, card)


def load(path: Path | str) -> tuple[keras.Model, dict[str, Any]]:
    """A run's folder, or its model.keras, to the model and its card.

    Keras's safe mode stays on. Raises UserError where either is missing, broken, or holds code (a Lambda layer).
    """
    folder, file = locate(path)
    card = read_card(folder)
    try:
        return _load_quietly(file), card
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise UserError(
            f"Expected a model that mtmusic saved, got one that cannot be loaded: {file}: {reason}"
        ) from error


def locate(path: Path | str) -> tuple[Path, Path]:
    """The run's folder and its model.keras. Raises UserError where there is none."""
    path = Path(path)
    file = path if path.suffix == ".keras" else path / MODEL_FILE
    if not file.is_file():
        raise UserError(f"Expected a run's folder or its {MODEL_FILE}, found no {file}")
    return file.parent, file


def read_card(folder: Path) -> dict[str, Any]:
    """The card beside the model. Raises UserError where it is missing or not one of ours."""
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
    return card


def _load_quietly(file: Path) -> keras.Model:
    """Keras warns of an optimizer's state that a model which is only asked for answers does not need.

    It reads weights without comparing the archive's checksums, so that is done first.
    """
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} in it is damaged")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer", category=UserWarning)
        return keras.models.load_model(file)

"""A model on disk: model.keras with its card, and clips to check it with. A SavedModel is `savedmodel`'s.

Of a model on a frozen pretrained trunk the head alone is stored, with a hash of the trunk's weights.
"""

import contextlib
import hashlib
import json
import math
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.constants import FEATURE_BINS
from mtmusic.errors import UserError
from mtmusic.files import cache_folders, whole_file, write_from_memory, write_json
from mtmusic.models.heads import head_alone, on_backbone
from mtmusic.models.musicnn import kind_of, musicnn_backbone
from mtmusic.models.precision import layers_compute_in

MODEL_FILE, CARD_FILE, EXAMPLES_FILE = "model.keras", "card.json", "examples.npz"
SAVED_MODEL_FILE = "saved_model.pb"
LICENSE_FILE = "LICENSE"

OWN_BACKBONE = "own"
"""On the card of a model that `save_run` saved, in the place of a kind of backbone."""

TRUNK = "musicnn"
"""The name of the pretrained trunk's run."""

PRETRAINED = Path(__file__).parent / "pretrained"
"""Runs that come with the package."""

MOST_FRAMES = 10**6  # six hours at full rate

SAME_MODEL = {"float32": 0.01, "bfloat16": 0.05}
"""How much a model's answers may differ between two machines, as a share of the largest, by its precision: each
machine rounds its own way."""


def save(model: keras.Model, folder: Path, card: Mapping[str, Any], examples: np.ndarray) -> dict[str, Any]:
    """Writes model.keras, card.json and examples.npz, and the trunk's LICENSE next to the trunk's weights.

    Returns the card as it was written.

    A model whose backbone is the trunk found under its name, all of it frozen, is stored without it: model.keras is the
    head, and the card's "trunk" says which it was trained on.
    examples: (clips, frames, bins) as the model takes them; they are stored as `spectrogram` with the model's
    `prediction`, so that whoever exports or moves the model can check it.
    """
    trunk = _frozen_trunk(model)
    write_from_memory(folder / MODEL_FILE, (head_alone(model) if trunk else model).save)
    if not trunk and (license_file := trunk_license(model, card)):
        with whole_file(folder / LICENSE_FILE) as unfinished:
            shutil.copyfile(license_file, unfinished)
    prediction = model.predict(examples, verbose=0)
    save_examples = partial(np.savez_compressed, spectrogram=examples, prediction=prediction)
    write_from_memory(folder / EXAMPLES_FILE, save_examples)
    written = {name: value for name, value in card.items() if name != "trunk"} | trunk
    write_json(folder / CARD_FILE, written)
    return written


def load(path: Path | str) -> tuple[keras.Model, dict[str, Any]]:
    """A run's folder, its model.keras or its name, to the model and its card.

    Keras's safe mode stays on. Raises UserError where either is missing, broken, or holds code (a Lambda layer), and
    where the card is another model's. A head that is stored without its trunk is put on it, frozen: UserError where
    the trunk is missing or another.
    """
    folder, file = locate(path)
    card = read_card(folder)
    try:
        model = _load_whole(file)
    except UserError:
        raise
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise UserError(
            f"Expected a model that mtmusic saved, got one that cannot be loaded: {file}: {reason}"
        ) from error
    _require_fit(model, card, folder / CARD_FILE)
    return model, card


def load_model(path: Path | str, **options: Any) -> keras.Model:
    """As keras.models.load_model, of a run's folder or name too; the layers of mtmusic are registered.

    A head that is stored without its trunk is put on it, as `load` does.
    Keras warns of an optimizer's state, which a model that only predicts does not need: that is not shown.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer", category=UserWarning)
        found = find_run(path)
        file = locate(found)[1] if found.is_dir() else found
        model = keras.models.load_model(file, **options)
    is_head = len(model.input_shape) == 2 and (file.parent / CARD_FILE).is_file()
    trunk = read_card(file.parent).get("trunk") if is_head else None
    return on_backbone(model, _trunk_backbone(trunk, file)) if trunk else model


def find_run(name: Path | str) -> Path:
    """Where a run is that is given by a path or a name: the path, else NAME in ./saved_models, in MTMUSIC_CACHE/models,
    or among those that come with the package.

    Gives the path itself where there is none. Raises UserError where the pretrained trunk is missing.
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
            f"Expected the pretrained trunk {TRUNK}, found none: `mtmusic get-pretrained` fetches it; "
            "what make setup fetched is in saved_models of the clone"
        )
    return path


def weights_hash(model: keras.Model) -> str:
    """32 hexadecimal digits of the backbone's weights: names, shapes and bytes. The same on every machine.

    model: one with a layer "backbone", or a backbone.
    """
    backbones = [layer for layer in model.layers if layer.name == "backbone"]
    digest = hashlib.blake2b(digest_size=16)
    for layer in (backbones or [model])[0].layers:
        for weight in layer.weights:
            value = np.ascontiguousarray(weight, "<f4")
            digest.update(f"{layer.name}/{weight.name} {value.shape}\n".encode() + value.tobytes())
    return digest.hexdigest()


def trunk_license(model: keras.Model, card: Mapping[str, Any]) -> Path | None:
    """The LICENSE of the trunk whose weights the model holds, from the run it was started from, or the trunk's own."""
    if not any(layer.name == "backbone" and kind_of(layer) for layer in model.layers):
        return None
    for run in (card.get("source", {}).get("run"), TRUNK):
        with contextlib.suppress(UserError):
            if run and (file := locate(run)[0] / LICENSE_FILE).is_file():
                return file
    return None


def _frozen_trunk(model: keras.Model) -> dict[str, dict[str, str]]:
    """The card's "trunk" of a model that can be stored without it, else nothing."""
    backbone = next((layer for layer in model.layers if layer.name == "backbone"), model)
    kind = kind_of(backbone)
    if backbone is model or kind is None or kind["features"] == "patches" or backbone.trainable_variables:
        return {}
    with contextlib.suppress(UserError):
        source = _load_whole(locate(TRUNK)[1]).get_layer("backbone")
        weights = {layer.name: layer.get_weights() for layer in source.layers}
        if all(
            np.array_equal(ours, theirs)
            for layer in backbone.layers
            if layer.weights
            for ours, theirs in zip(layer.get_weights(), weights[layer.name], strict=True)
        ):
            precision = backbone.get_layer("block1_channels").compute_dtype
            return {"trunk": {"name": TRUNK, "weights": weights_hash(source), "precision": precision, **kind}}
    return {}


def _trunk_backbone(trunk: Mapping[str, str], file: Path) -> keras.Model:
    """The backbone that the head in this file was trained on, frozen. trunk: of its card."""
    folder = locate(trunk["name"])[0]
    source = load(folder)[0].get_layer("backbone")
    if (found := weights_hash(source)) != trunk["weights"]:
        raise UserError(
            f"Expected the trunk that {file} was trained on, {trunk['weights'][:8]}, got {found[:8]} in {folder}: "
            "`mtmusic get-pretrained` fetches the published one"
        )
    with layers_compute_in(trunk.get("precision", "float32")):
        backbone = musicnn_backbone(trunk["feature"], trunk["features"])
    for layer in backbone.layers:
        layer.set_weights(source.get_layer(layer.name).get_weights() if layer.weights else [])
        layer.trainable = False
    return backbone


def locate(path: Path | str) -> tuple[Path, Path]:
    """The run's folder and its model.keras. Raises UserError where there is none, for a SavedModel too."""
    path = find_run(path)
    file = path if path.suffix == ".keras" else path / MODEL_FILE
    if not file.is_file():
        if (path / SAVED_MODEL_FILE).is_file():
            raise UserError(
                f"Expected a run's folder or its {MODEL_FILE}, got an exported SavedModel, which only predicts: {path}"
            )
        raise UserError(f"Expected a run's folder or its {MODEL_FILE}, found no {file}")
    return file.parent, file


def own_folder(path: Path | str) -> Path:
    """Where what is made of a run goes: its folder; of one that comes with the package, that name in saved_models."""
    folder = locate(path)[0]
    return Path("saved_models") / folder.name if folder.parent == PRETRAINED else folder


def read_card(folder: Path) -> dict[str, Any]:
    """The card next to the model. Raises UserError where it is missing or not one of ours."""
    path = folder / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Expected the model's card, got none that can be read: {path}: {error}") from error
    needed = {"task", "feature", "beat", "frames"}
    if isinstance(card, dict):
        needed |= {"genre": {"classes"}, "tags": {"tags"}}.get(str(card.get("task")), {"targets", "label_means"})
    missing = needed - set(card) if isinstance(card, dict) else needed
    if missing:
        raise UserError(f"Expected a card with {', '.join(sorted(needed))}; got none of {sorted(missing)} in {path}")
    if broken := [name for name, good in _VALUES.items() if name in card and not good(card[name])]:
        raise UserError(f"Expected a card as it was written, got {broken[0]} {card[broken[0]]!r} in {path}")
    if unknown := [task for task in card.get("targets", ()) if task not in card["label_means"]]:
        raise UserError(f"Expected a label mean of each target, got none of {', '.join(unknown)} in {path}")
    return card


def answers(model: keras.Model, card: dict[str, Any], spectrograms: np.ndarray) -> dict[str, np.ndarray]:
    """What the model says of (clips, frames, bins).

    "genre" (clips, classes), probabilities; "tags" (clips, tags), scores; or (clips, 1) a target.
    """
    named = named_outputs(model.predict(spectrograms, verbose=0), card)
    return {name: keras.ops.convert_to_numpy(values) for name, values in named.items()}


def named_outputs(predictions: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    """What the model gives, (batch, outputs), as what it says: see `answers`. Arrays, tensors or Keras's symbols."""
    if card["task"] == "genre":
        return {"genre": keras.ops.softmax(predictions)}
    if card["task"] == "tags":
        return {"tags": predictions}
    return {target: predictions[:, i : i + 1] for i, target in enumerate(card["targets"])}


def refuse_tags(card: Mapping[str, Any], path: Path | str) -> None:
    """Raises UserError for a run that gives tags: there are no labels to evaluate it on."""
    if card["task"] == "tags":
        raise UserError(f"Expected a run of genre or affect, got {path}, which gives tags and has no metrics")


def read_examples(run: Path | str, model: keras.Model) -> np.ndarray:
    """The run's example clips, (clips, frames, bins) as the model takes them.

    Of a run that comes with the package without any, those of its trunk, which are synthesised. Raises UserError where
    examples.npz is missing, damaged or another model's: of other shapes, or with other answers.
    """
    folder = locate(run)[0]
    if folder.parent == PRETRAINED and not (folder / EXAMPLES_FILE).is_file():
        return _read_npz(locate(read_card(folder)["trunk"]["name"])[0] / EXAMPLES_FILE)[0]
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
    "sample_rate": lambda value: type(value) is int and value > 0,
    "classes": _is_names,
    "tags": _is_names,
    "trunk": lambda value: isinstance(value, dict) and {"name", "weights", "feature", "features"} <= set(value),
    "targets": _is_names,
    "label_means": lambda value: isinstance(value, dict),
}
"""What the card's values must be for a model to be fed by them."""


def _require_fit(model: keras.Model, card: dict[str, Any], path: Path) -> None:
    """Raises UserError where the model takes or gives another shape than its card says."""
    frames = card["frames"] if model.input_shape[1] is not None else None  # one of any length may cut its clips
    names = card.get("classes") or card.get("tags") or card["targets"]
    described = ((None, frames, FEATURE_BINS[card["feature"]]), (None, len(names)))
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

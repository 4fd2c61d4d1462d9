"""Saves and loads models: model.keras with its card, and example clips to check the model.

If a model's backbone is the pretrained trunk and frozen, only its head is stored, with a hash of the trunk's weights.
`savedmodel` exports models as SavedModels.
"""

import contextlib
import hashlib
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.cards import (
    CARD_FILE,
    EXAMPLES_FILE,
    LICENSE_FILE,
    MODEL_FILE,
    PRETRAINED,
    TRUNK,
    find_run,
    locate,
    read_card,
)
from mtmusic.constants import FEATURE_BINS
from mtmusic.errors import UserError
from mtmusic.files import whole_file, write_from_memory, write_json
from mtmusic.models.heads import head_alone, on_backbone
from mtmusic.models.musicnn import kind_of, musicnn_backbone
from mtmusic.models.precision import layers_compute_in

SAME_MODEL = {"float32": 0.01, "bfloat16": 0.05}
"""The largest difference of a model's answers between two machines, as a share of the largest answer, by precision.
Rounding differs between machines."""


def save(model: keras.Model, folder: Path, card: Mapping[str, Any], examples: np.ndarray) -> dict[str, Any]:
    """Writes model.keras, card.json and examples.npz, and the trunk's LICENSE if the trunk's weights are written.

    If the backbone is the pretrained trunk that is found under its name, and all of it is frozen, model.keras holds
    only the head, and the card's "trunk" says which trunk it was trained on.

    Args:
        model: The model.
        folder: The run's folder.
        card: The content of the card.
        examples: Clips `(clips, frames, bins)` as the model takes them. They are stored as "spectrogram" together with
            the model's "prediction", so that an export or another machine can check the model.

    Returns:
        The card as it was written.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.models.saving import load, read_examples, save
        >>> model, card = load("saved_models/genre_lstm")
        >>> examples = read_examples("saved_models/genre_lstm", model)
        >>> written = save(model, Path("copied_run"), card, examples)
        >>> sorted(path.name for path in Path("copied_run").iterdir())
        ['card.json', 'examples.npz', 'model.keras']
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
    """Loads a model and its card. Keras's safe mode stays on, so no code is run.

    Args:
        path: A run's folder, its model.keras or its name.

    Returns:
        The model and its card. A head that is stored without its trunk is put on the trunk, frozen.

    Raises:
        UserError: Model or card is missing or broken, the card belongs to another model, the model holds code (a Lambda
            layer), or its trunk is missing or has other weights.

    Examples:
        >>> from mtmusic.models.saving import load
        >>> model, card = load("saved_models/genre_lstm")
        >>> card["task"], card["classes"], card["feature"]
        ('genre', ['Blues', 'Jazz', 'Rock'], 'mel')
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
    """Loads a model like `keras.models.load_model`, and also takes a run's folder or name.

    The layers of mtmusic are registered. A head that is stored without its trunk is put on the trunk, frozen.

    Args:
        path: A run's folder, its model.keras or its name.
        **options: Arguments of `keras.models.load_model`, `compile` for example.

    Returns:
        The `keras.Model` from `(batch, frames, bins)` to the outputs.

    Raises:
        ValueError: There is no such model, or it cannot be loaded.

    Examples:
        >>> model = mtmusic.load_model("saved_models/genre_lstm")
        >>> model.predict(np.zeros((1, 20, 128)), verbose=0).shape  # logits of three classes
        (1, 3)
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer", category=UserWarning)
        found = find_run(path)
        file = locate(found)[1] if found.is_dir() else found
        model = keras.models.load_model(file, **options)
    is_head = len(model.input_shape) == 2 and (file.parent / CARD_FILE).is_file()
    trunk = read_card(file.parent).get("trunk") if is_head else None
    return on_backbone(model, _trunk_backbone(trunk, file)) if trunk else model


def weights_hash(model: keras.Model) -> str:
    """Computes a hash of the backbone's weights: their names, shapes and bytes. It is the same on every machine.

    Args:
        model: A model with a layer "backbone", or a backbone.

    Returns:
        32 hexadecimal digits.

    Examples:
        >>> from mtmusic.models.saving import weights_hash
        >>> model = mtmusic.load_model("saved_models/genre_lstm")
        >>> weights_hash(model) == weights_hash(mtmusic.load_backbone("saved_models/genre_lstm"))
        True
    """
    backbones = [layer for layer in model.layers if layer.name == "backbone"]
    digest = hashlib.blake2b(digest_size=16)
    for layer in (backbones or [model])[0].layers:
        for weight in layer.weights:
            value = np.ascontiguousarray(weight, "<f4")
            digest.update(f"{layer.name}/{weight.name} {value.shape}\n".encode() + value.tobytes())
    return digest.hexdigest()


def trunk_license(model: keras.Model, card: Mapping[str, Any]) -> Path | None:
    """Finds the LICENSE file of the trunk whose weights a model holds.

    Args:
        model: The model.
        card: Its card, which may name the run that the model was started from.

    Returns:
        The file in that run, or the trunk's own. None if the model has no trunk, or there is no such file.
    """
    if not any(layer.name == "backbone" and kind_of(layer) for layer in model.layers):
        return None
    for run in (card.get("source", {}).get("run"), TRUNK):
        with contextlib.suppress(UserError):
            if run and (file := locate(run)[0] / LICENSE_FILE).is_file():
                return file
    return None


def _frozen_trunk(model: keras.Model) -> dict[str, dict[str, str]]:
    """Returns the entry "trunk" of the card for a model that can be stored without its trunk, else nothing."""
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
    """Loads the frozen backbone that the head in this file was trained on. trunk: the entry "trunk" of its card."""
    folder = locate(trunk["name"])[0]
    source = load(folder)[0].get_layer("backbone")
    if (found := weights_hash(source)) != trunk["weights"]:
        raise UserError(
            f"Expected the trunk that {file} was trained on, {trunk['weights'][:8]}, got {found[:8]} in {folder}: "
            "`mtmusic get-pretrained` fetches the published trunk"
        )
    with layers_compute_in(trunk.get("precision", "float32")):
        backbone = musicnn_backbone(trunk["feature"], trunk["features"])
    for layer in backbone.layers:
        layer.set_weights(source.get_layer(layer.name).get_weights() if layer.weights else [])
        layer.trainable = False
    return backbone


def answers(model: keras.Model, card: dict[str, Any], spectrograms: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the answers of a model.

    Args:
        model: The model.
        card: Its card.
        spectrograms: Clips `(clips, frames, bins)` as the model takes them.

    Returns:
        "genre" `(clips, classes)`, probabilities; "tags" `(clips, tags)`, scores; or each target `(clips, 1)`.

    Examples:
        >>> from mtmusic.models.saving import answers, load
        >>> model, card = load("saved_models/genre_lstm")
        >>> round(float(answers(model, card, np.zeros((1, 20, 128)))["genre"].sum()), 3)
        1.0
    """
    named = named_outputs(model.predict(spectrograms, verbose=0), card)
    return {name: keras.ops.convert_to_numpy(values) for name, values in named.items()}


def named_outputs(predictions: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    """Names a model's outputs: see `answers`.

    Args:
        predictions: The outputs `(batch, outputs)`: an array, a tensor or a symbolic tensor.
        card: The model's card.

    Returns:
        The answers by name.
    """
    if card["task"] == "genre":
        return {"genre": keras.ops.softmax(predictions)}
    if card["task"] == "tags":
        return {"tags": predictions}
    return {target: predictions[:, i : i + 1] for i, target in enumerate(card["targets"])}


def refuse_tags(card: Mapping[str, Any], path: Path | str) -> None:
    """Refuses a run that predicts tags, because there are no labels to evaluate it on.

    Args:
        card: The run's card.
        path: The run, for the message.

    Raises:
        UserError: The run predicts tags.
    """
    if card["task"] == "tags":
        raise UserError(f"Expected a run of genre or affect, got {path}, which predicts tags and has no metrics")


def read_examples(run: Path | str, model: keras.Model) -> np.ndarray:
    """Reads a run's example clips.

    A run of the package without example clips uses those of its trunk, which are synthesised.

    Args:
        run: A run's folder, its model.keras or its name.
        model: The run's model.

    Returns:
        The clips `(clips, frames, bins)` as the model takes them.

    Raises:
        UserError: examples.npz is missing or damaged, or belongs to another model: shapes or answers differ.

    Examples:
        >>> from mtmusic.models.saving import read_examples
        >>> model = mtmusic.load_model("saved_models/genre_lstm")
        >>> read_examples("saved_models/genre_lstm", model).shape
        (3, 20, 128)
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
        raise UserError(
            f"Expected this model's answers in {path}, got answers that differ by {difference:.2g}: train again"
        )
    return spectrograms


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            return stored["spectrogram"], stored["prediction"]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"Expected the run's example clips, got a file that cannot be read: {path}: {error}") from error


def _fits(array: np.ndarray, shape: tuple[int | None, ...]) -> bool:
    """Whether the array has this shape, where None stands for any length."""
    return array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))


def _require_fit(model: keras.Model, card: dict[str, Any], path: Path) -> None:
    """Raises UserError if the model's input or output shape is not that of its card."""
    frames = card["frames"] if model.input_shape[1] is not None else None  # a model of any length may still cut clips
    names = card.get("classes") or card.get("tags") or card["targets"]
    described = ((None, frames, FEATURE_BINS[card["feature"]]), (None, len(names)))
    if described != (tuple(model.input_shape), tuple(model.output_shape)):
        raise UserError(
            f"Expected the card of a model {tuple(model.input_shape)} -> {tuple(model.output_shape)}, "
            f"got a card of {described[0]} -> {described[1]} in {path}"
        )


def _load_whole(file: Path) -> keras.Model:
    """Loads a model after a check of the archive's checksums, which Keras does not check."""
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the file {damaged} in the archive is damaged")
    return load_model(file)

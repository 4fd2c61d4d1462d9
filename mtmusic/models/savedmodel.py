"""Models as TensorFlow functions with named inputs and outputs: exported as a SavedModel, or opened for predictions.

Both use the same graph, so an exported model and its run have the same answers.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtmusic.cards import ASSETS, CARD_FILE, SAVED_MODEL_FILE, find_run, locate, read_card
from mtmusic.constants import (
    EMBEDDING,
    FEATURE_BINS,
    LOUDEST_WHERE_LEVEL_COUNTS,
    PAD_VALUE,
    PATCH_FRAMES,
    PENULTIMATE,
)
from mtmusic.errors import UserError
from mtmusic.files import whole_folder, write_json
from mtmusic.models.frontend import Logmel, LogMelSpectrogram
from mtmusic.models.heads import head_alone
from mtmusic.models.musicnn import DENSE_UNITS, PatchMean, embedding, kind_of
from mtmusic.models.saving import answers, load, named_outputs, weights_hash

SERVE, EMBED, WAVEFORM, HEAD = "serve", "embed", "waveform", "head"
LARGEST_DIFFERENCE = 1e-4

Ask = Callable[..., dict[str, np.ndarray]]


@dataclass(frozen=True)
class Sound:
    """The data for an exported model that takes samples, for full-rate mel or for logmel, and a clip to check it.

    Attributes:
        filters: Bank of mel filters, `(128, 1025)`, or `(96, 257)` for logmel.
        samples: A waveform `(samples,)` at the feature's sample rate.
        spectrogram: The feature of this waveform `(bins, frames)`.

    Examples:
        >>> from mtmusic.audio.features import logmel_filters, logmel_spectrogram
        >>> from mtmusic.models.savedmodel import Sound
        >>> samples = np.zeros(16_000, "float32")
        >>> sound = Sound(logmel_filters(), samples, logmel_spectrogram(samples))
        >>> sound.filters.shape, sound.spectrogram.shape
        ((96, 257), (96, 63))
    """

    filters: np.ndarray
    samples: np.ndarray
    spectrogram: np.ndarray


@dataclass(frozen=True)
class Head:
    """The layers on a trunk that several models may share.

    Attributes:
        ask: A function that takes `(batch, features)` and returns what `OpenedModel.serve` returns.
        takes: Name of the output of `OpenedModel.embed` that `ask` takes.
        trunk: An identifier of the trunk. If it is equal for two models, `embed` returns the same for both.

    Examples:
        >>> from mtmusic.models.savedmodel import open_model
        >>> model = open_model("musicnn")
        >>> features = model.embed(np.zeros((2, 187, 96), "float32"))[model.head.takes]
        >>> features.shape, model.head.ask(features)["tags"].shape
        ((2, 200), (2, 50))
    """

    ask: Ask
    takes: str
    trunk: str


@dataclass(frozen=True)
class OpenedModel:
    """A model opened for predictions.

    `serve` and `embed` take float32 spectrograms `(batch, frames, bins)` in the units of the arrays on disk, with
    absent frames filled with PAD_VALUE. Clips longer than the card's `frames` are cut and shorter ones padded, as in
    training.

    Attributes:
        card: The model's card.
        serve: Returns "genre" `(batch, classes)`, probabilities; "tags" `(batch, tags)`, scores; or each task `(batch,
            1)`. Classes and tags are in the card's order.
        embed: Returns "embedding" `(batch, features)`: the backbone's output, or for musicnn the 753 means over time.
            If a musicnn backbone has block 3, "penultimate" is returned too, the 200 features before the tags.
        head: The layers on the trunk, if the backbone is a musicnn that takes logmel of any length.

    Examples:
        >>> from mtmusic.models.savedmodel import open_model
        >>> model = open_model("saved_models/genre_lstm")
        >>> model.card["classes"]
        ['Blues', 'Jazz', 'Rock']
        >>> round(float(model.serve(np.zeros((1, 20, 128), "float32"))["genre"].sum()), 3)
        1.0
        >>> model.head is None  # the backbone is an LSTM
        True
    """

    card: dict[str, Any]
    serve: Ask
    embed: Ask
    head: Head | None = None


def open_model(path: Path | str) -> OpenedModel:
    """Opens a model for predictions.

    A SavedModel is a program. Open only SavedModels that you trust.

    Args:
        path: A run's folder, its model.keras, its name, or an exported SavedModel.

    Returns:
        The opened model.

    Raises:
        UserError: There is no such model, it cannot be loaded, or its card is missing or belongs to another model.

    Examples:
        >>> from mtmusic.models.savedmodel import open_model
        >>> model = open_model("saved_models/genre_lstm")
        >>> model.serve(np.zeros((2, 20, 128), "float32"))["genre"].shape
        (2, 3)
        >>> model.embed(np.zeros((2, 20, 128), "float32"))["embedding"].shape
        (2, 4)
    """
    path = find_run(path)
    if not (path / SAVED_MODEL_FILE).is_file():
        model, card = load(path)
        functions = signatures(model, card, locate(path)[1])
        asks = {name: partial(_ask, function) for name, function in functions.items()}
        head = _head(asks, functions[HEAD].input_signature, _trunk(model, card)) if HEAD in asks else None
        return OpenedModel(card, asks[SERVE], asks[EMBED], head)
    card = read_card(path / ASSETS)
    try:
        loaded = tf.saved_model.load(str(path))
        functions = {name: loaded.signatures[name] for name in (SERVE, EMBED)}
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"Expected a SavedModel of mtmusic, got one that cannot be loaded: {path}: {reason}") from error
    _require_fit(functions[SERVE], card, path)
    asks = {name: partial(_ask_loaded, loaded, name) for name in loaded.signatures}
    head = _head(asks, loaded.signatures[HEAD].structured_input_signature, str(path)) if HEAD in asks else None
    return OpenedModel(card, asks[SERVE], asks[EMBED], head)


def _head(asks: Mapping[str, Ask], takes: Any, trunk: str) -> Head:
    return Head(partial(asks[HEAD], name="features"), _taken(takes), trunk)


def _taken(signature: Any) -> str:
    """Returns the name of the output of `embed` that a function with this input signature takes."""
    (features,) = tf.nest.flatten(signature)
    return PENULTIMATE if features.shape[1] == DENSE_UNITS else EMBEDDING


def _trunk(model: keras.Model, card: Mapping[str, Any]) -> str:
    """Identifies a trunk by the hash of its weights and its precision."""
    weights = card["trunk"]["weights"] if "trunk" in card else weights_hash(model)
    return f"{weights} {model.get_layer('backbone').get_layer('block1_channels').compute_dtype}"


def _ask(
    function: Callable[..., Mapping[str, tf.Tensor]], array: np.ndarray, name: str = "spectrogram"
) -> dict[str, np.ndarray]:
    return {output: values.numpy() for output, values in function(**{name: tf.constant(array)}).items()}


def _ask_loaded(loaded: Any, signature: str, array: np.ndarray, name: str = "spectrogram") -> dict[str, np.ndarray]:
    """Like `_ask`. Keeps a reference to the loaded object, because its variables are deleted with it."""
    return _ask(loaded.signatures[signature], array, name)


def _require_fit(serve: Any, card: dict[str, Any], path: Path) -> None:
    """Raises UserError if inputs or outputs of the signature are not those of the card."""
    takes = {name: tuple(spec.shape) for name, spec in serve.structured_input_signature[1].items()}
    gives = {name: tuple(spec.shape) for name, spec in serve.structured_outputs.items()}
    bins, names = FEATURE_BINS[card["feature"]], card.get("classes") or card.get("tags")
    outputs = {card["task"]: (None, len(names))} if names else dict.fromkeys(card.get("targets", ()), (None, 1))
    if (takes, gives) != ({"spectrogram": (None, None, bins)}, outputs):
        raise UserError(
            f"Expected the card of a model {takes} -> {gives}, got a card of (None, None, {bins}) -> {outputs} in "
            f"{path / ASSETS / CARD_FILE}"
        )


def export_savedmodel(
    model: keras.Model,
    card: dict[str, Any],
    examples: np.ndarray,
    folder: Path,
    sound: Sound | None = None,
    licenses: Mapping[str, Path] | None = None,
) -> float:
    """Exports a model as a SavedModel. Its answers are compared with the model's before the folder is written.

    `mtmusic.training.export.export_model` does this for a run.

    Args:
        model: The model.
        card: Its card. The export adds "signatures", and the reason if one is missing.
        examples: Clips `(clips, frames, bins)` as the model takes them, to compare the answers on.
        folder: The folder to write. An earlier one is replaced.
        sound: Data for a model that also takes samples, or None.
        licenses: Files to copy into the export, by their names there.

    Returns:
        The largest difference between two answers, or between two embeddings as a share of the largest value.

    Raises:
        UserError: The difference is above 1e-4, or the folder cannot be written. Nothing is written then.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.models.saving import load, read_examples
        >>> model, card = load("saved_models/genre_lstm")
        >>> examples = read_examples("saved_models/genre_lstm", model)
        >>> mtmusic.export_savedmodel(model, card, examples, Path("exported")) < 1e-4
        True
    """
    try:
        with whole_folder(folder) as work:
            _write(model, card, work, sound, licenses or {})
            difference = _largest_difference(model, card, examples, work, sound)
            require_close(difference, folder)
    except tf.errors.OpError as error:  # TensorFlow's error for a full or read-only disk
        reason = error.message.splitlines()[0].rpartition("; ")[2].partition(" [Op:")[0]
        raise UserError(f"Cannot write {folder}: {reason}") from error
    return difference


def require_close(difference: float, folder: Path) -> None:
    """Checks the difference between an exported model's answers and the model's.

    Args:
        difference: The largest difference.
        folder: The folder of the export, for the message.

    Raises:
        UserError: The difference is above 1e-4, or NaN.
    """
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"Expected answers of the exported model within {LARGEST_DIFFERENCE:g} of the model's, "
            f"got a difference of {difference:.2g}: nothing was written to {folder}"
        )


def no_waveform(card: Mapping[str, Any]) -> str:
    """Returns the reason why an exported model does not take samples.

    Args:
        card: The model's card.

    Returns:
        The reason.
    """
    rate = "beat-synchronised" if card["beat"] else "full-rate"
    return f"the model's input is {rate} {card['feature']}, which TensorFlow alone cannot compute"


def _write(
    model: keras.Model, card: dict[str, Any], folder: Path, sound: Sound | None, licenses: Mapping[str, Path]
) -> None:
    layer = Logmel if card["feature"] == "logmel" else LogMelSpectrogram
    front_end = layer(sound.filters) if sound else None
    functions = signatures(model, card, folder, front_end)
    without_cudnn(model)
    card = card | {"signatures": [*functions]}
    if sound is None:
        card["missing_signatures"] = {WAVEFORM: no_waveform(card)}
    module = tf.Module()
    module.kept = [variable.value for part in (model, front_end) if part for variable in part.variables]
    for name, function in functions.items():
        setattr(module, name, function)
    with tempfile.TemporaryDirectory() as temporary:
        write_json(Path(temporary) / CARD_FILE, card)
        module.card = tf.saved_model.Asset(str(Path(temporary) / CARD_FILE))
        copies = [shutil.copyfile(file, Path(temporary) / name) for name, file in licenses.items()]
        module.licenses = [tf.saved_model.Asset(str(copy)) for copy in copies]
        default = {tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: functions[SERVE]}
        tf.saved_model.save(module, str(folder), signatures=functions | default)


def without_cudnn(model: keras.Model) -> None:
    """Stops LSTMs from using cuDNN, because a graph that is traced on a GPU would need one.

    Args:
        model: The model. It is changed.
    """
    for layer in model._flatten_layers():
        if hasattr(layer, "use_cudnn"):
            layer.use_cudnn = False


def signatures(
    model: keras.Model, card: dict[str, Any], path: Path, front_end: keras.layers.Layer | None = None
) -> dict[str, Any]:
    """Makes the functions of an exported model, see `OpenedModel`.

    These are `serve` and `embed`, with a front end also `waveform`, and for a musicnn of logmel also `head`. They raise
    InvalidArgumentError for a clip without a present frame, and for numbers that are not finite.

    Args:
        model: The model.
        card: Its card.
        path: The model's path, for the message.
        front_end: A layer from samples `(batch, samples)` to spectrograms `(batch, frames, bins)`.

    Returns:
        `tf.function`s of one input, by name.

    Raises:
        UserError: The model has no layer "backbone".
    """
    try:
        embedder = _embedder(model)
    except ValueError as error:
        raise UserError(f'Expected a model with a part named "backbone", got none for {path}') from error
    spectrograms = tf.TensorSpec((None, None, FEATURE_BINS[card["feature"]]), tf.float32, "spectrogram")

    def answer(spectrogram: tf.Tensor) -> dict[str, tf.Tensor]:
        return named_outputs(model(_as_trained(spectrogram, card["frames"]), training=False), card)

    def embed(spectrogram: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = embedder(_as_trained(spectrogram, card["frames"]), training=False)
        return {name: tf.cast(features, tf.float32) for name, features in outputs.items()}

    functions = {
        SERVE: _traced(answer, spectrograms),
        EMBED: _traced(embed, spectrograms),
    }
    if front_end is not None:

        def waveform(samples: tf.Tensor) -> dict[str, tf.Tensor]:
            samples = _required(samples, tf.shape(samples)[1] > 0, "Expected samples, got none")
            finite = tf.reduce_all(tf.math.is_finite(samples))
            samples = _required(samples, finite, "Expected finite samples, got NaN or infinite samples")
            if card["feature"] == "logmel":
                scaled = tf.reduce_max(tf.abs(samples)) <= LOUDEST_WHERE_LEVEL_COUNTS
                samples = _required(samples, scaled, "Expected samples from -1 to 1, got a peak above 4")
            return answer(front_end(samples))

        functions[WAVEFORM] = _traced(waveform, tf.TensorSpec((None, None), tf.float32, "samples"))
    kind = kind_of(model.get_layer("backbone"))
    if kind and kind["feature"] == "logmel" and card["frames"] is None:
        alone = head_alone(model)
        takes = tf.TensorSpec((None, alone.input_shape[-1]), tf.float32, "features")

        def head(features: tf.Tensor) -> dict[str, tf.Tensor]:
            patches = features[:, tf.newaxis] if kind["features"] == "patches" else features
            return named_outputs(alone(patches, training=False), card)

        functions[HEAD] = _traced(head, takes)
    return functions


def _traced(function: Callable[..., Any], takes: tf.TensorSpec) -> Any:
    """Makes a tf.function without AutoGraph, which is not needed here and takes most of the time of a trace."""
    return tf.function(function, input_signature=[takes], autograph=False)


def _embedder(model: keras.Model) -> keras.Model:
    """A model from (batch, frames, bins) to the outputs of `embed` by name."""
    backbone = model.get_layer("backbone")
    kind = kind_of(backbone)
    outputs = {EMBEDDING: embedding(model).output if kind else backbone.output}
    if kind and kind["features"] != "mean":
        features, (_, present) = (backbone.get_layer(name).output for name in ("block3_dense_norm", "patches"))
        outputs[PENULTIMATE] = PatchMean()(features, present)
    return keras.Model(backbone.input, outputs)


def _as_trained(spectrogram: tf.Tensor, frames: int | None) -> tf.Tensor:
    """Checks (batch, any number, bins), and cuts or pads it to (batch, frames, bins) as in training."""
    present = tf.reduce_any(spectrogram != PAD_VALUE, axis=(1, 2))
    message = f"Expected a frame that is not padding ({PAD_VALUE:g}) in each clip, got none"
    spectrogram = _required(spectrogram, tf.reduce_all(present), message)
    finite = tf.reduce_all(tf.math.is_finite(spectrogram))
    spectrogram = _required(spectrogram, finite, "Expected finite numbers, got NaN or infinite numbers")
    return spectrogram if frames is None else cut_or_padded(spectrogram, frames)


def cut_or_padded(spectrogram: tf.Tensor, frames: int) -> tf.Tensor:
    """Cuts or pads spectrograms to a number of frames.

    Args:
        spectrogram: Spectrograms `(batch, frames, bins)`.
        frames: The number of frames.

    Returns:
        Spectrograms `(batch, frames, bins)`, with absent frames filled with PAD_VALUE.
    """
    cut = spectrogram[:, :frames]
    missing = frames - tf.shape(cut)[1]
    padded = tf.pad(cut, ((0, 0), (0, missing), (0, 0)), constant_values=PAD_VALUE)
    return tf.reshape(padded, (spectrogram.shape[0] or -1, frames, spectrogram.shape[2]))  # LiteRT lacks ensure_shape


def _required(tensor: tf.Tensor, condition: tf.Tensor, message: str) -> tf.Tensor:
    """Returns the tensor after an assertion, so that later operations do not fail first with other messages."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(tensor)


def _largest_difference(
    model: keras.Model, card: dict[str, Any], examples: np.ndarray, folder: Path, sound: Sound | None
) -> float:
    """The largest difference between the answers of the model and of the SavedModel on disk."""
    served = tf.saved_model.load(str(folder)).signatures
    embedder = _embedder(model)
    embedded = {name: rows.astype(np.float32) for name, rows in embedder.predict(examples, verbose=0).items()}
    pairs = [
        (answers(model, card, examples), served[SERVE](spectrogram=tf.constant(examples))),
        (embedded, served[EMBED](spectrogram=tf.constant(examples))),
    ]
    if HEAD in served:
        patch = examples[:, :PATCH_FRAMES]
        rows = embedder.predict(patch, verbose=0)[_taken(served[HEAD].structured_input_signature)]
        pairs.append((answers(model, card, patch), served[HEAD](features=tf.constant(rows))))
    if sound is not None:
        spectrogram = _as_trained(tf.constant(sound.spectrogram.T[np.newaxis]), card["frames"]).numpy()
        samples = tf.constant(sound.samples[np.newaxis])
        pairs.append((answers(model, card, spectrogram), served[WAVEFORM](samples=samples)))
    return float(np.max([largest_difference(want, got) for want, got in pairs]))  # unlike max, np.max propagates NaN


def largest_difference(want: Mapping[str, np.ndarray], got: Mapping[str, Any]) -> float:
    """Computes the largest difference between two sets of outputs, relative to the largest value if that exceeds 1.

    Args:
        want: Outputs by name.
        got: Other outputs by name.

    Returns:
        The difference, NaN if one is NaN.
    """
    shares = [np.abs(each - got[name]).max() / max(1.0, np.abs(each).max()) for name, each in want.items()]
    return float(np.max(shares))

"""Converts a model to one file for runtimes without TensorFlow: LiteRT, for phones and small boards, and ONNX Runtime.

The input and the outputs are those of the SavedModel's `serve`: "spectrogram", and "genre", "tags" or a task's name.
The converted model does not check its input.
"""

import contextlib
import logging
import os
import re
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtmusic.cards import CARD_FILE
from mtmusic.constants import FEATURE_BINS
from mtmusic.errors import UserError
from mtmusic.extras import require
from mtmusic.files import whole_folder, write_json
from mtmusic.models.clip_statistics import GaussianEmbedding
from mtmusic.models.cpu import stock_operations
from mtmusic.models.layers import Float32Layer, Tensor
from mtmusic.models.savedmodel import Ask, cut_or_padded, largest_difference, require_close, without_cudnn
from mtmusic.models.saving import answers, named_outputs

LITERT, ONNX = "litert", "onnx"
FILES = {LITERT: "model.tflite", ONNX: "model.onnx"}
NAMES = {LITERT: "LiteRT", ONNX: "ONNX"}
NEEDED = {LITERT: ("ai_edge_litert",), ONNX: ("tf2onnx", "onnxruntime")}
"""Modules that each format needs."""


def require_packages(kind: str) -> None:
    """Checks that the packages of a format are installed.

    Args:
        kind: "litert" or "onnx".

    Raises:
        UserError: A package is missing.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime reports its use
    for module in NEEDED[kind]:
        require(module, f"An export to {NAMES[kind]}")


def require_convertible(model: keras.Model, kind: str) -> None:
    """Checks that a format supports the operations and the data types of a model.

    Args:
        model: The model.
        kind: "litert" or "onnx".

    Raises:
        UserError: The format does not support an operation or a data type.
    """
    layers = list(model._flatten_layers())
    if found := next((layer for layer in layers if isinstance(layer, GaussianEmbedding)), None):
        raise UserError(
            f"Expected operations that {NAMES[kind]} supports, got the eigendecomposition of the layer "
            f"{found.name!r}: export it with `format=savedmodel`, or train the recipe kernel-no-embedding"
        )
    if any(layer.compute_dtype == "bfloat16" for layer in layers):
        raise UserError(f"Expected a model that computes in float32 for {NAMES[kind]}, got one in bfloat16")


def export_converted(
    model: keras.Model,
    card: dict[str, Any],
    examples: np.ndarray,
    folder: Path,
    kind: str,
    licenses: Mapping[str, Path] | None = None,
) -> float:
    """Writes model.tflite or model.onnx with the card, if its answers in its runtime match those of the model.

    An LSTM in LiteRT takes one clip at a time.

    Args:
        model: A model that `require_convertible` passes.
        card: Its card.
        examples: Clips `(clips, frames, bins)` as the model takes them.
        folder: The folder to write. An earlier one is replaced.
        kind: "litert" or "onnx".
        licenses: Files to copy into the folder, by their names there.

    Returns:
        The largest difference between two answers.

    Raises:
        UserError: The model cannot be converted, or the difference is above 1e-4. Nothing is written then.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.models.conversion import export_converted
        >>> from mtmusic.models.saving import load, read_examples
        >>> model, card = load("saved_models/genre_lstm")
        >>> examples = read_examples("saved_models/genre_lstm", model)
        >>> export_converted(model, card, examples, Path("converted"), "litert") < 1e-4
        True
    """
    with whole_folder(folder) as work:
        work.mkdir()
        file = work / FILES[kind]
        try:
            with _quiet(), _interrupted_afterwards():
                _convert(model, card, file, kind)
                given = open_converted(file)(examples)
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # each converter and runtime has its own exceptions
            lacking = re.search(r"TF Select ops: .*|No Op registered for \w+", str(error))  # a part of a long message
            reason = lacking[0] if lacking else (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise UserError(f"Cannot convert the model to {NAMES[kind]}: {reason}") from error
        difference = largest_difference(answers(model, card, examples), given)
        require_close(difference, folder)
        write_json(work / CARD_FILE, card)
        for name, source in (licenses or {}).items():
            shutil.copyfile(source, work / name)
    return difference


def open_converted(file: Path) -> Ask:
    """Opens a converted model in its runtime.

    Args:
        file: model.tflite or model.onnx.

    Returns:
        A function from clips `(clips, frames, bins)` in float32 to the outputs by name.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.models.conversion import open_converted
        >>> ask = open_converted(Path("converted/model.tflite"))  # written by the example of export_converted
        >>> ask(np.zeros((2, 20, 128), "float32"))["genre"].shape
        (2, 3)
    """
    return _open_litert(file) if file.name == FILES[LITERT] else _open_onnx(file)


def _open_litert(file: Path) -> Ask:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(file)).get_signature_runner()
    takes_one = runner.get_input_details()["spectrogram"]["shape_signature"][0] == 1

    def ask(spectrograms: np.ndarray) -> dict[str, np.ndarray]:
        batches = spectrograms[:, np.newaxis] if takes_one else [spectrograms]
        given = [runner(spectrogram=batch) for batch in batches]
        return {name: np.concatenate([answer[name] for answer in given]) for name in given[0]}

    return ask


def _open_onnx(file: Path) -> Ask:
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda spectrograms: dict(zip(names, session.run(names, {"spectrogram": spectrograms}), strict=True))


def _convert(model: keras.Model, card: Mapping[str, Any], file: Path, kind: str) -> None:
    spectrogram = keras.Input((None, FEATURE_BINS[card["feature"]]), dtype="float32", name="spectrogram")
    clips = spectrogram if card["frames"] is None else _FirstFrames(card["frames"])(spectrogram)
    served = keras.Model(spectrogram, named_outputs(model(clips), card))
    recurrent = any(isinstance(layer, keras.layers.RNN) for layer in model._flatten_layers())
    batch = 1 if kind == LITERT and recurrent else None  # LiteRT's loops need fixed shapes
    takes = [tf.TensorSpec((batch, *spectrogram.shape[1:]), tf.float32, "spectrogram")]
    # only operations of LiteRT: TensorFlow's kernels would be allowed by default
    options = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}} if kind == LITERT else {}
    without_cudnn(model)
    with stock_operations():
        served.export(str(file), kind, verbose=False, input_signature=takes, **options)
    if kind == ONNX:
        _name_dimensions(file)


def _name_dimensions(file: Path) -> None:
    """Names the dimensions of any length, which the converter only numbers."""
    import onnx

    stored = onnx.load(file)
    for value in (*stored.graph.input, *stored.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, ("batch", "frames"), strict=False):
            if dimension.dim_param:
                dimension.dim_param = name
    onnx.save(stored, file)


class _FirstFrames(Float32Layer):
    """Cuts or pads (batch, any number, bins) to (batch, frames, bins)."""

    def __init__(self, frames: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.frames = frames

    def call(self, spectrogram: Tensor) -> Tensor:
        return cut_or_padded(spectrogram, self.frames)


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Delays Ctrl-C to the end, because converters catch KeyboardInterrupt, and continue or fail with another error."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if interrupts:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the messages of converters and runtimes, of which some are written by C++ to file descriptor 2."""
    log = logging.getLogger("tf2onnx")
    level, error = log.level, os.dup(2)
    log.setLevel(logging.CRITICAL)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(error, 2)
        os.close(error)
        log.setLevel(level)

"""Training with early stopping and checkpoints. A stopped training can be continued.

The module does not depend on the task, the network or the layout of a run.
"""

import copy
import csv
import io
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from mtmusic.errors import UserError
from mtmusic.files import whole_folder, write_from_memory, write_json, write_text
from mtmusic.models.distribution import mirrored

Score = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]

OVERFIT_BATCHES = 3
OVERFIT_EPOCHS = 500
OVERFIT_LOSS = 0.01
CHECKPOINT_SECONDS = 1.0
"""Shortest time between two checkpoints. Writing one can take longer than a short epoch."""


@dataclass(frozen=True)
class TrainingConfig:
    """The length of a training, and the choice of the best epoch.

    Attributes:
        epochs: Largest number of epochs.
        patience: Epochs without improvement before the training stops. None never stops early.
        monitor: The log that decides which epoch is the best, "val_loss" for example.
        mode: "min" or "max".

    Examples:
        >>> from mtmusic.models.trainer import TrainingConfig
        >>> TrainingConfig(epochs=20, monitor="val_accuracy", mode="max")
        TrainingConfig(epochs=20, patience=15, monitor='val_accuracy', mode='max')
    """

    epochs: int = 100
    patience: int | None = 15
    monitor: str = "val_loss"
    mode: str = "min"


@dataclass
class TrainingRecord:
    """The record of a training so far.

    Attributes:
        epochs: Number of epochs.
        best_epoch: Number of the best epoch, from 1.
        best_value: The monitored value of the best epoch.
        history: The values of each log, one for each epoch.
        seconds: Duration of each epoch.
        finished: Whether the training has ended.

    Examples:
        >>> from mtmusic.models.trainer import TrainingRecord
        >>> record = TrainingRecord(
        ...     epochs=3, best_epoch=2, best_value=0.5, history={"val_loss": [0.9, 0.5, 0.6]}, seconds=[8.0, 1.0, 1.2]
        ... )
        >>> record.history["val_loss"][record.best_epoch - 1]
        0.5
        >>> record.seconds_per_epoch
        1.2
    """

    epochs: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    finished: bool = False

    @property
    def seconds_per_epoch(self) -> float:
        """Median duration of an epoch. The first epoch takes longer, because it compiles."""
        return float(np.median(self.seconds))


def fit(
    model: keras.Model,
    train: tf.data.Dataset,
    validation: tf.data.Dataset | None = None,
    config: TrainingConfig = TrainingConfig(),
    checkpoints: Path | None = None,
    score: Score | None = None,
    tensorboard: Path | None = None,
    verbose: int = 0,
    progress: bool = False,
    after: TrainingRecord | None = None,
    devices: Sequence[str] = (),
) -> TrainingRecord:
    """Trains a compiled model. At the end it has the weights of its best epoch, or without validation of its last one.

    Args:
        model: The compiled model. It is changed.
        train: Batches of training clips.
        validation: Batches of validation clips.
        config: The length of the training, and the choice of the best epoch.
        checkpoints: A folder for the state after an epoch, written whole or not at all. It is written at most once a
            second, and after the last epoch. If it holds a state, the training continues from there, with weights,
            optimizer, best epoch, patience and history. The shuffle starts again with its first order, so later epochs
            are not equal to those of an uninterrupted training.
        score: A function of the targets and the predictions of the whole validation set, called after each epoch. Its
            values are added to the logs, with the prefix "val_".
        tensorboard: A folder for TensorBoard's logs.
        verbose: Keras's `verbose`.
        progress: Whether to show one line on stderr with the epochs and the monitored value.
        after: The record of an earlier stage of this training, which left the model with its best weights. Epochs,
            history and best epoch continue from it, and the patience starts again.
        devices: Devices to split each batch across, see `distribution.mirrored`. A continued training may use others.

    Returns:
        The record.

    Raises:
        UserError: A loss or a score becomes NaN or infinite.

    Examples:
        >>> from mtmusic.models.trainer import TrainingConfig, fit
        >>> clips = mtmusic.read_genre_labels("data/genre_beat")
        >>> model = mtmusic.genre_classifier(mtmusic.lstm_backbone("chroma", units=4), clips.classes)
        >>> batches = mtmusic.make_dataset(clips, "chroma")
        >>> fit(model, batches, batches, TrainingConfig(epochs=2)).epochs
        2
    """
    keeper = _Keeper(config, checkpoints, validates=validation is not None)
    callbacks: list[keras.callbacks.Callback] = []
    if score is not None and validation is not None:
        callbacks.append(_ScoreCallback(validation, score))
    callbacks += [_StopAtNaN(), keeper]
    if tensorboard is not None:
        callbacks.append(keras.callbacks.TensorBoard(tensorboard))
    with mirrored(model, devices) as trained:
        keeper.set_model(trained)
        record = keeper.restore(after)
        if not record.finished and record.epochs < config.epochs:
            batches = int(train.cardinality())  # below 0 if it is unknown
            with tqdm(
                total=config.epochs, initial=record.epochs, unit="epoch", desc="Training", disable=not progress
            ) as bar:
                trained.fit(
                    # one iterator for all epochs fills the shuffle buffer for the next epoch in advance
                    train.repeat() if batches > 0 else train,
                    steps_per_epoch=batches if batches > 0 else None,
                    validation_data=validation,
                    initial_epoch=record.epochs,
                    epochs=config.epochs,
                    callbacks=[*callbacks, _Progress(bar, config.monitor)],
                    shuffle=False,  # the dataset shuffles
                    verbose=verbose,
                )
        keeper.use_best()
    return record


def require_memory(model: keras.Model, batch_size: int, frames: int | None) -> None:
    """Checks that a batch fits into memory, because TensorFlow may crash otherwise.

    Args:
        model: The model.
        batch_size: Clips per batch.
        frames: Frames of a clip, for a model that takes any number of frames.

    Raises:
        UserError: The output of a layer for one batch is larger than the memory.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    shapes = [output.shape[1:] for layer in model.layers for output in keras.tree.flatten(layer.output)]
    largest = 4 * batch_size * max(math.prod(size or frames or 1 for size in shape) for shape in shapes)
    if largest > memory and not tf.config.list_physical_devices("GPU"):
        raise UserError(
            f"Expected batches that fit into {memory / 1e9:.0f} GB of memory, got {largest / 1e9:.0f} GB in one layer: "
            "lower `batch_size` or `frames`"
        )


def overfit_batches(
    model: keras.Model,
    dataset: tf.data.Dataset,
    batches: int = OVERFIT_BATCHES,
    epochs: int = OVERFIT_EPOCHS,
    measure: str = "loss",
    target: float = OVERFIT_LOSS,
    devices: Sequence[str] = (),
) -> list[float]:
    """The lab's check that a network can learn: trains on a few batches only.

    The training ends when the measure falls below `target`, or after `epochs`. `require_overfit` checks the result.

    Args:
        model: The compiled model. It is changed, so use a separate one.
        dataset: Batches of training clips.
        batches: Number of batches.
        epochs: Largest number of epochs.
        measure: "loss", or the name of a metric of the model.
        target: The measure must fall below this value.
        devices: Devices to split each batch across, see `distribution.mirrored`.

    Returns:
        The measure after each epoch.

    Examples:
        >>> import keras
        >>> import tensorflow as tf
        >>> from mtmusic.models.trainer import overfit_batches
        >>> model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)])
        >>> model.compile(keras.optimizers.SGD(0.25), "mse")  # each step halves the error
        >>> dataset = tf.data.Dataset.from_tensors((np.ones((1, 1)), np.zeros((1, 1))))
        >>> overfit_batches(model, dataset)
        [1.0, 0.25, 0.0625, 0.015625, 0.00390625]
    """
    few = dataset.take(batches).cache()
    values: list[float] = []
    with mirrored(model, devices) as trained:
        while len(values) < epochs:
            values.append(float(trained.fit(few, shuffle=False, verbose=0).history[measure][0]))
            if values[-1] < target:
                break
    return values


def require_overfit(
    values: list[float], batches: int = OVERFIT_BATCHES, measure: str = "loss", target: float = OVERFIT_LOSS
) -> None:
    """Checks the result of `overfit_batches`.

    Args:
        values: The measure after each epoch.
        batches: Number of batches.
        measure: Name of the measure.
        target: The measure must fall below this value.

    Raises:
        UserError: The last value is not below `target`.

    Examples:
        >>> from mtmusic.models.trainer import require_overfit
        >>> require_overfit([1.1, 0.2, 0.008])
        >>> require_overfit([1.1, 0.9])
        Traceback (most recent call last):
            ...
        mtmusic.errors.UserError: The network cannot overfit 3 batches: the loss went from 1.1 to 0.9 in 2 epochs, ...
    """
    if values[-1] >= target:
        raise UserError(
            f"The network cannot overfit {batches} batches: the {measure} went from {values[0]:.3g} to "
            f"{values[-1]:.3g} in {len(values)} epochs, expected under {target}; check the labels, the learning rate "
            "and the units"
        )


def history_csv(record: TrainingRecord) -> str:
    """Formats history.csv: a row for each epoch, a column for each log.

    Args:
        record: The record of a training.

    Returns:
        The text.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *record.history])
    writer.writerows(zip(range(1, record.epochs + 1), *record.history.values(), strict=True))
    return text.getvalue()


class _Progress(keras.callbacks.Callback):
    """Shows one progress line for all epochs."""

    def __init__(self, bar: tqdm, monitor: str) -> None:
        super().__init__()
        self.bar = bar
        self.monitor = monitor

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        shown = self.monitor if self.monitor in logs else "loss"
        self.bar.set_postfix({shown: f"{logs[shown]:.4g}"} if shown in logs else {}, refresh=False)
        self.bar.update()


class _StopAtNaN(keras.callbacks.Callback):
    """Raises UserError if a loss or a score is not finite, because no later epoch could be the best."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for name, value in (logs or {}).items():
            self._require_finite(name, value, f"epoch {epoch + 1}")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._require_finite("The loss", (logs or {}).get("loss", 0.0), f"batch {batch + 1}")

    def _require_finite(self, name: str, value: float, when: str) -> None:
        if not math.isfinite(value):
            raise UserError(f"{name} became {value} in {when}: the training diverged; lower `learning_rate`")


class _ScoreCallback(keras.callbacks.Callback):
    """Scores the whole validation set at once, because a correlation is not the mean of the batches' correlations."""

    def __init__(self, validation: tf.data.Dataset, score: Score) -> None:
        super().__init__()
        self.validation = validation
        self.score = score
        self.targets = np.concatenate([targets for _, targets in validation.as_numpy_iterator()])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        predicted = self.model.predict(self.validation, verbose=0)
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in self.score(self.targets, predicted).items()})


class _Keeper(keras.callbacks.Callback):
    """Best epoch, early stopping, history and checkpoints in one callback. Keras's callbacks lose the best on a resume.

    A checkpoint is a folder `epoch-N` with the weights and the optimizer's state, the best weights and the record. It
    is renamed when it is complete, and the previous one is deleted after that, so on a full disk the previous one is
    left.
    """

    def __init__(self, config: TrainingConfig, folder: Path | None, validates: bool) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.validates = validates
        self.record = TrainingRecord()
        self.best_weights: list[np.ndarray] | None = None
        self.first_epoch = 0
        self.started = self.written = 0.0

    def restore(self, after: TrainingRecord | None) -> TrainingRecord:
        """Restores the newest checkpoint, and returns its record. Without a checkpoint, returns a copy of `after`."""
        self.first_epoch = after.epochs if after else 0
        newest = max(self.folder.glob("epoch-*"), default=None) if self.folder else None
        if newest is None and after is not None:
            self.record = copy.deepcopy(after)
            self.best_weights = self.model.get_weights()
        if newest is None:
            return self.record
        self.model.optimizer.build(self.model.trainable_variables)
        try:
            self.record = TrainingRecord(**json.loads((newest / "record.json").read_text()))
            self.model.load_weights(newest / "best.weights.h5")
            self.best_weights = self.model.get_weights()
            self.model.load_weights(newest / "last.weights.h5")
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise UserError(
                f"Expected a whole checkpoint, got a damaged one in {newest}: start with `overwrite=True`"
            ) from error
        return self.record

    def use_best(self) -> None:
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.written = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        record = self.record
        record.epochs = epoch + 1
        record.seconds.append(time.perf_counter() - self.started)
        for name, value in (logs or {}).items():
            record.history.setdefault(name, []).append(float(value))
        if self._is_best():
            record.best_epoch = record.epochs
            self.best_weights = self.model.get_weights()
        patience, waiting = self.config.patience, record.epochs - max(record.best_epoch, self.first_epoch)
        if self.validates and patience is not None and waiting >= patience:
            record.finished = True
            self.model.stop_training = True
        last = self.model.stop_training or record.epochs == self.config.epochs
        if self.folder is not None and (last or time.perf_counter() - self.written >= CHECKPOINT_SECONDS):
            self._write_checkpoint(self.folder)
            self.written = time.perf_counter()

    def _is_best(self) -> bool:
        """Whether the current epoch is the best so far. Without validation it always is."""
        if not self.validates:
            return True
        if self.config.monitor not in self.record.history:
            raise ValueError(f"Expected monitor to be one of {list(self.record.history)}, got {self.config.monitor!r}")
        value, best = self.record.history[self.config.monitor][-1], self.record.best_value
        better = best is None or (value < best if self.config.mode == "min" else value > best)
        if better:
            self.record.best_value = value
        return better

    def _write_checkpoint(self, folder: Path) -> None:
        earlier = list(folder.glob("epoch-*"))
        with whole_folder(folder / f"epoch-{self.record.epochs:05d}") as work:
            write_from_memory(work / "last.weights.h5", self.model.save_weights)
            if self.record.best_epoch == self.record.epochs:
                shutil.copy(work / "last.weights.h5", work / "best.weights.h5")
            else:
                last = self.model.get_weights()
                self.use_best()
                write_from_memory(work / "best.weights.h5", self.model.save_weights)
                self.model.set_weights(last)
            write_json(work / "record.json", asdict(self.record))
            write_text(work / "history.csv", history_csv(self.record))
        for old in earlier:
            shutil.rmtree(old)

"""Training: the best epoch is kept, a killed run goes on. Knows no genre, no CNN, no file layout of a run."""

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


@dataclass(frozen=True)
class TrainingConfig:
    """How long to train, and which epoch is the best.

    monitor: a key of the epoch's logs; mode: "min" or "max". patience: epochs without a better value before the
    training stops; None never stops early.
    """

    epochs: int = 100
    patience: int | None = 15
    monitor: str = "val_loss"
    mode: str = "min"


@dataclass
class TrainingRecord:
    """What a training did so far: epochs count from 1; history holds one value an epoch for each log."""

    epochs: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    finished: bool = False

    @property
    def seconds_per_epoch(self) -> float:
        """The median: the first epoch also compiles."""
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
    """Trains a compiled model and leaves it with the weights of its best epoch (without validation: of its last).

    checkpoints: a folder that holds the state after the last epoch, whole or not at all; where one lies there
    already, the training goes on from it: weights, optimizer, best epoch, patience and history; a dataset's shuffle
    starts again with its first order, so later epochs are like those of an unbroken training, not equal. score: called
    after each epoch with the targets and predictions of the whole validation set; its values join the logs, with
    "val_" before their names. after: the record of an earlier stage of this training, which left the model with its
    best weights: epochs, history and best epoch go on from it; the patience starts anew. verbose: Keras's. progress:
    shows one line instead, the epochs and the monitored value. devices: each
    batch is split across several, see `distribution.mirrored`; a training may go on with others. Raises UserError
    where a loss or a score becomes NaN or infinite.
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
            batches = int(train.cardinality())  # below 0 where a dataset cannot tell
            with tqdm(
                total=config.epochs, initial=record.epochs, unit="epoch", desc="Training", disable=not progress
            ) as bar:
                trained.fit(
                    # one iterator for all epochs: during the last steps and the validation it fills the next shuffle
                    train.repeat() if batches > 0 else train,
                    steps_per_epoch=batches if batches > 0 else None,
                    validation_data=validation,
                    initial_epoch=record.epochs,
                    epochs=config.epochs,
                    callbacks=[*callbacks, _Progress(bar, config.monitor)],
                    shuffle=False,  # the dataset does
                    verbose=verbose,
                )
        keeper.use_best()
    return record


def require_memory(model: keras.Model, batch_size: int, frames: int | None) -> None:
    """Raises UserError where a layer's output for one batch is larger than the memory: TensorFlow may crash there.

    frames: of the clips, where the model takes any number.
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
    """The lab's check that a network can learn: trains on a few batches alone and returns the measure by epoch.

    measure: "loss", or the name of one of the model's metrics. Ends where it falls under `target`, or after `epochs`:
    `require_overfit` checks. The model is changed: give one made for this. devices: as `fit`.
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
    """Raises UserError where what `overfit_batches` returned did not fall under `target`."""
    if values[-1] >= target:
        raise UserError(
            f"The network did not learn {batches} batches by heart: the {measure} went from {values[0]:.3g} to "
            f"{values[-1]:.3g} in {len(values)} epochs, expected under {target}; check the labels, the learning rate "
            "and the units"
        )


def history_csv(record: TrainingRecord) -> str:
    """history.csv: a row an epoch, a column a log."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *record.history])
    writer.writerows(zip(range(1, record.epochs + 1), *record.history.values(), strict=True))
    return text.getvalue()


class _Progress(keras.callbacks.Callback):
    """One line for all epochs."""

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
    """Ends the training with advice where a loss or a score is no number: nothing after it could be the best."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for name, value in (logs or {}).items():
            self._require_finite(name, value, f"epoch {epoch + 1}")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._require_finite("The loss", (logs or {}).get("loss", 0.0), f"batch {batch + 1}")

    def _require_finite(self, name: str, value: float, when: str) -> None:
        if not math.isfinite(value):
            raise UserError(f"{name} became {value} in {when}: the training diverged; lower `learning_rate`")


class _ScoreCallback(keras.callbacks.Callback):
    """Scores the whole validation set at once: a mean of the batches' correlations would be another number."""

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
    """Best epoch, early stopping, history and checkpoints in one: resumed one by one, Keras's forget the best so far.

    A checkpoint is a folder `epoch-N` of the weights with the optimizer's state, the best weights and the record.
    It appears by one rename, and the one before goes after: on a full disk the one before stays.
    """

    def __init__(self, config: TrainingConfig, folder: Path | None, validates: bool) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.validates = validates
        self.record = TrainingRecord()
        self.best_weights: list[np.ndarray] | None = None
        self.first_epoch = 0
        self.started = 0.0

    def restore(self, after: TrainingRecord | None) -> TrainingRecord:
        """The record of the newest checkpoint, its weights and optimizer put into the model; else a copy of `after`."""
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
        if self.folder is not None:
            self._write_checkpoint(self.folder)

    def _is_best(self) -> bool:
        """Whether the epoch just ended is the best so far; without validation the last one is."""
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
            elif earlier:
                shutil.copy(max(earlier) / "best.weights.h5", work / "best.weights.h5")
            else:  # the best epoch is one of an earlier stage
                last = self.model.get_weights()
                self.use_best()
                write_from_memory(work / "best.weights.h5", self.model.save_weights)
                self.model.set_weights(last)
            write_json(work / "record.json", asdict(self.record))
            write_text(work / "history.csv", history_csv(self.record))
        for old in earlier:
            shutil.rmtree(old)

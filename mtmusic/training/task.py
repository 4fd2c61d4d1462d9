"""The interface of a task: its data, its head, its evaluation, and its part of the run's folder."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from mtmusic.constants import PAD_VALUE
from mtmusic.data.folder import FolderData, LoadOptions
from mtmusic.data.labels import Clips
from mtmusic.data.pipeline import make_dataset
from mtmusic.data.spectrograms import array_frames, read_array, read_spectrogram
from mtmusic.evaluation import plots
from mtmusic.models.frozen import feature_batches, frozen_features, split
from mtmusic.models.trainer import Score
from mtmusic.training.recipes import Recipe

EXAMPLES = 8

FEWEST_GROUPS = 5
"""The fewest groups of test clips for an interval."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one split. report: its part of metrics.json. predictions: (clips, classes or tasks)."""

    report: dict[str, Any]
    predictions: np.ndarray


class Task(ABC):
    """The base class of GenreTask and AffectTask.

    monitor: the log that chooses the epoch. Lower is better.
    overfit: the log of the overfit check, and the value that it must fall below.
    frames: default frames of a flat CNN, by whether the clips are beat-synchronised.
    headline: names of the scores on the card.
    classes: classes of a genre task. tasks: tasks of an affect task.
    """

    monitor: ClassVar[str]
    overfit: ClassVar[tuple[str, float]]
    frames: ClassVar[Mapping[bool, int]]
    headline: ClassVar[tuple[str, ...]]

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    @property
    def tasks(self) -> tuple[str, ...]:
        return ()

    @property
    @abstractmethod
    def run_name(self) -> str:
        """The first part of the name of the run's folder. The backbone follows."""

    @property
    @abstractmethod
    def heading(self) -> str:
        """The heading of the table for the test split."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns of predictions.csv for labels and predictions."""

    @abstractmethod
    def load(self, options: LoadOptions) -> FolderData:
        """Loads the splits for training, validation and test. Raises UserError."""

    @abstractmethod
    def load_split(self, options: LoadOptions, split: str) -> FolderData:
        """Loads one split for a model of this task. Raises UserError."""

    @abstractmethod
    def with_labels_of(self, train: Clips) -> "Task":
        """Returns the task with names and statistics of the train clips' labels."""

    @abstractmethod
    def add_head(self, backbone: keras.Model, recipe: Recipe) -> keras.Model:
        """Returns the compiled model. Its layer "backbone" is the backbone."""

    def score(self) -> Score | None:
        """Returns a function that scores the validation set after each epoch, or None."""
        return None

    @abstractmethod
    def settings(self, options: LoadOptions, recipe: Recipe) -> dict[str, Any]:
        """The settings, in addition to recipe and data, that the result depends on."""

    def predict(self, model: keras.Model, recipe: Recipe, clips: Clips) -> np.ndarray:
        """Predicts probabilities (clips, classes), or values (clips, tasks)."""
        if parts := kept_parts(model, clips):
            return parts[1].predict(kept_batches(parts[0], clips, recipe), verbose=0)
        return model.predict(make_dataset(clips, recipe.feature, recipe.batch_size, recipe.frames), verbose=0)

    @abstractmethod
    def report(self, clips: Clips, predictions: np.ndarray) -> dict[str, Any]:
        """Computes the scores for metrics.json."""

    @abstractmethod
    def no_better(self, report: Mapping[str, Any], clips: Clips) -> str | None:
        """Returns a message if the lower end of an interval is not above the score of a constant answer."""

    @abstractmethod
    def card(self, options: LoadOptions) -> dict[str, Any]:
        """The task's part of card.json."""

    def model_metrics(self, model: keras.Model, recipe: Recipe) -> dict[str, Any]:
        """The part of metrics.json that comes from the trained model."""
        return {}

    @abstractmethod
    def cells(self, clips: Clips, predictions: np.ndarray) -> Iterator[Sequence[Any]]:
        """Yields each clip's labels and predictions in the order of `columns`."""

    @abstractmethod
    def read_cells(self, rows: Sequence[Mapping[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Reads labels and predictions from rows that `cells` wrote. Raises KeyError or ValueError for others."""

    @abstractmethod
    def write_figures(self, folder: Path, data: FolderData, evaluations: Mapping[str, Evaluation]) -> None:
        """Draws the figures of the evaluated splits and of their labels."""

    @abstractmethod
    def two_clips(self, clips: Clips) -> tuple[list[int], list[str]]:
        """Returns the positions and the titles of two different clips for a figure."""

    @abstractmethod
    def table(self, report: dict[str, Any]) -> str:
        """Formats a report for the terminal."""

    def evaluate(self, model: keras.Model, recipe: Recipe, clips: Clips) -> Evaluation:
        """Predicts the clips, and computes the scores."""
        predictions = self.predict(model, recipe, clips)
        return Evaluation(self.report(clips, predictions), predictions)


def too_few_groups(clips: Clips) -> str | None:
    """Returns a message if there are too few groups for an interval."""
    groups = len(set(clips.group_names))
    return f"{len(clips)} test clips of {groups} groups are too few for an interval" if groups < FEWEST_GROUPS else None


def kept_parts(model: keras.Model, clips: Clips) -> tuple[keras.Model, keras.Model] | None:
    """Returns the frozen part of the model, whose outputs are cached on disk, and the rest, or None. See `split`."""
    return split(model, sum(map(array_frames, clips.paths))) if clips.digests else None


def kept_batches(
    frozen: keras.Model, clips: Clips, recipe: Recipe, shuffle: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Makes batches of (outputs of the frozen part, target). shuffle: whether to shuffle the clips in each epoch."""
    cut = "" if recipe.frames is None else f"-{recipe.frames}"
    digests = {path: f"{digest}{cut}" for path, digest in zip(clips.paths, clips.digests or (), strict=True)}
    files = frozen_features(
        frozen, clips.paths, digests, lambda path: read_spectrogram(path, recipe.feature)[: recipe.frames]
    )
    return feature_batches(files, clips.targets, recipe.batch_size, shuffle, seed)


def examples(clips: Clips, recipe: Recipe) -> np.ndarray:
    """Returns example clips for the model, evenly spaced over the split, because label files are grouped by class."""
    chosen = clips.take(np.linspace(0, len(clips) - 1, min(EXAMPLES, len(clips))).astype(int))
    spectrograms, _ = next(make_dataset(chosen, recipe.feature, EXAMPLES, recipe.frames).as_numpy_iterator())
    return spectrograms


def write_clip_figures(folder: Path, task: Task, model: keras.Model, recipe: Recipe, clips: Clips, beat: bool) -> None:
    """Draws the spectrograms of two clips, and the activations of a CNN's layers for the first."""
    pair, titles = task.two_clips(clips)
    arrays = [read_array(clips.paths[i]) for i in pair]
    plots.save_figure(plots.spectrograms(arrays, titles, beat), folder / "spectrograms.png")
    if recipe.backbone == "cnn":
        spectrogram = examples(clips.take(pair[:1]), recipe)
        shown = np.where(spectrogram[0] == PAD_VALUE, np.nan, spectrogram[0])  # absent frames stay blank
        figure = plots.activations(activations(model, spectrogram), shown)
        plots.save_figure(figure, folder / "activations.png")


def activations(model: keras.Model, spectrogram: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Returns name and output (frames, bins, channels) of each layer of the CNN for one clip (1, frames, bins)."""
    backbone = model.get_layer("backbone")
    kinds = ("conv", "norm", "relu", "pool")
    chosen = [layer for layer in backbone.layers if layer.name.startswith("block") and layer.name.endswith(kinds)]
    chosen = [layer for layer in chosen if len(layer.output.shape) == 4]  # without dense blocks, which have no frames
    outputs = keras.Model(backbone.input, [layer.output for layer in chosen])(spectrogram, training=False)
    return [(layer.name, output[0].numpy().astype(np.float32)) for layer, output in zip(chosen, outputs, strict=True)]

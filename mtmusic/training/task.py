"""What a task is to a training: its data, its head, its evaluation, and its part of the run's folder."""

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
"""Of test clips, from which an interval is drawn."""


@dataclass(frozen=True)
class Evaluation:
    """Of one split. report: its part of metrics.json. predictions: (clips, classes or tasks)."""

    report: dict[str, Any]
    predictions: np.ndarray


class Task(ABC):
    """GenreTask and AffectTask.

    monitor: the log that chooses the epoch, the lower the better. overfit: the log, and the value under it, that show
    that three batches were learnt by heart. frames: of a flat CNN by default, by whether clips are beat-synchronised.
    headline: the scores that stand on the card. classes: of genre. tasks: of affect, one or several.
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
        """Of the run's folder, in front of the backbone."""

    @property
    @abstractmethod
    def heading(self) -> str:
        """Of the test split's table."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Of predictions.csv, for labels and predictions."""

    @abstractmethod
    def load(self, options: LoadOptions) -> FolderData:
        """The splits to train, validate and test with. Raises UserError."""

    @abstractmethod
    def load_split(self, options: LoadOptions, split: str) -> FolderData:
        """One split, for a model of this task. Raises UserError."""

    @abstractmethod
    def with_labels_of(self, train: Clips) -> "Task":
        """The task with what it takes from the train clips: names, and statistics of the labels."""

    @abstractmethod
    def add_head(self, backbone: keras.Model, recipe: Recipe) -> keras.Model:
        """The compiled model, its backbone the layer "backbone"."""

    def score(self) -> Score | None:
        """Of the validation set, logged after each epoch in addition to the loss."""
        return None

    @abstractmethod
    def settings(self, options: LoadOptions, recipe: Recipe) -> dict[str, Any]:
        """What the result depends on, in addition to recipe and data."""

    def predict(self, model: keras.Model, recipe: Recipe, clips: Clips) -> np.ndarray:
        """(clips, classes), probabilities, or (clips, tasks)"""
        if parts := kept_parts(model, clips):
            return parts[1].predict(kept_batches(parts[0], clips, recipe), verbose=0)
        return model.predict(make_dataset(clips, recipe.feature, recipe.batch_size, recipe.frames), verbose=0)

    @abstractmethod
    def report(self, clips: Clips, predictions: np.ndarray) -> dict[str, Any]:
        """The scores, as metrics.json holds them."""

    @abstractmethod
    def no_better(self, report: Mapping[str, Any], clips: Clips) -> str | None:
        """What the report does not show to be better than a constant answer, by the lower end of its interval."""

    @abstractmethod
    def card(self, options: LoadOptions) -> dict[str, Any]:
        """Its part of card.json."""

    def model_metrics(self, model: keras.Model, recipe: Recipe) -> dict[str, Any]:
        """Its part of metrics.json that the trained model itself holds."""
        return {}

    @abstractmethod
    def cells(self, clips: Clips, predictions: np.ndarray) -> Iterator[Sequence[Any]]:
        """Each clip's labels and predictions, under `columns`."""

    @abstractmethod
    def read_cells(self, rows: Sequence[Mapping[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Labels and predictions of rows that `cells` wrote. Raises KeyError and ValueError for others."""

    @abstractmethod
    def write_figures(self, folder: Path, data: FolderData, evaluations: Mapping[str, Evaluation]) -> None:
        """Pictures of the evaluated splits and of their labels."""

    @abstractmethod
    def two_clips(self, clips: Clips) -> tuple[list[int], list[str]]:
        """Positions and titles of two clips that differ, to be drawn."""

    @abstractmethod
    def table(self, report: dict[str, Any]) -> str:
        """A report for the terminal."""

    def evaluate(self, model: keras.Model, recipe: Recipe, clips: Clips) -> Evaluation:
        """The model's predictions of the clips, and their scores."""
        predictions = self.predict(model, recipe, clips)
        return Evaluation(self.report(clips, predictions), predictions)


def too_few_groups(clips: Clips) -> str | None:
    """That an interval over so few groups shows nothing."""
    groups = len(set(clips.group_names))
    return f"{len(clips)} test clips of {groups} groups are too few for an interval" if groups < FEWEST_GROUPS else None


def kept_parts(model: keras.Model, clips: Clips) -> tuple[keras.Model, keras.Model] | None:
    """The model's frozen part, whose outputs are kept on disk, and the rest; None where it has none. See `split`."""
    return split(model, sum(map(array_frames, clips.paths))) if clips.digests else None


def kept_batches(
    frozen: keras.Model, clips: Clips, recipe: Recipe, shuffle: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Batches of (outputs of the frozen part, target), in another order each epoch where shuffled."""
    cut = "" if recipe.frames is None else f"-{recipe.frames}"
    digests = {path: f"{digest}{cut}" for path, digest in zip(clips.paths, clips.digests or (), strict=True)}
    files = frozen_features(
        frozen, clips.paths, digests, lambda path: read_spectrogram(path, recipe.feature)[: recipe.frames]
    )
    return feature_batches(files, clips.targets, recipe.batch_size, shuffle, seed)


def examples(clips: Clips, recipe: Recipe) -> np.ndarray:
    """Clips from the whole of the split, whose file is grouped by class, as the model takes them."""
    chosen = clips.take(np.linspace(0, len(clips) - 1, min(EXAMPLES, len(clips))).astype(int))
    spectrograms, _ = next(make_dataset(chosen, recipe.feature, EXAMPLES, recipe.frames).as_numpy_iterator())
    return spectrograms


def write_clip_figures(folder: Path, task: Task, model: keras.Model, recipe: Recipe, clips: Clips, beat: bool) -> None:
    """Two clips as spectrograms, and what a CNN's layers make of the first."""
    pair, titles = task.two_clips(clips)
    arrays = [read_array(clips.paths[i]) for i in pair]
    plots.save_figure(plots.spectrograms(arrays, titles, beat), folder / "spectrograms.png")
    if recipe.backbone == "cnn":
        spectrogram = examples(clips.take(pair[:1]), recipe)
        shown = np.where(spectrogram[0] == PAD_VALUE, np.nan, spectrogram[0])  # absent frames stay blank
        figure = plots.activations(activations(model, spectrogram), shown)
        plots.save_figure(figure, folder / "activations.png")


def activations(model: keras.Model, spectrogram: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Name and output (frames, bins, channels) of each of the CNN's layers for one clip (1, frames, bins)."""
    backbone = model.get_layer("backbone")
    kinds = ("conv", "norm", "relu", "pool")
    chosen = [layer for layer in backbone.layers if layer.name.startswith("block") and layer.name.endswith(kinds)]
    chosen = [layer for layer in chosen if len(layer.output.shape) == 4]  # a dense block has no frames left
    outputs = keras.Model(backbone.input, [layer.output for layer in chosen])(spectrogram, training=False)
    return [(layer.name, output[0].numpy().astype(np.float32)) for layer, output in zip(chosen, outputs, strict=True)]

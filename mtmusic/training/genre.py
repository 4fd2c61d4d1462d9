"""The genre task: one class per clip."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.data.folder import GenreData, LoadOptions, load_genre_data, load_genre_split
from mtmusic.data.labels import Clips, genre_mapping, two_of_different_classes
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.evaluation.metrics import genre_report, genre_table
from mtmusic.evaluation.reports.html import interval
from mtmusic.models.backbones import FRAMES
from mtmusic.models.heads import genre_classifier
from mtmusic.models.trainer import OVERFIT_LOSS
from mtmusic.training.recipes import Recipe, build_neck
from mtmusic.training.run_folder import evaluated_contents
from mtmusic.training.task import Evaluation, Task, too_few_groups

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenreTask(Task):
    """Classification with softmax cross-entropy. The best epoch has the smallest validation loss.

    leave_out: an affect run. Clips that are equal to its evaluation clips are not trained on. So the run can be
    repeated as a fine-tuning of this task's model, and be evaluated on clips that are new to both.
    classes, class_weights: set by `with_labels_of`.
    """

    leave_out: Path | None = None
    classes: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()

    monitor = "val_loss"
    overfit = ("loss", OVERFIT_LOSS)
    frames = FRAMES
    headline = ("accuracy", "macro_f1")

    @property
    def run_name(self) -> str:
        return "genre"

    @property
    def heading(self) -> str:
        return "Test split"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("true", "predicted", *self.classes)

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> "GenreTask":
        """The task of a saved model."""
        return cls(classes=tuple(card["classes"]))

    def load(self, options: LoadOptions) -> GenreData:
        data = load_genre_data(options)
        return data if self.leave_out is None else _without(data, self.leave_out)

    def load_split(self, options: LoadOptions, split: str) -> GenreData:
        return load_genre_split(options, split, self.classes)

    def with_labels_of(self, train: Clips) -> "GenreTask":
        return replace(self, classes=train.classes, class_weights=tuple(train.class_weights()))

    def add_head(self, backbone: keras.Model, recipe: Recipe) -> keras.Model:
        return genre_classifier(
            backbone,
            classes=self.classes,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            neck=build_neck(recipe),
            class_weights=list(self.class_weights) if recipe.balanced else None,
        )

    def settings(self, options: LoadOptions, recipe: Recipe) -> dict[str, Any]:
        return {"classes": options.classes, "leave_out": str(self.leave_out)}

    def predict(self, model: keras.Model, recipe: Recipe, clips: Clips) -> np.ndarray:
        return keras.ops.convert_to_numpy(keras.ops.softmax(super().predict(model, recipe, clips)))

    def report(self, clips: Clips, predictions: np.ndarray) -> dict[str, Any]:
        return genre_report(clips.targets, predictions.argmax(axis=1), clips.classes, clips.group_names)

    def no_better(self, report: Mapping[str, Any], clips: Clips) -> str | None:
        counts = clips.counts()
        commonest = max(counts, key=lambda name: counts[name])
        share = counts[commonest] / len(clips)
        if few := too_few_groups(clips):
            return few
        if report["accuracy_low"] > share:
            return None
        found = interval(report["accuracy"], report["accuracy_low"], report["accuracy_high"])
        return f"accuracy {found} is not clearly above {share:.3f}, the accuracy of always answering {commonest}"

    def card(self, options: LoadOptions) -> dict[str, Any]:
        mapping = genre_mapping(options.classes)
        return {"task": "genre", "classes": list(self.classes), "class_mapping": mapping}

    def cells(self, clips: Clips, predictions: np.ndarray) -> Iterator[Sequence[Any]]:
        for target, row in zip(clips.targets, predictions, strict=True):
            yield (clips.classes[target], clips.classes[row.argmax()], *row)

    def read_cells(self, rows: Sequence[Mapping[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        true = np.array([self.classes.index(row["true"]) for row in rows])
        return true, np.array([[float(row[name]) for name in self.classes] for row in rows])

    def write_figures(self, folder: Path, data: Any, evaluations: Mapping[str, Evaluation]) -> None:
        for split, evaluation in evaluations.items():
            figure = plots.confusion_matrix(np.array(evaluation.report["confusion"]), self.classes)
            plots.save_figure(figure, folder / f"confusion_{split}.png")
        if data.raw_counts != data.merged_counts:
            figure = plots.class_histograms(data.raw_counts, data.merged_counts, "Clips before and after merging")
            plots.save_figure(figure, folder / "class_histograms.png")

    def two_clips(self, clips: Clips) -> tuple[list[int], list[str]]:
        pair = two_of_different_classes(clips)
        return pair, [f"{clips.classes[clips.targets[i]]} (clip {clips.ids[i]})" for i in pair]

    def table(self, report: dict[str, Any]) -> str:
        return genre_table(report)


def _without(data: GenreData, run: Path) -> GenreData:
    """Leaves out clips of train and validation that are equal to clips that the run was evaluated on.

    Raises UserError if a class has no clips left.
    """
    evaluated = evaluated_contents(run)
    splits = dict(data.splits)
    for split in ("train", "validation"):
        clips = splits[split]
        kept = [i for i, path in enumerate(clips.paths) if data.digests[path] not in evaluated]
        splits[split] = clips.take(kept)
        logger.info(f"Left out of {split}: {len(clips) - len(kept)} clips that {run} was evaluated on")
        if gone := [name for name, count in splits[split].counts().items() if not count and clips.counts()[name]]:
            raise UserError(f"Expected clips of {', '.join(gone)} in {split} that {run} was not evaluated on, got none")
    return replace(data, splits=splits)

"""The affect task: one or several values from 0 to 1, for example valence."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.data.folder import AffectData, FolderData, LoadOptions, load_affect_data, load_affect_split, select_tasks
from mtmusic.data.labels import Clips
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.evaluation.metrics import affect_report, affect_table, spearman
from mtmusic.evaluation.reports.html import interval
from mtmusic.models.backbones import AFFECT_FRAMES
from mtmusic.models.heads import affect_regressor, multitask_regressor
from mtmusic.models.losses import complete_weights
from mtmusic.models.trainer import Score
from mtmusic.training.recipes import Recipe, build_neck, task_weights
from mtmusic.training.run_folder import require_free
from mtmusic.training.task import Evaluation, Task, too_few_groups
from mtmusic.training.train import TrainOptions, default_out, refuse_early, resolve_recipe, train

OVERFIT_ERROR = 0.01
"""An overfit network has an error below this share of the labels' variance."""

MULTITASK = "affect"
"""The card's `task` for a model of several tasks."""


@dataclass(frozen=True)
class AffectTask(Task):
    """Regression with a sigmoid head per task. The best epoch has the smallest validation error / label variance.

    rho on about fifty validation clips would be too noisy to choose the epoch.
    tasks: names of the tasks, () for all tasks of the folder.
    multitask: whether one model predicts all tasks.
    weights, learned_weights: weights of the tasks in the loss, only for multitask.
    error: "mse" or "huber".
    label_means, label_variances: those of the train clips, set by `with_labels_of`. The mean is the constant answer to
    compare with.
    """

    tasks: tuple[str, ...] = ()
    multitask: bool = False
    weights: Mapping[str, float] | None = None
    learned_weights: bool = False
    error: str = "mse"
    label_means: Mapping[str, float] = field(default_factory=dict)
    label_variances: Mapping[str, float] = field(default_factory=dict)

    monitor = "val_normalized_mse"
    overfit = ("normalized_mse", OVERFIT_ERROR)
    frames = AFFECT_FRAMES
    headline = ("spearman",)

    @property
    def heading(self) -> str:
        return f"{', '.join(self.tasks)}: test split"

    @property
    def run_name(self) -> str:
        return MULTITASK if self.multitask else re.sub(r"[^\w.-]", "_", self.tasks[0])

    @property
    def columns(self) -> tuple[str, ...]:
        return (*(f"true_{task}" for task in self.tasks), *self.tasks)

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> "AffectTask":
        """The task of a saved model."""
        targets = tuple(card["targets"])
        return cls(targets, multitask=len(targets) > 1, label_means=card["label_means"])

    def load(self, options: LoadOptions) -> AffectData:
        return self.select(load_affect_data(options))

    def select(self, data: AffectData) -> AffectData:
        """Selects the tasks, and the clips with a label of any of them. Raises UserError for tasks that do not fit."""
        selected = select_tasks(data, self.tasks or data.tasks)
        if self.multitask and len(selected.tasks) < 2:
            raise UserError(f"Expected two tasks or more for `multitask=True`, got {data.tasks[0]} in {data.folder}")
        if self.multitask:
            complete_weights(self.weights, selected.tasks)
        return selected

    def load_split(self, options: LoadOptions, split: str) -> AffectData:
        return load_affect_split(options, split, self.tasks)

    def with_labels_of(self, train: Clips) -> "AffectTask":
        return replace(
            self, tasks=train.tasks, label_means=train.label_means(), label_variances=train.label_variances()
        )

    def add_head(self, backbone: keras.Model, recipe: Recipe) -> keras.Model:
        regressor = partial(affect_regressor, task=self.tasks[0])
        if self.multitask:
            weights, learned = self._weights(recipe), self.learned_weights
            regressor = partial(multitask_regressor, tasks=self.tasks, weights=weights, learned_weights=learned)
        return regressor(
            backbone,
            means=self.label_means,
            variances=self.label_variances,
            error=self.error,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            neck=build_neck(recipe),
        )

    def _weights(self, recipe: Recipe) -> dict[str, float] | None:
        """The weights given by the user, else by the recipe. None means 1 / variance of the labels."""
        return dict(self.weights) if self.weights is not None else task_weights(recipe, self.tasks)

    def score(self) -> Score:
        return self._spearman_logs

    def _spearman_logs(self, true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Computes rho on the whole validation set: the mean, and for several tasks rho of each."""
        rho = {f"spearman_{task}": spearman(true[:, i], predicted[:, i]) for i, task in enumerate(self.tasks)}
        mean = {"spearman": float(np.mean(list(rho.values())))}
        return mean if len(self.tasks) == 1 else mean | rho

    def settings(self, options: LoadOptions, recipe: Recipe) -> dict[str, Any]:
        return {
            "tasks": list(self.tasks),
            "task_weights": self._weights(recipe),
            "learned_weights": self.learned_weights,
            "error": self.error,
            "test": options.test,
        }

    def report(self, clips: Clips, predictions: np.ndarray) -> dict[str, Any]:
        return affect_report(clips.targets, predictions, clips.tasks, dict(self.label_means), clips.group_names)

    def no_better(self, report: Mapping[str, Any], clips: Clips) -> str | None:
        if few := too_few_groups(clips):
            return few
        rows = report["per_task"].items()
        found = [
            f"{task} {interval(row['spearman'], row['spearman_low'], row['spearman_high'])}"
            for task, row in rows
            if (row["spearman_low"] or 0) <= 0
        ]
        return f"rho is not clearly above 0, the rho of a constant answer: {', '.join(found)}" if found else None

    def card(self, options: LoadOptions) -> dict[str, Any]:
        task = self.tasks[0] if len(self.tasks) == 1 else MULTITASK
        return {"task": task, "targets": list(self.tasks), "label_means": dict(self.label_means)}

    def model_metrics(self, model: keras.Model, recipe: Recipe) -> dict[str, Any]:
        """The tasks' weights in the loss, and for learned weights the log-variances."""
        if self.learned_weights:
            return model.get_layer("uncertainty").learned()
        weights = self._weights(recipe) if self.multitask else None
        return {"weights": complete_weights(weights, self.tasks, self.label_variances)}

    def cells(self, clips: Clips, predictions: np.ndarray) -> Iterator[Sequence[Any]]:
        for target, row in zip(clips.targets, predictions, strict=True):
            yield (*("" if np.isnan(value) else value for value in target), *row)

    def read_cells(self, rows: Sequence[Mapping[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        true = np.array([[float(row[name] or "nan") for name in self.columns[: len(self.tasks)]] for row in rows])
        return true, np.array([[float(row[task]) for task in self.tasks] for row in rows])

    def write_figures(self, folder: Path, data: FolderData, evaluations: Mapping[str, Evaluation]) -> None:
        for split, evaluation in evaluations.items():
            true = data.splits[split].targets
            figure = plots.scatter(true, evaluation.predictions, self.tasks, evaluation.report["spearman"])
            plots.save_figure(figure, folder / f"scatter_{split}.png")
        split = list(evaluations)[-1]  # the last one: test, or the only split of an evaluation
        true, predicted = data.splits[split].targets, evaluations[split].predictions
        plots.save_figure(plots.calibration(true, predicted, self.tasks), folder / f"calibration_{split}.png")
        plots.save_figure(plots.residuals(true, predicted, self.tasks), folder / f"residuals_{split}.png")
        targets = np.concatenate([part.targets for part in data.splits.values()])
        histograms = dict(zip(self.tasks, targets.T, strict=True))
        plots.save_figure(plots.value_histograms(histograms), folder / "value_histograms.png")

    def two_clips(self, clips: Clips) -> tuple[list[int], list[str]]:
        values, task = clips.targets[:, 0], self.tasks[0]
        pair = [int(np.nanargmin(values)), int(np.nanargmax(values))]
        return pair, [f"{task} {values[i]:.2f} (clip {clips.ids[i]})" for i in pair]

    def table(self, report: dict[str, Any]) -> str:
        return affect_table(report)


def train_each(options: TrainOptions, task: AffectTask) -> dict[str, dict[str, Any]]:
    """Trains one run for the given tasks, one run for all tasks with `multitask`, or else a run for each task.

    Returns the metrics by run. With a run for each task, `out` is the parent folder of the runs `<task>_<backbone>`.
    Raises UserError, before the first training if possible.
    """
    refuse_early(options)
    resolve_recipe(options)  # finds an unusable source before any data is read
    if task.multitask and task.tasks:
        raise UserError("Expected `task` or `multitask=True`, got both")
    if not task.multitask and (task.weights is not None or task.learned_weights):
        raise UserError("Expected `weights` and `learned_weights` with `multitask=True`: a single task needs no weight")
    data = load_affect_data(options.data)
    if task.multitask or task.tasks:
        runs = {options.out or default_out(options, task): task}
    else:
        parent = options.out or Path("saved_models")
        each = [replace(task, tasks=(name,)) for name in data.tasks]
        runs = {parent / default_out(options, one).name: one for one in each}
        if len(runs) < len(each):
            names = ", ".join(data.tasks)
            raise UserError(f"Expected tasks whose runs' folders differ, got {names}: give `task` and `out`")
    parts = {out: one.select(data) for out, one in runs.items()}
    for out in runs:
        require_free(out, options.resume, options.overwrite)
    return {str(out): train(replace(options, out=out), one, parts[out]) for out, one in runs.items()}

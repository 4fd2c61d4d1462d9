"""Judges an affect model and writes all that its run's folder holds."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.data.folder import AffectData
from mtmusic.data.labels import Clips
from mtmusic.data.pipeline import make_dataset
from mtmusic.evaluation import plots
from mtmusic.evaluation.metrics import affect_report
from mtmusic.evaluation.reports.run import write_report
from mtmusic.files import write_json
from mtmusic.training import run_folder as runs
from mtmusic.training.recipes import Recipe
from mtmusic.training.run_files import base_card, write_clip_figures

Judgement = dict[str, tuple[dict[str, Any], np.ndarray]]
"""Of each split: the affect report, and the predictions (clips, tasks)."""

MULTITASK = "affect"
"""The task on the card of a model of several."""


def judge(model: keras.Model, recipe: Recipe, splits: dict[str, Clips], label_means: Mapping[str, float]) -> Judgement:
    """Of each split: the affect report, and the predictions. label_means: of the train labels, the constant to beat."""
    judged = {}
    for split, clips in splits.items():
        dataset = make_dataset(clips, recipe.feature, recipe.batch_size, recipe.frames)
        predicted = model.predict(dataset, verbose=0)
        judged[split] = (affect_report(clips.targets, predicted, clips.tasks, dict(label_means)), predicted)
    return judged


def write_judgement(
    work: Path,
    model: keras.Model,
    recipe: Recipe,
    data: AffectData,
    judgement: Judgement,
    card: dict[str, Any],
    training: dict[str, Any],
) -> dict[str, Any]:
    """Card, metrics, predictions, figures and report.html, which comes last; returns what metrics.json holds."""
    metrics = {split: report for split, (report, _) in judgement.items()} | training
    headline = {split: {"spearman": report["spearman"]} for split, (report, _) in judgement.items()}
    write_json(work / "card.json", card | {"metrics": headline})
    write_json(work / "metrics.json", metrics)
    header = ("id", "split", *(true_column(task) for task in data.tasks), *data.tasks)
    runs.write_predictions(work / "predictions.csv", _prediction_rows(data, judgement), header)
    _write_figures(work / "figures", model, recipe, data, judgement)
    write_report(work)
    return metrics


def affect_card(
    recipe: Recipe, data: AffectData, label_means: Mapping[str, float], command: str, seed: int
) -> dict[str, Any]:
    """What a user of the model must know, and what made it; `write_judgement` adds the metrics."""
    task = data.tasks[0] if len(data.tasks) == 1 else MULTITASK
    names = {"targets": list(data.tasks), "label_means": dict(label_means)}
    return {"task": task, **names, **base_card(recipe, data, command, seed)}


def true_column(task: str) -> str:
    """predictions.csv: the column of a task's labels; its predictions stand under its own name."""
    return f"true_{task}"


def _prediction_rows(data: AffectData, judgement: Judgement) -> Iterator[Sequence[Any]]:
    for split, (_, predicted) in judgement.items():
        clips = data.splits[split]
        for clip_id, target, row in zip(clips.ids, clips.targets, predicted, strict=True):
            yield (clip_id, split, *("" if np.isnan(value) else value for value in target), *row)


def _write_figures(folder: Path, model: keras.Model, recipe: Recipe, data: AffectData, judgement: Judgement) -> None:
    for split, (report, predicted) in judgement.items():
        true = data.splits[split].targets
        figure = plots.scatter(true, predicted, data.tasks, report["spearman"])
        plots.save_figure(figure, folder / f"scatter_{split}.png")
    split = list(judgement)[-1]  # the one judged last: test, or the one split of an evaluation
    clips, predicted = data.splits[split], judgement[split][1]
    plots.save_figure(plots.calibration(clips.targets, predicted, data.tasks), folder / f"calibration_{split}.png")
    plots.save_figure(plots.residuals(clips.targets, predicted, data.tasks), folder / f"residuals_{split}.png")
    targets = np.concatenate([part.targets for part in data.splits.values()])
    histograms = dict(zip(data.tasks, targets.T, strict=True))
    plots.save_figure(plots.value_histograms(histograms), folder / "value_histograms.png")
    values, task = clips.targets[:, 0], data.tasks[0]
    pair = [int(np.nanargmin(values)), int(np.nanargmax(values))]
    titles = [f"{task} {values[i]:.2f} (clip {clips.ids[i]})" for i in pair]
    write_clip_figures(folder, model, recipe, clips, pair, titles, data.beat)

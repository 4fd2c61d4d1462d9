"""Judges a genre model and writes all that its run's folder holds."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.data.folder import GenreData
from mtmusic.data.labels import Clips, GenreClasses, genre_mapping, two_of_different_classes
from mtmusic.data.pipeline import make_dataset
from mtmusic.evaluation import plots
from mtmusic.evaluation.metrics import genre_report
from mtmusic.evaluation.reports.run import write_report
from mtmusic.files import write_json
from mtmusic.training import run_folder as runs
from mtmusic.training.recipes import Recipe
from mtmusic.training.run_files import base_card, write_clip_figures

HEADLINE = ("accuracy", "macro_f1")

Judgement = dict[str, tuple[dict[str, Any], np.ndarray]]
"""Of each split: the genre report, and the probabilities (clips, classes)."""


def judge(model: keras.Model, recipe: Recipe, splits: dict[str, Clips]) -> Judgement:
    """Of each split: the genre report, and the probabilities (clips, classes)."""
    judged = {}
    for split, clips in splits.items():
        dataset = make_dataset(clips, recipe.feature, recipe.batch_size, recipe.frames)
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(model.predict(dataset, verbose=0)))
        judged[split] = (genre_report(clips.targets, probabilities.argmax(axis=1), clips.classes), probabilities)
    return judged


def write_judgement(
    work: Path,
    model: keras.Model,
    recipe: Recipe,
    data: GenreData,
    judgement: Judgement,
    card: dict[str, Any],
    training: dict[str, Any],
) -> dict[str, Any]:
    """Card, metrics, predictions, figures and report.html, which comes last; returns what metrics.json holds."""
    metrics = {split: report for split, (report, _) in judgement.items()} | training
    headline = {split: {name: report[name] for name in HEADLINE} for split, (report, _) in judgement.items()}
    write_json(work / "card.json", card | {"metrics": headline})
    write_json(work / "metrics.json", metrics)
    header = ("id", "split", "true", "predicted", *card["classes"])
    runs.write_predictions(work / "predictions.csv", _prediction_rows(data, judgement), header)
    _write_figures(work / "figures", model, recipe, data, judgement)
    write_report(work)
    return metrics


def genre_card(recipe: Recipe, data: GenreData, classes: GenreClasses, command: str, seed: int) -> dict[str, Any]:
    """What a user of the model must know, and what made it; `write_judgement` adds the metrics."""
    names = {"classes": list(data.splits["train"].classes), "class_mapping": genre_mapping(classes)}
    return {"task": "genre", **names, **base_card(recipe, data, command, seed)}


def _prediction_rows(data: GenreData, judgement: Judgement) -> Iterator[Sequence[Any]]:
    for split, (_, probabilities) in judgement.items():
        clips = data.splits[split]
        for clip_id, target, row in zip(clips.ids, clips.targets, probabilities, strict=True):
            yield (clip_id, split, clips.classes[target], clips.classes[row.argmax()], *row)


def _write_figures(folder: Path, model: keras.Model, recipe: Recipe, data: GenreData, judgement: Judgement) -> None:
    for split, (report, _) in judgement.items():
        figure = plots.confusion_matrix(np.array(report["confusion"]), data.splits[split].classes)
        plots.save_figure(figure, folder / f"confusion_{split}.png")
    clips = list(data.splits.values())[-1]
    pair = two_of_different_classes(clips)
    titles = [f"{clips.classes[clips.targets[i]]} (clip {clips.ids[i]})" for i in pair]
    write_clip_figures(folder, model, recipe, clips, pair, titles, data.beat)
    figure = plots.class_histograms(data.raw_counts, data.merged_counts, "Clips before and after merging")
    plots.save_figure(figure, folder / "class_histograms.png")

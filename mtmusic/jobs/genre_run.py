"""Judges a genre model and writes all that its run's folder holds."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.data.labels import Clips
from mtmusic.data.pipeline import make_dataset
from mtmusic.data.spectrograms import read_array
from mtmusic.evaluation import plots
from mtmusic.evaluation.metrics import genre_report
from mtmusic.evaluation.report import write_report
from mtmusic.files import write_json, write_text
from mtmusic.jobs import runs
from mtmusic.jobs.folders import GenreData
from mtmusic.jobs.recipes import Recipe, architecture
from mtmusic.models import export
from mtmusic.models.training import TrainingRecord, history_csv

EXAMPLES = 8

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


def write_run(
    work: Path,
    model: keras.Model,
    recipe: Recipe,
    data: GenreData,
    judgement: Judgement,
    command: str,
    seed: int,
    training: dict[str, Any],
    record: TrainingRecord | None = None,
) -> dict[str, Any]:
    """Writes all that a run's folder holds, report.html last, and returns what metrics.json holds."""
    metrics = {split: report for split, (report, _) in judgement.items()} | training
    clips = data.splits["test"]
    export.save(model, work, _card(recipe, data, metrics, command, seed), examples(clips, recipe))
    write_json(work / "metrics.json", metrics)
    runs.write_predictions(
        work / "predictions.csv",
        _prediction_rows(data, judgement),
        ("id", "split", "true", "predicted", *clips.classes),
    )
    if record is not None:
        write_text(work / "history.csv", history_csv(record))
        plots.save_figure(
            plots.learning_curves(record.history, record.best_epoch), work / "figures/learning_curves.png"
        )
    _write_figures(work / "figures", model, recipe, data, judgement)
    write_report(work)
    return metrics


def examples(clips: Clips, recipe: Recipe) -> np.ndarray:
    """The first clips of the split as the model takes them, (clips, frames, bins)."""
    first = clips.take(np.arange(min(EXAMPLES, len(clips))))
    spectrograms, _ = next(make_dataset(first, recipe.feature, EXAMPLES, recipe.frames).as_numpy_iterator())
    return spectrograms


def _card(recipe: Recipe, data: GenreData, metrics: dict[str, Any], command: str, seed: int) -> dict[str, Any]:
    clips = data.splits
    return {
        "task": "genre",
        "classes": list(clips["test"].classes),
        "feature": recipe.feature,
        "beat": data.beat,
        "frames": recipe.frames,
        "clip_frames": int(np.median(data.frames)),
        "backbone": recipe.backbone,
        "architecture": architecture(recipe),
        "recipe": asdict(recipe),
        "command": command,
        "seed": seed,
        "data": {
            "folder": str(data.folder),
            "demo": data.demo,
            "fingerprint": data.fingerprint,
            "clips": {split: part.counts() for split, part in clips.items()},
        },
        "versions": runs.versions(),
        "metrics": {
            split: {name: metrics[split][name] for name in ("accuracy", "macro_f1")}
            for split in ("validation", "test")
            if split in metrics
        },
    }


def _prediction_rows(data: GenreData, judgement: Judgement) -> Iterator[Sequence[Any]]:
    for split, (_, probabilities) in judgement.items():
        clips = data.splits[split]
        for clip_id, target, row in zip(clips.ids, clips.targets, probabilities, strict=True):
            yield (clip_id, split, clips.classes[target], clips.classes[row.argmax()], *row)


def _write_figures(
    folder: Path,
    model: keras.Model,
    recipe: Recipe,
    data: GenreData,
    judgement: Judgement,
) -> None:
    for split, (report, _) in judgement.items():
        figure = plots.confusion_matrix(np.array(report["confusion"]), data.splits[split].classes)
        plots.save_figure(figure, folder / f"confusion_{split}.png")
    clips = data.splits["test"]
    pair = two_of_different_classes(clips)
    titles = [f"{clips.classes[clips.targets[i]]} (clip {clips.ids[i]})" for i in pair]
    arrays = [read_array(clips.paths[i]) for i in pair]
    plots.save_figure(plots.spectrogram_pair(arrays, titles, data.beat), folder / "spectrograms.png")
    if recipe.backbone == "cnn":
        spectrogram = examples(clips.take(pair[:1]), recipe)
        figure = plots.activations(activations(model, spectrogram), spectrogram[0])
        plots.save_figure(figure, folder / "activations.png")
    merged: dict[str, int] = {}
    for split in ("train", "validation"):
        for name, count in data.splits[split].counts().items():
            merged[name] = merged.get(name, 0) + count
    figure = plots.class_histograms(data.raw_counts, merged, "Clips of train and validation")
    plots.save_figure(figure, folder / "class_histograms.png")


def two_of_different_classes(clips: Clips) -> list[int]:
    """Positions of the first clip and of the first one of another class."""
    return [0, int(np.argmax(clips.targets != clips.targets[0]))]


def activations(model: keras.Model, spectrogram: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Name and output (frames, bins, channels) of each of the CNN's layers for one clip (1, frames, bins)."""
    backbone = model.get_layer("backbone")
    kinds = ("conv", "norm", "relu", "pool")
    chosen = [layer for layer in backbone.layers if layer.name.startswith("block") and layer.name.endswith(kinds)]
    outputs = keras.Model(backbone.input, [layer.output for layer in chosen])(spectrogram, training=False)
    return [(layer.name, np.array(output[0])) for layer, output in zip(chosen, outputs, strict=True)]

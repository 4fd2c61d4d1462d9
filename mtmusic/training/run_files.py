"""What every run's folder holds, whatever its model answers: the card's common part, clips, pictures of one clip."""

import csv
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.constants import PAD_VALUE
from mtmusic.data.folder import AffectData, FolderData
from mtmusic.data.labels import Clips, read_features_json
from mtmusic.data.pipeline import make_dataset
from mtmusic.data.spectrograms import read_array
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.files import write_csv
from mtmusic.models import saving as export
from mtmusic.training import run_folder as runs
from mtmusic.training.recipes import Recipe, architecture

EXAMPLES = 8
CLIPS_FILE = "clips.csv"
UNKNOWN = "unknown"
"""In the place of a content: the run's source does not tell what it learnt from."""


def base_card(recipe: Recipe, data: FolderData, command: str, seed: int) -> dict[str, Any]:
    """What a user of the model must know, and what made it; task and metrics come beside it."""
    return {
        "feature": recipe.feature,
        "beat": data.beat,
        "frames": recipe.frames,
        "clip_frames": int(np.median(data.frames)),
        "clip_seconds": _clip_seconds(data.folder),
        "backbone": recipe.backbone,
        "architecture": architecture(recipe),
        "recipe": asdict(recipe),
        "command": command,
        "seed": seed,
        "data": data_card(data),
        "versions": runs.versions(),
    }


def _clip_seconds(folder: Path) -> float | None:
    """What the folder's features.json says of how long its songs' excerpts are; beats alone do not tell."""
    seconds = read_features_json(folder).get("duration")
    return seconds if isinstance(seconds, int | float) and 0 < seconds < math.inf else None


def data_card(data: FolderData) -> dict[str, Any]:
    """Where the clips came from, and how many: of each class, or all and those that have a label of each task."""
    counts = {split: clips.counts() for split, clips in data.splits.items()}
    card = {"folder": str(data.folder), "demo": data.demo, "fingerprint": data.fingerprint}
    if isinstance(data, AffectData):
        return card | {"clips": {split: len(clips) for split, clips in data.splits.items()}, "labels": counts}
    return card | {"clips": counts}


def examples(clips: Clips, recipe: Recipe) -> np.ndarray:
    """Clips from the whole of the split, whose file is grouped by class, as the model takes them."""
    chosen = clips.take(np.linspace(0, len(clips) - 1, min(EXAMPLES, len(clips))).astype(int))
    spectrograms, _ = next(make_dataset(chosen, recipe.feature, EXAMPLES, recipe.frames).as_numpy_iterator())
    return spectrograms


def write_clips(work: Path, data: FolderData, trained_on: str, source: Path | None) -> None:
    """clips.csv: id, split, content (a hash), trained (1 or 0) and group, where the folder has groups, of each clip;
    those that a source learnt from too."""
    learnt = trained_on.split("+")
    rows = [
        (clip_id, split, data.digests[path], int(split in learnt), "" if clips.groups is None else clips.groups[place])
        for split, clips in data.splits.items()
        for place, (clip_id, path) in enumerate(zip(clips.ids, clips.paths, strict=True))
    ]
    if source is not None:
        learnt_before = learnt_contents(source)
        contents = [UNKNOWN] if learnt_before is None else sorted(learnt_before)
        rows += [("", "source", content, 1, "") for content in contents]
    write_csv(work / CLIPS_FILE, ("id", "split", "content", "trained", "group"), rows)


def learnt_contents(run: Path) -> set[str] | None:
    """The hashes of the clips that the run's model learnt from, its sources' too; None where the run does not tell."""
    learnt = _contents(run, "trained", "1")
    return None if learnt is None or UNKNOWN in learnt else learnt


def judged_contents(run: Path) -> set[str]:
    """The hashes of the clips that the run was judged on. Raises UserError where it does not tell."""
    if not (judged := _contents(run, "split", "test")):
        raise UserError(f"Expected a run whose {CLIPS_FILE} tells the clips that it was judged on, got {run}")
    return judged


def _contents(run: Path, column: str, value: str) -> set[str] | None:
    path = export.locate(run)[0] / CLIPS_FILE
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["content"] for row in csv.DictReader(file) if row[column] == value}
    except (KeyError, ValueError, csv.Error) as error:
        raise UserError(f"Expected id, split, content and trained in {path}, got {error!r}; train again") from error


def source_card(source: Path, data: FolderData, transferred: str) -> dict[str, Any]:
    """For the card of a model that was started from another: which, and the test clips that that one learnt from.

    transferred: "all" of its backbone, or its first N blocks. "test_clips_learnt" holds their ids, by content, not by
    name; None where the source does not tell. "demo": whether it learnt from the demo corpus, or one that it was
    started from did.
    """
    learnt, test = learnt_contents(source), data.splits["test"]
    seen = None
    if learnt is not None:
        seen = [i for i, path in zip(test.ids, test.paths, strict=True) if data.digests[path] in learnt]
    card = export.read_card(export.locate(source)[0])
    told = {"run": str(source), "task": card["task"], "transferred": transferred}
    return told | {"demo": export.learnt_from_demo(card), "test_clips_learnt": seen}


def print_learnt_test_clips(source: dict[str, Any], test_clips: int) -> None:
    """Says that the test split is not new to the source's backbone, where that is so."""
    if (seen := source["test_clips_learnt"]) is None:
        print(f"Whether {source['run']} learnt from clips of the test split is not known: it has no {CLIPS_FILE}")
    elif seen:
        named = ", ".join(seen[:5]) + (f" and {len(seen) - 5} more" if len(seen) > 5 else "")
        print(f"{len(seen)} of {test_clips} test clips were in the training of {source['run']}: {named}")


def write_clip_figures(
    folder: Path, model: keras.Model, recipe: Recipe, clips: Clips, pair: list[int], titles: list[str], beat: bool
) -> None:
    """Two clips as spectrograms, and what a CNN's layers make of the first."""
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
    return [(layer.name, np.array(output[0]).astype(np.float32)) for layer, output in zip(chosen, outputs, strict=True)]

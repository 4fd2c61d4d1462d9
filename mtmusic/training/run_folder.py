"""A run's folder, which is renamed when it is complete and can be resumed; its card, clips.csv and evaluation."""

import csv
import json
import logging
import math
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtmusic import __version__
from mtmusic.cards import CARD_FILE, OWN_BACKBONE, locate, read_card, trained_on_demo
from mtmusic.constants import FEATURE_BINS, LOGMEL_SAMPLE_RATE, SAMPLE_RATE
from mtmusic.data.folder import AffectData, FolderData, song_names
from mtmusic.data.labels import (
    LAB_CLASSES,
    Clips,
    GenreClasses,
    genre_mapping,
    is_beat_synchronised,
    is_synthetic,
    read_features_json,
)
from mtmusic.data.spectrograms import array_frames
from mtmusic.errors import UserError
from mtmusic.evaluation.reports.run import write_report
from mtmusic.files import locked, refuse_other_things, replace_folder, whole_folder, write_csv, write_json
from mtmusic.models.saving import save
from mtmusic.training.recipes import Recipe, architecture
from mtmusic.training.task import Evaluation, Task, examples

METRICS = "metrics.json"
CLIPS_FILE = "clips.csv"
PREDICTIONS = "predictions.csv"
SETTINGS = "settings.json"
CHECKPOINTS, RETRAINED = "checkpoints", "retrained"
FROZEN_STAGE = "frozen"
"""Subfolder of both: the checkpoints of the epochs before the backbone is unfrozen."""

MAY_CHANGE = ("epochs", "patience")
"""Settings that may differ when a run is resumed."""

UNKNOWN = "unknown"
"""Used as a content if the training clips of the run's source are not known."""

logger = logging.getLogger(__name__)

# --- the folder


def require_free(out: Path, resume: bool, overwrite: bool) -> None:
    """Raises UserError if another run is writing `out`, or if it holds a run or other files.

    `resume` and `overwrite` allow an unfinished and a finished run.
    """
    refuse_other_things(out, METRICS)
    work, is_run = _work(out), (out / METRICS).is_file()
    _refuse_running(work)
    if is_run and not overwrite and not resume:
        raise UserError(f"{out} holds a finished run: `overwrite=True` replaces it, and `out` names another folder")
    if work.is_dir() and not resume and not overwrite:
        raise UserError(f"{work} holds an unfinished run: `resume=True` continues it, and `overwrite=True` restarts it")


def finished(out: Path, resume: bool) -> dict[str, Any] | None:
    """Returns the metrics of a finished run that is to be resumed, and logs a message. Otherwise returns None."""
    if not resume or not (out / METRICS).is_file() or _work(out).is_dir():
        return None
    logger.info(
        f"{out} is a finished run. There is nothing to resume. Its command was: {read_card(out).get('command')}"
    )
    return json.loads((out / METRICS).read_text())


@contextmanager
def run_folder(out: Path, settings: Mapping[str, Any], resume: bool) -> Iterator[Path]:
    """Yields a folder next to `out` for the run, and renames it to `out` when the block ends.

    If the block is stopped or fails, the folder is kept for a resume if it has checkpoints, and a message is logged.
    Otherwise it is deleted. If the process is killed, the folder is kept.
    settings: all settings that the result depends on. Raises UserError if a resumed run had other settings, and if
    another run is writing the folder.
    """
    work = _work(out)
    _refuse_running(work)
    if resume and (work / SETTINGS).is_file():
        _require_equal(json.loads((work / SETTINGS).read_text()), settings, work)
    else:
        if resume:
            logger.info(f"There is nothing to resume in {work}: the run starts from the beginning")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    with locked(work):
        yield from _kept_for_a_resume(work, settings)
    replace_folder(work, out)
    for name in (CHECKPOINTS, RETRAINED):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / SETTINGS).unlink()


def _kept_for_a_resume(work: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    try:
        if not (work / SETTINGS).is_file():
            write_json(work / SETTINGS, dict(settings))
        yield work
    except BaseException:
        if any((work / CHECKPOINTS).rglob("epoch-*")):
            logger.warning(f"{work} keeps the run: `resume=True` continues it, and `overwrite=True` restarts it")
        else:
            shutil.rmtree(work)
        raise


def _refuse_running(work: Path) -> None:
    if work.is_dir():
        with locked(work):  # a folder that another run is writing is neither resumed nor removed
            pass


def _work(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _require_equal(before: Mapping[str, Any], now: Mapping[str, Any], work: Path) -> None:
    now = json.loads(json.dumps(now))
    differing = [
        f"{name} {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(set(before) | set(now))
        if before.get(name) != now.get(name) and name not in MAY_CHANGE
    ]
    if differing:
        raise UserError(
            f"Cannot resume {work}: it was started with {'; '.join(differing)}. Give the same settings, or "
            "`overwrite=True`"
        )


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and TensorFlow, and makes TensorFlow's operations deterministic."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def save_run(
    model: keras.Model,
    folder: Path | str,
    train: Clips,
    *,
    frames: int | None = None,
    classes: GenreClasses | None = None,
    beat: bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Saves a model that `model.fit` trained as a run, which `Predictor`, evaluation and exports take.

    Args:
        model: A model from `genre_classifier`, `affect_regressor` or `multitask_regressor`.
        folder: The run's folder, which is created.
        train: The clips that the model was trained on. Their data folder defines the features of songs.
        frames: As in `make_dataset`. By default the model's number of frames, or None for clips of any length.
        classes: As in `read_genre_labels`. By default "lab" if all classes are the lab's, else "all".
        beat: Whether the clips are beat-synchronised. By default as their data folder says.
        overwrite: Whether an earlier run in `folder` is replaced.

    Returns:
        The run's folder, with model.keras, card.json and examples.npz.

    Raises:
        UserError: There are no clips, the model does not fit them, a classifier returns probabilities and not logits,
            `beat` is not given and the data folder does not state it, or `folder` holds other files.

    Examples:
        >>> train = mtmusic.read_genre_labels("data/genre_beat")
        >>> model = mtmusic.genre_classifier(mtmusic.lstm_backbone("mel", units=8), train.classes)
        >>> history = model.fit(mtmusic.make_dataset(train, shuffle=True), epochs=1, shuffle=False, verbose=0)
        >>> mtmusic.save_run(model, "saved_models/mine", train).name
        'mine'
        >>> sorted(mtmusic.Predictor("mine").predict("song.wav"))
        ['genre', 'tempo']
    """
    if not len(train):
        raise UserError("Expected the clips that the model was trained on, got none")
    folder, data = Path(folder), train.paths[0].parent.parent
    refuse_other_things(folder, CARD_FILE)
    if (folder / CARD_FILE).is_file() and not overwrite:
        raise UserError(f"{folder} holds a run: `overwrite=True` replaces it")
    feature = _feature_of(model, train)
    frames = frames or model.input_shape[1]
    beat = is_beat_synchronised(data) if beat is None else beat
    if beat is None:
        raise UserError(f"Expected `beat=True` or `beat=False`, got none: {data} does not say its frame rate")
    if train.classes:
        known = "lab" if {*train.classes} <= {*LAB_CLASSES.values()} else "all"
        mapping = genre_mapping(classes or known)
        card: dict[str, Any] = {"task": "genre", "classes": list(train.classes), "class_mapping": mapping}
    else:
        task = train.tasks[0] if len(train.tasks) == 1 else "multitask"
        card = {"task": task, "targets": list(train.tasks), "label_means": train.label_means()}
    card |= {
        "feature": feature,
        "sample_rate": sample_rate(feature),
        "beat": beat,
        "frames": frames,
        "backbone": OWN_BACKBONE,
        "seed": None,
        "command": "mtmusic.save_run",
        "clip_frames": int(np.median([min(array_frames(path), frames or sys.maxsize) for path in train.paths])),
        "clip_seconds": _clip_seconds(data),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {"folder": str(data), "demo": is_synthetic(data), "clips": {"train": train.counts()}},
        "versions": versions(),
    }
    with whole_folder(folder) as work:
        work.mkdir(parents=True)
        save(model, work, card, examples(train, Recipe(feature=feature, frames=frames)))
    return folder


def _feature_of(model: keras.Model, train: Clips) -> str:
    """Returns the feature of the model's input. Raises UserError if the outputs are not those of a head for clips."""
    names = train.classes or train.tasks
    features = {bins: name for name, bins in FEATURE_BINS.items()}
    if model.output_shape[-1] != len(names) or model.input_shape[2] not in features:
        raise UserError(
            f"Expected a model of {len(names)} outputs, one for each of {', '.join(names)}, "
            f"got one from {model.input_shape} to {model.output_shape}"
        )
    activation = getattr(model.layers[-1], "activation", None)
    if train.tasks and activation is keras.activations.linear:
        raise UserError("Expected values from 0 to 1, as from affect_regressor, got a last layer without a sigmoid")
    if train.classes and activation not in (None, keras.activations.linear):
        raise UserError(f"Expected logits, as from genre_classifier, got a last layer with {activation.__name__}")
    return features[model.input_shape[2]]


# --- the card


def base_card(recipe: Recipe, data: FolderData, command: str, seed: int) -> dict[str, Any]:
    """The card of any model: its input, its data and its settings. The task and the metrics are added later."""
    return {
        "feature": recipe.feature,
        "sample_rate": sample_rate(recipe.feature),
        "beat": data.beat,
        "frames": recipe.frames,
        "clip_frames": int(np.median(data.frames)),
        "clip_seconds": _clip_seconds(data.folder),
        "backbone": recipe.backbone,
        "architecture": architecture(recipe),
        "recipe": asdict(recipe),
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "data": data_card(data),
        "versions": versions(),
    }


def sample_rate(feature: str) -> int:
    """The sample rate of the audio for a feature, in Hz."""
    return LOGMEL_SAMPLE_RATE if feature == "logmel" else SAMPLE_RATE


def _clip_seconds(folder: Path) -> float | None:
    """The length of the songs' excerpts in seconds, from features.json. It is not known from the number of beats."""
    seconds = read_features_json(folder).get("duration")
    return seconds if isinstance(seconds, int | float) and 0 < seconds < math.inf else None


def data_card(data: FolderData) -> dict[str, Any]:
    """The data in the card: the folder, and the number of clips by class, or in total and with a label of each task."""
    counts = {split: clips.counts() for split, clips in data.splits.items()}
    card = {"folder": str(data.folder), "demo": data.demo, "fingerprint": data.fingerprint}
    if isinstance(data, AffectData):
        return card | {"clips": {split: len(clips) for split, clips in data.splits.items()}, "labels": counts}
    return card | {"clips": counts}


def versions() -> dict[str, str]:
    """The versions of all packages that a result may depend on."""
    packages = ("tensorflow", "keras", "numpy", "scikit-learn", "scipy", "soxr")
    return {"mtmusic": __version__, "python": platform.python_version()} | {name: version(name) for name in packages}


def source_card(source: Path, data: FolderData, transferred: str) -> dict[str, Any]:
    """The source in the card of a model that was started from another run.

    "test_clips_learnt" has the ids of test clips that the source was trained on, by content. It is None if the source
    does not state its clips. "demo" is whether the source, or its own source, was trained on the demo corpus.
    transferred: "all" blocks of its backbone, or the number of its first blocks.
    """
    test = data.splits["test"]
    learnt = clips_learnt(source, [data.digests[path] for path in test.paths])
    seen = None
    if learnt is not None:
        seen = [i for i, path in zip(test.ids, test.paths, strict=True) if data.digests[path] in learnt]
    card = read_card(locate(source)[0])
    known = {"run": str(source), "task": card["task"], "transferred": transferred}
    return known | {"demo": trained_on_demo(card), "test_clips_learnt": seen}


def log_known_test_clips(source: Mapping[str, Any], test_clips: int) -> None:
    """Logs if the source was, or may have been, trained on test clips. source: the result of `source_card`."""
    if (seen := source["test_clips_learnt"]) is None:
        logger.info(f"It is not known whether {source['run']} was trained on clips of the test split")
    elif seen:
        named = ", ".join(seen[:5]) + (f" and {len(seen) - 5} more" if len(seen) > 5 else "")
        logger.info(f"{source['run']} was trained on {len(seen)} of the {test_clips} test clips: {named}")


# --- clips.csv


def write_clips(work: Path, data: FolderData, trained_on: str, source: Path | None) -> None:
    """Writes clips.csv: id, split, content (a hash), trained (1 or 0) and group of each clip.

    The clips that a source was trained on are added. trained_on: splits, joined by "+".
    """
    trained = trained_on.split("+")
    rows = [
        (clip_id, split, data.digests[path], int(split in trained), "" if clips.groups is None else clips.groups[place])
        for split, clips in data.splits.items()
        for place, (clip_id, path) in enumerate(zip(clips.ids, clips.paths, strict=True))
    ]
    if source is not None:
        before = _contents(source, "trained", "1")
        rows += [("", "source", content, 1, "") for content in ([UNKNOWN] if before is None else sorted(before))]
    write_csv(work / CLIPS_FILE, ("id", "split", "content", "trained", "group"), rows)


def clips_learnt(run: Path, digests: Sequence[str]) -> list[str] | None:
    """Returns those of the contents that the run's model, or one of its sources, was trained on.

    Returns None if none is known and a source does not state its clips, as the pretrained trunk.
    """
    trained = _contents(run, "trained", "1") or {UNKNOWN}
    learnt = [digest for digest in digests if digest in trained]
    return None if UNKNOWN in trained and not learnt else learnt


def evaluated_contents(run: Path) -> set[str]:
    """Returns the hashes of the clips that the run was evaluated on. Raises UserError if clips.csv has none."""
    if not (evaluated := _contents(run, "split", "test")):
        raise UserError(f"Expected a run whose {CLIPS_FILE} lists the clips of its evaluation, got {run}")
    return evaluated


def _contents(run: Path, column: str, value: str) -> set[str] | None:
    path = locate(run)[0] / CLIPS_FILE
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["content"] for row in csv.DictReader(file) if row[column] == value}
    except (KeyError, ValueError, csv.Error) as error:
        raise UserError(f"Expected id, split, content and trained in {path}, got {error!r}; train again") from error


# --- an evaluation


def write_evaluation(
    work: Path,
    task: Task,
    data: FolderData,
    evaluations: Mapping[str, Evaluation],
    card: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the card, metrics.json, predictions.csv, figures, and at last report.html.

    Returns the content of metrics.json. evaluations: evaluations by split. card: the card.
    facts: further content of metrics.json.
    """
    reports = {split: evaluation.report for split, evaluation in evaluations.items()}
    metrics = {**reports, **facts}
    headline = {split: {name: report[name] for name in task.headline} for split, report in reports.items()}
    write_json(work / CARD_FILE, {**card, "metrics": headline})
    write_json(work / METRICS, metrics)
    songs = song_names(data.folder)
    rows = (
        (clip_id, split, *([songs.get(clip_id, "")] if songs else []), *cells)
        for split, evaluation in evaluations.items()
        for clip_id, cells in zip(
            data.splits[split].ids, task.cells(data.splits[split], evaluation.predictions), strict=True
        )
    )
    write_csv(work / PREDICTIONS, ("id", "split", *(["song"] if songs else []), *task.columns), map(rounded, rows))
    task.write_figures(work / "figures", data, evaluations)
    write_report(work)
    return metrics


def rounded(row: tuple[Any, ...]) -> list[Any]:
    """Rounds each number in a row of predictions to six decimals."""
    return [f"{cell:.6f}" if isinstance(cell, float | np.floating) else cell for cell in row]

"""Writes affect predictions for every clip of a test split, labelled or not, in the format of the competition."""

import csv
import io
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.data.folder import beat_of_folder, require_rate
from mtmusic.data.labels import Clips, clip_id, scan_unlabelled
from mtmusic.data.quality.measurements import measure_arrays
from mtmusic.errors import UserError
from mtmusic.files import refuse_taken, whole_file
from mtmusic.models.saving import load, refuse_tags
from mtmusic.training.evaluate import task_of
from mtmusic.training.recipes import Recipe, recipe_from_card

LAB_TASKS = ("valence", "energy", "danceability")
LAB_SUFFIX = ".fused.full.npy.gz"
COMPETITION = "multitask-affective-music-lab-2022"
DECIMALS = 3

logger = logging.getLogger(__name__)


def make_submission(
    models: Sequence[Path],
    folder: Path,
    out: Path,
    header: str = "lab",
    beat: bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Predicts every array in the folder's test/, writes the file, and reads it back. Returns its path.

    Rows are sorted by id.
    models: a model of all tasks, or several models of different tasks.
    header: "lab" for the competition's format, or "plain" for `Id,<tasks>` and rows `<id>,0.153,...` in the models'
    order.
    Raises UserError for models or folders that cannot be used, and if the written file differs from the predictions.
    """
    refuse_taken([out], overwrite)
    loaded = [(path, *_affect_model(path)) for path in models]
    tasks = tuple(task for _, _, card in loaded for task in card["targets"])
    columns = _columns(tasks, header)
    clips, frames = _test_clips(folder)
    rate = beat_of_folder(folder, beat, frames)
    for path, _, card in loaded:
        require_rate(rate, folder, bool(card["beat"]), path)

    answers = [task_of(card).predict(model, recipe_from_card(card, Recipe()), clips) for _, model, card in loaded]
    predicted = np.hstack(answers)[:, columns]
    names = [tasks[column] for column in columns]
    _write(out, clips.ids, names, predicted, header)
    logger.info(f"{len(clips)} clips, {', '.join(names)}: {out}")
    logger.info(f"Submit it with: {submit_command(out, header)}")
    return out


def submit_command(path: Path, header: str) -> str:
    """Returns Kaggle's command to submit the file to the lab's competition, or to another one."""
    competition = COMPETITION if header == "lab" else "COMPETITION"
    return f"kaggle competitions submit -c {competition} -f {shlex.quote(str(path))} -m mtmusic"


def read_submission(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Reads ids, tasks and values (clips, tasks) of a file with either header. Raises UserError for other content."""
    with path.open(newline="", encoding="utf-8") as file:
        (_, *tasks), *rows = csv.reader(file)
    try:
        values = np.array([[float(cell) for cell in row[1:]] for row in rows])
    except ValueError as error:
        raise UserError(f"Expected numbers in {path}, got {error}") from error
    if values.shape != (len(rows), len(tasks)) or not ((values >= 0) & (values <= 1)).all():
        raise UserError(f"Expected {len(tasks)} values from 0 to 1 in each row of {path}, got other content")
    return [clip_id(row[0]) for row in rows], tasks, values


def _affect_model(path: Path) -> tuple[Any, dict[str, Any]]:
    model, card = load(path)
    refuse_tags(card, path)
    if card["task"] == "genre":
        raise UserError(f"Expected a model of affect, got a genre model: {path} (mtmusic train-affect trains one)")
    return model, card


def _columns(tasks: Sequence[str], header: str) -> list[int]:
    """The indices of the models' tasks in the order of the file. Raises UserError if the tasks do not fit."""
    if len(set(tasks)) < len(tasks):
        raise UserError(f"Expected models of different tasks, got {', '.join(tasks)}")
    if header == "plain":
        return list(range(len(tasks)))
    if sorted(tasks) != sorted(LAB_TASKS):
        raise UserError(
            f"Expected models of {', '.join(LAB_TASKS)} for the lab's file, got {', '.join(tasks)}: "
            'give `header="plain"`, or the missing models'
        )
    return [tasks.index(task) for task in LAB_TASKS]


def _test_clips(folder: Path) -> tuple[Clips, np.ndarray]:
    """Reads every array in test/ once. Returns the clips sorted by id, and their numbers of frames."""
    if not (folder / "test").is_dir():
        raise UserError(f"Expected a data folder with test/, got none in {folder}")
    clips, _ = scan_unlabelled(folder, "test")
    if not len(clips):
        raise UserError(f"Expected arrays <id>.fused.full.npy in {folder / 'test'}, got none")
    facts = measure_arrays(clips.paths)
    if problems := [fact.problem for fact in facts if fact.problem]:
        raise UserError.listing(f"Cannot predict all of {folder / 'test'}", problems)
    return clips, np.array([fact.frames for fact in facts])


def _write(out: Path, ids: Sequence[str], tasks: Sequence[str], predicted: np.ndarray, header: str) -> None:
    """Writes the file under a temporary name, reads it back, and renames it."""
    suffix = LAB_SUFFIX if header == "lab" else ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f"Id{suffix}", *tasks])
    writer.writerows(
        [f"{i}{suffix}", *(f"{value:.{DECIMALS}f}" for value in row)] for i, row in zip(ids, predicted, strict=True)
    )
    with whole_file(out) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8")
        try:
            read_ids, read_tasks, values = read_submission(beside)
        except UserError as error:
            raise UserError(str(error).replace(str(beside), str(out))) from error
        same = (read_ids, read_tasks) == (list(ids), list(tasks))
        if not same or np.abs(values - predicted).max() > 0.51 * 10**-DECIMALS:
            raise UserError(f"Expected {out} to hold the predictions, got other values: is the disk full?")

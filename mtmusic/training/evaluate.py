"""Evaluates a saved model on a data folder, without training."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtmusic.cards import MODEL_FILE, own_folder
from mtmusic.data.folder import LoadOptions, data_table, require_rate
from mtmusic.data.labels import GenreClasses
from mtmusic.errors import UserError
from mtmusic.files import refuse_other_things, replace_folder
from mtmusic.models.saving import load, refuse_tags
from mtmusic.training.affect import AffectTask
from mtmusic.training.genre import GenreTask
from mtmusic.training.recipes import Recipe, recipe_from_card
from mtmusic.training.run_folder import METRICS, clips_learnt, data_card, write_evaluation
from mtmusic.training.task import Task, write_clip_figures

logger = logging.getLogger(__name__)


def task_of(card: Mapping[str, Any]) -> Task:
    """Returns the task of a saved model. card: the card of a genre or affect model."""
    return GenreTask.from_card(card) if card["task"] == "genre" else AffectTask.from_card(card)


def evaluate(
    model_path: Path,
    options: LoadOptions,
    split: str = "test",
    classes: GenreClasses | None = None,
    out: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Evaluates the model on one split, and writes a report as for a run. Returns the content of metrics.json.

    classes: mapping of genres for a genre model. It replaces that of the options. None uses the mapping of the
        training.
    out: folder of the results, by default `<run>/evaluations/<folder>_<split>`. An earlier result is replaced.
    Raises UserError if the clips, their classes or their tasks do not fit the model, and if `out` holds other files.
    """
    model, card = load(model_path)
    refuse_tags(card, model_path)
    task = task_of(card)
    out = out or own_folder(model_path) / "evaluations" / f"{options.folder.resolve().name}_{split}"
    refuse_other_things(out, METRICS)
    if (out / MODEL_FILE).exists():
        raise UserError(f"Expected `out` to be new or an earlier result, got {out}, which holds a model")
    if classes is not None and card["task"] != "genre":
        raise UserError(f"Expected `classes` with a genre model only, got a model of {card['task']} in {model_path}")
    trained_with = card.get("class_mapping", "lab")
    options = replace(options, classes=classes or ("all" if trained_with is None else trained_with))
    data = task.load_split(options, split)
    require_rate(data.beat, data.folder, bool(card["beat"]), model_path)
    recipe = Recipe(backbone="", feature=card["feature"], frames=card["frames"])
    if "architecture" in card:  # save_run does not write it, and evaluation does not need it
        recipe = recipe_from_card(card, recipe)
    recipe = replace(recipe, batch_size=card.get("recipe", {}).get("batch_size", 32))
    logger.info(data_table(data))

    learnt = clips_learnt(model_path, list(data.digests.values()))
    seen = None if learnt is None else len(learnt)
    if seen is None:
        logger.info(
            f"It is not known whether {model_path} was trained on these clips. If it was, the scores are too high.\n"
        )
    elif seen:
        logger.info(f"The model was trained on {seen} of these {len(data.digests)} clips, by content.\n")
    evaluation = task.evaluate(model, recipe, data.splits[split])

    work = out.with_name(out.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    try:
        card |= {"command": command, "judged": data_card(data) | {"clips_learnt": seen}}
        write_clip_figures(work / "figures", task, model, recipe, data.splits[split], data.beat)
        metrics = write_evaluation(work, task, data, {split: evaluation}, card, {})
        replace_folder(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    logger.info(task.table(metrics[split]))
    logger.info(f"Report: {out / 'report.html'}")
    return metrics

"""A saved genre model judged on a data folder, without training."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtmusic.data.labels import GenreClasses
from mtmusic.errors import UserError
from mtmusic.evaluation.metrics import genre_table
from mtmusic.files import replace_folder
from mtmusic.jobs import runs
from mtmusic.jobs.folders import RATES, load_genre_split, print_data
from mtmusic.jobs.genre_run import data_card, judge, write_judgement
from mtmusic.jobs.recipes import Recipe, from_card
from mtmusic.models import export


def evaluate_genre(
    model_path: Path,
    folder: Path,
    split: str = "test",
    classes: GenreClasses | None = None,
    beat: bool | None = None,
    skip_bad: bool = False,
    out: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Judges the model on one split and writes a run's report of it; returns what metrics.json holds.

    classes: by default the mapping that the model was trained with. out: default `<run>/evaluations/<folder>_<split>`;
    an earlier result there is replaced whole. Raises UserError where the clips are not such as the model takes, their
    classes not its own, or `out` holds other things.
    """
    model, card = export.load(model_path)
    if card["task"] != "genre":
        raise UserError(f"Expected a genre model, got one of {card['task']} in {model_path}")
    out = out or export.locate(model_path)[0] / "evaluations" / f"{folder.resolve().name}_{split}"
    runs.refuse_other_things(out, runs.METRICS)
    if (out / export.MODEL_FILE).exists():
        raise UserError(f"Expected --out to be new or an earlier result, got {out}, which holds a model")
    trained_with = card.get("class_mapping", "lab")
    classes = classes or ("all" if trained_with is None else trained_with)
    data = load_genre_split(folder, split, card["classes"], classes, beat, skip_bad)
    if bool(card["beat"]) != data.beat:
        raise UserError(
            f"Expected {RATES[bool(card['beat'])]} clips, which {model_path} was trained on, "
            f"got {RATES[data.beat]} ones in {folder} (--beat or --no-beat, if the folder does not tell)"
        )
    recipe = replace(from_card(card, Recipe()), batch_size=card.get("recipe", {}).get("batch_size", 32))
    print_data(data)

    judgement = judge(model, recipe, data.splits)

    work = out.with_name(out.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    try:
        judged_card = card | {"command": command, "judged": data_card(data)}
        metrics = write_judgement(work, model, recipe, data, judgement, judged_card, {})
        replace_folder(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(genre_table(metrics[split]))
    print(f"Report: {out / 'report.html'}")
    return metrics

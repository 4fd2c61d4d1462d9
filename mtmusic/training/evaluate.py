"""A saved model judged on any data folder, without training."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtmusic.data.folder import (
    Checks,
    load_affect_split,
    load_genre_split,
    print_data,
    require_rate,
)
from mtmusic.data.labels import GenreClasses
from mtmusic.datasets.demo import AFFECT_FOLDERS, GENRE_FOLDERS, demo_corpus
from mtmusic.errors import UserError
from mtmusic.evaluation.metrics import affect_table, genre_table
from mtmusic.files import refuse_other_things, replace_folder
from mtmusic.models import saving as export
from mtmusic.training import affect_run, genre_run
from mtmusic.training import run_folder as runs
from mtmusic.training.recipes import Recipe, from_card
from mtmusic.training.run_files import data_card, learnt_contents


def evaluate(
    model_path: Path,
    folder: Path | None,
    split: str = "test",
    classes: GenreClasses | None = None,
    beat: bool | None = None,
    skip_bad: bool = False,
    checks: Checks = "on",
    out: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Judges the model on one split and writes a run's report of it; returns what metrics.json holds.

    folder: None is the demo corpus. classes: of a genre model, by default the mapping that it was trained with. out:
    default `<run>/evaluations/<folder>_<split>`; an earlier result there is replaced whole. Raises UserError where the
    clips are not such as the model takes, their classes or tasks not its own, or `out` holds other things.
    """
    model, card = export.load(model_path)
    is_genre = card["task"] == "genre"
    folder = folder or demo_corpus() / (GENRE_FOLDERS if is_genre else AFFECT_FOLDERS)[bool(card["beat"])]
    out = out or export.locate(model_path)[0] / "evaluations" / f"{folder.resolve().name}_{split}"
    refuse_other_things(out, runs.METRICS)
    if (out / export.MODEL_FILE).exists():
        raise UserError(f"Expected --out to be new or an earlier result, got {out}, which holds a model")
    if classes is not None and not is_genre:
        raise UserError(f"Expected --classes with a genre model only, got one of {card['task']} in {model_path}")
    data: Any
    if is_genre:
        trained_with = card.get("class_mapping", "lab")
        classes = classes or ("all" if trained_with is None else trained_with)
        data = load_genre_split(folder, split, card["classes"], classes, beat, skip_bad, checks)
    else:
        data = load_affect_split(folder, split, card["targets"], beat, skip_bad, checks)
    require_rate(data.beat, data.folder, bool(card["beat"]), model_path)
    recipe = replace(from_card(card, Recipe()), batch_size=card.get("recipe", {}).get("batch_size", 32))
    print_data(data)

    kind: Any = genre_run if is_genre else affect_run
    told = () if is_genre else (card["label_means"],)
    learnt = learnt_contents(model_path) or set()
    seen = sum(digest in learnt for digest in data.digests.values())
    if seen:
        print(f"{seen} of these {len(data.digests)} clips were in the model's training, by content\n")
    judgement = kind.judge(model, recipe, data.splits, *told)

    work = out.with_name(out.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    try:
        judged_card = card | {"command": command, "judged": data_card(data) | {"clips_learnt": seen}}
        metrics = kind.write_judgement(work, model, recipe, data, judgement, judged_card, {})
        replace_folder(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print((genre_table if is_genre else affect_table)(metrics[split]))
    print(f"Report: {out / 'report.html'}")
    return metrics

"""Compares finished runs: the scores of each, and the difference to the first. Also fine-tunes with a control."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.cards import MODEL_FILE, locate, read_card
from mtmusic.data.labels import ALONE
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.evaluation.bootstrap import Fold, cross_scores, measures, model_scores
from mtmusic.evaluation.reports.run import write_report
from mtmusic.files import write_json
from mtmusic.models.saving import refuse_tags
from mtmusic.training.evaluate import task_of
from mtmusic.training.run_folder import CLIPS_FILE, PREDICTIONS, log_known_test_clips, require_free
from mtmusic.training.task import Task
from mtmusic.training.train import TrainOptions, default_out, resolve_recipe, train, with_trunk

SPLIT = "test"
logger = logging.getLogger(__name__)
JOINT = "+"
"""Joins runs of single tasks that count as one run: saved_models/valence_cnn+saved_models/energy_cnn"""


@dataclass(frozen=True)
class Predictions:
    """The predictions of a run, or of several joined runs, for test clips.

    true, predicted: for affect (clips, tasks) each, NaN for missing labels. For genre class indices (clips,) and
    probabilities (clips, classes).
    groups: names (clips,). A clip without a group in the run's clips.csv is its own group.
    """

    name: str
    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    true: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...] = ()

    def take(self, ids: Sequence[str]) -> "Predictions":
        """Selects clips by id, in this order."""
        places = [self.ids.index(i) for i in ids]
        rows = {name: getattr(self, name)[places] for name in ("true", "predicted", "groups")}
        return replace(self, ids=tuple(ids), **rows)


def compare_runs(names: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Compares the first run with the others. Returns the content of comparison.json.

    "runs" has the scores of each run on the clips that all have in common: for affect rho of each task and the mean,
    for genre accuracy and macro_f1. "differences" has the scores of the first run minus those of each other run, on the
    tasks that both have. Each entry is {value, low, high}, with the 95 % bootstrap interval over groups, or over clips
    if there are no groups. "apart" has the runs that were evaluated on other clips, with the number of these clips.
    Their scores are for their own clips, and they have no difference. Raises UserError for a run that cannot be read,
    and for genre and affect runs together.
    """
    if len(names) < 2:
        raise UserError(f"Expected two runs or more to compare, got {len(names)}")
    if len({*map(_canonical, names)}) < len(names):
        raise UserError(f"Expected each run once, got {', '.join(names)}")
    runs = [read_predictions(name) for name in names]
    if len({bool(run.classes) for run in runs}) > 1:
        raise UserError(f"Expected only runs of genre, or only runs of affect, got both in {', '.join(names)}")
    same, apart = runs[:1], []
    for run in runs[1:]:
        if _misfit([*same, run]) is None:
            same.append(run)
        else:
            apart.append(run)
    first, *others = _on_the_same_clips(same)
    scores = {run.name: own_scores(run, seed) for run in (first, *others, *apart)}
    differences = {other.name: _difference(first, other, seed) for other in others}
    return {
        "first": first.name,
        "split": SPLIT,
        "clips": len(first.ids),
        "seed": seed,
        "runs": {name: scores[name] for name in names},
        "differences": differences,
        "apart": {run.name: len(run.ids) for run in apart},
    }


def comparison_table(comparison: dict[str, Any]) -> str:
    """Formats a comparison for the terminal: a line for each run and each difference, a column for each score."""
    parts = {
        **comparison["runs"],
        **{f"{comparison['first']} minus {name}": row for name, row in comparison["differences"].items()},
    }
    names = list(dict.fromkeys(name for row in parts.values() for name in row))
    width = max(len(part) for part in parts)
    lines = [f"{'':{width}}" + "".join(f"  {name:>24}" for name in names)]
    for part, row in parts.items():
        cells = [_interval(row[name]) if name in row else "-" for name in names]
        lines.append(f"{part:{width}}" + "".join(f"  {cell:>24}" for cell in cells))
    lines += [
        f"{name} was evaluated on {clips} other clips, so it has no difference"
        for name, clips in comparison["apart"].items()
    ]
    return "\n".join([f"{_measure(comparison)} on the same {comparison['clips']} test clips (95 % interval)", *lines])


def _measure(comparison: dict[str, Any]) -> str:
    return "Scores" if "accuracy" in comparison["runs"][comparison["first"]] else "Spearman's rho"


def _interval(row: dict[str, float]) -> str:
    return f"{row['value']:.3f} ({row['low']:6.3f} to {row['high']:6.3f})"


def write_comparison(folder: Path, comparison: dict[str, Any]) -> None:
    """Writes comparison.json, and figures/comparison.png with each run's scores and their intervals."""
    rows = [
        (run, {name: (row["value"], row["low"], row["high"]) for name, row in values.items()})
        for run, values in comparison["runs"].items()
    ]
    plots.save_figure(plots.intervals(rows, _measure(comparison)), folder / "figures" / "comparison.png")
    write_json(folder / "comparison.json", comparison)


def read_predictions(name: str) -> Predictions:
    """Reads the predictions of a run, or of several runs of single tasks joined by "+". Raises UserError."""
    joined = [name] if Path(name).exists() else name.split(JOINT)
    parts = [_read_run(Path(part), part) for part in joined]
    if len(parts) == 1:
        return parts[0]
    if any(part.classes for part in parts):
        raise UserError(f"Expected joined runs of affect, got a genre run in {name}")
    tasks = tuple(task for part in parts for task in part.tasks)
    if len(set(tasks)) < len(tasks):
        raise UserError(f"Expected joined runs of different tasks, got {', '.join(tasks)} in {name}")
    parts = _on_the_same_clips(parts)
    true, predicted = (np.hstack([getattr(part, what) for part in parts]) for what in ("true", "predicted"))
    return Predictions(name, parts[0].ids, tasks, true, predicted, parts[0].groups)


def _read_run(path: Path, name: str) -> Predictions:
    folder = locate(path)[0]
    card = read_card(folder)
    refuse_tags(card, path)
    task, file = task_of(card), folder / PREDICTIONS
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = [row for row in csv.DictReader(opened) if row["split"] == SPLIT]
        true, predicted = task.read_cells(rows)
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"Expected the answers of a finished run in {file}, got {error!r}; train again") from error
    if not rows:
        raise UserError(f"Expected answers for test clips in {file}, got none; train again")
    ids = tuple(row["id"] for row in rows)
    return Predictions(name, ids, task.tasks, true, predicted, _read_groups(folder, ids), task.classes)


def _read_groups(run: Path, ids: Sequence[str]) -> np.ndarray:
    """Reads the group of each test clip. In older runs each clip is its own group."""
    try:
        with (run / CLIPS_FILE).open(newline="", encoding="utf-8") as file:
            groups = {row["id"]: row.get("group") for row in csv.DictReader(file) if row["split"] == SPLIT}
    except (OSError, KeyError, ValueError, csv.Error):
        groups = {}
    return np.array([groups.get(i) or f"{ALONE}{i}" for i in ids])


def _canonical(name: str) -> str:
    """One name for a run that is given by its folder or by its model.keras."""
    return name.removesuffix(f"/{MODEL_FILE}").rstrip("/")


def _on_the_same_clips(runs: Sequence[Predictions]) -> list[Predictions]:
    """Selects the clips that all runs have, in the order of the first. Raises UserError if the runs do not fit."""
    if misfit := _misfit(runs):
        raise UserError(misfit)
    return [run.take(_common_ids(runs)) for run in runs]


def _misfit(runs: Sequence[Predictions]) -> str | None:
    """The reason why runs cannot be compared, or None: less than half of the clips in common, or different labels."""
    ids, names = _common_ids(runs), " and ".join(run.name for run in runs)
    if len(ids) < max(len(run.ids) for run in runs) / 2:
        return (
            f"Expected runs that were evaluated on the same clips, got {len(ids)} in common among {names}: train "
            "them on one folder with one seed"
        )
    labels: dict[str, np.ndarray] = {}
    for run in (run.take(ids) for run in runs):
        if run.classes and (run.classes != runs[0].classes or not np.array_equal(run.true, runs[0].take(ids).true)):
            return f"Expected runs with the same classes and labels, got others in {run.name}"
        for task, column in zip(run.tasks, run.true.T if run.tasks else (), strict=True):
            if not np.allclose(labels.setdefault(task, column), column, atol=1e-5, equal_nan=True):
                return f"Expected runs with the same labels of {task}, got others in {run.name}"
    return None


def _common_ids(runs: Sequence[Predictions]) -> tuple[str, ...]:
    common = set(runs[0].ids).intersection(*(run.ids for run in runs[1:]))
    return tuple(i for i in runs[0].ids if i in common)


def own_scores(run: Predictions, seed: int = 0) -> dict[str, dict[str, float]]:
    """The scores of a run, {value, low, high} each as in `compare_runs`."""
    rows = _rows(model_scores(Fold(run.groups, run.true), run.predicted, run.tasks, seed))
    return {name: {"value": row["mean"], "low": row["low"], "high": row["high"]} for name, row in rows.items()}


def _difference(first: Predictions, other: Predictions, seed: int) -> dict[str, dict[str, float]]:
    """The difference of two runs on the tasks that both have. Raises UserError if there is none."""
    tasks = tuple(task for task in first.tasks if task in other.tasks)
    if not tasks and not first.classes:
        raise UserError(f"Expected runs with a task in common, got {first.name} and {other.name}")
    both = [_select(run, tasks) if tasks else run for run in (first, other)]
    answers = {run.name: [[run.predicted]] for run in both}
    return _rows(cross_scores([Fold(both[0].groups, both[0].true)], answers, tasks, seed)["comparisons"][0])


def _select(run: Predictions, tasks: tuple[str, ...]) -> Predictions:
    columns = [run.tasks.index(task) for task in tasks]
    return replace(run, tasks=tasks, true=run.true[:, columns], predicted=run.predicted[:, columns])


def _rows(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Renames the scores of affect: each task by its name, and for several tasks their "mean"."""
    rows = {name.removeprefix("rho_"): row for name, row in measures(scores).items()}
    mean = rows.pop("rho", None)
    return rows if mean is None or len(rows) < 2 else {**rows, "mean": mean}


def _from_random_weights(options: TrainOptions) -> TrainOptions:
    """The options for the same training of the same network without its source.

    If the source's trunk is frozen, the random weights are frozen too, so that only the head is trained in both.
    """
    if options.recipe.trunk and options.frozen == "all" and options.unfreeze_after is None:
        return replace(options, recipe=replace(options.recipe, untrained=True))
    options = with_trunk(options)
    # a kernel's centres are clips of this folder, and their number may differ from the source's
    recipe = replace(resolve_recipe(options), trunk="", centres=options.recipe.centres)
    return replace(options, recipe=recipe, source=None, transfer="all", freeze="none", unfreeze_after=None)


def finetune(options: TrainOptions, task: Task, compare_scratch: bool = False) -> dict[str, Any]:
    """The lab's step 9: trains the task on the source's backbone. Returns the content of metrics.json.

    compare_scratch: whether to also train the same network from random weights on the same splits, into
    `<out>_scratch`. Both are compared on the test clips, in the log, in comparison.json and on the page.
    Raises UserError.
    """
    if options.source is None:
        raise ValueError("Expected a source to fine-tune, got none")
    try:
        locate(options.source)
    except UserError as error:
        raise UserError(f"{error}: make a genre model with mtmusic train-genre, or give `source`") from error
    out = options.out or default_out(options, task)
    scratch_out = out.parent / f"{out.name}_scratch"
    if compare_scratch:
        require_free(scratch_out, options.resume, options.overwrite)
    metrics = train(replace(options, out=out), task)
    if compare_scratch:
        logger.info(f"\nThe same network from random weights, into {scratch_out}:")
        train(replace(_from_random_weights(options), out=scratch_out), task)
        comparison = compare_runs([str(out), str(scratch_out)])
        write_comparison(out, comparison)
        write_report(out)
        logger.info(f"\n{comparison_table(comparison)}")
        log_known_test_clips(read_card(out)["source"], comparison["clips"])
    return metrics

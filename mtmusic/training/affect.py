"""A data folder to trained, judged and saved affect models: one task, each in turn, or all with one trunk."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.data.folder import AffectData, load_affect_data, print_data, select_tasks
from mtmusic.data.labels import Clips
from mtmusic.errors import UserError
from mtmusic.evaluation.metrics import affect_table, spearman
from mtmusic.models import saving as export
from mtmusic.models.backbones import AFFECT_FRAMES
from mtmusic.models.heads import affect_regressor, multitask_regressor
from mtmusic.models.losses import complete_weights
from mtmusic.training import run_folder as runs
from mtmusic.training.affect_run import MULTITASK, affect_card, judge, write_judgement
from mtmusic.training.recipes import Recipe, complete, task_weights
from mtmusic.training.run_files import examples, print_learnt_test_clips, source_card, write_clips
from mtmusic.training.train import (
    Head,
    Objective,
    TrainOptions,
    build_model,
    count_learnt,
    finished,
    refuse_early,
    refuse_other_rate,
    resolve_recipe,
    settings_of,
    train_and_judge,
)

OVERFIT_ERROR = 0.01
"""Of the labels' variance: what a network that learnt a few batches by heart leaves."""


@dataclass(frozen=True)
class AffectOptions(TrainOptions):
    """All that the affect jobs are told.

    task: one of the folder's; None: each in turn, or all with one trunk where multitask. weights, learned_weights: of
    the tasks, multitask only. error: "mse" or "huber". test: share of the labelled clips that is held out to judge by
    where the test split has no labels.
    """

    task: str | None = None
    multitask: bool = False
    weights: Mapping[str, float] | None = None
    learned_weights: bool = False
    error: str = "mse"
    test: float = 0.2


def train_affect(options: AffectOptions) -> dict[str, dict[str, Any]]:
    """Trains, judges and saves a model of one task, of all, or one after another of each; returns metrics by run.

    Without task and multitask, `out` is the parent of the runs `<task>_<backbone>`. Raises UserError for what the user
    can mend, before the first training wherever that can be known.
    """
    refuse_early(options)
    if not options.multitask and (options.weights is not None or options.learned_weights):
        raise UserError("Expected --weights and --learned-weights beside --multitask: one task has nothing to weigh")
    if options.multitask and options.task is not None:
        raise UserError("Expected --task or --multitask, got both")
    resolve_recipe(options)  # a source that cannot be used is told before any data is read
    data = _load(options)
    if options.multitask or options.task is not None:
        tasks = (options.task,) if options.task is not None else data.tasks
        return _train_each({options.out or default_out(options, tasks): select_tasks(data, tasks)}, options)
    parent = options.out or Path("saved_models")
    each = [select_tasks(data, (task,)) for task in data.tasks]
    parts = {parent / default_out(options, part.tasks).name: part for part in each}
    if len(parts) < len(each):
        raise UserError(
            f"Expected tasks whose runs' folders differ, got {', '.join(data.tasks)}: give --task and --out"
        )
    return _train_each(parts, options)


def default_out(options: AffectOptions, tasks: tuple[str, ...]) -> Path:
    """saved_models/<task>_<backbone>, "affect" for several tasks, with _transfer behind it where a source is given."""
    name = MULTITASK if options.multitask else re.sub(r"[^\w.-]", "_", tasks[0])
    transfer = "_transfer" if options.source is not None else ""
    return Path("saved_models") / f"{name}_{resolve_recipe(options).backbone}{transfer}"


def _load(options: AffectOptions) -> AffectData:
    return load_affect_data(
        options.data,
        options.beat,
        options.validation,
        options.test,
        options.subset,
        options.seed,
        options.skip_bad,
        options.checks,
    )


def _train_each(parts: dict[Path, AffectData], options: AffectOptions) -> dict[str, dict[str, Any]]:
    """All or none are refused; then one after another is trained."""
    done = {out: finished(out, options.resume) for out in parts}
    for out, data in parts.items():
        if not done[out]:
            runs.refuse_taken(out, options.resume, options.overwrite)
        refuse_other_rate(options, data)
        if options.multitask:
            if len(data.tasks) < 2:
                raise UserError(f"Expected two tasks or more for --multitask, got {data.tasks[0]} in {data.folder}")
            complete_weights(options.weights, data.tasks)
    return {str(out): done[out] or _train_run(out, data, options) for out, data in parts.items()}


def _train_run(out: Path, data: AffectData, options: AffectOptions) -> dict[str, Any]:
    train = data.splits["train"]
    recipe = complete(
        resolve_recipe(options), AFFECT_FRAMES[data.beat], len(train), count_learnt(data.splits, options.retrain_on_all)
    )
    objective = affect_objective(options, recipe, train, data.held_out_test)
    model = build_model(options, recipe, objective)
    with runs.run_folder(out, settings_of(options, recipe, objective, data), options.resume) as work:
        print_data(data)
        model.summary(expand_nested=True, line_length=100)
        means = train.label_means()
        trained = train_and_judge(
            model,
            options,
            recipe,
            objective,
            data.splits,
            lambda model, splits: judge(model, recipe, splits, means),
            work,
        )

        card = affect_card(recipe, data, means, options.command, options.seed)
        if options.source is not None:
            card["source"] = source_card(options.source, data, options.transfer)
            print_learnt_test_clips(card["source"], len(data.splits["test"]))
        export.save(trained.model, work, card, examples(data.splits["test"], recipe))
        write_clips(work, data, trained.facts["model_trained_on"], options.source)
        facts = trained.facts | _weights(trained.model, options, recipe, train)
        metrics = write_judgement(work, trained.model, recipe, data, trained.judgement, card, facts)
    print(
        f"\n{', '.join(data.tasks)}: test split, {len(data.splits['test'])} clips, trained on "
        f"{metrics['judged_model_trained_on']}:"
    )
    print(affect_table(metrics["test"]))
    print(f"Report: {out / 'report.html'}")
    return metrics


def affect_objective(options: AffectOptions, recipe: Recipe, train: Clips, test_held_out: bool = False) -> Objective:
    """The epoch is chosen by the validation error over the labels' variance: rho on some fifty clips is too noisy."""
    weights = _given_weights(options, recipe, train.tasks)
    regressor: Head = partial(affect_regressor, task=train.tasks[0])
    if options.multitask:
        regressor = partial(
            multitask_regressor, tasks=train.tasks, weights=weights, learned_weights=options.learned_weights
        )
    head = partial(
        regressor,
        means=train.label_means(),
        variances=train.label_variances(),
        error=options.error,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    return Objective(
        head,
        monitor="val_normalized_mse",
        score=partial(_spearman_logs, train.tasks),
        overfit=("normalized_mse", OVERFIT_ERROR),
        settings={
            "tasks": list(train.tasks),
            "task_weights": weights,
            "learned_weights": options.learned_weights,
            "error": options.error,
            "test": options.test,
        },
        test_held_out=test_held_out,
    )


def _spearman_logs(tasks: tuple[str, ...], true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """rho of the whole validation set, by task and as their mean."""
    rho = {f"spearman_{task}": spearman(true[:, i], predicted[:, i]) for i, task in enumerate(tasks)}
    mean = {"spearman": float(np.mean(list(rho.values())))}
    return mean if len(tasks) == 1 else mean | rho


def _given_weights(options: AffectOptions, recipe: Recipe, tasks: Sequence[str]) -> dict[str, float] | None:
    """By the user, else by the recipe; None: one over the labels' variances."""
    return dict(options.weights) if options.weights is not None else task_weights(recipe, tasks)


def _weights(model: keras.Model, options: AffectOptions, recipe: Recipe, train: Clips) -> dict[str, Any]:
    """For metrics.json: the tasks' weights, and the log-variances where they were learned."""
    if options.learned_weights:
        return model.get_layer("uncertainty").learned()
    weights = _given_weights(options, recipe, train.tasks) if options.multitask else None
    return {"weights": complete_weights(weights, train.tasks, train.label_variances())}

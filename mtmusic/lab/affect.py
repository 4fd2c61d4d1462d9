"""The lab's steps 8 and 10: affect by a model a task, and by one model of all tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mtmusic.data.labels import read_affect_labels
from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.lab import Part, Picture, Table
from mtmusic.lab.numbers import (
    ROW_HEADER,
    ROW_NOTE,
    cells,
    paired,
    rho_rows,
    told,
    training_facts,
    versus,
)
from mtmusic.lab.plan import AFFECT_BEAT, Done, Lab, affect_options, history, metrics_of
from mtmusic.training.affect import default_out, train_affect

BACKBONES = ("lstm", "cnn")
WEIGHTED: dict[str, dict[str, Any]] = {"fixed": {}, "learned": {"learned_weights": True}}
"""How step 10 weighs the tasks' errors: by one over each one's variance, or by weights that are learned."""

KAISER = (
    "Kaiser and others (One Model To Learn Them All, arXiv:1706.05137, 2017) trained one network of convolutions, "
    "attention and gated experts on eight corpora at once, of images, captions, translations, parses and speech. Tasks "
    "with little data gained most from the company of the others, those with much lost little if anything, and a block "
    "that one task did not need did it no harm."
)


def tasks_of(lab: Lab) -> tuple[str, ...]:
    return read_affect_labels(lab.folders[AFFECT_BEAT]).tasks


def single_runs(lab: Lab, backbone: str) -> list[list[Path]]:
    """Step 8's: of each seed a run a task."""
    options = affect_options(lab, lab.step(8), 0, backbone)
    names = [default_out(options, (task,)).name for task in tasks_of(lab)]
    return [[_parent(lab, backbone, seed) / name for name in names] for seed in lab.seeds]


def multitask_runs(lab: Lab, weighted: str) -> list[list[Path]]:
    """Step 10's: of each seed the one run."""
    return [[lab.step(10) / f"{weighted}_seed{seed}"] for seed in lab.seeds]


def _parent(lab: Lab, backbone: str, seed: int) -> Path:
    return lab.step(8) / f"{backbone}_seed{seed}"


def regression(lab: Lab) -> Done:
    """Step 8: each task by an LSTM and by a CNN of its own."""
    tasks = tasks_of(lab)
    options = [
        affect_options(lab, _parent(lab, backbone, seed), seed, backbone)
        for backbone in BACKBONES
        for seed in lab.seeds
    ]
    for one in options:
        train_affect(one)
    runs = {backbone: single_runs(lab, backbone) for backbone in BACKBONES}
    rho = {backbone: rho_rows(each) for backbone, each in runs.items()}
    last = "mean" if len(tasks) > 1 else tasks[0]
    lstm, cnn = (rho[backbone][last] for backbone in BACKBONES)
    difference = paired(runs["cnn"], runs["lstm"], last)
    hardest = min(tasks, key=lambda task: rho["cnn"][task]["mean"])
    easiest = max(tasks, key=lambda task: rho["cnn"][task]["mean"])
    sentences = [
        f"Spearman's rho of the test clips, mean of {', '.join(tasks)}: the CNN has {told(cnn)}, the LSTM "
        f"{told(lstm)}. CNN less LSTM is {versus(difference)}.",
        f"The CNN's highest is {easiest}, {told(rho['cnn'][easiest])}, its lowest {hardest}, "
        f"{told(rho['cnn'][hardest])}. {_beaten_sentence(runs['cnn'][0])}",
    ]
    facts = {backbone: dict(zip(tasks, map(training_facts, each[0]), strict=True)) for backbone, each in runs.items()}
    table = rho_table({f"{backbone.upper()}, a model a task": rows for backbone, rows in rho.items()})
    part = Part(sentences, [table], _regression_pictures(lab, tasks), [one.command for one in options])
    return Done(part, {"rho": rho, "cnn_less_lstm": difference, "training": facts})


def _regression_pictures(lab: Lab, tasks: Sequence[str]) -> list[Picture]:
    """Of the first seed."""
    path, runs = lab.step(8) / "rho_by_epoch.png", {backbone: single_runs(lab, backbone)[0] for backbone in BACKBONES}
    values = {backbone.upper(): [history(run)["val_spearman"] for run in runs[backbone]] for backbone in BACKBONES}
    by_epoch = {task: {name: each[place] for name, each in values.items()} for place, task in enumerate(tasks)}
    if len(tasks) > 1:  # as far as all tasks were trained
        by_epoch["mean"] = {
            name: [sum(rho) / len(rho) for rho in zip(*each, strict=False)] for name, each in values.items()
        }
    plots.save_figure(plots.curves(by_epoch, "Spearman's rho, validation"), path)
    curves = lab.picture(
        path,
        "Spearman's rho of the validation clips by epoch; the mean goes as far as all tasks were trained. The epoch is "
        "chosen by the error, not by rho.",
        f"A panel for each of {', '.join(by_epoch)}, with a line for the LSTM and one for the CNN.",
    )
    return [curves, *(_scatter(lab, task, run) for task, run in zip(tasks, runs["cnn"], strict=True))]


def multitask(lab: Lab) -> Done:
    """Step 10: all tasks with one trunk, the loss weighed by fixed weights and by learned ones, against step 8."""
    tasks = tasks_of(lab)
    if len(tasks) < 2:
        return Done(Part([KAISER, f"The folder has one task, {tasks[0]}: there is nothing to learn together."]))
    options = [
        affect_options(lab, run, seed, "cnn", multitask=True, **more)
        for weighted, more in WEIGHTED.items()
        for (run,), seed in zip(multitask_runs(lab, weighted), lab.seeds, strict=True)
    ]
    for one in options:
        train_affect(one)
    rho = {weighted: rho_rows(multitask_runs(lab, weighted)) for weighted in WEIGHTED}
    single = rho_rows(single_runs(lab, "cnn"))
    less = {weighted: paired(multitask_runs(lab, weighted), single_runs(lab, "cnn"), "mean") for weighted in WEIGHTED}
    first = {weighted: multitask_runs(lab, weighted)[0][0] for weighted in WEIGHTED}
    weights = {weighted: metrics_of(run)["weights"] for weighted, run in first.items()}
    sentences = [
        KAISER,
        f"Here, the mean of the tasks' rho is {told(rho['fixed']['mean'])} with fixed weights, "
        f"{told(rho['learned']['mean'])} with learned ones, and {told(single['mean'])} with a CNN a task (step 8). "
        + " ".join(f"{weighted.capitalize()} less step 8 is {versus(row)}." for weighted, row in less.items()),
        " ".join(_by_task_sentence(weighted, rho[weighted], single, tasks) for weighted in WEIGHTED),
        f"The weights of seed {lab.seeds[0]}: "
        + "; ".join(f"{weighted} {_listed(each)}" for weighted, each in weights.items())
        + ". The fixed ones are one over each task's variance in train.",
    ]
    shown = {f"CNN, multitask, {weighted} weights": rows for weighted, rows in rho.items()}
    shown["CNN, a model a task (step 8)"] = single
    part = Part(sentences, [rho_table(shown)], _multitask_pictures(lab, shown, first), [one.command for one in options])
    training = {weighted: training_facts(run) for weighted, run in first.items()}
    return Done(part, {"rho": rho, "less_step_8": less, "weights": weights, "training": training})


def _by_task_sentence(
    weighted: str, rho: Mapping[str, Mapping[str, Any]], single: Mapping[str, Mapping[str, Any]], tasks: Sequence[str]
) -> str:
    """Where the one model has more than a model a task, and where less."""
    higher = [task for task in tasks if rho[task]["mean"] > single[task]["mean"]]
    lower = [task for task in tasks if task not in higher]
    found = {"higher": higher, "lower": lower}
    told_of = [f"{way} for {', '.join(named)}" for way, named in found.items() if named]
    return f"With {weighted} weights rho is, beside a model a task, {' and '.join(told_of)}."


def _listed(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{task} {weight:.2f}" for task, weight in weights.items())


def _multitask_pictures(
    lab: Lab, shown: Mapping[str, Mapping[str, Mapping[str, Any]]], first: Mapping[str, Path]
) -> list[Picture]:
    path = lab.step(10) / "comparison.png"
    plots.save_figure(_intervals(shown), path)
    intervals = lab.picture(
        path,
        "Rho of the test clips by task, with 95 % intervals.",
        f"Points with bars, a row for each of {len(shown)} models and a panel for each task and their mean.",
    )
    return [intervals, *(_learning(lab, f"Multitask, {weighted} weights", run) for weighted, run in first.items())]


def _intervals(named: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """rho with its interval, a row a model and a panel a task."""
    rows = [
        (name, {task: (row["mean"], row["low"], row["high"]) for task, row in each.items()})
        for name, each in named.items()
    ]
    return plots.intervals(rows, "Spearman's rho")


def _beaten_sentence(runs: Sequence[Path]) -> str:
    """Against the constant answer of the train mean, by which it shows whether anything was learnt."""
    rows = [row for run in runs for row in metrics_of(run)["test"]["per_task"].values()]
    better = sum(row["mse"] < row["mse_constant"] for row in rows)
    return f"Its squared error is below that of always answering the train mean in {better} of {len(rows)} tasks."


def _scatter(lab: Lab, task: str, run: Path) -> Picture:
    rho = metrics_of(run)["test"]["spearman"][task]
    return lab.picture(
        run / "figures/scatter_test.png",
        f"CNN, {task}: test clips, predicted against true; on the dashed line they are equal.",
        f"A cloud of points, Spearman's rho {rho:.3f}.",
    )


def _learning(lab: Lab, title: str, run: Path) -> Picture:
    metrics = metrics_of(run)
    return lab.picture(
        run / "figures/learning_curves.png",
        f"{title}: the loss, the error over the labels' variance, and rho by epoch.",
        f"Panels of train and validation by epoch, {metrics['epochs']} epochs, the best one {metrics['best_epoch']}.",
    )


def rho_table(named: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    rows = [(f"{name}: {task}", *cells(row)) for name, each in named.items() for task, row in each.items()]
    return Table(f"Spearman's rho, test clips. {ROW_NOTE}", ("", *ROW_HEADER), rows)

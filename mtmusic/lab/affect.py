"""The lab's steps 8, 10 and 11: affect with a model per task, with one model for all tasks, and the submission."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.data.labels import read_affect_labels
from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.lab import Table
from mtmusic.lab import plan
from mtmusic.lab.plan import Done, Lab
from mtmusic.training.affect import AffectTask, train_each
from mtmusic.training.compare import own_scores, read_predictions
from mtmusic.training.submission import LAB_TASKS, make_submission, read_submission, submit_command

BACKBONES = ("lstm", "cnn")
MULTITASK = {
    "fixed": AffectTask(multitask=True),
    "learned": AffectTask(multitask=True, learned_weights=True),
}
"""The two weightings of the tasks' errors in step 10: 1 / variance of the labels, or learned weights."""

Runs = list[list[Path]]
"""For each seed the runs of all tasks, or a single run."""


def tasks_of(lab: Lab) -> tuple[str, ...]:
    return read_affect_labels(lab.folders[plan.AFFECT_BEAT]).tasks


def single_runs(lab: Lab, backbone: str) -> Runs:
    """The runs of step 8."""
    names = [f"{AffectTask((task,)).run_name}_{backbone}" for task in tasks_of(lab)]
    return [[_parent(lab, backbone, seed) / name for name in names] for seed in lab.every_seed]


def multitask_runs(lab: Lab, weighted: str) -> Runs:
    """The runs of step 10."""
    return [[lab.step(10) / f"{weighted}_seed{seed}"] for seed in lab.every_seed]


def _parent(lab: Lab, backbone: str, seed: int) -> Path:
    return lab.step(8) / f"{backbone}_seed{seed}"


def regression(lab: Lab) -> Done:
    """Step 8: an LSTM and a CNN for each task."""
    tasks, commands = tasks_of(lab), []
    for backbone in BACKBONES:
        for seed in lab.every_seed:
            options = plan.affect_options(lab, _parent(lab, backbone, seed), seed, backbone)
            train_each(options, AffectTask())
            commands.append(options.command)
    runs = {backbone: single_runs(lab, backbone) for backbone in BACKBONES}
    first = {backbone: dict(zip(tasks, each[0], strict=True)) for backbone, each in runs.items()}
    rho = {backbone: plan.rho_rows(each) for backbone, each in runs.items()}
    tests = {task: plan.metrics_of(run)["test"] for task, run in first["cnn"].items()}
    numbers = {
        "rho": rho,
        "cnn_less_lstm": plan.paired(runs["cnn"], runs["lstm"], "mean" if len(tasks) > 1 else tasks[0]),
        "training": {
            backbone: {task: plan.training_facts(run) for task, run in each.items()} for backbone, each in first.items()
        },
    }
    return plan.write_up(
        lab,
        8,
        numbers,
        [rho_table({f"{backbone.upper()}, a model per task": rows for backbone, rows in rho.items()})],
        commands,
        tasks=tasks,
        easiest=max(tasks, key=lambda task: rho["cnn"][task]["mean"]),
        hardest=min(tasks, key=lambda task: rho["cnn"][task]["mean"]),
        better=sum(row["mse"] < row["mse_constant"] for test in tests.values() for row in test["per_task"].values()),
        panels=_draw_rho_by_epoch(lab, first),
        runs={task: lab.relative(run) for task, run in first["cnn"].items()},
        spearman={task: test["spearman"][task] for task, test in tests.items()},
    )


def _draw_rho_by_epoch(lab: Lab, first: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """Draws rho by epoch of the first seed's runs. Returns the names of the panels."""
    values = {
        backbone.upper(): {task: plan.history(run)["val_spearman"] for task, run in runs.items()}
        for backbone, runs in first.items()
    }
    panels = {task: {name: each[task] for name, each in values.items()} for task in first["cnn"]}
    if len(panels) > 1:  # the mean ends at the last epoch that all tasks have
        panels["mean"] = {
            name: [sum(rho) / len(rho) for rho in zip(*each.values(), strict=False)] for name, each in values.items()
        }
    plots.save_figure(plots.curves(panels, "Spearman's rho, validation"), lab.step(8) / "rho_by_epoch.png")
    return list(panels)


def multitask(lab: Lab) -> Done:
    """Step 10: one model for all tasks, with fixed and with learned weights of the tasks, compared with step 8."""
    tasks = tasks_of(lab)
    if len(tasks) < 2:
        return plan.write_up(lab, 10, {}, tasks=tasks)
    commands = []
    for weighted, task in MULTITASK.items():
        for (run,), seed in zip(multitask_runs(lab, weighted), lab.every_seed, strict=True):
            options = plan.affect_options(lab, run, seed, "cnn", task)
            train_each(options, task)
            commands.append(options.command)
    rho = {weighted: plan.rho_rows(multitask_runs(lab, weighted)) for weighted in MULTITASK}
    first = {weighted: multitask_runs(lab, weighted)[0][0] for weighted in MULTITASK}
    runs, single = single_runs(lab, "cnn"), plan.rho_rows(single_runs(lab, "cnn"))
    shown = {f"CNN, multitask, {weighted} weights": rows for weighted, rows in rho.items()}
    shown["CNN, a model per task (step 8)"] = single
    intervals = [
        (name, {task: (row["mean"], row["low"], row["high"]) for task, row in each.items()})
        for name, each in shown.items()
    ]
    plots.save_figure(plots.intervals(intervals, "Spearman's rho"), lab.step(10) / "comparison.png")
    numbers = {
        "rho": rho,
        "less_step_8": {weighted: plan.paired(multitask_runs(lab, weighted), runs, "mean") for weighted in MULTITASK},
        "weights": {weighted: plan.metrics_of(run)["weights"] for weighted, run in first.items()},
        "training": {weighted: plan.training_facts(run) for weighted, run in first.items()},
    }
    return plan.write_up(
        lab,
        10,
        numbers,
        [rho_table(shown)],
        commands,
        tasks=tasks,
        single=single,
        ways={weighted: _ways(rows, single, tasks) for weighted, rows in rho.items()},
        runs={weighted: lab.relative(run) for weighted, run in first.items()},
    )


def _ways(rho: Mapping[str, Any], single: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, list[str]]:
    """Sorts the tasks by whether rho of the multitask model is higher or lower than that of a model per task."""
    higher = [task for task in tasks if rho[task]["mean"] > single[task]["mean"]]
    return {"higher": higher, "lower": [task for task in tasks if task not in higher]}


def rho_table(named: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    rows = [(f"{name}: {task}", row) for name, each in named.items() for task, row in each.items()]
    return plan.score_table("Spearman's rho, test clips", rows)


def submission(lab: Lab) -> Done:
    """Step 11: predicts the competition's clips with the best model by validation. Test clips give the expected rho."""
    tasks, path = tasks_of(lab), lab.step(11) / "solution.txt"
    candidates = {f"{backbone.upper()}, a model per task": single_runs(lab, backbone) for backbone in BACKBONES}
    if len(tasks) > 1:
        candidates |= {f"CNN, multitask, {weighted} weights": multitask_runs(lab, weighted) for weighted in MULTITASK}
    scores = {name: _validation_rho(runs) for name, runs in candidates.items()}
    best = max(scores, key=lambda name: scores[name])
    models, header = candidates[best][0], "lab" if sorted(tasks) == sorted(LAB_TASKS) else "plain"
    make_submission(models, lab.folders[plan.AFFECT_BEAT], path, header, overwrite=True)
    ids, written, values = read_submission(path)
    answers = dict(zip(written, values.T, strict=True))
    plots.save_figure(plots.value_histograms(answers), lab.step(11) / "answers.png")
    tested = read_predictions(plan.joined(models))
    numbers = {
        "chosen": best,
        "validation": scores,
        "expected": plan.summary([own_scores(tested)["mean" if len(tasks) > 1 else tasks[0]]]),
        "rows": len(ids),
        "header": header,
    }
    spread = [
        (task, *(f"{number:.3f}" for number in (column.min(), column.mean(), column.std(), column.max())))
        for task, column in answers.items()
    ]
    tables = [
        Table("Mean rho on the validation clips, by which the model is chosen", ("", "rho"), list(scores.items())),
        Table("Predictions in the submitted file", ("task", "minimum", "mean", "sd", "maximum"), spread),
    ]
    given = {"model": models, "data": lab.folders[plan.AFFECT_BEAT], "out": path, "header": header, "overwrite": True}
    commands = [lab.command("make-submission", **given), submit_command(path, header)]
    return plan.write_up(lab, 11, numbers, tables, commands, tasks=written, clips=len(tested.ids))


def _validation_rho(runs: Runs) -> float:
    """The mean of rho over tasks and seeds on the validation split, by which the model is chosen."""
    seeds = [[row for run in each for row in plan.metrics_of(run)["validation"]["per_task"].values()] for each in runs]
    return float(np.mean([np.mean([row["spearman"] for row in rows]) for rows in seeds]))

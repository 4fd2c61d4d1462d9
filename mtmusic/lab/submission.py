"""The lab's step 11: the model that is best by validation answers the competition's clips."""

import shlex
from pathlib import Path

import numpy as np

from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.lab import Part, Table
from mtmusic.lab.affect import BACKBONES, WEIGHTED, multitask_runs, single_runs, tasks_of
from mtmusic.lab.numbers import joined, summary, told, validation_rho
from mtmusic.lab.plan import AFFECT_BEAT, Done, Lab
from mtmusic.training.compare import own_scores, read_predictions
from mtmusic.training.submission import LAB_TASKS, make_submission, read_submission, submit_command

FILE = "solution.txt"


def submission(lab: Lab) -> Done:
    """The file, read back, the command that submits it, and the score to expect: rho of the clips judged once."""
    tasks = tasks_of(lab)
    candidates = {f"{backbone.upper()}, a model a task": single_runs(lab, backbone) for backbone in BACKBONES}
    if len(tasks) > 1:
        candidates |= {f"CNN, multitask, {weighted} weights": multitask_runs(lab, weighted) for weighted in WEIGHTED}
    scores = {name: validation_rho(runs) for name, runs in candidates.items()}
    best = max(scores, key=lambda name: scores[name])
    models, path = candidates[best][0], lab.step(11) / FILE
    header = "lab" if sorted(tasks) == sorted(LAB_TASKS) else "plain"
    make_submission(models, lab.folders[AFFECT_BEAT], path, header, overwrite=True)
    ids, written, values = read_submission(path)
    judged = read_predictions(joined(models))
    expected = summary([own_scores(judged)["mean" if len(tasks) > 1 else tasks[0]]])
    sentences = [
        f"Best by rho on validation, {scores[best]:.3f}, is: {best}. {_seed_sentence(lab)} The "
        f"file has {len(ids)} rows of {', '.join(written)}, all from 0 to 1, and was read back.",
        f"To expect: {told(expected)}, the mean rho of "
        f"{len(judged.ids)} held-out clips that chose nothing, if those of the competition are like them.",
    ]
    rows = [
        (task, *(f"{number:.3f}" for number in _spread(column))) for task, column in zip(written, values.T, strict=True)
    ]
    tables = [
        Table("Mean rho on the validation clips, which chooses", ("", "rho"), list(scores.items())),
        Table("What the file answers", ("task", "minimum", "mean", "sd", "maximum"), rows),
    ]
    plots.save_figure(plots.value_histograms(dict(zip(written, values.T, strict=True))), lab.step(11) / "answers.png")
    picture = lab.picture(
        lab.step(11) / "answers.png",
        "The submitted answers by task; the dashed line is their mean.",
        f"A histogram for each of {', '.join(written)}.",
    )
    commands = [_command(models, lab.folders[AFFECT_BEAT], path, header), submit_command(path, header)]
    numbers = {"chosen": best, "validation": scores, "expected": expected, "rows": len(ids), "header": header}
    return Done(Part(sentences, tables, [picture], commands), numbers)


def _seed_sentence(lab: Lab) -> str:
    if len(lab.seeds) == 1:
        return f"It is submitted as it was judged, seed {lab.seeds[0]}."
    return (
        f"The choice is by the mean of {len(lab.seeds)} seeds; submitted, and judged below, is the first one, seed "
        f"{lab.seeds[0]}."
    )


def _spread(values: np.ndarray) -> tuple[float, float, float, float]:
    return values.min(), values.mean(), values.std(), values.max()


def _command(models: list[Path], folder: Path, path: Path, header: str) -> str:
    words = ["python", "scripts/make_submission.py", "--model", *map(str, models), "--data", str(folder)]
    return shlex.join([*words, "--out", str(path), "--header", header, "--overwrite"])

"""Scores of predictions as reports for JSON, without NaN, and as tables for the terminal."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)

from mtmusic.evaluation.bootstrap import Fold, model_scores

FEWEST_CLIPS = 3
"""The fewest clips of a correlation. The correlation of two clips is always 1, -1 or undefined."""

Groups = Sequence[str] | np.ndarray | None
"""Names `(clips,)` of groups, or None if each clip is its own group."""

AFFECT_SCORES = ("spearman", "spearman_low", "spearman_high", "pearson", "r2", "mse", "mse_constant")


def genre_report(
    true: np.ndarray, predicted: np.ndarray, classes: Sequence[str], groups: Groups = None, seed: int = 0
) -> dict[str, Any]:
    """Computes the scores of a genre classifier: accuracy, averages, scores by class, and the confusion matrix.

    A class without clips, or one that is never predicted, has the scores 0, which count in the macro averages. The
    accuracy has a 95 % bootstrap interval over groups.

    Args:
        true: True class indices `(clips,)`.
        predicted: Predicted class indices `(clips,)`.
        classes: Names of the classes.
        groups: Name of each clip's group `(clips,)`, or None if each clip is its own group.
        seed: Seed of the bootstrap.

    Returns:
        The report: "clips", "accuracy", "accuracy_low", "accuracy_high", "macro_precision", "macro_recall", "macro_f1",
        "micro_precision", "micro_recall", "micro_f1", "per_class" and "confusion". Rows of "confusion" are true
        classes, columns are predicted ones.

    Raises:
        ValueError: The arrays have wrong shapes, or there are no clips.

    Examples:
        >>> from mtmusic.evaluation.metrics import genre_report
        >>> report = genre_report(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ["Jazz", "Rock"])
        >>> report["accuracy"], report["confusion"]
        (0.75, [[1, 1], [0, 2]])
    """
    true, predicted = _same_clips(true, predicted, dims=1)
    accuracy = float(accuracy_score(true, predicted))
    answers = predicted[:, None] == np.arange(len(classes))
    interval = model_scores(Fold(groups, true), answers, seed=seed)["accuracy"]
    return {
        "clips": len(true),
        "accuracy": accuracy,
        "accuracy_low": interval["low"],
        "accuracy_high": interval["high"],
        **_averaged(true, predicted, "macro", len(classes)),
        **_averaged(true, predicted, "micro", len(classes)),
        "per_class": _per_class(true, predicted, classes),
        "confusion": confusion_matrix(true, predicted, labels=range(len(classes))).tolist(),
    }


def _averaged(true: np.ndarray, predicted: np.ndarray, average: str, classes: int) -> dict[str, float]:
    precision, recall, f1, _ = precision_recall_fscore_support(
        true, predicted, labels=range(classes), average=average, zero_division=0
    )
    return {
        f"{average}_precision": float(precision),
        f"{average}_recall": float(recall),
        f"{average}_f1": float(f1),
    }


def _per_class(true: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    columns = precision_recall_fscore_support(true, predicted, labels=range(len(classes)), zero_division=0)
    return {
        name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
        for name, precision, recall, f1, support in zip(classes, *columns, strict=True)
    }


def genre_table(report: dict[str, Any]) -> str:
    """Formats a genre report for the terminal: a line for each class, then the macro averages and the accuracy.

    Args:
        report: A report of `genre_report`.

    Returns:
        The table.

    Examples:
        >>> from mtmusic.evaluation.metrics import genre_report, genre_table
        >>> report = genre_report(np.array([0, 1]), np.array([0, 1]), ["Jazz", "Rock"])
        >>> genre_table(report).splitlines()[-1]
        'accuracy      1.000  (95 % interval 1.000 to 1.000)'
    """
    width = max(len("accuracy"), *(len(name) for name in report["per_class"]))
    lines = [f"{'':{width}}  precision  recall     f1  clips"]
    for name, row in report["per_class"].items():
        lines.append(_genre_line(name, width, row, row["support"]))
    lines.append("")
    row = {name: report[f"macro_{name}"] for name in ("precision", "recall", "f1")}
    lines.append(_genre_line("macro", width, row, report["clips"]))  # all micro averages equal the accuracy
    interval = f"{report['accuracy_low']:.3f} to {report['accuracy_high']:.3f}"
    lines.append(f"{'accuracy':{width}}  {report['accuracy']:9.3f}  (95 % interval {interval})")
    return "\n".join(lines)


def _genre_line(name: str, width: int, row: dict[str, Any], clips: int) -> str:
    return f"{name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:5.3f}  {clips:5}"


def spearman(true: np.ndarray, predicted: np.ndarray) -> float:
    """Computes Spearman's rank correlation, the lab's measure of affect. Clips whose target is NaN are left out.

    It is undefined with fewer than 3 labelled clips, with constant targets or predictions, and with predictions that
    are not finite. Then the result is 0.0, and a RuntimeWarning states the reason.

    Args:
        true: Labels `(clips,)`.
        predicted: Predictions `(clips,)`.

    Returns:
        The correlation, from -1 to 1.

    Raises:
        ValueError: The arrays have wrong shapes.

    Examples:
        >>> from mtmusic.evaluation.metrics import spearman
        >>> spearman(np.array([0.1, 0.2, 0.3, np.nan]), np.array([0.2, 0.5, 0.9, 0.4]))
        1.0
    """
    true, predicted = _labelled(*_same_clips(true, predicted, dims=1))
    if reason := _undefined(true, predicted):
        warnings.warn(f"Spearman's rho is undefined, and 0 is used instead: {reason}", RuntimeWarning, stacklevel=2)
        return 0.0
    return _correlation(rankdata(true), rankdata(predicted))


def _undefined(true: np.ndarray, predicted: np.ndarray) -> str | None:
    if len(true) < FEWEST_CLIPS:
        return f"it needs {FEWEST_CLIPS} labelled clips or more, got {len(true)}"
    if not np.isfinite(predicted).all():
        return "the predictions are not finite"
    if np.ptp(true) == 0:
        return "the targets are constant"
    if np.ptp(predicted) == 0:
        return "the predictions are constant"
    return None


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation, or 0.0 if x or y is constant."""
    x, y = x - x.mean(), y - y.mean()
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))


def affect_report(
    true: np.ndarray,
    predicted: np.ndarray,
    tasks: Sequence[str],
    baseline_mean: dict[str, float],
    groups: Groups = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Computes the scores of an affect regressor for each task, as in the lab's steps 8 and 10.

    With fewer than 3 labelled clips a task's rho is 0.0, and its other scores are None. The 95 % intervals are from a
    bootstrap over groups. It draws all tasks of a clip together, so the mean of rho also has an interval.

    Args:
        true: Labels `(clips, tasks)`, NaN for missing labels.
        predicted: Predictions `(clips, tasks)`.
        tasks: Names of the tasks.
        baseline_mean: Mean training label of each task. "mse_constant" is the error of predicting this mean for every
            clip. A model with a larger error has learned nothing.
        groups: Name of each clip's group `(clips,)`, or None if each clip is its own group.
        seed: Seed of the bootstrap.

    Returns:
        The report: "clips", "spearman" (rho of each task, and their "mean"), "spearman_mean_low", "spearman_mean_high"
        and "per_task".

    Raises:
        ValueError: The arrays have wrong shapes.

    Examples:
        >>> from mtmusic.evaluation.metrics import affect_report
        >>> labels = np.array([[0.1], [0.4], [0.9]])
        >>> report = affect_report(labels, labels**2, ["valence"], {"valence": 0.5})
        >>> report["spearman"]
        {'valence': 1.0, 'mean': 1.0}
    """
    true, predicted = _same_clips(true, predicted, dims=2)
    intervals = model_scores(Fold(groups, true), predicted, tasks, seed)
    per_task = {
        task: _task_scores(true[:, column], predicted[:, column], baseline_mean[task], intervals[f"rho_{task}"])
        for column, task in enumerate(tasks)
    }
    rho = {task: scores["spearman"] for task, scores in per_task.items()}
    return {
        "clips": len(true),
        "spearman": {**rho, "mean": float(np.mean(list(rho.values())))},
        "spearman_mean_low": intervals["rho"]["low"],
        "spearman_mean_high": intervals["rho"]["high"],
        "per_task": per_task,
    }


def _task_scores(
    true: np.ndarray, predicted: np.ndarray, baseline: float, interval: Mapping[str, float]
) -> dict[str, Any]:
    rho = spearman(true, predicted)
    true, predicted = _labelled(true, predicted)
    scores: dict[str, Any] = {**dict.fromkeys(AFFECT_SCORES), "spearman": rho, "clips": len(true)}
    if len(true) < FEWEST_CLIPS:
        return scores
    return scores | {
        "spearman_low": interval["low"],
        "spearman_high": interval["high"],
        "pearson": _correlation(true, predicted),
        "r2": float(r2_score(true, predicted)),
        "mse": float(mean_squared_error(true, predicted)),
        "mse_constant": float(np.mean((true - baseline) ** 2)),
    }


def affect_table(report: dict[str, Any]) -> str:
    """Formats an affect report for the terminal: a line for each task, and for several tasks the mean of rho.

    Args:
        report: A report of `affect_report`.

    Returns:
        The table.

    Examples:
        >>> from mtmusic.evaluation.metrics import affect_report, affect_table
        >>> labels = np.linspace(0.1, 0.9, 9)[:, np.newaxis]
        >>> print(affect_table(affect_report(labels, labels**2, ["valence"], {"valence": 0.5})))
                 spearman   95 % interval  pearson       r2     mse  constant  clips
        valence     1.000  1.000 to 1.000    0.975    0.445  0.0370    0.0667      9
    """
    width = max(len("mean"), *(len(task) for task in report["per_task"]))
    lines = [f"{'':{width}}  spearman   95 % interval  pearson       r2     mse  constant  clips"]
    for task, row in report["per_task"].items():
        interval = f"{_number(row['spearman_low'], 5)} to {_number(row['spearman_high'], 5)}"
        lines.append(
            f"{task:{width}}  {row['spearman']:8.3f}  {interval:>14}  {_number(row['pearson'], 7)}"
            f"  {_number(row['r2'], 7)}  {_number(row['mse'], 6, 4)}  {_number(row['mse_constant'], 8, 4)}"
            f"  {row['clips']:5}"
        )
    if len(report["per_task"]) > 1:
        interval = f"{_number(report['spearman_mean_low'], 5)} to {_number(report['spearman_mean_high'], 5)}"
        lines.append(f"{'mean':{width}}  {report['spearman']['mean']:8.3f}  {interval:>14}")
    return "\n".join(lines)


def _number(value: float | None, width: int, decimals: int = 3) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{decimals}f}"


def _same_clips(true: np.ndarray, predicted: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Requires equal shapes: (clips, 1) and (clips,) would broadcast to (clips, clips), and the scores be wrong."""
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.ndim != dims or true.shape != predicted.shape:
        expected = "(clips,)" if dims == 1 else "(clips, tasks)"
        raise ValueError(f"Expected two arrays {expected}, got {true.shape} and {predicted.shape}")
    return true, predicted


def _labelled(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labelled clips' values as float64, because correlations of float32 values are less exact."""
    known = ~np.isnan(true)
    return true[known].astype(np.float64), predicted[known].astype(np.float64)

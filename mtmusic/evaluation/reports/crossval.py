"""The page of a cross-validation: scores with intervals, differences, costs, and confusion matrices."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.evaluation import plots
from mtmusic.evaluation.bootstrap import measures
from mtmusic.evaluation.reports.html import interval, render
from mtmusic.files import write_text

PAGE = "report.html"
COSTS = ("parameters", "epochs", "best_epoch", "seconds_per_epoch", "seconds", "milliseconds_per_clip")

Answers = Mapping[str, Sequence[Sequence[np.ndarray]]]
"""The answers of each recipe by fold, and within a fold by seed: (clips, classes) or (clips, tasks)."""


def write_cross_page(folder: Path, results: Mapping[str, Any], tests: Sequence[Any], answers: Answers) -> Path:
    """Writes report.html and its figures. Returns the path of the page.

    results: the content of results.json. tests: the clips of each fold's test part.
    """
    figures = folder / "figures"
    plots.save_figure(_intervals(results), figures / "scores.png")
    shares = results.get("shares", {})
    if shares:
        plots.save_figure(_by_share(shares), figures / "shares.png")
    page = render(
        "crossval.html",
        title=f"Cross-validation: {results['kind']}, {Path(results['folder']).name}",
        results=results,
        scores=list(_score_rows(results)),
        picture=figures / "scores.png",
        differences=list(_difference_rows(results)),
        share_picture=figures / "shares.png",
        share_titles=[f"{share} %, {row['training_clips']:.0f} clips" for share, row in shares.items()],
        share_scores=list(_share_rows(shares, "recipes")),
        share_differences=list(_share_rows(shares, "comparisons")),
        costs=list(_cost_rows(results)),
        answers=dict(_answer_figures(figures, results, tests, answers)),
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _intervals(results: Mapping[str, Any]) -> plots.Figure:
    rows = [
        (name, {score: (one["mean"], one["low"], one["high"]) for score, one in measures(row).items()})
        for name, row in results["recipes"].items()
    ]
    return plots.intervals(rows, "score")


def _score_rows(results: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for name, row in results["recipes"].items():
        for score, one in measures(row).items():
            yield name, score, one["mean"], one["sd"], _interval(one)


def _difference_rows(results: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for row in results["comparisons"]:
        for score, one in measures(row).items():
            clear = "yes" if one["low"] > 0 or one["high"] < 0 else "no"
            yield f"{row['first']} minus {row['second']}", score, one["value"], _interval(one), clear


def _by_share(shares: Mapping[str, Any]) -> plots.Figure:
    panels: dict[str, dict[str, dict[int, tuple[float, float, float]]]] = {}
    for share, scores in shares.items():
        for name, row in scores["recipes"].items():
            for score, one in measures(row).items():
                points = panels.setdefault(score, {}).setdefault(name, {})
                points[int(share)] = (one["mean"], one["low"], one["high"])
    return plots.scores_by_share(panels, {int(share): row["training_clips"] for share, row in shares.items()})


def _share_rows(shares: Mapping[str, Any], kind: str) -> Iterator[tuple[Any, ...]]:
    """Yields rows with a cell for each share. kind: "recipes" or "comparisons"."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for share, scores in shares.items():
        rows = scores[kind]
        named = rows if kind == "recipes" else {f"{row['first']} minus {row['second']}": row for row in rows}
        for name, row in named.items():
            for score, one in measures(row).items():
                value = one["mean" if kind == "recipes" else "value"]
                cells.setdefault((name, score), {})[share] = interval(value, one["low"], one["high"])
    for (name, score), by_share in cells.items():
        yield name, score, *(by_share.get(share) for share in shares)


def _cost_rows(results: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for name, row in results["recipes"].items():
        costs = [row["costs"][cost] for cost in COSTS]
        yield name, *(None if cost is None else f"{cost:,.0f}" if cost >= 1000 else f"{cost:.3g}" for cost in costs)


def _interval(row: Mapping[str, float]) -> str:
    return f"{row['low']:.3f} to {row['high']:.3f}"


def _answer_figures(
    folder: Path, results: Mapping[str, Any], tests: Sequence[Any], answers: Answers
) -> Iterator[tuple[str, Path]]:
    """Draws for each recipe the confusion of all folds and seeds, or the first seed's predictions against labels."""
    classes, tasks = tests[0].classes, tests[0].tasks
    true = np.concatenate([test.targets for test in tests])
    for name, by_fold in answers.items():
        if classes:
            path = folder / f"confusion_{name}.png"
            figure = plots.confusion_matrix(_confusion(tests, by_fold), classes)
        else:
            path = folder / f"scatter_{name}.png"
            predicted = np.concatenate([of_seeds[0] for of_seeds in by_fold])
            rho = {task: results["recipes"][name][f"rho_{task}"]["mean"] for task in tasks}
            figure = plots.scatter(true, predicted, tasks, rho)
        plots.save_figure(figure, path)
        yield name, path


def _confusion(tests: Sequence[Any], by_fold: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """The confusion matrix (classes, classes) over all folds and seeds."""
    counts = np.zeros((len(tests[0].classes),) * 2, int)
    for test, of_seeds in zip(tests, by_fold, strict=True):
        for answers in of_seeds:
            np.add.at(counts, (test.targets, answers.argmax(axis=1)), 1)
    return counts

"""The page of a cross-validation: scores with intervals, differences, costs, and what was taken for what."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.evaluation import plots
from mtmusic.evaluation.bootstrap import measures
from mtmusic.evaluation.reports.html import figure, page, section, table
from mtmusic.files import write_text

PAGE = "report.html"
SCORE_HEADER = ("recipe", "score", "mean", "sd of seeds", "95 % interval")
DIFFERENCE_HEADER = ("first less second", "score", "difference", "95 % interval", "clear of 0")
COST_HEADER = (
    "recipe", "parameters", "epochs", "best epoch", "seconds an epoch", "seconds a training", "milliseconds a clip",
)  # fmt: skip
COSTS = ("parameters", "epochs", "best_epoch", "seconds_per_epoch", "seconds", "milliseconds_per_clip")


def write_cross_page(
    folder: Path,
    results: Mapping[str, Any],
    tests: Sequence[Any],
    answers: Mapping[str, Sequence[Sequence[np.ndarray]]],
) -> Path:
    """Writes report.html and its figures from what results.json holds; returns the page's path.

    tests: the clips of each fold's test part. answers: of each recipe, by fold and in it by seed, (clips, classes) or
    (clips, tasks).
    """
    figures = folder / "figures"
    plots.save_figure(_intervals(results), figures / "scores.png")
    title = f"Cross-validation: {results['kind']}, {Path(results['folder']).name}"
    shown = "\n".join(_answer_figures(figures, results, tests, answers))
    banner = '<p class="banner">Demo: synthesised music. These numbers say nothing about real songs.</p>'
    body = [
        f"<h1>{escape(title)}</h1>",
        banner if results["demo"] else "",
        f"<p>{escape(_intro(results))}</p>",
        section("Scores", table(SCORE_HEADER, _score_rows(results)) + figure(figures / "scores.png", _SCORES)),
        section(
            "Compared", table(DIFFERENCE_HEADER, _difference_rows(results), "On the same folds and draws of groups")
        ),
        section("Costs", table(COST_HEADER, _cost_rows(results), _COSTS)),
        section("Confusion" if results["kind"] == "genre" else "Answers", shown),
        section("To do this again", f"<pre><code>{escape(results['command'])}</code></pre>"),
    ]
    write_text(folder / PAGE, page(title, "\n".join(body)))
    return folder / PAGE


_SCORES = "Each recipe's score, mean over folds, with its 95 % interval."
_COSTS = "Means over folds and seeds. Milliseconds: from an array to its answer; of pooled statistics, to these."


def _intro(results: Mapping[str, Any]) -> str:
    return (
        f"{results['clips']} clips of {results['groups']} groups in {results['folds']} folds that part no group; "
        f"the networks' seeds: {', '.join(map(str, results['seeds']))}. Every clip is in one fold's "
        "test part, which chose nothing: a validation part of the other clips chose the epoch. A score is the mean "
        "over seeds and then over folds. Intervals: of the bootstrap over groups within folds, bias-corrected."
    )


def _intervals(results: Mapping[str, Any]) -> Any:
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
            yield f"{row['first']} less {row['second']}", score, one["value"], _interval(one), clear


def _cost_rows(results: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for name, row in results["recipes"].items():
        costs = [row["costs"][cost] for cost in COSTS]
        yield name, *(None if cost is None else f"{cost:,.0f}" if cost >= 1000 else f"{cost:.3g}" for cost in costs)


def _interval(row: Mapping[str, float]) -> str:
    return f"{row['low']:.3f} to {row['high']:.3f}"


def _answer_figures(
    folder: Path,
    results: Mapping[str, Any],
    tests: Sequence[Any],
    answers: Mapping[str, Sequence[Sequence[np.ndarray]]],
) -> Iterator[str]:
    """Of each recipe the confusion of all folds and seeds, or its first seed's answers by the labels."""
    classes, tasks = tests[0].classes, tests[0].tasks
    true = np.concatenate([test.targets for test in tests])
    for name, by_fold in answers.items():
        if classes:
            path, caption = folder / f"confusion_{name}.png", f"{name}: rows are true classes; each clip once a seed."
            figure_of = plots.confusion_matrix(_confusion(tests, by_fold), classes)
        else:
            path, caption = (
                folder / f"scatter_{name}.png",
                f"{name}: the first seed's answers, all folds; rho as in the table.",
            )
            predicted = np.concatenate([of_seeds[0] for of_seeds in by_fold])
            rho = {task: results["recipes"][name][f"rho_{task}"]["mean"] for task in tasks}
            figure_of = plots.scatter(true, predicted, tasks, rho)
        plots.save_figure(figure_of, path)
        yield figure(path, caption)


def _confusion(tests: Sequence[Any], by_fold: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """(classes, classes) counts."""
    counts = np.zeros((len(tests[0].classes),) * 2, int)
    for test, of_seeds in zip(tests, by_fold, strict=True):
        for answers in of_seeds:
            np.add.at(counts, (test.targets, answers.argmax(axis=1)), 1)
    return counts

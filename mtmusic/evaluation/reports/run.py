"""Writes a self-contained HTML page about a run."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmusic.errors import UserError
from mtmusic.evaluation.reports.html import interval, render, text
from mtmusic.files import write_text

SPLITS = ("test", "validation", "train")
SHOWN_MISTAKES = 10

Rows = list[Sequence[Any]]


def write_report(folder: Path) -> Path:
    """Writes report.html to a run's folder. Returns its path.

    The sources are card.json and metrics.json, and history.csv, predictions.csv and figures/*.png if they exist.
    Raises UserError for a folder that is not a run's, and for a file in it that cannot be read.
    """
    card = _read_json(folder / "card.json", ("task", "feature", "beat", "backbone", "command", "seed", "data"))
    metrics = _read_json(folder / "metrics.json", ())
    data = card.get("judged", card["data"])
    splits = {split: metrics[split] for split in SPLITS if split in metrics}
    page = render(
        "run.html",
        title=f"{card['task']}, {card['backbone']}",
        card=card,
        metrics=metrics,
        genre=[_genre_row(split, scores) for split, scores in splits.items() if "accuracy" in scores],
        affect=[(split, _affect_rows(scores)) for split, scores in splits.items() if "spearman" in scores],
        by_class=[(split, _class_rows(scores)) for split, scores in splits.items() if "per_class" in scores][:1],
        comparison=_comparison(folder / "comparison.json"),
        weights=_weights(metrics) if len(metrics.get("weights", {})) > 1 else [],
        data=data,
        clips=_clips(data),
        figures={path.stem: path for path in sorted((folder / "figures").glob("*.png"))},
        mistakes=_mistakes(folder / "predictions.csv", card.get("targets")),
        history=_history(folder / "history.csv"),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _read_json(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"Expected {path.name} in {path.parent}, got none: give the folder of a finished run") from None
    except ValueError as error:
        raise UserError(f"Expected JSON in {path}, got: {error}; train again to write a new file") from None
    missing = [key for key in keys if key not in content]
    if missing:
        raise UserError(f"Expected {', '.join(missing)} in {path}, got none: train again to write a new file")
    return content


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _interval(scores: Mapping[str, Any], name: str) -> str:
    return interval(scores[name], scores.get(f"{name}_low"), scores.get(f"{name}_high"))


def _genre_row(split: str, scores: Mapping[str, Any]) -> Sequence[Any]:
    averages = (scores[f"macro_{name}"] for name in ("f1", "precision", "recall"))
    return split, _interval(scores, "accuracy"), *averages, scores["clips"]


def _affect_rows(scores: Mapping[str, Any]) -> Rows:
    """A row for each task, and for several tasks their mean."""
    rows: Rows = [
        (
            task,
            _interval(row, "spearman"),
            row["pearson"],
            row["r2"],
            _small(row["mse"]),
            _small(row["mse_constant"]),
            row["clips"],
        )
        for task, row in scores["per_task"].items()
    ]
    if len(rows) > 1:
        mean = {**scores, "spearman_mean": scores["spearman"]["mean"]}
        rows.append(("mean", _interval(mean, "spearman_mean"), *[""] * 4, scores["clips"]))
    return rows


def _small(value: float | None) -> str:
    return text(None) if value is None else f"{value:.4f}"


def _class_rows(scores: Mapping[str, Any]) -> Rows:
    names = ("precision", "recall", "f1", "support")
    return [(label, *(row[name] for name in names)) for label, row in scores["per_class"].items()]


def _comparison(path: Path) -> dict[str, Any]:
    """Reads the result of `compare_runs`: rho of each run, and the difference of the first run to each other run."""
    if not path.exists():
        return {}
    content = _read_json(path, ("runs", "differences"))
    return content | {part: _intervals(content[part]) for part in ("runs", "differences")}


def _intervals(part: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, list]:
    names = list(dict.fromkeys(name for row in part.values() for name in row))
    rows = [(run, *(interval(**row[name]) if name in row else None for name in names)) for run, row in part.items()]
    return {"names": names, "rows": rows}


def _weights(metrics: Mapping[str, Any]) -> Rows:
    """The weight of each task, and its standard deviation if the weights were learned."""
    variances = metrics.get("log_variances", {})
    return [
        (task, weight, *([math.exp(variances[task] / 2)] if variances else []))
        for task, weight in metrics["weights"].items()
    ]


def _clips(data: Mapping[str, Any]) -> dict[str, Any]:
    """The table of clips: for genre by class and split, for affect by split with the labels by task."""
    clips = data.get("clips", {})
    if not any(isinstance(counts, dict) for counts in clips.values()):
        labels = data.get("labels", {})
        tasks = list(next(iter(labels.values()), {}))
        rows = [(split, count, *(labels[split][task] for task in tasks)) for split, count in clips.items()]
        return {"header": ("split", "clips", *(f"labels of {task}" for task in tasks)), "rows": rows, "total": False}
    classes = list(dict.fromkeys(name for counts in clips.values() for name in counts))
    rows = [(name, *(counts.get(name, 0) for counts in clips.values())) for name in classes]
    rows.append(("all", *(sum(counts.values()) for counts in clips.values())))
    return {"header": ("class", *clips), "rows": rows, "total": True}


def _mistakes(path: Path, tasks: Sequence[str] | None) -> dict[str, Any]:
    """Finds the clips with the worst answers, in the test split or in the only split that was evaluated.

    tasks: tasks of an affect run, None for genre.
    """
    read = _read_csv(path)
    evaluated = {row.get("split") for row in read}
    split = next((split for split in SPLITS if split in evaluated), "test")
    names = ["id", *(["song"] if read and "song" in read[0] else [])]
    try:
        rows: Rows = [
            (*(row[name] for name in names), *cells)
            for row in read
            if row["split"] == split
            for cells in _wrong_answers(row, tasks)
        ]
    except (KeyError, TypeError, ValueError) as error:
        answers = "true, predicted and a column for each class" if tasks is None else "true_<task> and <task>"
        raise UserError(
            f"Expected id, split, {answers} in {path}, got: {error!r}; train again to write a new file"
        ) from None
    header = ("true", "predicted", "probability") if tasks is None else ("task", "true", "predicted", "error")
    worst = sorted(rows, key=lambda row: (-row[-1], row[0]))[:SHOWN_MISTAKES]
    return {"split": split, "header": [*names, *header], "rows": worst}


def _wrong_answers(row: Mapping[str, str], tasks: Sequence[str] | None) -> Iterator[Sequence[Any]]:
    """Yields a clip's wrong genre with its probability, or its error in each task for which it has a label."""
    if tasks is None and row["true"] != row["predicted"]:
        yield row["true"], row["predicted"], float(row[row["predicted"]])
    for task in tasks or ():
        if row[f"true_{task}"]:
            true, predicted = float(row[f"true_{task}"]), float(row[task])
            yield task, true, predicted, abs(predicted - true)


def _history(path: Path) -> Rows:
    """The header and the rows of history.csv, with numbers rounded to four digits."""
    rows = _read_csv(path)
    return [list(rows[0]), *([*map(_rounded, row.values())] for row in rows)] if rows else []


def _rounded(cell: str) -> str:
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell

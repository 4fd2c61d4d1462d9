"""One self-contained HTML page from a run's folder: no script, no outside address, images inside."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mtmusic.errors import UserError
from mtmusic.evaluation.reports.html import figure, page, section, table, text
from mtmusic.files import write_text

SPLITS = ("test", "validation", "train")
SHOWN_MISTAKES = 10

CAPTIONS = {
    "learning_curves": "Learning curves: the best epoch is the one that was kept.",
    "confusion_matrix": "Confusion: rows are true classes, columns predicted ones; the colour is the row's share.",
    "confusion_test": "Confusion on the test clips: rows are true classes, columns predicted ones.",
    "confusion_validation": "Confusion on the validation clips: rows are true classes, columns predicted ones.",
    "scatter": "Predicted against true; on the dashed line they are equal.",
    "scatter_test": "Test clips, predicted against true; on the dashed line they are equal.",
    "scatter_validation": "Validation clips, predicted against true; on the dashed line they are equal.",
    **{
        f"calibration_{split}": f"Calibration by deciles, {split} clips: on the dashed line it is right."
        for split in SPLITS
    },
    **{f"residuals_{split}": f"Residuals of the {split} clips: what the prediction has too much." for split in SPLITS},
    "comparison": "Spearman's rho of each run on the same clips, with its 95 % interval.",
    "class_histograms": "Clips by class, before and after similar classes were merged.",
    "value_histograms": "How the targets are distributed.",
    "lengths": "How long the clips are.",
    "batch_padding": "Batches: frames of clips, and what padding adds.",
    "spectrograms": "Two clips: mel spectrogram above, chromagram below.",
    "spectrograms_full": "Two clips at full rate: mel spectrogram above, chromagram below.",
    "spectrograms_beat": "Two beat-synchronised clips: mel spectrogram above, chromagram below.",
    "mean_profiles": "Mean mel profile of each class.",
    "loss_curve": "Overfitting a few batches: a sound model learns them by heart.",
    "activations": "What the layers make of one clip.",
}
"""File stem -> caption, in the order that tells the story; any other figure comes after these, by name."""


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run's folder, from card.json and metrics.json and, where they are,
    history.csv, predictions.csv and figures/*.png. Returns its path.

    Raises UserError for a folder that is not a run's, or a file in it that cannot be read.
    """
    card = _read_json(folder / "card.json", ("task", "feature", "beat", "backbone", "command", "seed", "data"))
    metrics = _read_json(folder / "metrics.json", ())
    sections = [
        _heading(card, metrics),
        section("Results", _results(metrics)),
        section("By class", _per_class(metrics)),
        section("Beside other runs", _comparison(folder / "comparison.json")),
        section("Weights of the tasks", _weights(metrics)),
        section("Transfer", _transfer(card, metrics)),
        section("Data", _data(card.get("judged", card["data"]))),
        section("Figures", "\n".join(map(_captioned, _in_order((folder / "figures").glob("*.png"))))),
        section("Most confident mistakes", _mistakes(folder / "predictions.csv") if "classes" in card else ""),
        section("Training", _training(metrics, folder / "history.csv")),
        section("Versions", table(("package", "version"), card.get("versions", {}).items(), kind="words")),
    ]
    path = folder / "report.html"
    write_text(path, page(_title(card), "\n".join(sections)))
    return path


def _read_json(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"Expected {path.name} in {path.parent}, found none: give the folder of a finished run"
        ) from None
    except ValueError as error:
        raise UserError(f"Expected JSON in {path}, got: {error}; train again to write it anew") from None
    missing = [key for key in keys if key not in content]
    if missing:
        raise UserError(f"Expected {', '.join(missing)} in {path}, found none: train again to write it anew")
    return content


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _title(card: Mapping[str, Any]) -> str:
    return f"{card['task']}, {card['backbone']}"


def _heading(card: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    names = card.get("classes") or card.get("targets") or []
    frames = "beat-synchronised" if card["beat"] else "full-rate"
    length = f", {card['frames']} frames" if card.get("frames") else ""
    split = metrics.get("model_trained_on", "train")
    sentence = (
        f"The {card['backbone']} backbone, trained on the {split} clips of "
        f"{card['data'].get('folder', 'its data')}: {frames} {card['feature']}{length}. "
        f"It tells {', '.join(names)}. Seed {card['seed']}."
    )
    if (judged := metrics.get("judged_model_trained_on", split)) != split:
        sentence += f" The test numbers are those of a model trained on {judged} alone, judged before the test clips "
        sentence += "were learnt too."
    if "judged" in card:
        sentence += f" Judged here on {card['judged'].get('folder')}, without training."
        if learnt := card["judged"].get("clips_learnt"):
            sentence += f" {learnt} of these clips were in its training."
    demo = (
        '<p class="banner">Demo: learnt from synthesised music. These numbers say nothing about real songs.</p>'
        if card["data"].get("demo")
        else ""
    )
    return (
        f"<h1>{escape(_title(card))}</h1>\n{demo}\n<p>{escape(sentence)}</p>\n"
        f"<pre><code>{escape(card['command'])}</code></pre>"
    )


def _interval(scores: Mapping[str, Any], name: str) -> str:
    """0.412 (0.371 to 0.452)"""
    if scores.get(f"{name}_low") is None:
        return text(scores[name])
    return f"{scores[name]:.3f} ({scores[f'{name}_low']:.3f} to {scores[f'{name}_high']:.3f})"


def _results(metrics: Mapping[str, Any]) -> str:
    splits = [(split, metrics[split]) for split in SPLITS if split in metrics]
    genre = table(
        ("split", "accuracy (95 % interval)", "macro F1", "macro precision", "macro recall", "clips"),
        [
            (
                split,
                _interval(scores, "accuracy"),
                *(scores[f"macro_{name}"] for name in ("f1", "precision", "recall")),
                scores["clips"],
            )
            for split, scores in splits
            if "accuracy" in scores
        ],
    )
    return genre + "\n".join(_affect_results(split, scores) for split, scores in splits if "spearman" in scores)


def _affect_results(split: str, scores: Mapping[str, Any]) -> str:
    rows: list[Sequence[Any]] = [
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
    several = len(rows) > 1
    if several:
        rows.append(("mean", _interval(_mean_row(scores), "spearman"), *[""] * 4, scores["clips"]))
    return table(
        ("task", "Spearman's rho (95 % interval)", "Pearson", "R²", "MSE", "MSE of the train mean", "clips"),
        rows,
        caption=f"{split} clips",
        total=several,
    )


def _mean_row(scores: Mapping[str, Any]) -> dict[str, Any]:
    bounds = {f"spearman_{bound}": scores.get(f"spearman_mean_{bound}") for bound in ("low", "high")}
    return {"spearman": scores["spearman"]["mean"], **bounds}


def _comparison(path: Path) -> str:
    """What `compare_runs` wrote: rho of each run, and what the first one has more than each other."""
    if not path.exists():
        return ""
    content = _read_json(path, ("runs", "differences"))
    tables = []
    for title, part in (("Spearman's rho", "runs"), (f"rho of {content['first']} less that of", "differences")):
        names = list(dict.fromkeys(name for row in content[part].values() for name in row))
        rows = [
            (run, *(_interval_of(row[name]) if name in row else None for name in names))
            for run, row in content[part].items()
        ]
        tables.append(table((title, *names), rows, caption=f"the same {content['clips']} {content['split']} clips"))
    return "\n".join(tables)


def _interval_of(row: Mapping[str, float]) -> str:
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _weights(metrics: Mapping[str, Any]) -> str:
    weights = metrics.get("weights", {})
    if len(weights) < 2:
        return ""
    deviations = {task: math.exp(value / 2) for task, value in metrics.get("log_variances", {}).items()}
    kind = "learned with the model, at the epoch that was kept" if deviations else "fixed"
    header = ("task", "weight of its error", *(["standard deviation learned"] if deviations else []))
    rows = [(task, weight, *([deviations[task]] if deviations else [])) for task, weight in weights.items()]
    return table(header, rows, caption=kind)


def _transfer(card: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Where the backbone came from, and which test clips it knew."""
    source = card.get("source")
    if not source:
        return ""
    test = next((scores["clips"] for split, scores in metrics.items() if split == "test"), None)
    learnt = source["test_clips_learnt"]
    if learnt is None:
        known = "Whether it learnt from clips of the test split is not known."
    elif learnt:
        known = f"{len(learnt)} of the {test} test clips were in its training, by content: {', '.join(learnt)}."
    else:
        known = "No clip of the test split was in its training, by content."
    blocks = source.get("transferred", "all")
    part = "The backbone was that" if blocks == "all" else f"The backbone's first {blocks} blocks were those"
    return f"<p>{part} of {escape(source['run'])} ({escape(source['task'])}). {escape(known)}</p>"


def _small(value: float | None) -> str:
    return text(None) if value is None else f"{value:.4f}"


def _per_class(metrics: Mapping[str, Any]) -> str:
    split = next((split for split in SPLITS if "per_class" in metrics.get(split, {})), None)
    if split is None:
        return ""
    names = ("precision", "recall", "f1", "support")
    rows = [(name, *(row[key] for key in names)) for name, row in metrics[split]["per_class"].items()]
    return table(("class", "precision", "recall", "F1", "clips"), rows, caption=f"{split} clips")


def _data(data: Mapping[str, Any]) -> str:
    """Clips by class and split for genre; for affect, which has no classes, by split, and their labels by task."""
    clips = data.get("clips", {})
    source = f"<p>Folder {escape(str(data.get('folder')))}, fingerprint {escape(str(data.get('fingerprint')))}.</p>"
    if not any(isinstance(counts, dict) for counts in clips.values()):
        labels = data.get("labels", {})
        tasks = list(next(iter(labels.values()), {}))
        rows = [(split, count, *(labels[split][task] for task in tasks)) for split, count in clips.items()]
        return source + table(("split", "clips", *(f"labels of {task}" for task in tasks)), rows)
    classes = list(dict.fromkeys(name for counts in clips.values() for name in counts))
    rows = [(name, *(counts.get(name, 0) for counts in clips.values())) for name in classes]
    totals = ("all", *(sum(counts.values()) for counts in clips.values()))
    return source + table(("class", *clips), [*rows, totals], total=True)


def _in_order(paths: Iterable[Path]) -> list[Path]:
    stems = list(CAPTIONS)
    return sorted(paths, key=lambda path: (stems.index(path.stem) if path.stem in stems else len(stems), path.stem))


def _captioned(path: Path) -> str:
    return figure(path, CAPTIONS.get(path.stem, path.stem.replace("_", " ")))


def _mistakes(predictions: Path) -> str:
    """Of the test clips, or of the one split that was judged."""
    read = _read_csv(predictions)
    judged = {row.get("split") for row in read}
    split = next((split for split in SPLITS if split in judged), "test")
    try:
        rows = [
            (row["id"], row["true"], row["predicted"], float(row[row["predicted"]]))
            for row in read
            if row["split"] == split and row["true"] != row["predicted"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"Expected id, split, true, predicted and a column of probabilities a class in {predictions}, "
            f"got: {error!r}; train again to write it anew"
        ) from None
    rows.sort(key=lambda row: (-row[3], row[0]))
    return table(
        ("id", "true", "predicted", "probability"), rows[:SHOWN_MISTAKES], caption=f"{split} clips", kind="words"
    )


def _training(metrics: Mapping[str, Any], history: Path) -> str:
    names = {"epochs": "epochs", "best_epoch": "best epoch", "seconds_per_epoch": "seconds an epoch"}
    facts = [f"{label}: {text(metrics[key])}" for key, label in names.items() if key in metrics]
    summary = f"<p>{escape('; '.join(facts))}</p>" if facts else ""
    rows = _read_csv(history)
    if not rows:
        return summary
    epochs = table(list(rows[0]), [list(map(_rounded, row.values())) for row in rows])
    return f"{summary}\n<details><summary>Every epoch</summary>\n{epochs}\n</details>"


def _rounded(cell: str) -> str:
    """Four digits are enough for a table."""
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell

"""The lab's step 6: its five questions on the metrics, answered from the numbers just measured."""

import csv
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.lab import Part, Table
from mtmusic.lab.genre import Network, by_class, confusion, lstm_runs, networks
from mtmusic.lab.numbers import mean_of
from mtmusic.lab.plan import GENRE, GENRE_BEAT, Done, Lab, metrics_of

AVERAGES = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "micro_f1")


@dataclass(frozen=True)
class Judged:
    """The test split of one run. best, worst: the classes of the highest and of the lowest F1."""

    title: str
    test: Mapping[str, Any]

    @property
    def best(self) -> str:
        return max(self.test["per_class"], key=lambda name: self.test["per_class"][name]["f1"])

    @property
    def worst(self) -> str:
        return min(self.test["per_class"], key=lambda name: self.test["per_class"][name]["f1"])

    def counts(self, name: str) -> dict[str, int]:
        """Of a class: its clips, those that were called so, and those that are both."""
        column = list(self.test["per_class"]).index(name)
        matrix = np.array(self.test["confusion"])
        called, clips, both = matrix[:, column].sum(), matrix[column].sum(), matrix[column, column]
        return {"called": int(called), "clips": int(clips), "both": int(both)}


def metrics_step(lab: Lab) -> Done:
    """Each metric of step 5's networks, the questions, and the curves of the best and the worst class."""
    runs = {network: lstm_runs(lab, network.name) for network in networks(lab)}
    chosen = max(runs, key=lambda network: mean_of(runs[network], "validation", "macro_f1"))
    judged = {network: Judged(network.title, metrics_of(each[0])["test"]) for network, each in runs.items()}
    found, path = judged[chosen], lab.step(6) / "precision_recall.png"
    true, scores, classes = _test_predictions(runs[chosen][0])
    plots.save_figure(plots.precision_recall_curves(true, scores, classes, (found.best, found.worst)), path)
    averages = [(network.title, *(mean_of(each, "test", name) for name in AVERAGES)) for network, each in runs.items()]
    tables = [
        Table(
            f"Test clips, seeds: {len(lab.seeds)}",
            ("", "accuracy", "macro precision", "macro recall", "macro F1", "micro F1"),
            averages,
        ),
        *(by_class(network.title, each[0]) for network, each in runs.items()),
    ]
    pictures = [
        lab.picture(
            path,
            f"Precision by recall of {found.best}, the best class of the {found.title}, and of {found.worst}, its "
            "worst; dashed: the class's share of the clips.",
            f"Two step lines from left to right, {found.best} and {found.worst}, each above or near its dashed line.",
        ),
        *(confusion(lab, network.title, each[0]) for network, each in runs.items()),
    ]
    numbers = {
        "judged": chosen.name,
        "best_class": found.best,
        "worst_class": found.worst,
        "networks": {network.name: dict(one.test) for network, one in judged.items()},
    }
    sentences = [
        *answers(found, [*judged.values()]),
        precision_answer(found, true, scores, classes),
        which_metric(found),
    ]
    commands = [_evaluate(lab, network, each[0]) for network, each in runs.items()]
    return Done(Part(sentences, tables, pictures, commands), numbers)


def answers(found: Judged, others: list[Judged]) -> list[str]:
    """The first four questions. others: all networks, of which the one whose accuracy and F1 part most is told."""
    test, best, worst = found.test, found.counts(found.best), found.counts(found.worst)
    classes, parted = test["per_class"], max(others, key=lambda one: abs(one.test["accuracy"] - one.test["macro_f1"]))
    sizes = [row["support"] for row in classes.values()]
    return [
        f"What does each metric show? Of the {found.title}: accuracy, the share of clips that are right, "
        f"{test['accuracy']:.3f}. Precision, how far an answer can be trusted: {best['both']} of {best['called']} "
        f"clips called {found.best} are so, {worst['both']} of {worst['called']} called {found.worst}. Recall, how "
        f"much is found: {best['both']} of {best['clips']} clips of {found.best}, {worst['both']} of "
        f"{worst['clips']} of {found.worst}. F1 is high only where both are: {classes[found.best]['f1']:.3f} and "
        f"{classes[found.worst]['f1']:.3f}.",
        f"Micro and macro? Micro counts every clip alike, and with one answer a clip micro precision, micro recall and "
        f"micro F1 are all the accuracy, {test['micro_f1']:.3f}; macro counts every class alike, "
        f"{test['macro_f1']:.3f}: {found.worst} is one of {len(classes)} equal parts of it, whatever its "
        f"{worst['clips']} clips.",
        f"When do accuracy and F1 part? Where answers crowd into few classes. Most here in the {parted.title}: "
        f"accuracy {parted.test['accuracy']:.3f}, macro F1 {parted.test['macro_f1']:.3f}; it calls "
        f"{parted.counts(parted.worst)['called']} clips {parted.worst}, of which there are "
        f"{parted.counts(parted.worst)['clips']}, and {_crowded(parted)}.",
        f"When do micro and macro F1 part? Where large classes are told better or worse than small ones. "
        f"{_sizes_and_gap(sizes, test['micro_f1'] - test['macro_f1'])} Leaving {found.worst} out would move macro F1 "
        f"to {_macro_without(found):.3f}.",
    ]


def precision_answer(found: Judged, true: np.ndarray, scores: np.ndarray, classes: list[str]) -> str:
    """The fifth question, by the curve: what precision the most confident half of each class has."""
    halves = {name: _precision_at_half(true == classes.index(name), scores[:, classes.index(name)])
              for name in (found.best, found.worst)}  # fmt: skip
    return (
        f"When does precision matter more than recall? Where a wrong answer costs more than a missed clip: a playlist "
        f"of {found.worst} needs only some of its clips, but those right; an archive that must lose none needs recall. "
        f"A threshold trades them: asked for half of the clips of {found.best}, precision is {halves[found.best]:.3f}, "
        f"for half of those of {found.worst} {halves[found.worst]:.3f}."
    )


def which_metric(found: Judged) -> str:
    return (
        f"We judge by macro F1 ({found.test['macro_f1']:.3f} here), with accuracy beside it for comparison with "
        "others: no genre shall count more because it has more clips, and a class that is never answered shows at once."
    )


def _precision_at_half(hits: np.ndarray, scores: np.ndarray) -> float:
    """Precision at the highest threshold that finds half of the hits."""
    found = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    place = int(np.searchsorted(found, max(1, np.ceil(hits.sum() / 2))))
    return float(found[place] / (place + 1))


def _crowded(judged: Judged) -> str:
    """The class that is answered most beyond its clips."""
    surplus = {name: judged.counts(name)["called"] - judged.counts(name)["clips"] for name in judged.test["per_class"]}
    name = max(surplus, key=lambda one: surplus[one])
    return f"{judged.counts(name)['called']} clips {name}, of which there are {judged.counts(name)['clips']}"


def _sizes_and_gap(sizes: list[int], gap: float) -> str:
    if min(sizes) == max(sizes):
        return (
            f"The classes here have {sizes[0]} clips each, and sizes cannot part them; the gap of {gap:+.3f} is there "
            "because F1, unlike accuracy, is no plain average over clips."
        )
    return f"The classes here have {min(sizes)} to {max(sizes)} clips, and the gap is {gap:+.3f}."


def _macro_without(found: Judged) -> float:
    return float(np.mean([row["f1"] for name, row in found.test["per_class"].items() if name != found.worst]))


def _test_predictions(run: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Class indices (clips,), probabilities (clips, classes) and the classes of a genre run's test split."""
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    classes = [*rows[0]][4:]
    true = np.array([classes.index(row["true"]) for row in rows])
    return true, np.array([[float(row[name]) for name in classes] for row in rows]), classes


def _evaluate(lab: Lab, network: Network, run: Path) -> str:
    folder = lab.folders[GENRE_BEAT if network.beat else GENRE]
    return shlex.join(["python", "scripts/evaluate.py", "--model", str(run), "--data", str(folder)])

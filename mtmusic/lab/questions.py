"""The lab's step 6: its five questions about the metrics, answered with the scores of step 5."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.lab import Table
from mtmusic.lab import plan
from mtmusic.lab.genre import by_class, lstm_runs, networks
from mtmusic.lab.plan import Done, Lab
from mtmusic.training.compare import read_predictions

AVERAGES = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "micro_f1")


@dataclass(frozen=True)
class Evaluated:
    """A run evaluated on the test split. best, worst: the classes with the highest and the lowest F1."""

    title: str
    test: Mapping[str, Any]

    @property
    def best(self) -> str:
        return max(self.test["per_class"], key=lambda name: self.test["per_class"][name]["f1"])

    @property
    def worst(self) -> str:
        return min(self.test["per_class"], key=lambda name: self.test["per_class"][name]["f1"])

    @property
    def crowded(self) -> str:
        """The class that is predicted too often: its predictions minus its clips are the most."""
        counts = {name: self.counts(name) for name in self.test["per_class"]}
        return max(counts, key=lambda name: counts[name]["called"] - counts[name]["clips"])

    @property
    def macro_f1_without_worst(self) -> float:
        return float(np.mean([row["f1"] for name, row in self.test["per_class"].items() if name != self.worst]))

    def counts(self, name: str) -> dict[str, int]:
        """Counts of a class: its clips, the clips predicted as this class ("called"), and the clips that are both."""
        column = list(self.test["per_class"]).index(name)
        matrix = np.array(self.test["confusion"])
        called, clips, both = matrix[:, column].sum(), matrix[column].sum(), matrix[column, column]
        return {"called": int(called), "clips": int(clips), "both": int(both)}


def metrics_step(lab: Lab) -> Done:
    """Step 6: the metrics of step 5's networks, the questions, and the curves of the best and the worst class."""
    runs = {network: lstm_runs(lab, name) for name, network in networks(lab).items()}
    chosen = max(runs, key=lambda network: plan.mean_of(runs[network], "validation", "macro_f1"))
    evaluated = {
        network.name: Evaluated(network.title, plan.metrics_of(each[0])["test"]) for network, each in runs.items()
    }
    found, answers = evaluated[chosen.name], read_predictions(str(runs[chosen][0]))
    shown = (found.best, found.worst)
    figure = plots.precision_recall_curves(answers.true, answers.predicted, answers.classes, shown)
    plots.save_figure(figure, lab.step(6) / "precision_recall.png")
    header = ("", "accuracy", "macro precision", "macro recall", "macro F1", "micro F1")
    averages = [
        (network.title, *(plan.mean_of(each, "test", name) for name in AVERAGES)) for network, each in runs.items()
    ]
    numbers = {
        "judged": chosen.name,
        "best_class": found.best,
        "worst_class": found.worst,
        "networks": {name: dict(one.test) for name, one in evaluated.items()},
    }
    columns = [answers.classes.index(name) for name in shown]
    halves = [precision_at_half(answers.true == i, answers.predicted[:, i]) for i in columns]
    return plan.write_up(
        lab,
        6,
        numbers,
        [
            Table(f"Test clips, mean over {lab.seeds} seed{'s' if lab.seeds > 1 else ''}", header, averages),
            *(by_class(network.title, each[0]) for network, each in runs.items()),
        ],
        [lab.command("evaluate", model=each[0], data=lab.folders[network.folder]) for network, each in runs.items()],
        found=found,
        evaluated=evaluated,
        other=max(evaluated.values(), key=lambda one: abs(one.test["accuracy"] - one.test["macro_f1"])),
        halves=halves,
        runs={network.name: lab.relative(each[0]) for network, each in runs.items()},
    )


def precision_at_half(hits: np.ndarray, scores: np.ndarray) -> float:
    """The precision at the highest threshold with a recall of one half."""
    found = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    place = int(np.searchsorted(found, max(1, np.ceil(hits.sum() / 2))))
    return float(found[place] / (place + 1))

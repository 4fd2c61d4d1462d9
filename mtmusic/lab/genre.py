"""The lab's steps 5 and 7: genre with LSTMs and CNNs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmusic.data.folder import GenreData, load_genre_data
from mtmusic.data.spectrograms import read_array
from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.lab import Table
from mtmusic.lab import plan
from mtmusic.lab.plan import Done, Lab
from mtmusic.models.saving import load
from mtmusic.models.trainer import OVERFIT_LOSS
from mtmusic.training.genre import GenreTask
from mtmusic.training.recipes import Recipe, fill_in, recipe_from_card
from mtmusic.training.task import activations, examples
from mtmusic.training.train import TrainOptions, overfit, train

SCORES = ("precision", "recall", "f1")
CNNS = {"train": "CNN, trained on train", "on_all": "CNN, trained on train and validation"}


class Network(NamedTuple):
    name: str
    title: str
    feature: str
    beat: bool

    @property
    def folder(self) -> str:
        return plan.GENRE_BEAT if self.beat else plan.GENRE


LSTMS = (
    Network("mel_full", "LSTM on full-rate mel", "mel", False),
    Network("mel", "LSTM on beat mel", "mel", True),
    Network("chroma", "LSTM on beat chroma", "chroma", True),
    Network("fused", "LSTM on beat fused", "fused", True),
)
LIKE_CNN = "mel"
"""The LSTM with the same input as the CNN."""


def networks(lab: Lab) -> dict[str, Network]:
    """The LSTMs whose data folder exists."""
    return {network.name: network for network in LSTMS if network.folder in lab.folders}


def lstm_runs(lab: Lab, name: str) -> list[Path]:
    """The runs of step 5, one for each seed."""
    return [lab.step(5) / f"{name}_seed{seed}" for seed in lab.every_seed]


def cnn_runs(lab: Lab, name: str = "train") -> list[Path]:
    """The runs of step 7, one for each seed. name: "on_all" for the CNNs that were trained on train and validation."""
    return [lab.step(7) / f"cnn{'_on_all' if name == 'on_all' else ''}_seed{seed}" for seed in lab.every_seed]


def lstms(lab: Lab) -> Done:
    """Step 5: an LSTM for each feature, with its overfit check."""
    found = networks(lab)
    options = {name: _lstm_options(lab, network) for name, network in found.items()}
    checks = {
        name: plan.kept(lab.step(5) / f"overfit_{name}.json", partial(_overfit, lab, each[0]))
        for name, each in options.items()
    }
    commands = _train_all([*options.values()])
    facts = {name: _facts(lstm_runs(lab, name)) | {"overfit": checks[name]} for name in found}
    rows = [
        (found[name].title, row["accuracy"], row["validation_macro_f1"], row["best_epoch"],
         f"{row['seconds_per_epoch']:.2f}")
        for name, row in facts.items()
    ]  # fmt: skip
    header = ("validation macro F1", "best epoch", "seconds per epoch")
    table = plan.score_table("Accuracy on the test clips", rows, header, _batches(found, options))
    constant, share = majority(lab)
    curves = {found[name].title: values for name, values in checks.items()}
    figure = plots.curves({"Overfit check: the loss on three batches": curves}, "loss (log scale)", OVERFIT_LOSS)
    plots.save_figure(figure, lab.step(5) / "overfit.png")
    return plan.write_up(
        lab,
        5,
        {"networks": facts, "majority": share},
        [table],
        commands,
        checks=curves,
        limit=OVERFIT_LOSS,
        best=max(facts, key=lambda name: facts[name]["validation_macro_f1"]),
        best_on_test=max(facts, key=lambda name: facts[name]["accuracy"]["mean"]),
        constant=constant,
        titles={name: network.title for name, network in found.items()},
        runs={name: lab.relative(lstm_runs(lab, name)[0]) for name in found},
    )


def cnns(lab: Lab) -> Done:
    """Step 7: a CNN trained on train, and a second one trained on train and validation, compared with the LSTM."""
    options = [
        [
            plan.genre_options(lab, run, seed, "cnn", retrain_on_all=name == "on_all")
            for run, seed in zip(cnn_runs(lab, name), lab.every_seed, strict=True)
        ]
        for name in CNNS
    ]
    check = plan.kept(lab.step(7) / "overfit.json", partial(_overfit, lab, options[0][0]))
    commands = _train_all(options)
    facts, lstm = {name: _facts(cnn_runs(lab, name)) for name in CNNS}, _facts(lstm_runs(lab, LIKE_CNN))
    compared = {**{CNNS[name]: row for name, row in facts.items()}, "LSTM on beat mel (step 5)": lstm}
    rows = [(title, row["accuracy"], row["macro_f1"]) for title, row in compared.items()]
    first, other = ([[run] for run in each] for each in (cnn_runs(lab), lstm_runs(lab, LIKE_CNN)))
    layers, clip = layer_table(lab, cnn_runs(lab)[0])
    runs = {name: cnn_runs(lab, name)[0] for name in CNNS}
    tables = [
        plan.score_table("Genre on the test clips", rows, ("macro F1",)),
        *(by_class(CNNS[name], run) for name, run in runs.items()),
        Table(
            "Values of one test clip in each block, and sizes as (frames, bins, channels)",
            ("", "before BatchNorm: mean (sd)", "after: mean (sd)", "zeros after ReLU", "size after pooling"),
            layers,
        ),
    ]
    figure = plots.loss_curve(check, "Overfit check: the loss on three batches", OVERFIT_LOSS)
    plots.save_figure(figure, lab.step(7) / "overfit.png")
    numbers = {"overfit": check, "lstm": lstm, "cnn_less_lstm": plan.paired(first, other, "accuracy"), "layers": layers}
    return plan.write_up(
        lab,
        7,
        facts | numbers,
        tables,
        commands,
        **clip,
        limit=OVERFIT_LOSS,
        zeros=sorted((row[3] for row in layers), key=lambda share: float(share.rstrip("%"))),
        titles=CNNS,
        runs={name: lab.relative(run) for name, run in runs.items()},
        tests={name: plan.metrics_of(run)["test"] for name, run in runs.items()},
    )


def layer_table(lab: Lab, run: Path) -> tuple[list[list[str]], dict[str, Any]]:
    """Returns a row with statistics of each block's layers for one test clip, and a description of that clip.

    It is the clip in the run's picture of activations.
    """
    clip = _data(lab).splits["test"].take([0])
    model, card = load(run)
    recipe = recipe_from_card(card, Recipe())
    outputs = dict(activations(model, examples(clip, recipe)))
    rows = []
    for block in sorted({name.partition("_")[0] for name in outputs}):
        before, after, relu, pool = (outputs[f"{block}_{kind}"] for kind in ("conv", "norm", "relu", "pool"))
        norm = (f"{_rounded(x.mean())} ({_rounded(x.std())})" for x in (before, after))
        rows.append([block, *norm, f"{np.mean(relu == 0):.1%}", " x ".join(map(str, pool.shape))])
    frames = read_array(clip.paths[0]).shape[1]
    return rows, {"clip": clip.ids[0], "frames": frames, "read": recipe.frames or frames}


def _rounded(value: float) -> str:
    """Rounds to two decimals, without -0.00."""
    return f"{round(float(value), 2) + 0.0:.2f}"


def by_class(title: str, run: Path) -> Table:
    """The table of precision, recall and F1 of each class on the test split."""
    rows = [
        (name, *(row[score] for score in SCORES), row["support"])
        for name, row in plan.metrics_of(run)["test"]["per_class"].items()
    ]
    return Table(f"{title}: test clips by class", ("class", "precision", "recall", "F1", "clips"), rows)


def majority(lab: Lab) -> tuple[str | None, float]:
    """Returns the most frequent class of train, and its share of the test clips.

    The class is None if all classes have as many test clips.
    """
    splits = _data(lab).splits
    counts = {split: np.bincount(clips.targets, minlength=len(clips.classes)) for split, clips in splits.items()}
    place, test = int(np.argmax(counts["train"])), counts["test"]
    tied = len(set(test.tolist())) == 1
    return None if tied else splits["train"].classes[place], float(test[place] / test.sum())


def _data(lab: Lab) -> GenreData:
    """The genre data as in the runs of the first seed."""
    return load_genre_data(lab.load_options(plan.GENRE_BEAT, lab.scale.subset))


def _facts(runs: Sequence[Path]) -> dict[str, Any]:
    """The scores of a network's runs over the seeds, and facts about the training of the first run."""
    scores = {"accuracy": plan.accuracy(runs), "macro_f1": plan.mean_of(runs, "test", "macro_f1")}
    return plan.training_facts(runs[0]) | scores | {"validation_macro_f1": plan.mean_of(runs, "validation", "macro_f1")}


def _lstm_options(lab: Lab, network: Network) -> list[TrainOptions]:
    """The training options of an LSTM, one for each seed."""
    slow: dict[str, Any] = {} if network.beat else {"batch_size": plan.FULL_RATE_BATCH}
    return [
        plan.genre_options(lab, run, seed, "lstm", network.beat, feature=network.feature, **slow)
        for run, seed in zip(lstm_runs(lab, network.name), lab.every_seed, strict=True)
    ]


def _train_all(options: Sequence[Sequence[TrainOptions]]) -> list[str]:
    """Trains all runs, and returns their commands."""
    for one in (one for each in options for one in each):
        train(one, GenreTask())
    return [one.command for each in options for one in each]


def _overfit(lab: Lab, options: TrainOptions) -> list[float]:
    """Returns the loss by epoch on three batches. A loss that stays high is reported, but does not stop the lab."""
    data = load_genre_data(options.data)
    task = GenreTask().with_labels_of(data.splits["train"])
    recipe = fill_in(options.recipe, task.frames[data.beat], data.splits, options.retrain_on_all)
    return overfit(options, recipe, task, data.splits["train"], lab.scale.overfit_epochs)


def _batches(found: dict[str, Network], options: dict[str, list[TrainOptions]]) -> str:
    sizes = {found[name].title: each[0].recipe.batch_size for name, each in options.items()}
    if len({*sizes.values()}) == 1:
        return f"A batch has {next(iter(sizes.values()))} clips."
    return f"Clips per batch: {', '.join(f'{title} {size}' for title, size in sizes.items())}."

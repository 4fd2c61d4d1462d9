"""The lab's steps 5 and 7: genre by LSTM and by CNN."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmusic.data.folder import GenreData, load_genre_data
from mtmusic.data.labels import Clips
from mtmusic.data.spectrograms import read_array
from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.lab import Part, Picture, Table
from mtmusic.lab.numbers import (
    ROW_HEADER,
    ROW_NOTE,
    accuracy,
    cells,
    mean_of,
    paired,
    told,
    training_facts,
    versus,
)
from mtmusic.lab.plan import (
    FULL_RATE_BATCH,
    GENRE,
    GENRE_BEAT,
    Done,
    Lab,
    genre_options,
    kept,
    metrics_of,
)
from mtmusic.models import saving as export
from mtmusic.models.backbones import FRAMES
from mtmusic.models.trainer import OVERFIT_LOSS
from mtmusic.training.genre import GenreOptions, genre_objective, train_genre
from mtmusic.training.recipes import Recipe, complete, from_card
from mtmusic.training.run_files import activations, examples
from mtmusic.training.train import count_learnt, overfit

SCORES = ("precision", "recall", "f1")


class Network(NamedTuple):
    name: str
    title: str
    feature: str
    beat: bool


LSTMS = (
    Network("mel_full", "LSTM on full-rate mel", "mel", False),
    Network("mel", "LSTM on beat mel", "mel", True),
    Network("chroma", "LSTM on beat chroma", "chroma", True),
    Network("fused", "LSTM on beat fused", "fused", True),
)
BESIDE_CNN = "mel"
"""The LSTM that hears what the CNN hears."""


def networks(lab: Lab) -> list[Network]:
    """The LSTMs whose folder is there."""
    return [network for network in LSTMS if (GENRE_BEAT if network.beat else GENRE) in lab.folders]


def lstm_runs(lab: Lab, name: str) -> list[Path]:
    """Step 5's, one a seed."""
    return [lab.step(5) / f"{name}_seed{seed}" for seed in lab.seeds]


def cnn_runs(lab: Lab, on_all: bool = False) -> list[Path]:
    """Step 7's, one a seed; on_all: those trained anew on train and validation."""
    return [lab.step(7) / f"cnn{'_on_all' if on_all else ''}_seed{seed}" for seed in lab.seeds]


def lstms(lab: Lab) -> Done:
    """Step 5: the LSTM on each feature, and the overfit check of each."""
    options = {network: _lstm_options(lab, network) for network in networks(lab)}
    checks = {
        network: kept(lab.step(5) / f"overfit_{network.name}.json", partial(_overfit, lab, each[0]))
        for network, each in options.items()
    }
    for each in options.values():
        for one in each:
            train_genre(one)
    facts = {network: _facts(lstm_runs(lab, network.name)) for network in options}
    rows = [
        (network.title, *cells(row["accuracy"]), row["validation_macro_f1"], row["best_epoch"],
         f"{row['seconds_per_epoch']:.2f}")
        for network, row in facts.items()
    ]  # fmt: skip
    best = max(facts, key=lambda network: facts[network]["validation_macro_f1"])
    constant, share = majority(lab)
    sentences = [
        _overfit_sentence({network.title: values for network, values in checks.items()}),
        f"The highest validation macro F1, {facts[best]['validation_macro_f1']:.3f}, is that of the {best.title}: its "
        f"test accuracy is {told(facts[best]['accuracy'])}. {_best_on_test(facts, best)}Always answering {constant} "
        f"would have {share:.3f}.",
    ]
    header = ("", *ROW_HEADER, "validation macro F1", "best epoch", "seconds an epoch")
    table = Table(f"Accuracy on the test clips. {ROW_NOTE} {_batches(options)}", header, rows)
    numbers = {
        "networks": {network.name: row | {"overfit": checks[network]} for network, row in facts.items()},
        "majority": share,
    }
    commands = [one.command for each in options.values() for one in each]
    return Done(Part(sentences, [table], _lstm_pictures(lab, checks), commands), numbers)


def cnns(lab: Lab) -> Done:
    """Step 7: the CNN, trained on train, and anew on train and validation, against the LSTM."""
    options = {
        on_all: [
            genre_options(lab, run, seed, "cnn", retrain_on_all=on_all)
            for run, seed in zip(cnn_runs(lab, on_all), lab.seeds, strict=True)
        ]
        for on_all in (False, True)
    }
    values = kept(lab.step(7) / "overfit.json", partial(_overfit, lab, options[False][0]))
    for each in options.values():
        for one in each:
            train_genre(one)
    titles = {"train": "CNN, trained on train", "on_all": "CNN, trained anew on train and validation"}
    numbers = {"train": _facts(cnn_runs(lab)), "on_all": _facts(cnn_runs(lab, on_all=True))}
    lstm = _facts(lstm_runs(lab, BESIDE_CNN))
    rows = [(titles[name], *cells(row["accuracy"]), row["macro_f1"]) for name, row in numbers.items()]
    rows.append(("LSTM on beat mel (step 5)", *cells(lstm["accuracy"]), lstm["macro_f1"]))
    layers = layer_table(lab, cnn_runs(lab)[0])
    cnn, on_all, beside = (row["accuracy"] for row in (*numbers.values(), lstm))
    first, other = ([[run] for run in each] for each in (cnn_runs(lab), lstm_runs(lab, BESIDE_CNN)))
    difference = paired(first, other, "accuracy")
    sentences = [
        _overfit_sentence({"CNN": values}),
        f"The CNN's test accuracy is {told(cnn)}, the LSTM's {told(beside)}; CNN less LSTM is {versus(difference)}. "
        f"Trained anew on train and validation, for the number of epochs that was best, the CNN has {told(on_all)}.",
        _layer_sentence(lab, layers),
        "The lab's warm-up, a network on MNIST in a web page, is not repeated here.",
    ]
    tables = [
        Table(f"Genre on the test clips. {ROW_NOTE}", ("", *ROW_HEADER, "macro F1"), rows),
        by_class("CNN, trained on train", cnn_runs(lab)[0]),
        by_class("CNN, trained anew on train and validation", cnn_runs(lab, on_all=True)[0]),
        Table(
            "What each block does to one test clip, as (frames, bins, channels)",
            ("", "before BatchNorm: mean (sd)", "after: mean (sd)", "zeros after ReLU", "size after pooling"),
            layers,
        ),
    ]
    return Done(
        Part(sentences, tables, _cnn_pictures(lab, values), [one.command for each in options.values() for one in each]),
        numbers
        | {"overfit": values, "lstm": lstm, "cnn_less_lstm": difference, "layers": [list(row) for row in layers]},
    )


def layer_table(lab: Lab, run: Path) -> list[tuple[str, ...]]:
    """A row a block: what its operations do to the test clip of the run's picture of activations."""
    model, card = export.load(run)
    spectrogram = examples(_shown_clip(lab), from_card(card, Recipe()))
    outputs = dict(activations(model, spectrogram))
    rows = []
    for block in sorted({name.partition("_")[0] for name in outputs}):
        before, after, relu, pool = (outputs[f"{block}_{kind}"] for kind in ("conv", "norm", "relu", "pool"))
        norm = (f"{_rounded(x.mean())} ({_rounded(x.std())})" for x in (before, after))
        rows.append((block, *norm, f"{np.mean(relu == 0):.1%}", " x ".join(map(str, pool.shape))))
    return rows


def _shown_clip(lab: Lab) -> Clips:
    """The one of the run's picture of activations."""
    return _beat_data(lab).splits["test"].take([0])


def _beat_data(lab: Lab) -> GenreData:
    """As the first seed's runs have it."""
    return load_genre_data(lab.folders[GENRE_BEAT], lab.classes, size=lab.scale.subset, seed=lab.seeds[0])


def _rounded(value: float) -> str:
    """To two digits, and never -0.00."""
    return f"{round(float(value), 2) + 0.0:.2f}"


def _layer_sentence(lab: Lab, layers: Sequence[Sequence[str]]) -> str:
    """Of `layer_table`: how many values are zero, and how much of what was read is padding."""
    clip = _shown_clip(lab)
    frames = read_array(clip.paths[0]).shape[1]
    read = from_card(export.read_card(cnn_runs(lab)[0]), Recipe()).frames or frames
    zeros = sorted((row[3] for row in layers), key=lambda share: float(share.rstrip("%")))
    return (
        f"Of test clip {clip.ids[0]}, which is shown below, {zeros[0]} to {zeros[-1]} of a block's values are zero "
        f"after the ReLU; the last pooling leaves {layers[-1][4]} (frames, bins, channels). The clip has {frames} "
        f"frames, the network takes {read}: {max(0.0, 1 - frames / read):.0%} of what it reads is padding, and is "
        "among these values."
    )


def by_class(title: str, run: Path) -> Table:
    """Of the test split: precision, recall and F1 of each class."""
    rows = [
        (name, *(row[score] for score in SCORES), row["support"])
        for name, row in metrics_of(run)["test"]["per_class"].items()
    ]
    return Table(f"{title}: test clips by class", ("class", "precision", "recall", "F1", "clips"), rows)


def learning_curves(lab: Lab, title: str, run: Path) -> Picture:
    metrics = metrics_of(run)
    return lab.picture(
        run / "figures/learning_curves.png",
        f"{title}: loss and accuracy by epoch; the dashed line is the epoch that was kept.",
        f"Two panels, train and validation by epoch, {metrics['epochs']} epochs, the best one {metrics['best_epoch']}.",
    )


def confusion(lab: Lab, title: str, run: Path) -> Picture:
    test = metrics_of(run)["test"]
    return lab.picture(
        run / "figures/confusion_test.png",
        f"{title}: confusion of the test clips; rows are true classes, columns predicted ones.",
        f"A square of {len(test['per_class'])} classes; {test['accuracy']:.0%} of the clips lie on the diagonal.",
    )


def _facts(runs: Sequence[Path]) -> dict[str, Any]:
    """Of one network's runs: accuracy over the seeds, and how the first one was trained."""
    scores = {"accuracy": accuracy(runs), "macro_f1": mean_of(runs, "test", "macro_f1")}
    return training_facts(runs[0]) | scores | {"validation_macro_f1": mean_of(runs, "validation", "macro_f1")}


def _lstm_options(lab: Lab, network: Network) -> list[GenreOptions]:
    """One a seed."""
    slow = {} if network.beat else {"batch_size": FULL_RATE_BATCH}
    return [
        genre_options(lab, run, seed, "lstm", network.feature, network.beat, **slow)
        for run, seed in zip(lstm_runs(lab, network.name), lab.seeds, strict=True)
    ]


def _overfit(lab: Lab, options: GenreOptions) -> list[float]:
    """The loss by epoch on three batches. Where it stays high the page says so, and the training goes on."""
    data = load_genre_data(options.data, options.classes, size=options.subset, seed=options.seed)
    train = data.splits["train"]
    recipe = complete(options.recipe, FRAMES[data.beat], len(train), count_learnt(data.splits, options.retrain_on_all))
    objective = genre_objective(recipe, train, options.classes)
    return overfit(options, recipe, objective, train, lab.scale.overfit_epochs)


def _overfit_sentence(checks: Mapping[str, Sequence[float]]) -> str:
    told_of = [
        f"{name} goes from {values[0]:#.3g} to {values[-1]:#.3g} in {len(values)} epochs"
        for name, values in checks.items()
    ]
    failed = [name for name, values in checks.items() if values[-1] >= OVERFIT_LOSS]
    verdict = f"{', '.join(failed)} stayed above {OVERFIT_LOSS:g}" if failed else f"all went under {OVERFIT_LOSS:g}"
    return f"On three batches alone the loss of the {'; of the '.join(told_of)}: {verdict}."


def majority(lab: Lab) -> tuple[str, float]:
    """The most frequent class of train, in words, and its share of the test clips: what a constant answer has."""
    data = _beat_data(lab)
    counts = {split: np.bincount(clips.targets, minlength=len(clips.classes)) for split, clips in data.splits.items()}
    place, test = int(np.argmax(counts["train"])), counts["test"]
    tied = len(set(test.tolist())) == 1
    named = "any one class" if tied else f"{data.splits['train'].classes[place]}, the most frequent class of train,"
    return named, float(test[place] / test.sum())


def _best_on_test(facts: Mapping[Network, Mapping[str, Any]], chosen: Network) -> str:
    """Where another one than that of validation has the highest test accuracy."""
    best = max(facts, key=lambda network: facts[network]["accuracy"]["mean"])
    if facts[best]["accuracy"]["mean"] <= facts[chosen]["accuracy"]["mean"]:
        return ""
    return f"The highest on test is another, the {best.title}, {told(facts[best]['accuracy'])}. "


def _batches(options: Mapping[Network, Sequence[GenreOptions]]) -> str:
    sizes = {network.title: each[0].recipe.batch_size for network, each in options.items()}
    if len({*sizes.values()}) == 1:
        return f"Batches of {next(iter(sizes.values()))} clips."
    return f"Clips a batch: {', '.join(f'{title} {size}' for title, size in sizes.items())}."


def _lstm_pictures(lab: Lab, checks: Mapping[Network, Sequence[float]]) -> list[Picture]:
    path, lines = lab.step(5) / "overfit.png", {network.title: values for network, values in checks.items()}
    figure = plots.curves({"Overfit check: the loss on three batches": lines}, "loss (log scale)", OVERFIT_LOSS)
    plots.save_figure(figure, path)
    overfit_curves = lab.picture(
        path,
        "Overfit check (--overfit-batch): each network learns three batches alone; a sound one goes under the dashed "
        "line.",
        "The loss by epoch on a log scale, a line a network, falling.",
    )
    return [
        overfit_curves,
        *(learning_curves(lab, network.title, lstm_runs(lab, network.name)[0]) for network in checks),
    ]


def _cnn_pictures(lab: Lab, values: Sequence[float]) -> list[Picture]:
    path, run = lab.step(7) / "overfit.png", cnn_runs(lab)[0]
    plots.save_figure(plots.loss_curve(values, "Overfit check: the loss on three batches", OVERFIT_LOSS), path)
    return [
        lab.picture(
            path,
            "The CNN's overfit check (--overfit-batch).",
            "The loss on three batches by epoch, on a log scale, falling.",
        ),
        learning_curves(lab, "CNN", run),
        confusion(lab, "CNN, trained on train", run),
        confusion(lab, "CNN, trained anew on train and validation", cnn_runs(lab, on_all=True)[0]),
        lab.picture(
            run / "figures/activations.png",
            "What each layer makes of one test clip: up to eight channels; absent frames are blank in the input.",
            "Rows of small images, a row a layer, coarser after each pooling.",
        ),
    ]

"""A data folder to a trained, judged and saved genre model."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mtmusic.constants import FEATURE_BINS
from mtmusic.data.labels import Clips, concatenate
from mtmusic.data.pipeline import make_dataset
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.evaluation.metrics import genre_table
from mtmusic.files import write_text
from mtmusic.jobs import runs
from mtmusic.jobs.folders import RATES, GenreData, load_genre_data, print_data
from mtmusic.jobs.genre_run import examples, genre_card, judge, write_judgement
from mtmusic.jobs.recipes import LAB_CNN, Recipe, build_backbone, complete, from_card
from mtmusic.models import export
from mtmusic.models.heads import genre_classifier
from mtmusic.models.training import OVERFIT_LOSS, TrainingRecord, fit, history_csv, overfit_batches
from mtmusic.models.transfer import describe, freeze, load_backbone

MEMORY_CACHE_BYTES = 2 * 2**30
"""A split larger than this as float32 is read anew each epoch, so that memory does not grow with the folder."""


@dataclass(frozen=True)
class GenreOptions:
    """All that `train_genre` is told.

    out: None is saved_models/genre_<backbone>, with _transfer behind it where a source is given. data: None is the demo
    corpus; beat: None is told from the folder. source: a run whose backbone, architecture and all, is started from.
    """

    out: Path | None = None
    data: Path | None = None
    recipe: Recipe = LAB_CNN
    source: Path | None = None
    freeze: str = "none"
    beat: bool | None = None
    validation: float = 0.2
    classes: str = "lab"
    subset: int | None = None
    seed: int = 0
    overfit_batch: bool = False
    retrain_on_all: bool = False
    skip_bad: bool = False
    resume: bool = False
    overwrite: bool = False
    tensorboard: bool = False
    command: str = ""


def train_genre(options: GenreOptions) -> dict[str, Any]:
    """Trains, judges and saves; returns what metrics.json holds. Raises UserError for what the user can mend."""
    _refuse_early(options)
    recipe, out = _recipe(options), _out(options)
    if done := runs.finished(out, options.resume):
        print(f"{out} is a finished run: nothing to resume. It was made by: {export.read_card(out).get('command')}")
        return done
    runs.refuse_taken(out, options.resume, options.overwrite)
    data = load_genre_data(
        options.data,
        options.classes,
        options.beat,
        options.validation,
        options.subset,
        options.seed,
        options.skip_bad,
    )
    recipe = complete(recipe, data.beat)
    _refuse_other_rate(options, data)
    model = _model(options, recipe, data)
    with runs.run_folder(out, _settings(options, recipe, data), options.resume) as work:
        print_data(data)
        model.summary(expand_nested=True, line_length=100)
        metrics = _train_and_judge(model, options, recipe, data, work)
    print(f"\nTest split, {len(data.splits['test'])} clips, trained on {metrics['model_trained_on']}:")
    print(genre_table(metrics["test"]))
    print(f"Report: {out / 'report.html'}")
    return metrics


def _train_and_judge(
    model: keras.Model, options: GenreOptions, recipe: Recipe, data: GenreData, work: Path
) -> dict[str, Any]:
    """Writes the whole run into `work`; the test split is judged once, by the model that is saved."""
    if options.overfit_batch:
        _overfit(options, recipe, data, work)
    record = _train(model, options, recipe, data, work)

    judgement = judge(model, recipe, {"validation": data.splits["validation"]})
    if options.retrain_on_all:
        model = _retrain(options, recipe, data, record, work)
    judgement |= judge(model, recipe, {"test": data.splits["test"]})

    card = genre_card(recipe, data, options.classes, options.command, options.seed)
    export.save(model, work, card, examples(data.splits["test"], recipe))
    write_text(work / "history.csv", history_csv(record))
    figure = plots.learning_curves(record.history, record.best_epoch)
    plots.save_figure(figure, work / "figures/learning_curves.png")
    training = {
        "epochs": record.epochs,
        "best_epoch": record.best_epoch,
        "seconds_per_epoch": record.seconds_per_epoch,
        "model_trained_on": "train+validation" if options.retrain_on_all else "train",
    }
    return write_judgement(work, model, recipe, data, judgement, card, training)


def _refuse_early(options: GenreOptions) -> None:
    """What needs no data to be known wrong."""
    if options.freeze != "none" and options.source is None:
        raise UserError("Expected --from RUN beside --freeze: only a trained backbone can be frozen")
    for name in ("epochs", "batch_size", "units", "layers"):
        if getattr(options.recipe, name) < 1:
            raise UserError(f"Expected --{name.replace('_', '-')} of 1 or more, got {getattr(options.recipe, name)}")
    if not 0 < options.recipe.learning_rate < math.inf:
        raise UserError(f"Expected --learning-rate above 0, got {options.recipe.learning_rate}")
    if options.recipe.frames is not None and options.recipe.frames < 1:
        raise UserError(f"Expected --frames of 1 or more, got {options.recipe.frames}")


def _recipe(options: GenreOptions) -> Recipe:
    """The recipe, with the architecture of the source's card where there is one; --frames alone may differ from it."""
    if options.source is None:
        return options.recipe
    recipe = from_card(export.read_card(export.locate(options.source)[0]), options.recipe)
    return replace(recipe, frames=options.recipe.frames or recipe.frames)


def _out(options: GenreOptions) -> Path:
    transfer = "_transfer" if options.source is not None else ""
    return options.out or Path("saved_models") / f"genre_{_recipe(options).backbone}{transfer}"


def _refuse_other_rate(options: GenreOptions, data: GenreData) -> None:
    """Beat-synchronised and full-rate frames are other things; a backbone knows one of them."""
    if options.source is None:
        return
    beat = bool(export.read_card(export.locate(options.source)[0])["beat"])
    if beat != data.beat:
        raise UserError(
            f"Expected {RATES[beat]} clips, which {options.source} was trained on, "
            f"got {RATES[data.beat]} ones in {data.folder} (--beat or --no-beat, if the folder does not tell)"
        )


def _settings(options: GenreOptions, recipe: Recipe, data: GenreData) -> dict[str, Any]:
    names = ("freeze", "validation", "classes", "subset", "seed", "retrain_on_all", "skip_bad")
    return asdict(recipe) | {
        "data": data.fingerprint,
        "from": str(options.source) if options.source else None,
        **{name: getattr(options, name) for name in names},
    }


def _model(options: GenreOptions, recipe: Recipe, data: GenreData, quiet: bool = False) -> keras.Model:
    """A fresh network of this seed, on the source's backbone where there is one."""
    runs.seed_everything(options.seed)
    backbone = build_backbone(recipe)
    frozen: list[str] = []
    if options.source is not None:
        backbone.set_weights(load_backbone(options.source)[0].get_weights())
        frozen = freeze(backbone, options.freeze)
    model = genre_classifier(backbone, data.splits["train"].classes, recipe.learning_rate)
    if options.source is not None and not quiet:
        print(describe(model, str(options.source), frozen))
    return model


def _overfit(options: GenreOptions, recipe: Recipe, data: GenreData, work: Path) -> None:
    """On a network of its own, so that the training starts from fresh weights."""
    model = _model(options, recipe, data, quiet=True)
    losses = overfit_batches(model, _dataset(data.splits["train"], recipe, shuffle=True, seed=options.seed))
    print(f"Overfit check: three batches, loss {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} epochs")
    figure = plots.loss_curve(losses, "Overfit check: loss on three batches", OVERFIT_LOSS)
    plots.save_figure(figure, work / "figures/loss_curve.png")


def _train(model: keras.Model, options: GenreOptions, recipe: Recipe, data: GenreData, work: Path) -> TrainingRecord:
    runs.seed_everything(options.seed)
    return fit(
        model,
        _dataset(data.splits["train"], recipe, shuffle=True, seed=options.seed),
        _dataset(data.splits["validation"], recipe),
        recipe.training,
        checkpoints=work / runs.CHECKPOINTS,
        tensorboard=work / "tensorboard" if options.tensorboard else None,
        verbose=runs.verbosity(),
    )


def _retrain(options: GenreOptions, recipe: Recipe, data: GenreData, record: TrainingRecord, work: Path) -> keras.Model:
    """The lab's step 7: the same network from the start, on train and validation, for the epochs that were best."""
    print(f"\nTraining anew on train and validation, {record.best_epoch} epochs")
    clips = concatenate(data.splits["train"], data.splits["validation"])
    model = _model(options, recipe, data, quiet=True)
    dataset = _dataset(clips, recipe, shuffle=True, seed=options.seed)
    config = replace(recipe.training, epochs=record.best_epoch)
    fit(model, dataset, config=config, checkpoints=work / runs.RETRAINED, verbose=runs.verbosity())
    return model


def _dataset(clips: Clips, recipe: Recipe, shuffle: bool = False, seed: int = 0) -> tf.data.Dataset:
    """Cached in memory where the clips fit, else read anew each epoch; clips of any length go by length."""
    return make_dataset(
        clips,
        recipe.feature,
        recipe.batch_size,
        recipe.frames,
        shuffle=shuffle,
        seed=seed,
        cache="memory" if _bytes(clips, recipe) <= MEMORY_CACHE_BYTES else None,
        buckets=_buckets(clips, recipe) if shuffle else 1,
    )


def _bytes(clips: Clips, recipe: Recipe) -> int:
    """Upper bound of the clips' size in memory, from the files' own sizes (float16 grows to float32)."""
    if recipe.frames is not None:
        return len(clips) * recipe.frames * FEATURE_BINS[recipe.feature] * 4
    return 2 * sum(path.stat().st_size * (3 if path.suffix == ".gz" else 1) for path in clips.paths)


def _buckets(clips: Clips, recipe: Recipe) -> int:
    """Up to four, with two batches or more in each: smaller ones would make many part-filled batches."""
    return max(1, min(4, len(clips) // (2 * recipe.batch_size)))

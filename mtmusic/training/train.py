"""A training, from a data folder to a run's folder. `train` has all steps in order."""

import logging
import math
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mtmusic.cards import locate, read_card
from mtmusic.constants import FEATURE_BINS
from mtmusic.data.folder import FolderData, LoadOptions, data_table, require_rate
from mtmusic.data.labels import Clips, concatenate
from mtmusic.data.pipeline import make_dataset
from mtmusic.data.spectrograms import array_frames
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.extras import require
from mtmusic.files import content_hash, write_text
from mtmusic.models import nystroem
from mtmusic.models.distribution import find_devices
from mtmusic.models.frozen import embedded, head_alone, is_fixed
from mtmusic.models.saving import save
from mtmusic.models.trainer import (
    OVERFIT_EPOCHS,
    TrainingConfig,
    TrainingRecord,
    fit,
    history_csv,
    overfit_batches,
    require_memory,
    require_overfit,
)
from mtmusic.models.transfer import describe, freeze, load_backbone, set_backbone_weights, unfreeze
from mtmusic.training.recipes import KERNEL, LAB_CNN, PRETRAINED, Recipe, build_backbone, fill_in, recipe_from_card
from mtmusic.training.run_folder import (
    CHECKPOINTS,
    FROZEN_STAGE,
    RETRAINED,
    base_card,
    finished,
    log_known_test_clips,
    require_free,
    run_folder,
    seed_everything,
    source_card,
    write_clips,
    write_evaluation,
)
from mtmusic.training.task import Evaluation, Task, examples, kept_batches, kept_parts, write_clip_figures

MEMORY_CACHE_BYTES = 2 * 2**30
"""A larger split, as float32, is read again in each epoch, so that memory use does not grow with the folder."""

TRUNK_LEARNING_RATE, TRUNK_BATCH_SIZE = 1e-4, 4
"""Used if the trunk is trained too, instead of the values for a head. Training the whole trunk takes .7 GB for each
clip of 30 s in a batch."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """A training of any task.

    Attributes:
        out: The run's folder. None for a folder in saved_models/ with the names of the task and the backbone.
        source: A run whose backbone, with its architecture, the training starts from.
        transfer: "all" to load the weights of the whole backbone, or the number of the first blocks to load.
        freeze: "all" to freeze the whole backbone, "none", or the number of the first blocks to freeze. None freezes a
            recipe's trunk, and any backbone that is unfrozen later.
        unfreeze_after: Number of epochs after which the whole backbone is trained, at a tenth of the learning rate.
            None for never.
        devices: A number, or "all", see `distribution.find_devices`. Apart from rounding and dropout the result does
            not depend on it, so a resumed run may use other devices.
        progress: Whether to show one progress line for all epochs.
        verbose: Whether to show Keras's line per epoch instead.
    """

    data: LoadOptions
    out: Path | None = None
    recipe: Recipe = LAB_CNN
    source: Path | None = None
    transfer: str = "all"
    freeze: str | None = None
    unfreeze_after: int | None = None
    overfit_batch: bool = False
    retrain_on_all: bool = False
    resume: bool = False
    overwrite: bool = False
    tensorboard: bool = False
    devices: str = "1"
    command: str = ""
    progress: bool = False
    verbose: bool = False

    @property
    def seed(self) -> int:
        return self.data.seed

    @property
    def frozen(self) -> str:
        """The frozen blocks: "all", "none", or the number of the first blocks."""
        later = self.unfreeze_after is not None
        return self.freeze or ("all" if self.recipe.trunk or later else "none")


def train(options: TrainOptions, task: Task, data: FolderData | None = None) -> dict[str, Any]:
    """Trains a model, evaluates it on the test split once, and saves it. Returns the content of metrics.json.

    data: the result of `task.load`. None loads the data. Raises UserError for options or data that cannot be used.
    """
    options = with_trunk(options)
    refuse_early(options)
    recipe = resolve_recipe(options)
    out = options.out or default_out(options, task)
    if metrics := finished(out, options.resume):
        return metrics
    require_free(out, options.resume, options.overwrite)

    data = task.load(options.data) if data is None else data
    splits, train_clips = data.splits, data.splits["train"]
    require_source_rate(options, data)
    task = task.with_labels_of(train_clips)
    recipe = fill_in(recipe, task.frames[data.beat], splits, options.retrain_on_all, data.feature)

    model = build_model(options, recipe, task)
    settings = _settings(options, recipe, data) | task.settings(options.data, recipe)
    with run_folder(out, settings, options.resume) as work:
        logger.info(data_table(data))
        model.summary(expand_nested=True, line_length=100, print_fn=logger.info)

        if options.overfit_batch:
            _check_overfit(options, recipe, task, train_clips, work)
        config = replace(recipe.training, monitor=task.monitor)
        logs = work / "tensorboard" if options.tensorboard else None
        parts = train_clips, splits["validation"]
        record = fit_clips(model, options, recipe, *parts, config, work / CHECKPOINTS, task.score(), logs)
        write_text(work / "history.csv", history_csv(record))
        figure = plots.learning_curves(record.history, record.best_epoch)
        plots.save_figure(figure, work / "figures/learning_curves.png")

        model, evaluations, trained_on = _evaluate(model, options, recipe, task, data, record, work)

        facts = {
            "epochs": record.epochs,
            "best_epoch": record.best_epoch,
            "seconds_per_epoch": record.seconds_per_epoch,
            "devices": len(find_devices(options.devices)),
            "model_trained_on": trained_on["saved"],
            "judged_model_trained_on": trained_on["evaluated"],
            **task.model_metrics(model, recipe),
        }
        warning = _warning(task, recipe, evaluations["test"], splits["test"])
        card = save(model, work, _card(options, recipe, task, data) | warning, examples(splits["test"], recipe))
        write_clips(work, data, trained_on["saved"], options.source)
        write_clip_figures(work / "figures", task, model, recipe, splits["test"], data.beat)
        metrics = write_evaluation(work, task, data, evaluations, card, facts | warning)
    logger.info(f"\n{task.heading}, {len(splits['test'])} clips, trained on {trained_on['evaluated']}:")
    logger.info(task.table(metrics["test"]))
    if warning:
        logger.warning(f"warning: {warning['warning']}")
    logger.info(f"Report: {out / 'report.html'}")
    return metrics


def _warning(task: Task, recipe: Recipe, evaluation: Evaluation, clips: Clips) -> dict[str, str]:
    """Returns a warning for card and metrics if the model is not clearly better than a constant answer, with advice."""
    found = task.no_better(evaluation.report, clips)
    if found is None:
        return {}
    is_best = recipe.backbone in (KERNEL.backbone, PRETRAINED.backbone)
    return {"warning": f"{found}: {'give more songs' if is_best else 'try the recipe best, or give more songs'}"}


def with_trunk(options: TrainOptions) -> TrainOptions:
    """Returns the options with the recipe's trunk as the source, if they have no source.

    If a part of the trunk is trained too, there is no refit, and the recipe's learning rate, which is for a head, is
    replaced by a lower one. If the whole trunk is trained, now or later, the batch size is smaller too.
    """
    recipe = options.recipe
    if not recipe.trunk:
        return options
    if options.source is None:
        options = replace(options, source=Path(recipe.trunk))
    blocks = 2 if recipe.features == "mean" else 3
    frozen = options.frozen == "all" or (options.frozen.isdecimal() and int(options.frozen) >= blocks)
    if frozen and options.unfreeze_after is None:
        return options
    recipe = replace(recipe, refit=False)
    whole = options.frozen == "none" or options.unfreeze_after is not None
    if whole and recipe.batch_size == PRETRAINED.batch_size:
        recipe = replace(recipe, batch_size=TRUNK_BATCH_SIZE)
    if not frozen and recipe.learning_rate == PRETRAINED.learning_rate:
        recipe = replace(recipe, learning_rate=TRUNK_LEARNING_RATE)
    return replace(options, recipe=recipe)


def default_out(options: TrainOptions, task: Task) -> Path:
    """Returns saved_models/<task>_<backbone>, or saved_models/<task>_<backbone>_transfer with a source."""
    transfer = "_transfer" if options.source is not None and not options.recipe.trunk else ""
    return Path("saved_models") / f"{task.run_name}_{resolve_recipe(options).backbone}{transfer}"


def refuse_early(options: TrainOptions) -> None:
    """Raises UserError for options that are wrong for any data."""
    recipe = options.recipe
    starts = options.source is not None or bool(recipe.trunk)
    if options.frozen != "none" and not starts:
        raise UserError("Expected `source` with `freeze`: only a trained backbone can be frozen")
    if options.transfer != "all" and not starts:
        raise UserError("Expected `source` with `transfer`: only a trained backbone has blocks to transfer")
    if options.unfreeze_after is not None and (options.frozen == "none" or options.unfreeze_after < 1):
        raise UserError("Expected `unfreeze_after` of 1 or more, and `freeze` all or N: it unfreezes frozen blocks")
    if options.unfreeze_after is not None and options.unfreeze_after >= recipe.epochs:
        raise UserError(
            f"Expected `unfreeze_after` below `epochs`, {recipe.epochs}, got {options.unfreeze_after}: "
            "nothing would be unfrozen"
        )
    for name in ("epochs", "batch_size", "units", "layers", *(["frames"] if recipe.frames is not None else [])):
        if getattr(recipe, name) < 1:
            raise UserError(f"Expected `{name}` of 1 or more, got {getattr(recipe, name)}")
    if not 0 < recipe.learning_rate < math.inf:
        raise UserError(f"Expected `learning_rate` above 0, got {recipe.learning_rate}")
    if options.tensorboard:
        require("tensorboard", "`tensorboard`")
    if (devices := len(find_devices(options.devices))) > recipe.batch_size:
        raise UserError(
            f"Expected `batch_size` of {devices} or more for {devices} devices, got {recipe.batch_size}: "
            "each device gets a part of every batch"
        )


def resolve_recipe(options: TrainOptions) -> Recipe:
    """Returns the recipe, with the architecture in the card of the source if there is one. Only `frames` may differ."""
    if options.source is None:
        return options.recipe
    card = read_card(locate(options.source)[0])
    recipe = recipe_from_card(card, options.recipe)
    own = ("features", "dropout") if card["task"] == "tags" else ()  # the dropout is that of the neck
    kept = {name: getattr(options.recipe, name) for name in own}
    return replace(recipe, frames=options.recipe.frames or recipe.frames, **kept)


def require_source_rate(options: TrainOptions, data: FolderData) -> None:
    """Raises UserError if the source was trained on clips of the other frame rate."""
    if options.source is not None:
        beat = bool(read_card(locate(options.source)[0])["beat"])
        require_rate(data.beat, data.folder, beat, options.source)


def _settings(options: TrainOptions, recipe: Recipe, data: FolderData) -> dict[str, Any]:
    """The settings that the result of any task depends on."""
    return {
        **asdict(recipe),
        "data": data.fingerprint,
        "from": content_hash(locate(options.source)[1]) if options.source else None,
        "freeze": options.frozen,
        **{name: getattr(options, name) for name in ("transfer", "unfreeze_after", "retrain_on_all")},
        **{name: getattr(options.data, name) for name in ("validation", "subset", "seed", "skip_bad")},
    }


def _card(options: TrainOptions, recipe: Recipe, task: Task, data: FolderData) -> dict[str, Any]:
    card = task.card(options.data) | base_card(recipe, data, options.command, options.seed)
    if options.source is not None:
        card["source"] = source_card(options.source, data, options.transfer)
        log_known_test_clips(card["source"], len(data.splits["test"]))
    return card


# --- the model


def build_model(options: TrainOptions, recipe: Recipe, task: Task, quiet: bool = False) -> keras.Model:
    """Builds a new network with this seed, on the source's backbone if there is one."""
    seed_everything(options.seed)
    backbone = build_backbone(recipe)
    loaded, frozen = list[str](), list[str]()
    if recipe.untrained:
        frozen = freeze(backbone, "all")
    elif options.source is not None:
        loaded, frozen = _transfer(backbone, options.source, options)
    model = task.add_head(backbone, recipe)
    if options.source is not None and not quiet:
        logger.info(describe(model, str(options.source), loaded, frozen))
    return model


def _transfer(backbone: keras.Model, source: Path, options: TrainOptions) -> tuple[list[str], list[str]]:
    """Loads and freezes layers of the backbone. Returns their names. Raises UserError for frozen random weights."""
    loaded = set_backbone_weights(backbone, load_backbone(source), source, options.transfer)
    frozen = freeze(backbone, options.frozen)
    if fresh := [name for name in frozen if backbone.get_layer(name).weights and name not in loaded]:
        raise UserError(
            f"Expected `freeze` of transferred blocks only, got {fresh[0]} frozen with random weights: "
            f"`transfer={options.transfer}`, `freeze={options.frozen}`"
        )
    return loaded, frozen


# --- fitting it


def overfit(
    options: TrainOptions, recipe: Recipe, task: Task, clips: Clips, epochs: int = OVERFIT_EPOCHS
) -> list[float]:
    """Returns the values of the overfit check by epoch.

    The check has a separate network, without dropout and weight decay, which would prevent overfitting.
    """
    recipe = replace(recipe, dropout=0.0, weight_decay=0.0)
    model, dataset, _ = fittable(build_model(options, recipe, task, quiet=True), recipe, clips, None, options.seed)
    (measure, target), devices = task.overfit, find_devices(options.devices)
    return overfit_batches(model, dataset, epochs=epochs, measure=measure, target=target, devices=devices)


def _check_overfit(options: TrainOptions, recipe: Recipe, task: Task, clips: Clips, work: Path) -> None:
    """Raises UserError for a network that cannot overfit three batches."""
    measure, target = task.overfit
    losses = overfit(options, recipe, task, clips)
    require_overfit(losses, measure=measure, target=target)
    logger.info(f"Overfit check: three batches, {measure} {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} epochs")
    figure = plots.loss_curve(losses, f"Overfit check: {measure} on three batches", target)
    plots.save_figure(figure, work / "figures/loss_curve.png")


def _evaluate(
    model: keras.Model,
    options: TrainOptions,
    recipe: Recipe,
    task: Task,
    data: FolderData,
    record: TrainingRecord,
    work: Path,
) -> tuple[keras.Model, dict[str, Evaluation], dict[str, str]]:
    """Returns the model to save, the evaluations of validation and test, and the splits that each was trained on.

    The test split is evaluated once: with the model trained on train, or after a refit with the model trained on train
    and validation. If the test split is held out of the labelled clips, `retrain_on_all` saves another model, which is
    trained on all three splits.
    """
    splits, evaluated = data.splits, "train"

    def retrained(on: str) -> keras.Model:
        parts = on.split("+")
        clips = reduce(concatenate, [splits[split] for split in parts])
        logger.info(f"\nTraining a new model on {len(clips)} clips for {record.best_epoch} epochs")
        checkpoints = work / RETRAINED / str(len(parts))  # one training may have two
        return retrain(options, recipe, task, clips, record.best_epoch, checkpoints)

    evaluations = {"validation": task.evaluate(model, recipe, splits["validation"])}
    if recipe.refit or (options.retrain_on_all and not data.held_out_test):
        evaluated = "train+validation"
        model = retrained(evaluated)
    evaluations["test"] = task.evaluate(model, recipe, splits["test"])
    saved = evaluated
    if options.retrain_on_all and data.held_out_test:
        saved = "train+validation+test"
        model = retrained(saved)
    return model, evaluations, {"saved": saved, "evaluated": evaluated}


def retrain(
    options: TrainOptions, recipe: Recipe, task: Task, clips: Clips, epochs: int, checkpoints: Path | None = None
) -> keras.Model:
    """The lab's step 7: trains the same network from the start on more clips, for the best number of epochs."""
    model = build_model(options, recipe, task, quiet=True)
    fit_clips(model, options, recipe, clips, None, replace(recipe.training, epochs=epochs), checkpoints)
    return model


def fit_clips(
    model: keras.Model,
    options: TrainOptions,
    recipe: Recipe,
    train: Clips,
    validation: Clips | None,
    config: TrainingConfig,
    checkpoints: Path | None = None,
    score: Any = None,
    tensorboard: Path | None = None,
) -> TrainingRecord:
    """Trains the model in one stage. With `unfreeze_after`, a second stage trains all layers at a tenth of the rate."""
    two_stages = options.unfreeze_after is not None
    fitted, batches, held = fittable(model, recipe, train, validation, options.seed, may_unfreeze=two_stages)
    seed_everything(options.seed)
    stage = partial(
        fit,
        fitted,
        batches,
        held,
        score=score,
        tensorboard=tensorboard,
        verbose=2 if options.verbose else 0,
        progress=options.progress and not options.verbose,
        devices=find_devices(options.devices),
    )
    if options.unfreeze_after is None:
        return stage(config, checkpoints)
    frozen = replace(config, epochs=min(options.unfreeze_after, config.epochs), patience=None)
    record = stage(frozen, None if checkpoints is None else checkpoints / FROZEN_STAGE)
    if record.epochs >= config.epochs:
        return record
    logger.info(f"\nEpoch {record.epochs}: from here on all layers are trained, at a tenth of the learning rate")
    unfreeze(model)
    return stage(config, checkpoints, after=record)


def fittable(
    model: keras.Model,
    recipe: Recipe,
    train: Clips,
    validation: Clips | None,
    seed: int,
    may_unfreeze: bool = False,
) -> tuple[keras.Model, tf.data.Dataset, tf.data.Dataset | None]:
    """Returns the model to fit, and its batches for training and validation.

    New Nystroem features are adapted to the train clips. If the backbone is frozen and stays frozen, only the head is
    fitted, on features that are computed once. Otherwise the whole model is fitted on spectrograms.
    """
    backbone = model.get_layer("backbone")
    nystroem.adapt(backbone, batches_of(train, recipe), seed)
    parts = None if may_unfreeze else kept_parts(model, train)
    if parts and is_fixed(backbone):
        nystroem.adapt(parts[1], kept_batches(parts[0], train, recipe), seed)
    else:
        nystroem.adapt(model, batches_of(train, recipe), seed)
    if parts:
        batches = kept_batches(parts[0], train, recipe, shuffle=True, seed=seed)
        return parts[1], batches, kept_batches(parts[0], validation, recipe) if validation is not None else None
    held = batches_of(validation, recipe) if validation is not None else None
    if may_unfreeze or not is_fixed(backbone):
        require_memory(backbone, min(recipe.batch_size, len(train)), recipe.frames)
        return model, batches_of(train, recipe, shuffle=True, seed=seed), held
    batches = embedded(backbone, batches_of(train, recipe), recipe.batch_size, shuffle=True, seed=seed)
    return head_alone(model), batches, embedded(backbone, held, recipe.batch_size) if held is not None else None


def batches_of(clips: Clips, recipe: Recipe, shuffle: bool = False, seed: int = 0) -> tf.data.Dataset:
    """Makes batches of clips. They are cached in memory if they fit. Clips of any length are grouped by length."""
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
    """An upper bound of the clips' size in memory as float32, by the arrays' headers. Exact if `frames` is None."""
    cut = recipe.frames
    frames = len(clips) * cut if cut is not None else sum(array_frames(path) for path in clips.paths)
    return frames * FEATURE_BINS[recipe.feature] * 4


def _buckets(clips: Clips, recipe: Recipe) -> int:
    """Up to four groups, each with two batches or more, because smaller groups have many incomplete batches."""
    return max(1, min(4, len(clips) // (2 * recipe.batch_size)))

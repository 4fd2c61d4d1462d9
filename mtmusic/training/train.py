"""What the training jobs share: checked splits to a trained network, judged, with all that a resume needs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mtmusic.constants import FEATURE_BINS
from mtmusic.data.folder import Checks, FolderData, require_rate
from mtmusic.data.labels import Clips, concatenate
from mtmusic.data.pipeline import make_dataset
from mtmusic.data.spectrograms import array_frames
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.files import content_hash, write_text
from mtmusic.models import nystroem as kernel
from mtmusic.models import saving as export
from mtmusic.models.distribution import find_devices
from mtmusic.models.frozen import embedded, head_alone, is_fixed
from mtmusic.models.trainer import (
    OVERFIT_EPOCHS,
    OVERFIT_LOSS,
    Score,
    TrainingConfig,
    TrainingRecord,
    fit,
    history_csv,
    overfit_batches,
    require_learnt,
)
from mtmusic.models.transfer import describe, freeze, load_backbone, set_backbone_weights, unfreeze
from mtmusic.training import run_folder as runs
from mtmusic.training.recipes import LAB_CNN, Recipe, build_backbone, from_card

MEMORY_CACHE_BYTES = 2 * 2**30
"""A split larger than this as float32 is read anew each epoch, so that memory does not grow with the folder."""

Head = Callable[..., keras.Model]
"""A backbone to a compiled model."""

Judge = Callable[[keras.Model, dict[str, Clips]], dict[str, Any]]
"""A model and splits to a judgement of each."""


@dataclass(frozen=True)
class TrainOptions:
    """All that a training job is told, whatever it learns.

    out: None is a folder in saved_models/ named after the task and the backbone. data: None is the demo corpus; beat:
    None is told from the folder. source: a run whose backbone, architecture and all, is started from. transfer: "all"
    of its weights, or those of its first N blocks. freeze: of that backbone. unfreeze_after: epochs after which all of
    it is trained, at a tenth of the rate; None: never. checks: see folders.Checks. devices: a number, or "all", see
    replicas.find_devices; but for rounding and dropout the result does not depend on it, so a resume may give another.
    """

    out: Path | None = None
    data: Path | None = None
    recipe: Recipe = LAB_CNN
    source: Path | None = None
    transfer: str = "all"
    freeze: str = "none"
    unfreeze_after: int | None = None
    beat: bool | None = None
    validation: float = 0.2
    subset: int | None = None
    seed: int = 0
    overfit_batch: bool = False
    retrain_on_all: bool = False
    skip_bad: bool = False
    checks: Checks = "on"
    resume: bool = False
    overwrite: bool = False
    tensorboard: bool = False
    devices: str = "1"
    command: str = ""


@dataclass(frozen=True)
class Objective:
    """What is learnt: where genre and affect differ while they train.

    head: puts a compiled head on a backbone. monitor: the log that chooses the epoch, the lower the better.
    overfit: the log, and the value under it, that show that a few batches were learnt by heart. settings: what the
    result depends on beside options and data. test_held_out: the test split was made of labelled clips, so that the
    model that is shipped may learn from it too, once another has been judged on it.
    """

    head: Head
    monitor: str = "val_loss"
    score: Score | None = None
    overfit: tuple[str, float] = ("loss", OVERFIT_LOSS)
    settings: Mapping[str, Any] = field(default_factory=dict)
    test_held_out: bool = False


@dataclass(frozen=True)
class Trained:
    """model: what is shipped. judgement: of validation and test. facts: what metrics.json tells of the training."""

    model: keras.Model
    judgement: dict[str, Any]
    facts: dict[str, Any]


def refuse_early(options: TrainOptions) -> None:
    """What needs no data to be known wrong. Raises UserError."""
    if options.freeze != "none" and options.source is None:
        raise UserError("Expected --from RUN beside --freeze: only a trained backbone can be frozen")
    if options.transfer != "all" and options.source is None:
        raise UserError("Expected --from RUN beside --transfer: only a trained backbone has blocks to transfer")
    if options.unfreeze_after is not None and (options.freeze == "none" or options.unfreeze_after < 1):
        raise UserError("Expected --unfreeze-after of 1 or more epochs, and --freeze all or N for the epochs before")
    if options.unfreeze_after is not None and options.unfreeze_after >= options.recipe.epochs:
        raise UserError(
            f"Expected --unfreeze-after below --epochs {options.recipe.epochs}, got {options.unfreeze_after}: "
            "nothing would be unfrozen"
        )
    for name in ("epochs", "batch_size", "units", "layers"):
        if getattr(options.recipe, name) < 1:
            raise UserError(f"Expected --{name.replace('_', '-')} of 1 or more, got {getattr(options.recipe, name)}")
    if not 0 < options.recipe.learning_rate < math.inf:
        raise UserError(f"Expected --learning-rate above 0, got {options.recipe.learning_rate}")
    if (devices := len(find_devices(options.devices))) > options.recipe.batch_size:
        raise UserError(
            f"Expected --batch-size of {devices} or more for {devices} devices, got {options.recipe.batch_size}: "
            "each takes a share of every batch"
        )
    if options.recipe.frames is not None and options.recipe.frames < 1:
        raise UserError(f"Expected --frames of 1 or more, got {options.recipe.frames}")


def resolve_recipe(options: TrainOptions) -> Recipe:
    """The recipe, with the architecture of the source's card where there is one; --frames alone may differ from it."""
    if options.source is None:
        return options.recipe
    recipe = from_card(export.read_card(export.locate(options.source)[0]), options.recipe)
    return replace(recipe, frames=options.recipe.frames or recipe.frames)


def finished(out: Path, resume: bool) -> dict[str, Any] | None:
    """The metrics of a run that has nothing left to resume, which is said; else None, where `out` may be written."""
    if done := runs.finished(out, resume):
        print(f"{out} is a finished run: nothing to resume. It was made by: {export.read_card(out).get('command')}")
    return done


def refuse_other_rate(options: TrainOptions, data: FolderData) -> None:
    """Raises UserError where the source was trained on clips of the other frame rate."""
    if options.source is not None:
        beat = bool(export.read_card(export.locate(options.source)[0])["beat"])
        require_rate(data.beat, data.folder, beat, options.source)


def settings_of(options: TrainOptions, recipe: Recipe, objective: Objective, data: FolderData) -> dict[str, Any]:
    """All that the result depends on."""
    names = ("transfer", "freeze", "unfreeze_after", "validation", "subset", "seed", "retrain_on_all", "skip_bad")
    return {
        **asdict(recipe),
        "data": data.fingerprint,
        "from": content_hash(export.locate(options.source)[1]) if options.source else None,
        **{name: getattr(options, name) for name in names},
        **objective.settings,
    }


def build_model(options: TrainOptions, recipe: Recipe, objective: Objective, quiet: bool = False) -> keras.Model:
    """A fresh network of this seed, on the source's backbone where there is one."""
    runs.seed_everything(options.seed)
    backbone = build_backbone(recipe)
    loaded, frozen = _transfer(backbone, options.source, options) if options.source is not None else ([], [])
    model = objective.head(backbone)
    if options.source is not None and not quiet:
        print(describe(model, str(options.source), loaded, frozen))
    return model


def _transfer(backbone: keras.Model, source: Path, options: TrainOptions) -> tuple[list[str], list[str]]:
    """The layers that got the source's weights, and those that are frozen. Raises UserError where one is fresh."""
    loaded = set_backbone_weights(backbone, load_backbone(source)[0], source, options.transfer)
    frozen = freeze(backbone, options.freeze)
    if fresh := [name for name in frozen if backbone.get_layer(name).weights and name not in loaded]:
        raise UserError(
            f"Expected --freeze of blocks that are transferred, got {fresh[0]} frozen and fresh: "
            f"--transfer {options.transfer}, --freeze {options.freeze}"
        )
    return loaded, frozen


def train_and_judge(
    model: keras.Model,
    options: TrainOptions,
    recipe: Recipe,
    objective: Objective,
    splits: dict[str, Clips],
    judge: Judge,
    work: Path,
) -> Trained:
    """Trains, and judges the test split once; writes history.csv and the curves.

    With retrain_on_all the model that is shipped is trained anew on train and validation, and judged; on all three,
    where the test split was held out, after the first one has been judged.
    """
    if options.overfit_batch:
        _check_overfit(options, recipe, objective, splits["train"], work)
    record = _train(model, options, recipe, objective, splits, work)
    write_text(work / "history.csv", history_csv(record))
    figure = plots.learning_curves(record.history, record.best_epoch)
    plots.save_figure(figure, work / "figures/learning_curves.png")

    judgement = judge(model, {"validation": splits["validation"]})
    learnt = judged = ["train"]
    if options.retrain_on_all and objective.test_held_out:
        judgement |= judge(model, {"test": splits["test"]})
        learnt = ["train", "validation", "test"]
    elif options.retrain_on_all:
        learnt = judged = ["train", "validation"]
    if options.retrain_on_all:
        model = _retrain(options, recipe, objective, [splits[split] for split in learnt], record, work)
    if "test" not in judgement:
        judgement |= judge(model, {"test": splits["test"]})
    facts = {
        "epochs": record.epochs,
        "best_epoch": record.best_epoch,
        "seconds_per_epoch": record.seconds_per_epoch,
        "devices": len(find_devices(options.devices)),
        "model_trained_on": "+".join(learnt),
        "judged_model_trained_on": "+".join(judged),
    }
    return Trained(model, judgement, facts)


def overfit(
    options: TrainOptions, recipe: Recipe, objective: Objective, clips: Clips, epochs: int = OVERFIT_EPOCHS
) -> list[float]:
    """The overfit check's values by epoch, on a network of its own, so that a training starts from fresh weights.

    Without dropout and weight decay, which are there to keep a network from learning by heart.
    """
    objective = replace(objective, head=partial(objective.head, weight_decay=0.0))
    model = build_model(options, replace(recipe, dropout=0.0), objective, quiet=True)
    model, dataset, _ = learner(model, recipe, clips, None, options.seed)
    measure, target = objective.overfit
    devices = find_devices(options.devices)
    return overfit_batches(model, dataset, epochs=epochs, measure=measure, target=target, devices=devices)


def _check_overfit(options: TrainOptions, recipe: Recipe, objective: Objective, clips: Clips, work: Path) -> None:
    """Raises UserError for a network that cannot learn three batches."""
    measure, target = objective.overfit
    losses = overfit(options, recipe, objective, clips)
    require_learnt(losses, measure=measure, target=target)
    print(f"Overfit check: three batches, {measure} {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} epochs")
    figure = plots.loss_curve(losses, f"Overfit check: {measure} on three batches", target)
    plots.save_figure(figure, work / "figures/loss_curve.png")


def _train(
    model: keras.Model,
    options: TrainOptions,
    recipe: Recipe,
    objective: Objective,
    splits: dict[str, Clips],
    work: Path,
) -> TrainingRecord:
    config = replace(recipe.training, monitor=objective.monitor)
    tensorboard = work / "tensorboard" if options.tensorboard else None
    parts = splits["train"], splits["validation"]
    return _fit(model, recipe, *parts, options, config, objective.score, work / runs.CHECKPOINTS, tensorboard)


def _retrain(
    options: TrainOptions,
    recipe: Recipe,
    objective: Objective,
    parts: list[Clips],
    record: TrainingRecord,
    work: Path,
) -> keras.Model:
    """The lab's step 7: the same network from the start, on more clips, for the epochs that were best."""
    clips = reduce(concatenate, parts)
    print(f"\nTraining anew on {len(clips)} clips, {record.best_epoch} epochs")
    model = build_model(options, recipe, objective, quiet=True)
    config = replace(recipe.training, epochs=record.best_epoch)
    checkpoints = work / runs.RETRAINED / str(len(parts))  # in one training there may be two
    _fit(model, recipe, clips, None, options, config, None, checkpoints)
    return model


def _fit(
    model: keras.Model,
    recipe: Recipe,
    train: Clips,
    validation: Clips | None,
    options: TrainOptions,
    config: TrainingConfig,
    score: Score | None,
    checkpoints: Path,
    tensorboard: Path | None = None,
) -> TrainingRecord:
    """In one stage; with unfreeze_after in two: what is frozen, then everything at a tenth of the rate."""
    fixed = options.unfreeze_after is None
    learning, batches, judged = learner(model, recipe, train, validation, options.seed, fixed)
    runs.seed_everything(options.seed)
    stage = partial(
        fit,
        learning,
        batches,
        judged,
        score=score,
        tensorboard=tensorboard,
        verbose=runs.verbosity(),
        devices=find_devices(options.devices),
    )
    if options.unfreeze_after is None:
        return stage(config, checkpoints)
    frozen = replace(config, epochs=min(options.unfreeze_after, config.epochs), patience=None)
    record = stage(frozen, checkpoints / runs.FROZEN_STAGE)
    if record.epochs >= config.epochs:
        return record
    print(f"\nEpoch {record.epochs}: everything is trained from here on, at a tenth of the rate")
    unfreeze(model)
    return stage(config, checkpoints, after=record)


def learner(
    model: keras.Model, recipe: Recipe, train: Clips, validation: Clips | None, seed: int, fixed: bool = True
) -> tuple[keras.Model, tf.data.Dataset, tf.data.Dataset | None]:
    """What is to be fitted, and its batches to learn from, in another order each epoch, and to be judged by.

    A kernel that is fresh takes the train clips as its centres. Where the backbone is fixed, and not to be unfrozen, it
    is the head alone, on features that are computed once; else the model, on spectrograms.
    """
    backbone = model.get_layer("backbone")
    kernel.adapt(backbone, batches_of(train, recipe), seed)
    judged = batches_of(validation, recipe) if validation is not None else None
    if not fixed or not is_fixed(backbone):
        return model, batches_of(train, recipe, shuffle=True, seed=seed), judged
    batches = embedded(backbone, batches_of(train, recipe), recipe.batch_size, shuffle=True, seed=seed)
    return head_alone(model), batches, embedded(backbone, judged, recipe.batch_size) if judged is not None else None


def batches_of(clips: Clips, recipe: Recipe, shuffle: bool = False, seed: int = 0) -> tf.data.Dataset:
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


def count_learnt(splits: Mapping[str, Clips], retrain_on_all: bool) -> int:
    """Clips that a network may learn from."""
    return sum(len(clips) for split, clips in splits.items() if split == "train" or retrain_on_all)


def _bytes(clips: Clips, recipe: Recipe) -> int:
    """Upper bound of the clips' size in memory as float32, by the arrays' headers; exact where `frames` is None."""
    cut = recipe.frames
    frames = len(clips) * cut if cut is not None else sum(array_frames(path) for path in clips.paths)
    return frames * FEATURE_BINS[recipe.feature] * 4


def _buckets(clips: Clips, recipe: Recipe) -> int:
    """Up to four, with two batches or more in each: smaller ones would make many part-filled batches."""
    return max(1, min(4, len(clips) // (2 * recipe.batch_size)))

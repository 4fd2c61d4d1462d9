"""Recipes and baselines on the same folds of a data folder: scores with intervals, paired, and what they cost."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from mtmusic.data.folder import (
    FolderData,
    LoadOptions,
    data_table,
    load_pool,
    pooled_clips,
    require_labels,
)
from mtmusic.data.labels import ALONE, Clips, is_genre_folder
from mtmusic.data.pipeline import make_dataset
from mtmusic.data.spectrograms import read_array
from mtmusic.data.splits import hold_out, k_fold
from mtmusic.errors import UserError
from mtmusic.evaluation.bootstrap import Fold, cross_scores, scores_table
from mtmusic.evaluation.reports.crossval import write_cross_page
from mtmusic.files import refuse_other_things, replace_folder, write_json
from mtmusic.models.distribution import find_devices
from mtmusic.models.precision import supported
from mtmusic.training.affect import AffectTask
from mtmusic.training.crossval.baselines import (
    AFFECT_BASELINES,
    CONSTANTS,
    GENRE_BASELINES,
    baseline_predictions,
    pooled_statistics,
)
from mtmusic.training.crossval.records import (
    Training,
    is_done,
    read_costs,
    read_json,
    read_predictions,
    write_training,
)
from mtmusic.training.genre import GenreTask
from mtmusic.training.recipes import Recipe, fill_in, named_recipe
from mtmusic.training.run_folder import versions
from mtmusic.training.task import Task
from mtmusic.training.train import TrainOptions, build_model, fit_clips, refuse_early, resolve_recipe, with_trunk

SETTINGS, RESULTS = "settings.json", "results.json"
logger = logging.getLogger(__name__)
LARGEST_SEED = 2**32 - 1
FEW_GROUPS = 10
TIMED_CLIPS = 8
VALIDATION = 0.2
"""Of a fold's training clips, to choose the epoch by."""


@dataclass(frozen=True)
class CrossOptions:
    """A cross-validation of recipes and baselines on a genre or an affect folder.

    recipes: names; baseline: those of the folder's kind too. seeds: how many trainings of each recipe on each fold,
    from the data's seed on, which also makes the folds. groups: a file in the place of groups.csv. task: of an affect
    folder; None: all, trained together where there are several. epochs, precision: for every recipe, the first at the
    most. devices: see distribution.find_devices. transfer: the fields of TrainOptions that say what every network
    starts from.
    """

    data: LoadOptions
    recipes: tuple[str, ...] = ()
    baseline: bool = False
    folds: int = 5
    seeds: int = 3
    groups: Path | None = None
    task: str | None = None
    multitask: bool = False
    epochs: int | None = None
    precision: str | None = None
    devices: str = "1"
    transfer: Mapping[str, Any] = field(default_factory=dict)
    out: Path | None = None
    overwrite: bool = False
    command: str = ""

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.data.seed, self.data.seed + self.seeds))


@dataclass(frozen=True)
class Cut:
    """rest, test: of one fold; test_splits: the split in the folder of each test clip."""

    rest: Clips
    test: Clips
    test_splits: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A folder's pooled clips, cut into folds, and what is to be trained on them."""

    data: FolderData
    clips: Clips
    cuts: tuple[Cut, ...]
    out: Path
    options: CrossOptions

    @property
    def task(self) -> Task:
        """Of all clips: a training takes its labels from the fold's train clips."""
        tasks, classes = self.clips.tasks, self.clips.classes
        return AffectTask(tasks, multitask=len(tasks) > 1) if tasks else GenreTask(classes=classes)

    @cached_property
    def features(self) -> tuple[dict[Path, np.ndarray], float]:
        """The pooled statistics of each array, and the milliseconds that a clip took once it was read."""
        features, spent = {}, 0.0
        for path in self.clips.paths:
            array = read_array(path)
            started = time.perf_counter()
            features[path] = pooled_statistics(array)
            spent += time.perf_counter() - started
        return features, 1000 * spent / len(self.clips)

    @property
    def baselines(self) -> tuple[str, ...]:
        return GENRE_BASELINES if self.clips.classes else AFFECT_BASELINES

    def trainings(self, name: str) -> list[Training]:
        """Of a recipe, or of a baseline, which has no seed to vary. Raises UserError for a name that is neither."""
        options, folds = self.options, range(1, self.options.folds + 1)
        if name in self.baselines:
            return [Training(name, fold, options.data.seed) for fold in folds]
        recipe = named_recipe(name, multitask=len(self.clips.tasks) > 1, beat=self.data.beat)
        recipe = replace(
            recipe, epochs=options.epochs or recipe.epochs, precision=supported(options.precision or recipe.precision)
        )
        return [Training(name, fold, seed, recipe) for fold in folds for seed in options.all_seeds]


def cross_validate(options: CrossOptions) -> dict[str, Any]:
    """Does the trainings that are not done yet, and writes results.json and report.html; returns what the first holds.

    Every labelled clip is in the test part of one fold, and no group in two. What was finished in the folder before,
    on the same folds and seeds, is told beside. Raises UserError for what the user can mend, before the first training
    wherever that can be known.
    """
    options = replace(options, recipes=tuple(dict.fromkeys(options.recipes)))
    if not options.recipes and not options.baseline:
        options = replace(options, recipes=("best",))
    _refuse_early(options)
    study = _study(options)
    out = study.out
    if options.overwrite:  # the old one goes when the new one is whole
        refuse_other_things(out, SETTINGS)
        study = replace(study, out=out.with_name(f"{out.name}.partial"))
        shutil.rmtree(study.out, ignore_errors=True)
    _open(study)
    trainings = _trainings(study)
    waiting = [training for training in trainings if not is_done(study.out, training)]
    for training in trainings:
        if training not in waiting:
            read_predictions(study.out, training, study.task, study.cuts[training.fold - 1].test)
    logger.info(data_table(study.data))
    _log_groups(study)
    with tqdm(total=len(trainings), initial=len(trainings) - len(waiting), unit="training") as bar:
        for training in waiting:
            bar.set_description(f"{training.name}, fold {training.fold}, seed {training.seed}")
            _train(study, training)
            bar.update()
    results = _results(study, trainings)
    if study.out != out:
        replace_folder(study.out, out)
    logger.info(f"\n{scores_table(results)}\nReport: {out / 'report.html'}")
    return results


def _log_groups(study: Study) -> None:
    """What makes scores too good, or intervals too narrow."""
    groups = study.clips.groups
    named = study.options.groups is not None or any(clips.groups is not None for clips in study.data.splits.values())
    if groups is None or not named:
        return
    if alone := sum(name.startswith(ALONE) for name in groups):
        logger.info(
            f"{alone} of {len(groups)} clips are in no group: where they have something in common, scores are too high"
        )
    if (fewest := min(len({*_groups(cut.test)}) for cut in study.cuts)) < FEW_GROUPS:
        logger.info(f"A fold has {fewest} groups: intervals, which are drawn over groups, are too narrow")


def _trainings(study: Study) -> list[Training]:
    """Of what is asked for, and of what was finished here before: a comparison grows, and loses nothing."""
    options, path = study.options, study.out / RESULTS
    asked = [*options.recipes, *(study.baselines if options.baseline else ())]
    before = read_json(path, "recipes")["recipes"] if path.is_file() else {}
    kept = [name for name in before if name not in asked and _is_finished(study, name)]
    for name in before:
        if name not in [*asked, *kept]:
            logger.info(f"Left out: {name}, which was trained here with other settings or seeds")
    return [training for name in [*asked, *kept] for training in study.trainings(name)]


def _is_finished(study: Study, name: str) -> bool:
    try:
        return all(is_done(study.out, training) for training in study.trainings(name))
    except UserError:  # by another recipe of that name
        return False


def _refuse_early(options: CrossOptions) -> None:
    for name, least in (("folds", 2), ("seeds", 1)):
        if getattr(options, name) < least:
            raise UserError(f"Expected `{name}` of {least} or more, got {getattr(options, name)}")
    if options.all_seeds[-1] > LARGEST_SEED:
        raise UserError(f"Expected `seed` and `seeds` up to the seed {LARGEST_SEED}, got {options.data.seed} and more")
    if options.epochs is not None and options.epochs < 1:
        raise UserError(f"Expected `epochs` of 1 or more, got {options.epochs}")
    if options.task is not None and options.multitask:
        raise UserError("Expected `task` or `multitask=True`, got both")
    devices = len(find_devices(options.devices))
    for name in options.recipes:
        if devices > (largest := named_recipe(name).batch_size):
            raise UserError(
                f"Expected `devices` of {largest} at most, got {devices}: each takes a share of every batch of {name}"
            )


def _study(options: CrossOptions) -> Study:
    folder = options.data.folder
    if is_genre_folder(folder) and (options.task is not None or options.multitask):
        raise UserError(f"Expected `task` and `multitask` with an affect folder, got a genre folder: {folder}")
    data = load_pool(options.data, (options.task,) if options.task is not None else None)
    clips, splits = pooled_clips(data, options.groups)
    if options.multitask and len(clips.tasks) < 2:
        raise UserError(f"Expected two tasks or more for `multitask=True`, got {clips.tasks[0]} in {folder}")
    task = f"_{options.task}" if options.task is not None else ""
    out = options.out or Path("saved_models") / f"cross_validation_{folder.resolve().name}{task}"
    return Study(data, clips, tuple(_cuts(clips, splits, options)), out, options)


def _cuts(clips: Clips, splits: Sequence[str], options: CrossOptions) -> Iterator[Cut]:
    """Raises UserError where a fold has too few clips, or labels of a task, to learn from or to judge by."""
    split_of = dict(zip(clips.paths, splits, strict=True))
    for number, (rest, test) in enumerate(k_fold(clips, options.folds, options.data.seed), 1):
        seeds = options.all_seeds if options.recipes else ()
        trains = [hold_out(rest, VALIDATION, seed)[0] for seed in seeds]
        for part in (rest, *trains):
            _require_learnable(part, f"among the clips to learn from in fold {number} (fewer `folds`?)")
        if clips.tasks:
            require_labels(test, f"among the clips to judge by in fold {number} (fewer `folds`?)")
        yield Cut(rest, test, tuple(split_of[path] for path in test.paths))


def _require_learnable(clips: Clips, where: str) -> None:
    if clips.tasks:
        require_labels(clips, where)
    elif len(set(clips.targets)) < 2:
        raise UserError(f"Expected two classes or more, got {clips.classes[clips.targets[0]]} alone {where}")


def _open(study: Study) -> None:
    """Makes the folder, or goes on in it. Raises UserError where it was made with other settings."""
    refuse_other_things(study.out, SETTINGS)
    path, options, clips = study.out / SETTINGS, study.options, study.clips
    groups = list(clips.groups) if clips.groups is not None else None
    settings: dict[str, Any] = {
        "data": study.data.fingerprint,
        "groups": groups,
        "tasks": list(clips.tasks),
        "classes": list(clips.classes),
        "folds": options.folds,
        "seed": options.data.seed,
        "beat": study.data.beat,
    }
    if options.transfer:
        settings["transfer"] = {name: str(value) for name, value in options.transfer.items()}
    settings = json.loads(json.dumps(settings))
    before = read_json(path) if path.is_file() else settings
    names = {**settings, "transfer": None}
    if differing := [name for name in names if before.get(name) != settings.get(name)]:
        raise UserError(
            f"Cannot go on in {study.out}: it was made with other {' and '.join(differing)}; give the same settings, "
            "another `out`, or `overwrite=True`"
        )
    write_json(path, settings)


def _train(study: Study, training: Training) -> None:
    cut = study.cuts[training.fold - 1]
    if training.name in study.baselines and training.name not in CONSTANTS:
        _ = study.features  # computed once: no part of the first training's time
    started = time.perf_counter()
    recipe = training.settings
    predictions, costs = _baseline(study, training, cut) if recipe is None else _network(study, training, cut, recipe)
    costs["seconds"] = time.perf_counter() - started
    write_training(study.out, training, study.task, cut.test, cut.test_splits, predictions, costs)


def _baseline(study: Study, training: Training, cut: Cut) -> tuple[np.ndarray, dict[str, Any]]:
    """The predictions of the fold's test part, and the costs; a model is fitted to all other clips."""
    if training.name in CONSTANTS:
        nothing = np.zeros((len(cut.test), 0))
        return baseline_predictions(training.name, cut.rest, nothing, nothing), {"milliseconds_per_clip": 0.0}
    features, milliseconds = study.features
    rest, test = (np.stack([features[path] for path in clips.paths]) for clips in (cut.rest, cut.test))
    predictions = baseline_predictions(training.name, cut.rest, rest, test, training.seed)
    return predictions, {"milliseconds_per_clip": milliseconds}


def _network(study: Study, training: Training, cut: Cut, recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    """As `_baseline`: a validation part, held out by group, chooses the epoch, and the test part is predicted once.

    In memory alone: a training that is stopped starts anew.
    """
    train, validation = hold_out(cut.rest, VALIDATION, training.seed)
    task = study.task.with_labels_of(train)
    given, data = dict(study.options.transfer), replace(study.options.data, seed=training.seed)
    if given.get("freeze", "none") is None:
        given["freeze"] = "all" if recipe.trunk or given["unfreeze_after"] is not None else "none"
    options = with_trunk(TrainOptions(data, recipe=recipe, devices=study.options.devices, **given))
    refuse_early(options)
    recipe = fill_in(
        resolve_recipe(options), task.frames[study.data.beat], {"train": train}, feature=study.data.feature
    )
    model = build_model(options, recipe, task)
    record = fit_clips(model, options, recipe, train, validation, replace(recipe.training, monitor=task.monitor))
    predictions = task.predict(model, recipe, cut.test)
    costs = {
        "parameters": model.count_params(),
        "epochs": record.epochs,
        "best_epoch": record.best_epoch,
        "seconds_per_epoch": record.seconds_per_epoch,
        "milliseconds_per_clip": _milliseconds(model, recipe, validation),
    }
    keras.utils.clear_session(free_memory=True)  # the next training's model comes on top otherwise
    return predictions, costs


def _milliseconds(model: keras.Model, recipe: Recipe, clips: Clips) -> float:
    """A clip's answer, once its array is in memory and the model has seen batches of that length."""
    size = recipe.batch_size
    if recipe.backbone == "musicnn":  # its activations take 100 MB a clip and layer
        clips, size = clips.take(range(min(len(clips), TIMED_CLIPS))), 1
    batches = [spectrogram for spectrogram, _ in make_dataset(clips, recipe.feature, size, recipe.frames)]
    for batch in batches:
        model(batch, training=False)
    started = time.perf_counter()
    for batch in batches:
        model(batch, training=False)
    return 1000 * (time.perf_counter() - started) / len(clips)


def _results(study: Study, trainings: Sequence[Training]) -> dict[str, Any]:
    """results.json and the page, from the files of the trainings."""
    names = list(dict.fromkeys(training.name for training in trainings))
    predictions = {name: _read_predictions(study, [one for one in trainings if one.name == name]) for name in names}
    folds = [Fold(_groups(cut.test), cut.test.targets) for cut in study.cuts]
    scores = cross_scores(folds, predictions, study.clips.tasks, study.options.data.seed)
    for name in names:
        scores["recipes"][name]["costs"] = _costs(study, [one for one in trainings if one.name == name])
    options, clips = study.options, study.clips
    results = {
        "command": options.command,
        "kind": "affect" if clips.tasks else "genre",
        "folder": str(study.data.folder),
        "demo": study.data.demo,
        "fingerprint": study.data.fingerprint,
        "beat": study.data.beat,
        "clips": len(clips),
        "groups": len({*clips.groups}) if clips.groups is not None else len(clips),
        "folds": options.folds,
        "seeds": options.all_seeds,
        **scores,
        "versions": versions(),
    }
    write_cross_page(study.out, results, [cut.test for cut in study.cuts], predictions)
    write_json(study.out / RESULTS, results)
    return results


def _read_predictions(study: Study, trainings: Sequence[Training]) -> list[list[np.ndarray]]:
    """By fold, in it by seed."""
    return [
        [read_predictions(study.out, one, study.task, cut.test) for one in trainings if one.fold == number]
        for number, cut in enumerate(study.cuts, 1)
    ]


def _groups(clips: Clips) -> np.ndarray:
    return clips.groups if clips.groups is not None else np.arange(len(clips))


def _costs(study: Study, trainings: Sequence[Training]) -> Mapping[str, float | None]:
    """Means over the trainings; None where a model has no such thing."""
    costs = [read_costs(study.out, one) for one in trainings]
    names = ("parameters", "epochs", "best_epoch", "seconds_per_epoch", "seconds", "milliseconds_per_clip")
    return {name: float(np.mean([row[name] for row in costs])) if name in costs[0] else None for name in names}

"""Cross-validates recipes and baselines on the same folds: scores with intervals, paired differences, and costs."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from mtmusic.cards import TRUNK, locate
from mtmusic.data.folder import (
    FolderData,
    LoadOptions,
    data_table,
    load_pool,
    pooled_clips,
    require_labels,
)
from mtmusic.data.labels import ALONE, Clips, is_genre_folder
from mtmusic.data.splits import hold_out, k_fold, subset
from mtmusic.errors import UserError
from mtmusic.evaluation.bootstrap import Answers, Fold, cross_scores, scores_table
from mtmusic.evaluation.reports.crossval import write_cross_page
from mtmusic.files import refuse_other_things, replace_folder, write_json
from mtmusic.models.distribution import find_devices
from mtmusic.models.precision import supported
from mtmusic.training.affect import AffectTask
from mtmusic.training.crossval.baselines import (
    AFFECT_BASELINES,
    CONSTANTS,
    GENRE_BASELINES,
    ON_TRUNK,
    baseline_predictions,
)
from mtmusic.training.crossval.features import (
    ClipFeatures,
    milliseconds_per_clip,
    pooled_features,
    trunk_features,
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
from mtmusic.training.train import (
    TrainOptions,
    build_model,
    fit_clips,
    refuse_early,
    require_source_rate,
    resolve_recipe,
    retrain,
    with_trunk,
)

SETTINGS, RESULTS = "settings.json", "results.json"
logger = logging.getLogger(__name__)
LARGEST_SEED = 2**32 - 1
FEW_GROUPS = 10
VALIDATION = 0.2
"""Share of a fold's training clips that chooses the epoch."""


@dataclass(frozen=True)
class CrossOptions:
    """A cross-validation of recipes and baselines on a genre or an affect folder.

    recipes: names of the recipes.
    baseline: whether to also evaluate the baselines of the folder's kind.
    seeds: number of trainings of each recipe on each fold. The first seed is the data's, which also draws the folds.
    groups: a file to use instead of groups.csv.
    task: a task of an affect folder, None for all. Several tasks are trained together.
    epochs: largest number of epochs for every recipe. precision: precision for every recipe.
    frames: frames for every recipe that takes a fixed number of frames.
    devices: see `distribution.find_devices`.
    transfer: fields of TrainOptions with the source of every network.
    shares: shares of each fold's training clips, in percent. 100 is always added.
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
    frames: int | None = None
    devices: str = "1"
    transfer: Mapping[str, Any] = field(default_factory=dict)
    shares: tuple[int, ...] = (100,)
    out: Path | None = None
    overwrite: bool = False
    command: str = ""

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.data.seed, self.data.seed + self.seeds))


@dataclass(frozen=True)
class Cut:
    """One fold. rest, test: its training and test clips. test_splits: the split of each test clip in the folder."""

    rest: Clips
    test: Clips
    test_splits: tuple[str, ...]

    def at(self, share: int, seed: int) -> "Cut":
        """Reduces the training clips to a share in percent. It is stratified, and each larger share contains it.

        Clips are drawn, not groups, because a few whole groups would have too few clips of each class for a hold-out.
        No group is also in test, and a hold-out of the share still keeps groups together.
        """
        if share == 100:
            return self
        return replace(self, rest=subset(self.rest, max(1, round(len(self.rest) * share / 100)), seed))


@dataclass(frozen=True)
class Study:
    """A cross-validation: the folder's pooled clips, the folds, and the options."""

    data: FolderData
    clips: Clips
    cuts: tuple[Cut, ...]
    out: Path
    options: CrossOptions

    @property
    def task(self) -> Task:
        """The task for all clips. A training takes statistics of the labels from the fold's train clips."""
        tasks, classes = self.clips.tasks, self.clips.classes
        return AffectTask(tasks, multitask=len(tasks) > 1) if tasks else GenreTask(classes=classes)

    @cached_property
    def pooled(self) -> tuple[ClipFeatures, float]:
        """See `pooled_features`."""
        return pooled_features(self.clips)

    @cached_property
    def on_trunk(self) -> tuple[ClipFeatures, float]:
        """See `trunk_features`."""
        return trunk_features(self.clips, self.data.feature)

    @property
    def baselines(self) -> tuple[str, ...]:
        return GENRE_BASELINES if self.clips.classes else AFFECT_BASELINES

    def train_options(self, recipe: Recipe, seed: int) -> TrainOptions:
        """The options to train a recipe. Raises UserError if it cannot be trained with these options on these clips."""
        data = replace(self.options.data, seed=seed)
        options = TrainOptions(data, recipe=recipe, devices=self.options.devices, **self.options.transfer)
        options = with_trunk(options)
        refuse_early(options)
        require_source_rate(options, self.data)
        return options

    def trainings(self, name: str, share: int) -> list[Training]:
        """The trainings of a recipe or of a baseline. Raises UserError for other names.

        For a baseline, the seed only determines the share of the clips.
        """
        options, folds = self.options, range(1, self.options.folds + 1)
        if name in self.baselines:
            seeds = options.all_seeds if share < 100 else [options.data.seed]
            return [Training(name, fold, seed, share=share) for fold in folds for seed in seeds]
        recipe = named_recipe(name, multitask=len(self.clips.tasks) > 1, beat=self.data.beat)
        recipe = replace(
            recipe,
            epochs=options.epochs or recipe.epochs,
            precision=supported(options.precision or recipe.precision),
            frames=options.frames if recipe.fixed_frames and options.frames else recipe.frames,
        )
        return [Training(name, fold, seed, recipe, share) for fold in folds for seed in options.all_seeds]


def cross_validate(options: CrossOptions) -> dict[str, Any]:
    """Runs the trainings that are not finished, and writes results.json and report.html.

    Returns the content of results.json. Every labelled clip is in the test part of one fold. A group's clips stay in
    one fold. Recipes that were finished earlier in the folder, on the same folds and seeds, are included. Raises
    UserError, before the first training if possible.
    """
    shares = tuple(sorted({*options.shares, 100}))
    options = replace(options, recipes=tuple(dict.fromkeys(options.recipes)), shares=shares)
    if not options.recipes and not options.baseline:
        options = replace(options, recipes=("best",))
    _refuse_early(options)
    study = _study(options)
    for name in options.recipes:
        study.train_options(named_recipe(name, len(study.clips.tasks) > 1, study.data.beat), options.data.seed)
    out = study.out
    if options.overwrite:  # the old folder is deleted when the new one is complete
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
            bar.set_description(str(training))
            _train(study, training)
            bar.update()
    results = _results(study, trainings)
    if study.out != out:
        replace_folder(study.out, out)
    for share, row in list(results.get("shares", {}).items())[:-1]:
        logger.info(f"\n{share} % of the training clips, {row['training_clips']:.0f} clips:\n{scores_table(row)}")
    logger.info(f"\n{scores_table(results)}\nReport: {out / 'report.html'}")
    return results


def _log_groups(study: Study) -> None:
    """Logs if missing groups may make the scores too high, or if few groups make the intervals too narrow."""
    groups = study.clips.groups
    named = study.options.groups is not None or any(clips.groups is not None for clips in study.data.splits.values())
    if groups is None or not named:
        return
    if alone := sum(name.startswith(ALONE) for name in groups):
        logger.info(
            f"{alone} of {len(groups)} clips are in no group. If some of them belong together, the scores are too high."
        )
    if (fewest := min(len({*_groups(cut.test)}) for cut in study.cuts)) < FEW_GROUPS:
        logger.info(f"A fold has only {fewest} groups. Intervals are drawn over groups, so they are too narrow.")


def _trainings(study: Study) -> list[Training]:
    """The requested trainings, and those that were finished here earlier, so that a comparison can be extended."""
    options, path = study.options, study.out / RESULTS
    names = [*options.recipes, *(_asked_baselines(study) if options.baseline else ())]
    asked = [(name, share) for name in names for share in options.shares]
    results = read_json(path, "recipes") if path.is_file() else {"recipes": {}}
    before = [(name, 100) for name in results["recipes"]]
    before += [(name, int(share)) for share, row in results.get("shares", {}).items() for name in row["recipes"]]
    kept = [one for one in dict.fromkeys(before) if one not in asked and _is_finished(study, *one)]
    for name in results["recipes"]:
        if (name, 100) not in [*asked, *kept]:
            logger.info(f"Left out: {name}, which was trained here with other settings or seeds")
    return [training for one in [*asked, *kept] for training in study.trainings(*one)]


def _asked_baselines(study: Study) -> list[str]:
    """The baselines of the folder's kind. Those on the trunk need the trunk, and full-rate or logmel clips."""
    on_trunk = not study.data.beat
    try:
        locate(TRUNK)
    except UserError:
        if on_trunk:
            logger.info(
                "The baselines on the pretrained trunk are left out, because it is missing: mtmusic get-pretrained "
                "fetches it"
            )
        on_trunk = False
    return [name for name in study.baselines if on_trunk or name not in ON_TRUNK]


def _is_finished(study: Study, name: str, share: int) -> bool:
    try:
        return all(is_done(study.out, training) for training in study.trainings(name, share))
    except UserError:  # finished with other settings
        return False


def _refuse_early(options: CrossOptions) -> None:
    for name, least in (("folds", 2), ("seeds", 1)):
        if getattr(options, name) < least:
            raise UserError(f"Expected `{name}` of {least} or more, got {getattr(options, name)}")
    if options.all_seeds[-1] > LARGEST_SEED:
        raise UserError(
            f"Expected seeds up to {LARGEST_SEED}, got `seed` {options.data.seed} and `seeds` {options.seeds}"
        )
    for name in ("epochs", "frames"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"Expected `{name}` of 1 or more, got {value}")
    if options.task is not None and options.multitask:
        raise UserError("Expected `task` or `multitask=True`, got both")
    if wrong := [share for share in options.shares if not 1 <= share <= 100]:
        raise UserError(f"Expected `shares` from 1 to 100 percent, got {wrong[0]}")
    devices = len(find_devices(options.devices))
    for name in options.recipes:
        if devices > (largest := named_recipe(name).batch_size):
            raise UserError(
                f"Expected `devices` of {largest} at most, got {devices}: each gets a part of each batch of {name}"
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
    """Yields the folds. Raises UserError if a fold has too few clips, or too few labels of a task."""
    split_of = dict(zip(clips.paths, splits, strict=True))
    for number, (rest, test) in enumerate(k_fold(clips, options.folds, options.data.seed), 1):
        cut = Cut(rest, test, tuple(split_of[path] for path in test.paths))
        _require_learnable(cut, number, options)
        if clips.tasks:
            require_labels(test, f"among the test clips of fold {number}: give fewer `folds`")
        yield cut


def _require_learnable(cut: Cut, number: int, options: CrossOptions) -> None:
    where = f"among the training clips of fold {number}: give fewer `folds`"
    for share, seed in product(reversed(options.shares), options.all_seeds):
        try:
            part = cut.at(share, seed).rest
            for clips in (part, *(hold_out(part, VALIDATION, seed)[:1] if options.recipes else ())):
                if clips.tasks:
                    require_labels(clips, where)
                elif len(set(clips.targets)) < 2:
                    raise UserError(f"Expected two classes or more, got only {clips.classes[clips.targets[0]]} {where}")
        except UserError as error:
            if share == 100:
                raise
            raise UserError(f"Expected larger `shares`, got {share}: {error}") from error


def _open(study: Study) -> None:
    """Makes or continues the folder. Raises UserError if it was made with other settings."""
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
            f"Cannot continue in {study.out}: it was made with other {' and '.join(differing)}; give the same "
            "settings, another `out`, or `overwrite=True`"
        )
    write_json(path, settings)


def _train(study: Study, training: Training) -> None:
    cut = study.cuts[training.fold - 1].at(training.share, training.seed)
    if training.settings is None:
        _features(study, training.name)  # computed once, and not part of the first training's time
    started = time.perf_counter()
    recipe = training.settings
    predictions, costs = _baseline(study, training, cut) if recipe is None else _network(study, training, cut, recipe)
    costs["seconds"] = time.perf_counter() - started
    write_training(study.out, training, study.task, cut.test, cut.test_splits, predictions, costs)


def _features(study: Study, name: str) -> tuple[ClipFeatures, float]:
    """Returns the features for a baseline, and the milliseconds per clip."""
    if name in CONSTANTS:
        return dict.fromkeys(study.clips.paths, np.zeros(0)), 0.0
    return study.on_trunk if name in ON_TRUNK else study.pooled


def _baseline(study: Study, training: Training, cut: Cut) -> tuple[np.ndarray, dict[str, Any]]:
    """Fits a baseline to the training clips. Returns the predictions for the fold's test clips, and the costs."""
    features, milliseconds = _features(study, training.name)
    rest, test = (np.stack([features[path] for path in clips.paths]) for clips in (cut.rest, cut.test))
    predictions = baseline_predictions(training.name, cut.rest, rest, test, training.seed)
    return predictions, {"milliseconds_per_clip": milliseconds}


def _network(study: Study, training: Training, cut: Cut, recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    """Like `_baseline`, for a recipe. A validation part, held out by group, chooses the epoch.

    The test clips are predicted once. There are no checkpoints, so a stopped training is repeated.
    """
    train, validation = hold_out(cut.rest, VALIDATION, training.seed)
    task = study.task.with_labels_of(train)
    options = study.train_options(recipe, training.seed)
    splits = {"train": train, "validation": validation}
    recipe = fill_in(resolve_recipe(options), task.frames[study.data.beat], splits, feature=study.data.feature)
    model = build_model(options, recipe, task, quiet=True)
    record = fit_clips(model, options, recipe, train, validation, replace(recipe.training, monitor=task.monitor))
    if recipe.refit:
        model = retrain(options, recipe, task, cut.rest, record.best_epoch)
    predictions = task.predict(model, recipe, cut.test)
    costs = {
        "parameters": model.count_params(),
        "epochs": record.epochs,
        "best_epoch": record.best_epoch,
        "seconds_per_epoch": record.seconds_per_epoch,
        "milliseconds_per_clip": milliseconds_per_clip(model, recipe, validation),
    }
    keras.utils.clear_session(free_memory=True)  # else the next model needs additional memory
    return predictions, costs


def _results(study: Study, trainings: Sequence[Training]) -> dict[str, Any]:
    """Writes results.json and the page from the files of the trainings."""
    by_share = {
        share: [one for one in trainings if one.share == share] for share in sorted({one.share for one in trainings})
    }
    predictions = {share: _predictions(study, of_share) for share, of_share in by_share.items()}
    scores = {share: _scores(study, of_share, predictions[share]) for share, of_share in by_share.items()}
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
        **scores[100],
        "versions": versions(),
    }
    if len(scores) > 1:
        clips_at = {share: [len(cut.at(share, options.data.seed).rest) for cut in study.cuts] for share in scores}
        results["shares"] = {
            str(share): {"training_clips": float(np.mean(clips_at[share])), **of_share}
            for share, of_share in scores.items()
        }
    write_cross_page(study.out, results, [cut.test for cut in study.cuts], predictions[100])
    write_json(study.out / RESULTS, results)
    return results


def _scores(study: Study, trainings: Sequence[Training], predictions: Mapping[str, Answers]) -> dict[str, Any]:
    """The scores of the trainings of one share as in `cross_scores`, and the costs of each recipe."""
    folds = [Fold(_groups(cut.test), cut.test.targets) for cut in study.cuts]
    scores = cross_scores(folds, predictions, study.clips.tasks, study.options.data.seed)
    for name, row in scores["recipes"].items():
        row["costs"] = _costs(study, [one for one in trainings if one.name == name])
    return scores


def _predictions(study: Study, trainings: Sequence[Training]) -> dict[str, Answers]:
    """Reads the predictions of each recipe by fold, and within a fold by seed."""
    return {
        name: [
            [
                read_predictions(study.out, one, study.task, cut.test)
                for one in trainings
                if (one.name, one.fold) == (name, number)
            ]
            for number, cut in enumerate(study.cuts, 1)
        ]
        for name in dict.fromkeys(training.name for training in trainings)
    }


def _groups(clips: Clips) -> np.ndarray:
    return clips.groups if clips.groups is not None else np.arange(len(clips))


def _costs(study: Study, trainings: Sequence[Training]) -> Mapping[str, float | None]:
    """The mean costs of the trainings. None for costs that a model does not have."""
    costs = [read_costs(study.out, one) for one in trainings]
    names = ("parameters", "epochs", "best_epoch", "seconds_per_epoch", "seconds", "milliseconds_per_clip")
    return {name: float(np.mean([row[name] for row in costs])) if name in costs[0] else None for name in names}

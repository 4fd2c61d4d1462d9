"""Recipes and baselines on the same folds of a data folder: scores with intervals, paired, and what they cost."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from mtmusic.data.folder import Checks, FolderData, print_data, require_labels
from mtmusic.data.labels import ALONE, Clips, is_genre_folder
from mtmusic.data.pipeline import make_dataset
from mtmusic.data.pool import load_pool, pooled_clips
from mtmusic.data.spectrograms import read_array
from mtmusic.data.splits import hold_out, k_fold
from mtmusic.datasets.demo import AFFECT_FOLDERS, GENRE_FOLDERS, demo_corpus
from mtmusic.errors import UserError
from mtmusic.evaluation.bootstrap import Fold, cross_scores, scores_table
from mtmusic.evaluation.reports.crossval import write_cross_page
from mtmusic.files import refuse_other_things, replace_folder, write_json
from mtmusic.models.backbones import AFFECT_FRAMES, FRAMES
from mtmusic.models.distribution import find_devices
from mtmusic.models.precision import supported
from mtmusic.models.trainer import TrainingRecord, fit
from mtmusic.training.affect import AffectOptions, affect_objective
from mtmusic.training.crossval.baselines import AFFECT_BASELINES, CONSTANTS, GENRE_BASELINES, baseline_answers
from mtmusic.training.crossval.pooled import pooled_statistics
from mtmusic.training.crossval.records import Training, is_done, read_answers, read_costs, read_json, write_training
from mtmusic.training.genre import genre_objective
from mtmusic.training.recipes import Recipe, complete, named_recipe
from mtmusic.training.run_folder import seed_everything, versions
from mtmusic.training.train import Objective, TrainOptions, build_model, learner

SETTINGS, RESULTS = "settings.json", "results.json"
LARGEST_SEED = 2**32 - 1
FEW_GROUPS = 10
VALIDATION = 0.2
"""Of a fold's training clips, to choose the epoch by."""


@dataclass(frozen=True)
class CrossOptions:
    """All that `cross_validate` is told. data: None is the demo corpus.

    recipes: names; baseline: those of the folder's kind too. seeds: how many trainings of each recipe on each fold,
    from `seed` on, which also makes the folds. groups: a file in the place of groups.csv. task: of an affect folder;
    None: all, learnt together where there are several. classes: None is the lab's merging. epochs, precision: for
    every recipe, the first at the most. devices: see replicas.find_devices.
    """

    data: Path | None = None
    recipes: tuple[str, ...] = ()
    baseline: bool = False
    folds: int = 5
    seeds: int = 3
    seed: int = 0
    groups: Path | None = None
    task: str | None = None
    multitask: bool = False
    classes: str | None = None
    epochs: int | None = None
    precision: str | None = None
    devices: str = "1"
    beat: bool | None = None
    skip_bad: bool = False
    checks: Checks = "on"
    out: Path | None = None
    overwrite: bool = False
    command: str = ""


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
    def multitask(self) -> bool:
        return len(self.clips.tasks) > 1

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
            return [Training(name, fold, options.seed) for fold in folds]
        recipe = named_recipe(name, self.multitask)
        recipe = replace(
            recipe, epochs=options.epochs or recipe.epochs, precision=supported(options.precision or recipe.precision)
        )
        seeds = range(options.seed, options.seed + options.seeds)
        return [Training(name, fold, seed, recipe) for fold in folds for seed in seeds]


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
            read_answers(study.out, training, study.cuts[training.fold - 1].test)
    print_data(study.data)
    _print_groups(study)
    with tqdm(total=len(trainings), initial=len(trainings) - len(waiting), unit="training") as bar:
        for training in waiting:
            bar.set_description(f"{training.name}, fold {training.fold}, seed {training.seed}")
            _train(study, training)
            bar.update()
    results = _results(study, trainings)
    if study.out != out:
        replace_folder(study.out, out)
    print(f"\n{scores_table(results)}\nReport: {out / 'report.html'}")
    return results


def _print_groups(study: Study) -> None:
    """What makes scores too good, or intervals too narrow."""
    groups = study.clips.groups
    told = study.options.groups is not None or any(clips.groups is not None for clips in study.data.splits.values())
    if groups is None or not told:
        return
    if alone := sum(name.startswith(ALONE) for name in groups):
        print(
            f"{alone} of {len(groups)} clips are in no group: where they have something in common, scores are too high"
        )
    if (fewest := min(len({*_groups(cut.test)}) for cut in study.cuts)) < FEW_GROUPS:
        print(f"A fold has {fewest} groups: intervals, which are drawn over groups, are too narrow")


def _trainings(study: Study) -> list[Training]:
    """Of what is asked for, and of what was finished here before: a comparison grows, and loses nothing."""
    options, path = study.options, study.out / RESULTS
    asked = [*options.recipes, *(study.baselines if options.baseline else ())]
    before = read_json(path, "recipes")["recipes"] if path.is_file() else {}
    kept = [name for name in before if name not in asked and _is_finished(study, name)]
    for name in before:
        if name not in [*asked, *kept]:
            print(f"Left out: {name}, which was trained here with other settings or seeds")
    return [training for name in [*asked, *kept] for training in study.trainings(name)]


def _is_finished(study: Study, name: str) -> bool:
    try:
        return all(is_done(study.out, training) for training in study.trainings(name))
    except UserError:  # by another recipe of that name
        return False


def _refuse_early(options: CrossOptions) -> None:
    for name, least in (("folds", 2), ("seeds", 1)):
        if getattr(options, name) < least:
            raise UserError(f"Expected --{name} of {least} or more, got {getattr(options, name)}")
    if options.seed + options.seeds > LARGEST_SEED + 1:
        raise UserError(f"Expected --seed and --seeds up to the seed {LARGEST_SEED}, got {options.seed} and more")
    if options.epochs is not None and options.epochs < 1:
        raise UserError(f"Expected --epochs of 1 or more, got {options.epochs}")
    if options.task is not None and options.multitask:
        raise UserError("Expected --task or --multitask, got both")
    devices = len(find_devices(options.devices))
    for name in options.recipes:
        if devices > (largest := named_recipe(name).batch_size):
            raise UserError(
                f"Expected --devices of {largest} at most, got {devices}: each takes a share of every batch of {name}"
            )


def _study(options: CrossOptions) -> Study:
    affect = options.task is not None or options.multitask
    folder = options.data or demo_corpus() / (AFFECT_FOLDERS if affect else GENRE_FOLDERS)[True]
    genre = is_genre_folder(folder)
    if genre and affect:
        raise UserError(f"Expected --task and --multitask with an affect folder, got a genre folder: {folder}")
    if not genre and options.classes is not None:
        raise UserError(f"Expected --classes with a genre folder, got an affect folder: {folder}")
    tasks = (options.task,) if options.task is not None else None
    data = load_pool(folder, options.classes or "lab", tasks, options.beat, options.skip_bad, options.checks)
    clips, splits = pooled_clips(data, options.groups)
    if options.multitask and len(clips.tasks) < 2:
        raise UserError(f"Expected two tasks or more for --multitask, got {clips.tasks[0]} in {folder}")
    task = f"_{options.task}" if options.task is not None else ""
    out = options.out or Path("saved_models") / f"cross_validation_{folder.resolve().name}{task}"
    return Study(data, clips, tuple(_cuts(clips, splits, options)), out, options)


def _cuts(clips: Clips, splits: Sequence[str], options: CrossOptions) -> Iterator[Cut]:
    """Raises UserError where a fold has too few clips, or labels of a task, to learn from or to judge by."""
    split_of = dict(zip(clips.paths, splits, strict=True))
    for number, (rest, test) in enumerate(k_fold(clips, options.folds, options.seed), 1):
        seeds = range(options.seed, options.seed + options.seeds) if options.recipes else ()
        trains = [hold_out(rest, VALIDATION, seed)[0] for seed in seeds]
        for part in (rest, *trains):
            _require_learnable(part, f"among the clips to learn from in fold {number} (fewer --folds?)")
        if clips.tasks:
            require_labels(test, f"among the clips to judge by in fold {number} (fewer --folds?)")
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
    settings = {
        "data": study.data.fingerprint,
        "groups": groups,
        "tasks": list(clips.tasks),
        "classes": list(clips.classes),
        "folds": options.folds,
        "seed": options.seed,
        "beat": study.data.beat,
    }
    settings = json.loads(json.dumps(settings))
    before = read_json(path) if path.is_file() else settings
    if differing := [name for name in settings if before.get(name) != settings[name]]:
        raise UserError(
            f"Cannot go on in {study.out}: it was made with other {' and '.join(differing)}; give the same settings, "
            "another --out, or --overwrite"
        )
    write_json(path, settings)


def _train(study: Study, training: Training) -> None:
    cut = study.cuts[training.fold - 1]
    if training.name in study.baselines and training.name not in CONSTANTS:
        _ = study.features  # computed once: no part of the first training's time
    started = time.perf_counter()
    answers, costs = (_baseline if training.settings is None else _network)(study, training, cut)
    costs["seconds"] = time.perf_counter() - started
    write_training(study.out, training, cut.test, cut.test_splits, answers, costs)


def _baseline(study: Study, training: Training, cut: Cut) -> tuple[np.ndarray, dict[str, Any]]:
    """The answers for the fold's test part, and the costs; a model learns from all other clips."""
    if training.name in CONSTANTS:
        nothing = np.zeros((len(cut.test), 0))
        return baseline_answers(training.name, cut.rest, nothing, nothing), {"milliseconds_per_clip": 0.0}
    features, milliseconds = study.features
    rest, test = (np.stack([features[path] for path in clips.paths]) for clips in (cut.rest, cut.test))
    answers = baseline_answers(training.name, cut.rest, rest, test, training.seed)
    return answers, {"milliseconds_per_clip": milliseconds}


def _network(study: Study, training: Training, cut: Cut) -> tuple[np.ndarray, dict[str, Any]]:
    """As `_baseline`: a validation part, held out by group, chooses the epoch, and the test part is answered once."""
    train, validation = hold_out(cut.rest, VALIDATION, training.seed)
    recipe, objective = _objective(study, training, train)
    options = TrainOptions(recipe=recipe, seed=training.seed, devices=study.options.devices)
    model = build_model(options, recipe, objective)
    record = _fit(model, recipe, objective, train, validation, options)
    answers = _answers(model, recipe, cut.test)
    costs = {
        "parameters": model.count_params(),
        "epochs": record.epochs,
        "best_epoch": record.best_epoch,
        "seconds_per_epoch": record.seconds_per_epoch,
        "milliseconds_per_clip": _milliseconds(model, recipe, validation),
    }
    keras.utils.clear_session(free_memory=True)  # the next training's model comes on top otherwise
    return answers, costs


def _objective(study: Study, training: Training, train: Clips) -> tuple[Recipe, Objective]:
    if training.settings is None:
        raise ValueError(f"Expected a recipe, got the baseline {training.name}")
    frames = (FRAMES if train.classes else AFFECT_FRAMES)[study.data.beat]
    recipe = complete(training.settings, frames, len(train), len(train))
    if train.classes:
        return recipe, genre_objective(recipe, train, study.options.classes or "lab")
    return recipe, affect_objective(AffectOptions(multitask=study.multitask), recipe, train)


def _fit(
    model: keras.Model, recipe: Recipe, objective: Objective, train: Clips, validation: Clips, options: TrainOptions
) -> TrainingRecord:
    """In memory alone: a training that is stopped starts anew."""
    learning, batches, judged = learner(model, recipe, train, validation, options.seed)
    seed_everything(options.seed)
    config, devices = replace(recipe.training, monitor=objective.monitor), find_devices(options.devices)
    return fit(learning, batches, judged, config, verbose=0, devices=devices)


def _answers(model: keras.Model, recipe: Recipe, clips: Clips) -> np.ndarray:
    """(clips, classes), probabilities, or (clips, tasks)"""
    answers = model.predict(make_dataset(clips, recipe.feature, recipe.batch_size, recipe.frames), verbose=0)
    return keras.ops.convert_to_numpy(keras.ops.softmax(answers)) if clips.classes else answers


def _milliseconds(model: keras.Model, recipe: Recipe, clips: Clips) -> float:
    """A clip's answer, once its array is in memory and the model has seen batches of that length."""
    dataset = make_dataset(clips, recipe.feature, recipe.batch_size, recipe.frames)
    batches = [spectrogram for spectrogram, _ in dataset]
    for batch in batches:
        model(batch, training=False)
    started = time.perf_counter()
    for batch in batches:
        model(batch, training=False)
    return 1000 * (time.perf_counter() - started) / len(clips)


def _results(study: Study, trainings: Sequence[Training]) -> dict[str, Any]:
    """results.json and the page, from the files of the trainings."""
    names = list(dict.fromkeys(training.name for training in trainings))
    answers = {name: _read_answers(study, [one for one in trainings if one.name == name]) for name in names}
    folds = [Fold(_groups(cut.test), cut.test.targets) for cut in study.cuts]
    scores = cross_scores(folds, answers, study.clips.tasks, study.options.seed)
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
        "seeds": list(range(options.seed, options.seed + options.seeds)),
        **scores,
        "versions": versions(),
    }
    write_cross_page(study.out, results, [cut.test for cut in study.cuts], answers)
    write_json(study.out / RESULTS, results)
    return results


def _read_answers(study: Study, trainings: Sequence[Training]) -> list[list[np.ndarray]]:
    """By fold, in it by seed."""
    return [
        [read_answers(study.out, one, cut.test) for one in trainings if one.fold == number]
        for number, cut in enumerate(study.cuts, 1)
    ]


def _groups(clips: Clips) -> np.ndarray:
    return clips.groups if clips.groups is not None else np.arange(len(clips))


def _costs(study: Study, trainings: Sequence[Training]) -> Mapping[str, float | None]:
    """Means over the trainings; None where a model has no such thing."""
    told = [read_costs(study.out, one) for one in trainings]
    names = ("parameters", "epochs", "best_epoch", "seconds_per_epoch", "seconds", "milliseconds_per_clip")
    return {name: float(np.mean([row[name] for row in told])) if name in told[0] else None for name in names}

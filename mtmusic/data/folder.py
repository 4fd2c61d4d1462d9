"""Loads the checked splits of a data folder: all splits for a training, one split to evaluate, or all as one pool."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mtmusic.data.labels import (
    ALONE,
    Clips,
    GenreClasses,
    Problem,
    concatenate,
    folder_feature,
    has_label_rows,
    id_order,
    is_beat_synchronised,
    is_genre_folder,
    is_synthetic,
    label_path,
    one_form,
    read_groups,
    scan_genre_labels,
)
from mtmusic.data.quality.checked_split import (
    CheckedSplit,
    Finding,
    checked_affect_split,
    checked_genre_split,
    fingerprint,
    require_good,
    worst_first,
)
from mtmusic.data.quality.split_checks import check_labels, check_splits
from mtmusic.data.splits import hold_out, subset
from mtmusic.errors import UserError, in_lines

LIKELY_BEAT_FRAMES = 200
"""Clips of fewer frames are probably beat-synchronised: at full rate they would be shorter than five seconds."""

RATES = {True: "beat-synchronised", False: "full-rate"}

FEWEST_LABELS = 3
"""The fewest labels of a task in a split. The correlation of two clips is always 1, -1 or undefined."""

Checks = Literal["on", "strict", "off"]
"""What stops a command: "on": errors. "strict": errors and warnings. "off": only files that cannot be read."""


@dataclass(frozen=True)
class LoadOptions:
    """How a data folder is loaded.

    classes: how raw genre names become classes, see `labels.genre_mapping`.
    beat: whether the clips are beat-synchronised. None reads it from the folder.
    validation: share of the train clips that is held out, if the folder has no validation split.
    test: share of the labelled clips that is held out, if an affect folder's test split has no labels.
    subset: number of train clips to use, a stratified subset. None uses all.
    skip_bad: whether to leave out clips that cannot be used.
    """

    folder: Path
    classes: GenreClasses = "lab"
    beat: bool | None = None
    validation: float = 0.2
    test: float = 0.2
    subset: int | None = None
    seed: int = 0
    skip_bad: bool = False
    checks: Checks = "on"


@dataclass(frozen=True)
class FolderData:
    """A folder's checked splits: train, validation and test, or those that were requested.

    feature: the kind of the arrays, "fused" or "logmel".
    digests: hash of each array's content. Equal clips have equal hashes, whatever their names.
    findings: warnings of the checks.
    held_out_test: whether the test split was held out of the labelled clips, because the folder has no test labels.
    """

    folder: Path
    beat: bool
    demo: bool
    fingerprint: str
    splits: dict[str, Clips]
    frames: np.ndarray
    digests: dict[Path, str]
    left_out: tuple[Problem, ...]
    checks: Checks
    findings: tuple[Finding, ...]
    held_out_test: bool
    feature: str = field(default="fused", kw_only=True)


@dataclass(frozen=True)
class GenreData(FolderData):
    """raw_counts: number of clips of each raw genre. merged_counts: number of clips of each class."""

    raw_counts: dict[str, int]
    merged_counts: dict[str, int]


@dataclass(frozen=True)
class AffectData(FolderData):
    @property
    def tasks(self) -> tuple[str, ...]:
        return next(iter(self.splits.values())).tasks


def load_genre_data(options: LoadOptions) -> GenreData:
    """Reads and checks every label row and array of a genre folder. Raises UserError that lists the problems."""
    folder = options.folder
    checked: dict[str, CheckedSplit] = {}
    known: tuple[str, ...] = ()
    for split in ("train", "test", *(["validation"] if has_label_rows(options.folder, "validation") else [])):
        checked[split] = _genre_split(options, split, known)
        known = checked[split].clips.classes
    data = _genre_data(options, checked)
    present = [name for name, count in data.splits["train"].counts().items() if count]
    if len(present) < 2:
        raise UserError(f"Expected two classes or more, got only {', '.join(present)} in {label_path(folder, 'train')}")
    if len(present) < len(known):
        lacking = ", ".join(sorted({*known} - {*present}))
        raise UserError(f"Expected usable clips of {lacking} in {folder / 'train'}, got none: repair or add some")
    return replace(data, splits=_with_validation(data.splits, options))


def load_genre_split(options: LoadOptions, split: str, known: Sequence[str]) -> GenreData:
    """Loads one split with the classes `known` of a model. Raises UserError as `load_genre_data`."""
    return _genre_data(options, {split: _genre_split(options, split, known)})


def load_affect_data(options: LoadOptions) -> AffectData:
    """Like `load_genre_data`, for an affect folder with all its tasks. `select_tasks` selects some of them.

    Clips are sorted by id, so the order of the label file does not matter. If the test split has no labels, as in the
    lab's folders, a test split is held out of the labelled clips first. So it is the same for every task, subset and
    validation share.
    """
    there = [split for split in ("validation", "test") if has_label_rows(options.folder, split)]
    data = _affect_data(options, ["train", *there])
    _require_same_tasks(data)
    clips = {split: part.by_id() for split, part in data.splits.items()}
    clips |= {split: clips[split].select(data.tasks) for split in there}
    if "test" not in clips:
        clips["train"], clips["test"] = hold_out(clips["train"], options.test, options.seed)
    return replace(data, splits=_with_validation(clips, options), held_out_test="test" not in there)


def load_affect_split(options: LoadOptions, split: str, tasks: Sequence[str]) -> AffectData:
    """Loads one split with the tasks of a model as targets. Raises UserError as `load_affect_data`."""
    folder = options.folder
    if folder.is_dir() and not has_label_rows(folder, split):
        raise UserError(
            f'Expected labels to evaluate with, got none in the {split} split of {folder}: give `split="train"`, or '
            "predict the split with mtmusic make-submission"
        )
    selected = select_tasks(_affect_data(options, [split]), tasks)
    require_labels(selected.splits[split], f"in {label_path(folder, split)}")
    return selected


def song_names(folder: Path) -> dict[str, str]:
    """Returns each id's song as `<folder>/<file>`, from the songs.csv of an extraction. Empty without songs.csv."""
    path = folder / "songs.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.DictReader(file)
        return {one_form(row.get("id") or ""): "/".join(Path(row.get("path") or "").parts[-2:]) for row in rows}


def load_pool(options: LoadOptions, tasks: Sequence[str] | None = None) -> FolderData:
    """Loads every split that has labels, for `pooled_clips`, which joins them. Findings between splits are ignored.

    tasks: tasks of an affect folder, None for all. Raises UserError as `load_genre_data`.
    """
    folder = options.folder
    splits = [split for split in ("train", "validation", "test") if split == "train" or has_label_rows(folder, split)]
    if not is_genre_folder(folder):
        return _select_pooled(_affect_data(options, splits, pooled=True), tasks)
    scanned = [scan_genre_labels(folder, split, options.classes)[0] for split in splits]
    known = sorted({name for clips in scanned for name in clips.classes})
    if len(known) < 2:
        raise UserError(f"Expected two classes or more, got {', '.join(known) or 'none'} in {folder}")
    return _genre_data(options, {split: _genre_split(options, split, known) for split in splits}, pooled=True)


def _select_pooled(data: AffectData, tasks: Sequence[str] | None) -> AffectData:
    """Selects these tasks in each split, by default all tasks of train. Leaves out splits without labels of them."""
    _require_same_tasks(data)
    asked = tuple(tasks) if tasks is not None else data.tasks
    if unknown := [task for task in asked if task not in data.tasks]:
        raise UserError(f"Expected a task among {', '.join(data.tasks)}, got {', '.join(unknown)}, for {data.folder}")
    selected = {split: clips.select(asked) for split, clips in data.splits.items()}
    splits = {split: clips for split, clips in selected.items() if len(clips)}
    if not splits:
        raise UserError(f"Expected labels of {', '.join(asked)}, got none in {data.folder}")
    return replace(data, splits=splits, findings=(*data.findings, *_label_findings(data, asked)))


def pooled_clips(data: FolderData, groups: Path | None = None) -> tuple[Clips, tuple[str, ...]]:
    """Joins the clips of all splits, sorted by id. Returns the clips, and the split of each.

    Equal clips get the same group, whatever their names and splits. Groups that share equal clips are joined.
    groups: a file `id,group` to use instead of the folder's groups.csv.
    Raises UserError for a file that names none of the clips, and for a task without enough labels.
    """
    clips = reduce(concatenate, data.splits.values())
    splits = [split for split, part in data.splits.items() for _ in part.ids]
    order = sorted(range(len(clips)), key=lambda i: id_order(clips.ids[i]))
    clips = clips.take(order)
    names = clips.groups
    if groups is not None:
        names = read_groups(groups, clips.ids)
        if all(name.startswith(ALONE) for name in names):
            raise UserError(f"Expected groups of the clips of {data.folder}, found none of their ids in {groups}")
    if clips.tasks:
        require_labels(clips, f"among the clips of {data.folder}")
    clips = replace(clips, groups=_joined(names, [data.digests[path] for path in clips.paths]))
    return clips, tuple(splits[i] for i in order)


def _joined(groups: np.ndarray | None, digests: Sequence[str]) -> np.ndarray | None:
    """(clips,) names of the groups. Groups that share equal clips are joined. None if every clip is its own group."""
    clips = np.arange(len(digests))
    if groups is None:
        groups = np.array([f"{ALONE}{number}" for number in clips])
    names, group = np.unique(groups, return_inverse=True)
    contents, content = np.unique(digests, return_inverse=True)
    size = len(names) + len(contents)
    edges = coo_array((np.ones(len(clips)), (group, len(names) + content)), shape=(size, size))
    component = connected_components(edges, directed=False)[1][: len(names)]
    if len(set(component)) == len(clips):
        return None
    first = {part: name for name, part in zip(names[::-1], component[::-1], strict=True)}
    return np.array([first[component[one]] for one in group])


def select_tasks(data: AffectData, tasks: Sequence[str]) -> AffectData:
    """Selects tasks, and the clips with a label of any of them. Raises UserError for a task without enough labels."""
    try:
        splits = {split: clips.select(tasks) for split, clips in data.splits.items()}
    except UserError as error:
        raise UserError(f"{error} in {data.folder}") from error
    for split, clips in splits.items():
        require_labels(clips, f"among the {split} clips of {data.folder}")
    return replace(data, splits=splits, findings=(*data.findings, *_label_findings(data, tasks)))


def _require_same_tasks(data: AffectData) -> None:
    for split, clips in data.splits.items():
        if {*clips.tasks} != {*data.tasks}:
            raise UserError(
                f"Expected the tasks of train, {', '.join(data.tasks)}, got {', '.join(clips.tasks)} "
                f"in {label_path(data.folder, split)}"
            )


def _label_findings(data: AffectData, tasks: Sequence[str]) -> tuple[Finding, ...]:
    """Checks the labels of these tasks. Returns the warnings, and raises UserError for errors, or strictly for any."""
    if data.checks == "off":
        return ()
    of_tasks = [finding for finding in check_labels(data.splits) if finding.columns <= {*tasks}]
    return _accepted(data.folder, of_tasks, data.checks)


def require_rate(data_beat: bool, folder: Path, model_beat: bool, model_path: Path) -> None:
    """Raises UserError if the data's frame rate is not that of the model: beat-synchronised or full rate."""
    if model_beat != data_beat:
        raise UserError(
            f"Expected {RATES[model_beat]} clips, which {model_path} was trained on, "
            f"got {RATES[data_beat]} ones in {folder}: if the folder is taken for the wrong kind, give `beat=True` or "
            "`beat=False`"
        )


def beat_of_folder(folder: Path, beat: bool | None, frames: np.ndarray) -> bool:
    """Whether the clips are beat-synchronised: as given, else as the folder says, else not.

    Raises UserError if the folder does not say and the clips are short, and if `beat` is True for logmel arrays.
    """
    if beat and folder_feature(folder) == "logmel":
        raise UserError(f"Expected `beat=False`, since logmel arrays are never beat-synchronised, in {folder}")
    known = beat if beat is not None else is_beat_synchronised(folder)
    if known is None and np.median(frames) < LIKELY_BEAT_FRAMES:
        raise UserError(
            f"Expected a folder that says its frame rate, got clips of {np.median(frames):.0f} frames in {folder}: "
            "give `beat=True` or `beat=False`"
        )
    return bool(known)


def frames_in_words(feature: str, beat: bool) -> str:
    """Describes the frames of a folder: "logmel", "beat-synchronised" or "full-rate"."""
    return "logmel" if feature == "logmel" else RATES[beat]


def data_table(data: FolderData) -> str:
    """A text with the folder, the findings of its checks, and the counts by class or task and by split."""
    lines = []
    if data.demo:
        lines.append("Data: the demo corpus of synthesised music. Models trained on it are of no use for real songs.")
    lines.append(f"Folder: {data.folder} ({frames_in_words(data.feature, data.beat)})")
    lines.append(f"Frames: {data.frames.min()} to {data.frames.max()}, median {np.median(data.frames):.0f}")
    lines += [f"Left out: {line}" for line in in_lines(data.left_out)]
    if data.checks == "off":
        lines.append("Checks: off, except for files that cannot be read")
    elif not data.findings:
        lines.append(f"Checks: {len(data.frames)} clips, nothing found")
    lines += [f"Warning: {finding}" for finding in data.findings]
    affect = isinstance(data, AffectData)
    if data.held_out_test:
        lines.append("The test split has no labels: a part of the labelled clips is held out for the test")
    counts = {split: clips.counts() for split, clips in data.splits.items()}
    names = list(next(iter(counts.values())))
    rows: list[tuple[Any, ...]] = [("labels of" if affect else "class", *counts)]
    rows += [(name, *(count[name] for count in counts.values())) for name in names]
    rows.append(("clips" if affect else "all", *map(len, data.splits.values())))
    width = max(len(str(name)) for name, *_ in rows[:-1])
    lines += [f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells) for name, *cells in rows]
    return "\n".join(lines) + "\n"


def _with_validation(clips: Mapping[str, Clips], options: LoadOptions) -> dict[str, Clips]:
    """Reduces train to the subset, and holds out a share of it if there is no validation split."""
    train, held = clips["train"], clips.get("validation")
    if options.subset is not None:
        train = subset(train, options.subset, options.seed)
    if held is None:
        train, held = hold_out(train, options.validation, options.seed)
    return {"train": train, "validation": held, "test": clips["test"]}


def _genre_split(options: LoadOptions, split: str, known: Sequence[str]) -> CheckedSplit:
    return checked_genre_split(options.folder, split, options.classes, known, levels=options.checks != "off")


def _genre_data(options: LoadOptions, checked: dict[str, CheckedSplit], pooled: bool = False) -> GenreData:
    first = next(iter(checked))
    return GenreData(
        **_folder_data(options, checked, pooled),
        raw_counts=scan_genre_labels(options.folder, first, "all")[0].counts(),
        merged_counts=checked[first].clips.counts(),
    )


def _affect_data(options: LoadOptions, splits: Sequence[str], pooled: bool = False) -> AffectData:
    checked = {split: checked_affect_split(options.folder, split, levels=options.checks != "off") for split in splits}
    return AffectData(**_folder_data(options, checked, pooled))


def _folder_data(options: LoadOptions, checked: dict[str, CheckedSplit], pooled: bool) -> dict[str, Any]:
    """The fields of a FolderData. pooled: whether the splits will be joined. Then findings between them are ignored."""
    folder, checks = options.folder, options.checks
    left_out = require_good(folder, checked, options.skip_bad)
    frames = np.concatenate([part.frames for part in checked.values()])
    beat = beat_of_folder(folder, options.beat, frames)
    parts = [{split: part} for split, part in checked.items()] if pooled else [checked]
    faults = [fault for part in parts if checks != "off" for fault in check_splits(folder, part, beat)]
    return {
        "folder": folder,
        "feature": folder_feature(folder),
        "beat": beat,
        "demo": is_synthetic(folder),
        "fingerprint": fingerprint(checked),
        "splits": {split: part.clips for split, part in checked.items()},
        "frames": frames,
        "digests": {
            path: digest
            for part in checked.values()
            for path, digest in zip(part.clips.paths, part.digests, strict=True)
        },
        "left_out": left_out,
        "checks": checks,
        "findings": _accepted(folder, faults, checks),
        "held_out_test": False,
    }


def _accepted(folder: Path, findings: Sequence[Finding], checks: Checks) -> tuple[Finding, ...]:
    """Returns the warnings. Raises UserError if there are errors, or with "strict" if there are any findings."""
    if refused := [finding for finding in worst_first(findings) if finding.error or checks == "strict"]:
        raise UserError.listing(f'Cannot use {folder} (`checks="off"` continues without the checks)', refused)
    return tuple(worst_first(findings))


def require_labels(clips: Clips, where: str) -> None:
    """Raises UserError for a task with fewer than three labels or with equal labels, which cannot be evaluated."""
    for task, count in clips.counts().items():
        values = clips.targets[:, clips.tasks.index(task)]
        if count < FEWEST_LABELS:
            raise UserError(f"Expected {FEWEST_LABELS} labels of {task} or more, got {count} {where}")
        if np.nanmin(values) == np.nanmax(values):
            raise UserError(f"Expected labels of {task} that differ, got only {np.nanmin(values):g} {where}")

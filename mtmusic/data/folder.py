"""A data folder to checked splits, and what they hold, for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mtmusic.data.labels import (
    Clips,
    GenreClasses,
    has_label_rows,
    is_beat_synchronised,
    is_synthetic,
    label_path,
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
from mtmusic.data.quality.split_checks import find_faults, find_label_faults
from mtmusic.data.splits import hold_out, subset
from mtmusic.datasets.demo import AFFECT_FOLDERS, GENRE_FOLDERS, demo_corpus
from mtmusic.errors import UserError

LIKELY_BEAT_FRAMES = 200
"""Under five seconds at full rate: clips so short are likely to be beat-synchronised."""

RATES = {True: "beat-synchronised", False: "full-rate"}

FEWEST_LABELS = 3
"""Of a task in a split: two clips always correlate by +1, -1 or not at all."""


Checks = Literal["on", "strict", "off"]
"""What stops a job: errors; warnings too; or only what cannot be read."""


@dataclass(frozen=True)
class FolderData:
    """A folder's splits, checked: train, validation and test, or those that were asked for.

    digests: of each array the hash of its content, which tells equal clips whatever their names. findings: warnings of
    the checks.
    """

    folder: Path
    beat: bool
    demo: bool
    fingerprint: str
    splits: dict[str, Clips]
    frames: np.ndarray
    digests: dict[Path, str]
    left_out: tuple[str, ...]
    checks: Checks
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class GenreData(FolderData):
    """raw_counts, merged_counts: clips by raw genre and by class."""

    raw_counts: dict[str, int]
    merged_counts: dict[str, int]


@dataclass(frozen=True)
class AffectData(FolderData):
    """held_out_test: the folder has no labels of a test split, and one of the labelled clips was made."""

    held_out_test: bool

    @property
    def tasks(self) -> tuple[str, ...]:
        return next(iter(self.splits.values())).tasks


def load_genre_data(
    folder: Path | None,
    classes: GenreClasses = "lab",
    beat: bool | None = None,
    validation: float = 0.2,
    size: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    checks: Checks = "on",
) -> GenreData:
    """Reads and checks every label row and array of a genre folder (None: the demo corpus).

    Holds out a share `validation` of train where the folder has no validation split of its own. size: so many clips
    of train, stratified. beat: whether the clips are beat-synchronised; None tells it from the folder. checks: see
    Checks. Raises UserError that lists what is wrong.
    """
    folder = folder if folder is not None else demo_corpus() / GENRE_FOLDERS[True]
    splits = ["train", "test"]
    if has_label_rows(folder, "validation"):
        splits.append("validation")
    checked: dict[str, CheckedSplit] = {}
    known: tuple[str, ...] = ()
    for split in splits:
        checked[split] = checked_genre_split(folder, split, classes, known, levels=checks != "off")
        known = checked[split].clips.classes
    data = genre_data(folder, beat, checked, skip_bad, checks)
    clips = data.splits
    present = [name for name, count in clips["train"].counts().items() if count]
    if len(present) < 2:
        raise UserError(
            f"Expected two classes or more, got {', '.join(present)} alone in {label_path(folder, 'train')}"
        )
    if len(present) < len(known):
        raise UserError(f"No clip of {', '.join(sorted({*known} - {*present}))} in {folder / 'train'} can be used")
    return replace(data, splits=_with_validation(clips, validation, size, seed))


def load_genre_split(
    folder: Path,
    split: str,
    known: Sequence[str],
    classes: GenreClasses = "lab",
    beat: bool | None = None,
    skip_bad: bool = False,
    checks: Checks = "on",
) -> GenreData:
    """One split alone, its classes those that a model knows. Raises UserError as `load_genre_data`."""
    checked = {split: checked_genre_split(folder, split, classes, known, levels=checks != "off")}
    return genre_data(folder, beat, checked, skip_bad, checks)


def load_affect_data(
    folder: Path | None,
    beat: bool | None = None,
    validation: float = 0.2,
    test: float = 0.2,
    size: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    checks: Checks = "on",
) -> AffectData:
    """As `load_genre_data`, for an affect folder and all its tasks: `select_tasks` takes some of them.

    Clips go by id, so that the order of a label file changes nothing. Where the folder has no labels of a test split,
    as the lab's have none, a share `test` of the labelled clips is held out first, so that it is the same for every
    task, size and share of validation.
    """
    folder = folder if folder is not None else demo_corpus() / AFFECT_FOLDERS[True]
    there = [split for split in ("validation", "test") if has_label_rows(folder, split)]
    checked = {split: checked_affect_split(folder, split, levels=checks != "off") for split in ("train", *there)}
    data = affect_data(folder, beat, checked, skip_bad, checks)
    clips = {split: part.by_id() for split, part in data.splits.items()}
    for split in there:
        if set(clips[split].tasks) != set(clips["train"].tasks):
            raise UserError(
                f"Expected the tasks of train, {', '.join(clips['train'].tasks)}, got {', '.join(clips[split].tasks)} "
                f"in {label_path(folder, split)}"
            )
        clips[split] = clips[split].select(clips["train"].tasks)
    if "test" not in clips:
        clips["train"], clips["test"] = hold_out(clips["train"], test, seed)
    splits = _with_validation(clips, validation, size, seed)
    return replace(data, splits=splits, held_out_test="test" not in there)


def load_affect_split(
    folder: Path,
    split: str,
    tasks: Sequence[str],
    beat: bool | None = None,
    skip_bad: bool = False,
    checks: Checks = "on",
) -> AffectData:
    """One split alone, its targets those that a model predicts. Raises UserError as `load_affect_data`."""
    if folder.is_dir() and not has_label_rows(folder, split):
        raise UserError(
            f"Expected labels to judge by, but the {split} split of {folder} has no labels: give --split train, or "
            "predict it with scripts/make_submission.py"
        )
    checked = {split: checked_affect_split(folder, split, levels=checks != "off")}
    data = affect_data(folder, beat, checked, skip_bad, checks)
    selected = select_tasks(data, tasks)
    require_labels(selected.splits[split], f"in {label_path(folder, split)}")
    return selected


def select_tasks(data: AffectData, tasks: Sequence[str]) -> AffectData:
    """These tasks alone, and the clips that have a label of one. Raises UserError for a task without enough labels."""
    try:
        splits = {split: clips.select(tasks) for split, clips in data.splits.items()}
    except UserError as error:
        raise UserError(f"{error} in {data.folder}") from error
    for split, clips in splits.items():
        require_labels(clips, f"among the {split} clips of {data.folder}")
    return replace(data, splits=splits, findings=(*data.findings, *label_findings(data, tasks)))


def label_findings(data: AffectData, tasks: Sequence[str]) -> tuple[Finding, ...]:
    """What is odd about the labels of these tasks. Raises UserError where there are errors; where strict, for any."""
    if data.checks == "off":
        return ()
    of_tasks = [finding for finding in find_label_faults(data.splits) if finding.columns <= {*tasks}]
    return _told(data.folder, of_tasks, data.checks)


def require_rate(data_beat: bool, folder: Path, model_beat: bool, model_path: Path) -> None:
    """Beat-synchronised and full-rate frames are other things; a model knows one of them. Raises UserError."""
    if model_beat != data_beat:
        raise UserError(
            f"Expected {RATES[model_beat]} clips, which {model_path} was trained on, "
            f"got {RATES[data_beat]} ones in {folder} (--beat or --no-beat, if the folder does not tell)"
        )


def beat_of_folder(folder: Path, beat: bool | None, frames: np.ndarray) -> bool:
    """As told, else as the folder tells, else full rate. Raises UserError where the clips are too short for that."""
    told = beat if beat is not None else is_beat_synchronised(folder)
    if told is None and np.median(frames) < LIKELY_BEAT_FRAMES:
        raise UserError(
            f"Expected a folder that tells its frame rate, got clips of {np.median(frames):.0f} frames in {folder}: "
            "give --beat or --no-beat"
        )
    return bool(told)


def print_data(data: FolderData) -> None:
    """The data's counts, by class or task and by split, for the terminal."""
    if data.demo:
        print("Data: the demo corpus of synthesised music. What it teaches says nothing about real songs; give --data.")
    print(f"Folder: {data.folder} ({RATES[data.beat]})")
    print(f"Frames: {data.frames.min()} to {data.frames.max()}, median {np.median(data.frames):.0f}")
    for line in data.left_out:
        print(f"Left out: {line}")
    if data.checks == "off":
        print("Checks: off, but for what cannot be read (--no-validate)")
    elif not data.findings:
        print(f"Checks: {len(data.frames)} clips, nothing found")
    for finding in data.findings:
        print(f"Warning: {finding}")
    if isinstance(data, AffectData) and data.held_out_test:
        print("The test split has no labels: labelled clips are held out to judge by")
    names = list(next(iter(data.splits.values())).counts())
    title = "labels of" if isinstance(data, AffectData) else "class"
    width = max(len(name) for name in (*names, title))
    print(f"{title:<{width}}" + "".join(f"{split:>12}" for split in data.splits))
    for name in names:
        print(f"{name:<{width}}" + "".join(f"{clips.counts()[name]:>12}" for clips in data.splits.values()))
    last = "clips" if isinstance(data, AffectData) else "all"
    print(f"{last:<{width}}" + "".join(f"{len(clips):>12}" for clips in data.splits.values()) + "\n")


def _with_validation(clips: Mapping[str, Clips], validation: float, size: int | None, seed: int) -> dict[str, Clips]:
    """Train cut to `size`, and a share of it held out where there is no validation split."""
    train, held = clips["train"], clips.get("validation")
    if size is not None:
        train = subset(train, size, seed)
    if held is None:
        train, held = hold_out(train, validation, seed)
    return {"train": train, "validation": held, "test": clips["test"]}


def genre_data(
    folder: Path,
    beat: bool | None,
    checked: dict[str, CheckedSplit],
    skip_bad: bool,
    checks: Checks,
    pooled: bool = False,
) -> GenreData:
    """What was checked. pooled: the splits are to be one, so that what is wrong between them is no fault."""
    first = next(iter(checked))
    return GenreData(
        **_folder_data(folder, beat, checked, skip_bad, checks, pooled),
        raw_counts=scan_genre_labels(folder, first, "all")[0].counts(),
        merged_counts=checked[first].clips.counts(),
    )


def affect_data(
    folder: Path,
    beat: bool | None,
    checked: dict[str, CheckedSplit],
    skip_bad: bool,
    checks: Checks,
    pooled: bool = False,
) -> AffectData:
    """As `genre_data`."""
    return AffectData(**_folder_data(folder, beat, checked, skip_bad, checks, pooled), held_out_test=False)


def _folder_data(
    folder: Path,
    beat: bool | None,
    checked: dict[str, CheckedSplit],
    skip_bad: bool,
    checks: Checks,
    pooled: bool,
) -> dict:
    """The fields of a FolderData."""
    left_out = require_good(folder, checked, skip_bad)
    frames = np.concatenate([part.frames for part in checked.values()])
    is_beat = beat_of_folder(folder, beat, frames)
    parts = [{split: part} for split, part in checked.items()] if pooled else [checked]
    faults = [fault for part in parts if checks != "off" for fault in find_faults(folder, part, is_beat)]
    return {
        "folder": folder,
        "beat": is_beat,
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
        "findings": _told(folder, faults, checks),
    }


def _told(folder: Path, findings: Sequence[Finding], checks: Checks) -> tuple[Finding, ...]:
    """The warnings. Raises UserError where there are errors; where strict, where there is anything."""
    if refused := [finding for finding in worst_first(findings) if finding.error or checks == "strict"]:
        raise UserError.listing(f"Cannot use {folder} (--no-validate goes on all the same)", refused)
    return tuple(worst_first(findings))


def require_labels(clips: Clips, where: str) -> None:
    """Raises UserError for a task with fewer than three labels, or with equal ones: nothing could be learnt or told."""
    for task, count in clips.counts().items():
        values = clips.targets[:, clips.tasks.index(task)]
        if count < FEWEST_LABELS:
            raise UserError(f"Expected {FEWEST_LABELS} labels of {task} or more, got {count} {where}")
        if np.nanmin(values) == np.nanmax(values):
            raise UserError(f"Expected labels of {task} that differ, got {np.nanmin(values):g} alone {where}")

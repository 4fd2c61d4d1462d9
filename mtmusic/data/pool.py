"""A folder's labelled clips of every split as one, to be cut into folds: equal contents in one group."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mtmusic.data.folder import AffectData, Checks, FolderData, affect_data, genre_data, label_findings, require_labels
from mtmusic.data.labels import (
    ALONE,
    Clips,
    GenreClasses,
    concatenate,
    has_label_rows,
    id_order,
    is_genre_folder,
    label_path,
    read_groups,
    scan_genre_labels,
)
from mtmusic.data.quality.checked_split import checked_affect_split, checked_genre_split
from mtmusic.errors import UserError

SPLITS = ("train", "validation", "test")


def load_pool(
    folder: Path,
    classes: GenreClasses = "lab",
    tasks: Sequence[str] | None = None,
    beat: bool | None = None,
    skip_bad: bool = False,
    checks: Checks = "on",
) -> FolderData:
    """Every split that has labels, checked; what is wrong between splits is no fault, since they are pooled.

    tasks: of an affect folder, None for all. Raises UserError as `load_genre_data`.
    """
    there = [split for split in SPLITS if split == "train" or has_label_rows(folder, split)]
    if is_genre_folder(folder):
        scanned = [scan_genre_labels(folder, split, classes)[0] for split in there]
        known = sorted({name for clips in scanned for name in clips.classes})
        if len(known) < 2:
            raise UserError(f"Expected two classes or more, got {', '.join(known) or 'none'} in {folder}")
        genres = {split: checked_genre_split(folder, split, classes, known, levels=checks != "off") for split in there}
        return genre_data(folder, beat, genres, skip_bad, checks, pooled=True)
    affect = {split: checked_affect_split(folder, split, levels=checks != "off") for split in there}
    data = affect_data(folder, beat, affect, skip_bad, checks, pooled=True)
    return _select(data, tasks)


def _select(data: AffectData, tasks: Sequence[str] | None) -> AffectData:
    """The tasks of train in each split, or those asked for; a split without labels of any is left out."""
    train = data.splits["train"]
    for split, clips in data.splits.items():
        if {*clips.tasks} != {*train.tasks}:
            raise UserError(
                f"Expected the tasks of train, {', '.join(train.tasks)}, got {', '.join(clips.tasks)} "
                f"in {label_path(data.folder, split)}"
            )
    asked = tuple(tasks) if tasks is not None else train.tasks
    if unknown := [task for task in asked if task not in train.tasks]:
        raise UserError(f"Expected a task among {', '.join(train.tasks)}, got {', '.join(unknown)}, for {data.folder}")
    selected = {split: clips.select(asked) for split, clips in data.splits.items()}
    splits = {split: clips for split, clips in selected.items() if len(clips)}
    if not splits:
        raise UserError(f"Expected labels of {', '.join(asked)}, got none in {data.folder}")
    return replace(data, splits=splits, findings=(*data.findings, *label_findings(data, asked)))


def pooled_clips(data: FolderData, groups: Path | None = None) -> tuple[Clips, tuple[str, ...]]:
    """All clips in one, in the order of their ids, and the split of each.

    groups: a file of `id,group` in the place of the folder's groups.csv.
    Clips of equal content are in one group, whatever their names and splits; groups that share a content are one.
    Raises UserError for a file that knows none of the clips, and for a task without labels to learn.
    """
    clips = reduce(concatenate, data.splits.values())
    splits = [split for split, part in data.splits.items() for _ in part.ids]
    order = sorted(range(len(clips)), key=lambda i: id_order(clips.ids[i]))
    clips = clips.take(order)
    names = clips.groups
    if groups is not None:
        names = read_groups(groups, clips.ids)
        if all(name.startswith(ALONE) for name in names):
            raise UserError(f"Expected groups of the clips of {data.folder}, got none of their ids in {groups}")
    if clips.tasks:
        require_labels(clips, f"among the clips of {data.folder}")
    clips = replace(clips, groups=_joined(names, [data.digests[path] for path in clips.paths]))
    return clips, tuple(splits[i] for i in order)


def _joined(groups: np.ndarray | None, digests: Sequence[str]) -> np.ndarray | None:
    """(clips,) names of the groups, joined where they share a content; None where each clip stands alone."""
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

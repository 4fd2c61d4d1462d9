"""Reads label files, in all variants of the lab's folders, as `Clips`. Writes label files."""

import csv
import json
import math
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmusic.data.spectrograms import SUFFIXES, array_kind, array_path
from mtmusic.errors import UserError
from mtmusic.files import write_text

GenreClasses = str | Mapping[str, str | None]
"""How raw genre names become classes: see `genre_mapping`."""

LAB_CLASSES: dict[str, str | None] = {
    "Rock": "Rock", "Psych-Rock": "Rock", "Post-Rock": "Rock",
    "Folk": "Folk", "Psych-Folk": "Folk",
    "Metal": "Metal", "Punk": "Metal",
    "Electronic": "Electronic", "Chiptune": "Electronic",
    "Trip-Hop": "Trip-Hop", "Pop": "Pop", "Hip-Hop": "Hip-Hop",
    "Classical": "Classical", "Blues": "Blues", "Jazz": "Jazz",
    "Indie-Rock": None, "Post-Punk": None, "Soundtrack": None, "International": None, "Old-Time": None,
}  # fmt: skip
"""The lab's mapping of 20 raw genres to 10 classes. None drops the genre's clips."""

TAKEN_NAMES = (
    "genre", "affect", "tags", "tempo", "song", "warning", "id", "split", "mean", "group", "frames", "rows", "dtype",
    "mel_min", "mel_max", "mel_mean", "mel_std", "floor_share", "chroma_min", "chroma_max", "nan_share", "content",
    "problem", "size", "mtime_ns", "seconds", "status", "reason", "model", "model_sha256", "embedding",
)  # fmt: skip
"""Names that a task cannot have: a run's files, the table of clips and the answers use them next to the tasks."""

MISSING = {"", "-", "na", "n/a", "nan", "none", "null", "<na>", "#n/a"}
"""Cells that mean a missing label, in lower case."""


class Problem(NamedTuple):
    """A label row or an array that cannot be used.

    Attributes:
        kind: The name of its kind, "duplicate id" for example.
        clip: The clip's id.
        text: The line to show.

    Examples:
        >>> from mtmusic.data.labels import scan_genre_labels
        >>> clips, problems = scan_genre_labels("data/genre_beat", "test", classes={"Jazz": "Jazz", "Rock": "Rock"})
        >>> problems[0].kind, problems[0].clip
        ('unknown class', '1000')
        >>> print(problems[0])
        data/genre_beat/test_labels.txt line 2: the class mapping does not know 'Blues' (`classes="all"`?)
    """

    kind: str
    clip: str
    text: str

    def __str__(self) -> str:
        return self.text


UNKNOWN_CLASS, NOT_IN_TRAIN = "unknown class", "class missing from train"
"""Kinds of problems."""

ALONE = "clip "
"""Prefix of the group of a clip that groups.csv does not name. The clip is its own group."""


@dataclass(frozen=True)
class Clips:
    """The labelled clips of one split, in the order of the label file.

    Attributes:
        ids: Id of each clip.
        paths: Array file of each clip.
        targets: For genre `(clips,)` int64, each clip's index in `classes`. For affect `(clips, tasks)` float32 in [0,
            1], NaN for missing labels.
        classes: Names of the classes, for genre.
        tasks: Names of the tasks, for affect.
        groups: Name of each clip's group `(clips,)`, its artist for example, or None. A group's clips stay in one
            split.
        digests: Hash of each array's content, or None if the arrays were not read.

    Examples:
        >>> clips = mtmusic.read_genre_labels("data/genre_beat")
        >>> len(clips), clips.classes
        (24, ('Blues', 'Jazz', 'Rock'))
        >>> clips.counts()
        {'Blues': 8, 'Jazz': 8, 'Rock': 8}
        >>> clips.take([0, 8]).targets
        array([0, 1])
    """

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: np.ndarray
    classes: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    digests: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def group_names(self) -> np.ndarray:
        """Name of each clip's group `(clips,)`. Without groups each clip is its own group."""
        return self.groups if self.groups is not None else np.array([f"{ALONE}{i}" for i in self.ids])

    def take(self, indices: Sequence[int] | np.ndarray) -> "Clips":
        """Selects clips by position.

        Args:
            indices: Positions of the clips, in the order wanted.

        Returns:
            These clips as `Clips`.
        """
        return replace(
            self,
            ids=tuple(self.ids[i] for i in indices),
            paths=tuple(self.paths[i] for i in indices),
            targets=self.targets[indices],
            groups=None if self.groups is None else self.groups[indices],
            digests=None if self.digests is None else tuple(self.digests[i] for i in indices),
        )

    def by_id(self) -> "Clips":
        """Sorts the clips by id, for results that must not depend on the order of the label file.

        Returns:
            The same clips in the order of `id_order`.
        """
        return self.take(sorted(range(len(self)), key=lambda i: id_order(self.ids[i])))

    def counts(self) -> dict[str, int]:
        """Counts clips.

        Returns:
            The number of clips of each class, or of labelled clips of each task.
        """
        if self.classes:
            return {name: int(np.sum(self.targets == i)) for i, name in enumerate(self.classes)}
        return {name: int(np.sum(~np.isnan(self.targets[:, i]))) for i, name in enumerate(self.tasks)}

    def class_weights(self) -> list[float]:
        """Weights for `genre_classifier`, with which all classes count alike.

        Returns:
            The weight of each class, inversely proportional to its number of clips. If all classes are of one size,
            each is 1.
        """
        return [len(self) / (len(self.classes) * max(count, 1)) for count in self.counts().values()]

    def select(self, tasks: Sequence[str]) -> "Clips":
        """Selects tasks.

        Args:
            tasks: Names of the tasks, in the order wanted.

        Returns:
            `Clips` with the targets of these tasks only, without the clips that have no label for any of them.

        Raises:
            UserError: The clips have no labels of a task.

        Examples:
            >>> clips = mtmusic.read_affect_labels("data/affect_beat")
            >>> clips.select(["energy", "valence"]).targets.shape
            (30, 2)
        """
        if unknown := [task for task in tasks if task not in self.tasks]:
            raise UserError(f"Expected tasks among {', '.join(self.tasks)}, got {', '.join(unknown)}")
        targets = self.targets[:, [self.tasks.index(task) for task in tasks]]
        labelled = np.flatnonzero(~np.isnan(targets).all(axis=1))
        return replace(self, targets=targets, tasks=tuple(tasks)).take(labelled)

    def label_means(self) -> dict[str, float]:
        """Mean label of each task, for the heads' argument `means`.

        Returns:
            The mean of each task over its labelled clips. Each task needs at least one label.
        """
        return dict(zip(self.tasks, np.nanmean(self.targets, axis=0, dtype=np.float64).tolist(), strict=True))

    def label_variances(self) -> dict[str, float]:
        """Variance of each task's labels, for the heads' argument `variances`.

        Returns:
            The variance of each task over its labelled clips, divided by their number.
        """
        return dict(zip(self.tasks, np.nanvar(self.targets, axis=0, dtype=np.float64).tolist(), strict=True))


def concatenate(first: Clips, second: Clips) -> Clips:
    """Joins the clips of two splits.

    Args:
        first: Clips of one split.
        second: Clips of another, with the same classes or tasks.

    Returns:
        The clips of both as `Clips`. Groups are kept if both have them.

    Raises:
        ValueError: Classes or tasks differ.

    Examples:
        >>> from mtmusic.data.labels import concatenate
        >>> train = mtmusic.read_genre_labels("data/genre_beat")
        >>> test = mtmusic.read_genre_labels("data/genre_beat", "test", known=train.classes)
        >>> len(train), len(test), len(concatenate(train, test))
        (24, 9, 33)
    """
    if (first.classes, first.tasks) != (second.classes, second.tasks):
        raise ValueError(f"Expected equal classes and tasks, got {first.classes + first.tasks} and others")
    grouped = first.groups is not None and second.groups is not None
    return replace(
        first,
        ids=first.ids + second.ids,
        paths=first.paths + second.paths,
        targets=np.concatenate([first.targets, second.targets]),
        groups=np.concatenate([first.groups, second.groups]) if grouped else None,
        digests=(*first.digests, *second.digests) if first.digests and second.digests else None,
    )


def is_missing(cell: str) -> bool:
    """Whether a cell of a table says that a label is missing: it is empty, "-", "NA", "NaN", "None" or "null".

    Args:
        cell: The cell's text.

    Returns:
        Whether it does.
    """
    return cell.strip().lower() in MISSING


def label_value(cell: str) -> float:
    """The number in a cell of a label file.

    Args:
        cell: The cell's text.

    Returns:
        The number, NaN for a missing label.

    Raises:
        ValueError: The cell holds no number. Underscores, as in 0.00_1, are refused.
    """
    if "_" in cell:
        raise ValueError(f"could not convert string to float: {cell!r}")
    return math.nan if is_missing(cell) else float(cell)


def one_form(text: str) -> str:
    """Normalises text to Unicode's composed form (NFC), because file names on macOS hold é as two characters.

    Args:
        text: Any text.

    Returns:
        The text in NFC.
    """
    return unicodedata.normalize("NFC", text)


def refuse_taken_names(tasks: Sequence[str], path: Path) -> None:
    """Checks the names of tasks.

    Args:
        tasks: Names of the tasks.
        path: The file that holds them, for the message.

    Raises:
        UserError: A name is used by a run's files or by the answers, holds a comma, a quotation mark or a TAB, or
            differs from another name only in case and spaces.
    """
    prefixes = ("true_", "genre.", "tags.")
    if broken := [task for task in tasks if not task or set(task) & set(',"\t\n\r')]:
        raise UserError(
            f"Expected task names without comma, quotation mark or TAB, got {broken[0]!r} in {path}: rename it"
        )
    if twins := near_twins(tasks):
        raise UserError(f"Expected different task names, got {twins[0][0]!r} and {twins[0][1]!r} in {path}")
    if taken := [task for task in tasks if task.lower() in TAKEN_NAMES or task.startswith(prefixes)]:
        raise UserError(
            f"Expected task names that mtmusic's files do not use, got {', '.join(taken)} in {path}: rename them"
        )


def near_twins(names: Iterable[str]) -> list[tuple[str, str]]:
    """Finds names that differ only in case and spaces.

    Args:
        names: Names.

    Returns:
        The pairs of such names.
    """
    first: dict[str, str] = {}
    twins = []
    for name in sorted(set(names)):
        known = first.setdefault("".join(name.casefold().split()), name)
        if known != name:
            twins.append((known, name))
    return twins


def genre_mapping(classes: GenreClasses) -> Mapping[str, str | None] | None:
    """Returns the mapping from raw genre names to classes.

    Args:
        classes: "lab" for LAB_CLASSES, which merges 20 raw genres into the lab's 10 classes. "all" makes each raw genre
            a class. Otherwise a mapping from raw name to class, or the path of a JSON file that holds one. None (null
            in JSON) drops a genre's clips.

    Returns:
        The mapping from raw name to class, or None for "all".

    Raises:
        UserError: The file cannot be read, or does not hold one JSON object of names.

    Examples:
        >>> from mtmusic.data.labels import genre_mapping
        >>> genre_mapping("lab")["Psych-Rock"]
        'Rock'
    """
    if not isinstance(classes, str):
        return classes
    if classes in ("lab", "all"):
        return LAB_CLASSES if classes == "lab" else None
    expected = 'Expected `classes` "lab", "all" or a JSON file of {"raw name": "class" or null}'
    try:
        mapping = json.loads(Path(classes).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{expected}, got {classes}: {error}") from error
    if not isinstance(mapping, dict) or not all(isinstance(c, str | None) and c != "" for c in mapping.values()):
        raise UserError(f"{expected}, got other content in {classes}")
    return {one_form(name): None if known is None else one_form(known) for name, known in mapping.items()}


def read_genre_labels(
    folder: Path | str,
    split: str = "train",
    classes: GenreClasses = "lab",
    known: Sequence[str] = (),
) -> Clips:
    """Reads the labels of a genre folder's split, as in the lab's step 4.

    The file is `<split>_labels.txt`, TAB separated, with the header `Id<TAB>Genre`. Each clip's array is in the folder
    `<split>`. An id ends before the first dot: `1042.beatsync.fused.npy.gz` names clip 1042.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".
        classes: How raw genre names become classes, see `genre_mapping`.
        known: Names of the classes in order, for example those of the training split or of a model. By default the
            classes of the file in alphabetical order.

    Returns:
        The labelled clips as `Clips`, with class indices `(clips,)` as targets.

    Raises:
        UserError: The file is missing, is not a genre folder's, or has rows that cannot be used. All of these are
            listed.

    Examples:
        >>> train = mtmusic.read_genre_labels("data/genre_beat")
        >>> test = mtmusic.read_genre_labels("data/genre_beat", "test", known=train.classes)
        >>> len(train), len(test), test.classes
        (24, 9, ('Blues', 'Jazz', 'Rock'))
    """
    clips, problems = scan_genre_labels(folder, split, classes, known)
    if problems:
        raise UserError.listing(f"Cannot use {label_path(folder, split)}", problems)
    return clips


def read_affect_labels(folder: Path | str, split: str = "train") -> Clips:
    """Reads the labels of an affect folder's split, as in the lab's step 8.

    The file is `<split>_labels.txt`, comma separated, with the header `Id,<task>,...`. Labels are from 0 to 1, and an
    empty cell is a missing label. Each clip's array is in the folder `<split>`.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".

    Returns:
        The labelled clips as `Clips`, with targets `(clips, tasks)`.

    Raises:
        UserError: The file is missing, is not an affect folder's, or has rows that cannot be used. All of these are
            listed.

    Examples:
        >>> clips = mtmusic.read_affect_labels("data/affect_beat")
        >>> clips.tasks, clips.targets.shape
        (('valence', 'energy', 'danceability'), (30, 3))
    """
    clips, problems = scan_affect_labels(folder, split)
    if problems:
        raise UserError.listing(f"Cannot use {label_path(folder, split)}", problems)
    return clips


def scan_genre_labels(
    folder: Path | str,
    split: str,
    classes: GenreClasses = "lab",
    known: Sequence[str] = (),
) -> tuple[Clips, list[Problem]]:
    """Like `read_genre_labels`, but leaves out rows that cannot be used, and lists them.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".
        classes: How raw genre names become classes, see `genre_mapping`.
        known: Names of the classes in order, see `read_genre_labels`.

    Returns:
        The labelled clips, and a `Problem` for each row that was left out.

    Raises:
        UserError: The file cannot be used, or no row's genre is one of the classes.

    Examples:
        >>> from mtmusic.data.labels import scan_genre_labels
        >>> clips, problems = scan_genre_labels("data/genre_beat", "test", known=["Blues", "Jazz"])
        >>> len(clips), len(problems), problems[0].kind
        (6, 3, 'class missing from train')
    """
    mapping = genre_mapping(classes)
    path = label_path(folder, split)
    header, rows = _read_rows(path, "\t")
    if [name.lower() for name in header] != ["id", "genre"]:
        raise UserError(
            f"Expected the header Id<TAB>Genre of a genre folder, got {_shown(header)} in {path} "
            "(mtmusic train-affect takes affect folders)"
        )
    problems: list[Problem] = []
    found: dict[str, tuple[Path, str]] = {}
    for number, clip_id, array, (genre,) in _usable_rows(folder, split, rows, 1, problems):
        name = genre if mapping is None else mapping.get(genre, "")
        where = f"{path} line {number}"
        if is_missing(genre):
            problems.append(Problem("missing label", clip_id, f"{where}: clip {clip_id} has no class: {genre!r}"))
        elif name == "":
            text = f'{where}: the class mapping does not know {genre!r} (`classes="all"`?)'
            problems.append(Problem(UNKNOWN_CLASS, clip_id, text))
        elif name is not None and known and name not in known:
            text = f"{where}: class {name!r} is not one of {', '.join(known)}"
            problems.append(Problem(NOT_IN_TRAIN, clip_id, text))
        elif name is not None:
            found[clip_id] = (array, name)
    if not found and problems and {problem.kind for problem in problems} <= {UNKNOWN_CLASS, NOT_IN_TRAIN}:
        raise UserError(_other_genres([cells[1] for _, cells in rows], known, path))
    order = tuple(known) or tuple(sorted({name for _, name in found.values()}))
    targets = np.array([order.index(name) for _, name in found.values()], dtype=np.int64)
    paths = tuple(array for array, _ in found.values())
    return Clips(tuple(found), paths, targets, classes=order, groups=_groups(folder, tuple(found))), problems


def _other_genres(genres: Iterable[str], known: Sequence[str], path: Path) -> str:
    """The message for a file without usable genres. known: see `read_genre_labels`."""
    names = sorted({*genres})
    got = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    if known:
        example = json.dumps({names[0]: known[0]}, ensure_ascii=False)
        return (
            f"Expected genres of the classes {', '.join(known)}, got {got} in {path}: give `classes`, a JSON file that "
            f"maps each genre to a class, such as {example}"
        )
    return (
        f'Expected genres that the class mapping knows, got {got} in {path}: `classes="all"` makes each genre a class'
    )


def scan_affect_labels(folder: Path | str, split: str) -> tuple[Clips, list[Problem]]:
    """Like `read_affect_labels`, but leaves out rows that cannot be used, and lists them.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".

    Returns:
        The labelled clips, and a `Problem` for each row that was left out.

    Raises:
        UserError: The file cannot be used.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.data.labels import scan_affect_labels, write_affect_labels
        >>> write_affect_labels(Path("data/affect_without_arrays"), "train", ["1"], ["valence"], np.array([[0.5]]))
        >>> clips, problems = scan_affect_labels("data/affect_without_arrays", "train")
        >>> len(clips), problems[0].kind
        (0, 'row without array')
    """
    path = label_path(folder, split)
    header, rows = _read_rows(path, ",")
    tasks = tuple(header[1:])
    if header[0].lower() != "id" or not tasks or "" in tasks or len(set(tasks)) < len(tasks):
        raise UserError(
            f"Expected the header Id,<task>,... of an affect folder, got {_shown(header)} in {path} "
            "(mtmusic train-genre takes genre folders)"
        )
    if [task.lower() for task in tasks] == ["genre"]:
        raise UserError(f"Expected Id<TAB>Genre, or Id,<task>,... of an affect folder, got {_shown(header)} in {path}")
    refuse_taken_names(tasks, path)
    problems: list[Problem] = []
    found: dict[str, tuple[Path, list[float]]] = {}
    for number, clip_id, array, cells in _usable_rows(folder, split, rows, len(tasks), problems):
        try:
            values = [label_value(cell) for cell in cells]
        except ValueError as error:
            problems.append(Problem("label not a number", clip_id, f"{path} line {number}: {error}"))
            continue
        if any(value < 0 or value > 1 for value in values):
            text = f"{path} line {number}: expected labels from 0 to 1, got {','.join(cells)}"
            problems.append(Problem("label out of range", clip_id, text))
        else:
            found[clip_id] = (array, values)
    targets = np.array([values for _, values in found.values()], dtype=np.float32).reshape(-1, len(tasks))
    paths = tuple(array for array, _ in found.values())
    return Clips(tuple(found), paths, targets, tasks=tasks, groups=_groups(folder, tuple(found))), problems


def scan_unlabelled(folder: Path | str, split: str) -> tuple[Clips, list[Problem]]:
    """Finds the arrays of a split without labels.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".

    Returns:
        The clips in the order of their ids, as `Clips` without classes and tasks, and an empty list of problems.

    Raises:
        UserError: An array is not named after an id.

    Examples:
        >>> from mtmusic.data.labels import scan_unlabelled
        >>> clips, problems = scan_unlabelled("data/affect_beat", "test")
        >>> clips.ids, clips.targets.shape
        (('1000', '1001', '1002', '1003', '1004', '1005'), (6, 0))
    """
    ids = sorted(array_ids(folder, split), key=id_order)
    kind = folder_feature(folder)
    suffix = SUFFIXES[kind][0]
    if others := [name for name in ids if name != clip_id(name)]:
        raise UserError(f"Expected names like <id>{suffix}, got {others[0]}{suffix} in {Path(folder) / split}")
    paths = tuple(path for i in ids if (path := array_path(Path(folder) / split, i, kind)) is not None)
    targets = np.zeros((len(ids), 0), np.float32)
    return Clips(tuple(ids), paths, targets, groups=_groups(folder, ids)), []


def array_ids(folder: Path | str, split: str) -> set[str]:
    """The ids of a split's arrays, labelled or not.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".

    Returns:
        The arrays' names without `.fused.full.npy` or `.logmel.npy`, with or without `.gz`.
    """
    return {
        one_form(path.name.removesuffix(suffix))
        for suffix in SUFFIXES[folder_feature(folder)]
        for path in (Path(folder) / split).glob(f"[!.]*{suffix}")  # macOS adds files that begin with a dot
    }


def row_ids(folder: Path | str, split: str) -> set[str]:
    """The ids of a split's label rows, usable or not.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".

    Returns:
        The ids.

    Raises:
        UserError: The label file is missing or cannot be read.
    """
    path = label_path(folder, split)
    _, rows = _read_rows(path, "\t" if _is_genre_header(path) else ",")
    return {clip_id(cells[0]) for _, cells in rows}


def is_genre_folder(folder: Path | str) -> bool:
    """Whether a data folder is a genre folder, by the header of its training labels. Otherwise it is an affect folder.

    Args:
        folder: The data folder.

    Returns:
        Whether it is a genre folder.

    Raises:
        UserError: The label file is missing.

    Examples:
        >>> from mtmusic.data.labels import is_genre_folder
        >>> is_genre_folder("data/genre_beat"), is_genre_folder("data/affect_beat")
        (True, False)
    """
    path = label_path(folder, "train")
    _require_label_file(path)
    return _is_genre_header(path)


def label_path(folder: Path | str, split: str) -> Path:
    """Returns the path of a split's label file, `<split>_labels.txt` next to the split's folder.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".

    Returns:
        The path. The file need not exist.
    """
    return Path(folder) / f"{split}_labels.txt"


def has_label_rows(folder: Path | str, split: str) -> bool:
    """Whether a split's label file exists and holds more than its header.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".

    Returns:
        Whether it does.
    """
    path = label_path(folder, split)
    return path.is_file() and sum(bool(line.strip()) for line in path.read_bytes().splitlines()) > 1


def id_order(name: str) -> tuple[int, str]:
    """Returns a key that sorts ids: 9 before 10, and numbers before names.

    Args:
        name: An id.

    Returns:
        The key.
    """
    return (int(name), name) if name.isdecimal() else (sys.maxsize, name)


def clip_id(name: str) -> str:
    """The id in a cell of a label file: the text before its first dot.

    Args:
        name: The cell's text, `1042.beatsync.fused.npy.gz` for example.

    Returns:
        The id.
    """
    return one_form(name.strip().split(".")[0])


def folder_feature(folder: Path | str) -> str:
    """The kind of a folder's arrays, by its features.json, else by the arrays' names.

    Args:
        folder: The data folder.

    Returns:
        "fused" or "logmel".

    Raises:
        UserError: features.json names another feature, or there are arrays of both kinds.
    """
    if content := read_features_json(folder):
        feature = content.get("feature", "fused")
        if feature not in SUFFIXES:
            raise UserError(f'Expected the feature "fused" or "logmel", got {feature!r} in {folder}/features.json')
        return feature
    arrays = (path for split in ("train", "validation", "test") for path in Path(folder).glob(f"{split}/[!.]*.npy*"))
    kinds = {array_kind(path) for path in arrays}
    if len(kinds) == 2:
        raise UserError(f"Expected arrays of one kind, got fused and logmel ones in {folder}: keep them in two folders")
    return kinds.pop() if kinds else "fused"


def is_beat_synchronised(folder: Path | str) -> bool | None:
    """Whether a folder's arrays are beat-synchronised.

    The sources are features.json, then `beatsync` in the label files, then a folder name that ends in `_beat`. Logmel
    arrays are never beat-synchronised.

    Args:
        folder: The data folder.

    Returns:
        Whether they are, or None if none of the sources says it.

    Raises:
        UserError: features.json cannot be read.

    Examples:
        >>> from mtmusic.data.labels import is_beat_synchronised
        >>> is_beat_synchronised("data/genre_beat")
        True
    """
    folder = Path(folder)
    if folder_feature(folder) == "logmel":
        return False
    if (beat := read_features_json(folder).get("beat")) is not None:
        return beat
    labels = [label_path(folder, split) for split in ("train", "validation", "test")]
    beatsync = any(path.is_file() and b"beatsync" in path.read_bytes() for path in labels)
    return True if beatsync or folder.resolve().name.endswith("_beat") else None


def is_synthetic(folder: Path | str) -> bool:
    """Whether a data folder holds synthesised music, by its features.json.

    Args:
        folder: The data folder.

    Returns:
        Whether it does.
    """
    return bool(read_features_json(folder).get("synthetic"))


def read_features_json(folder: Path | str) -> dict[str, Any]:
    """Reads features.json, which says how a folder's arrays were made: "sample_rate", "hop_length", "beat" and others.

    Args:
        folder: The data folder.

    Returns:
        The content of the file. Empty if there is no such file.

    Raises:
        UserError: The file is not a JSON object, or has other content.
    """
    path = Path(folder) / "features.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"Expected JSON in {path}, got other content: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("beat"), bool | None):
        raise UserError(f'Expected {{"beat": true or false, ...}}, got other content in {path}')
    return content


def write_genre_labels(
    folder: Path, split: str, ids: Sequence[str], genres: Sequence[str], name: str = "{id}.fused.full.npy.gz"
) -> None:
    """Writes `<split>_labels.txt` of a genre folder.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".
        ids: Id of each clip.
        genres: Raw genre of each clip.
        name: Format of an id in the file. The lab's files have three formats.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.data.labels import write_genre_labels
        >>> write_genre_labels(Path("data/my_genre"), "train", ["1", "2"], ["Jazz", "Rock"])
        >>> print(Path("data/my_genre/train_labels.txt").read_text())
        Id                   Genre
        1.fused.full.npy.gz  Jazz
        2.fused.full.npy.gz  Rock
    """
    rows = [f"{name.format(id=i)}\t{genre}" for i, genre in zip(ids, genres, strict=True)]
    write_text(label_path(folder, split), "\n".join(["Id\tGenre", *rows]) + "\n")


def write_affect_labels(folder: Path, split: str, ids: Sequence[str], tasks: Sequence[str], values: np.ndarray) -> None:
    """Writes `<split>_labels.txt` of an affect folder.

    Args:
        folder: The data folder.
        split: "train", "validation" or "test".
        ids: Id of each clip.
        tasks: Names of the tasks.
        values: Labels `(clips, tasks)` from 0 to 1, NaN for a missing one. They are written with three decimals.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.data.labels import write_affect_labels
        >>> values = np.array([[0.5, 0.25], [0.1, np.nan]])
        >>> write_affect_labels(Path("data/my_affect"), "train", ["1", "2"], ["valence", "energy"], values)
        >>> print(Path("data/my_affect/train_labels.txt").read_text())
        Id,valence,energy
        1,0.500,0.250
        2,0.100,
    """
    cells = [["" if math.isnan(value) else f"{value:.3f}" for value in row] for row in values]
    rows = [",".join([i, *row]) for i, row in zip(ids, cells, strict=True)]
    write_text(label_path(folder, split), "\n".join([",".join(["Id", *tasks]), *rows]) + "\n")


def _read_rows(path: Path, delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Returns the header's cells, and each row's line number and cells. Accepts CRLF and a byte-order mark."""
    _require_label_file(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"Expected UTF-8 text, got other bytes at {error.start} in {path}: save it as UTF-8") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"Expected text, got a NUL byte in {path} line {line}")
    reader = csv.reader(
        one_form(text).splitlines(), delimiter=delimiter, strict=True
    )  # strict: an unclosed quote is an error
    try:
        cut = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UserError(f"Expected rows of text, got a broken one in {path} line {reader.line_num}: {error}") from error
    lines = [(number, cells) for number, cells in cut if any(cells)]
    if not lines:
        raise UserError(f"Expected a header and a row per clip, got an empty file: {path}")
    if len(lines) == 1:
        raise UserError(f"Expected a row per clip below the header, got only the header in {path}")
    return lines[0][1], lines[1:]


def _require_label_file(path: Path) -> None:
    if not path.parent.is_dir():
        raise UserError(f"Expected a data folder, got no such folder: {path.parent}")
    if not path.is_file():
        raise UserError(f"Expected the label file {path}, got none: is {path.parent} a data folder?")


def _is_genre_header(path: Path) -> bool:
    first = next((line for line in path.read_bytes().splitlines() if line.strip()), b"")
    return first.decode("utf-8-sig", errors="replace").lower().replace('"', "").split("\t") == ["id", "genre"]


def _usable_rows(
    folder: Path | str, split: str, rows: list[tuple[int, list[str]]], values: int, problems: list[Problem]
) -> Iterator[tuple[int, str, Path, list[str]]]:
    """Yields line number, id, array and values of each usable row. Adds a problem for each other row."""
    path = label_path(folder, split)
    feature = folder_feature(folder)
    seen: set[str] = set()
    for number, cells in rows:
        name = clip_id(cells[0])
        array = array_path(Path(folder) / split, name, feature)
        elsewhere = next((cell for cell in cells[1:] if not array and _names_array(cell, Path(folder) / split)), None)
        if not _is_id(cells[0]):
            kind, what = "unusable id", f"expected an id without '/', '\\' and '..', got {cells[0]!r}"
        elif elsewhere:
            name = clip_id(elsewhere)
            kind, what = "shifted columns", f"expected the id in the first column, got {','.join(cells)}"
        elif len(cells) != values + 1:
            kind, what = "shifted columns", f"expected {values + 1} columns, got {len(cells)}"
        elif name in seen:
            kind, what = "duplicate id", f"the id {name} has a second row"
        elif array is None:
            kind, what = "row without array", f"no array {name}{SUFFIXES[feature][0]} (or .npy.gz) in {split}/"
        else:
            yield number, name, array, cells[1:]
            kind = ""
        if kind:
            problems.append(Problem(kind, name, f"{path} line {number}: {what}"))
        seen.add(name)


def _is_id(cell: str) -> bool:
    return bool(clip_id(cell)) and ".." not in cell and "/" not in cell and "\\" not in cell


def _names_array(cell: str, folder: Path) -> bool:
    """Whether the cell is an id whose array exists. The cells 0 and 1 are taken for labels."""
    bare = cell.isdecimal() and cell not in ("0", "1")
    named = bare or any(part in cell for part in (".fused", ".full", ".logmel"))
    return _is_id(cell) and named and array_path(folder, clip_id(cell)) is not None


def _groups(folder: Path | str, ids: Sequence[str]) -> np.ndarray | None:
    """The groups from groups.csv, or None if there is no such file."""
    path = Path(folder) / "groups.csv"
    return read_groups(path, ids) if path.is_file() else None


def read_groups(path: Path, ids: Sequence[str]) -> np.ndarray:
    """Reads the groups of clips from a file with the columns `id,group`.

    Args:
        path: The file, groups.csv of a data folder for example.
        ids: Ids of the clips.

    Returns:
        Name of each clip's group `(clips,)`. A clip that the file does not name is its own group.

    Raises:
        UserError: The file is missing or has other columns.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.data.labels import read_groups
        >>> read_groups(Path("data/affect_beat/groups.csv"), ["1", "2", "3", "99"]).tolist()
        ['group artist train 0', 'group artist train 0', 'group artist train 1', 'clip 99']
    """
    if not path.is_file():
        raise UserError(f"Expected a file with the columns id,group, got no such file: {path}")
    header, rows = _read_rows(path, ",")
    if [name.lower() for name in header] != ["id", "group"] or any(len(cells) != 2 for _, cells in rows):
        raise UserError(f"Expected two columns, id,group, got others in {path}")
    groups = {clip_id(cells[0]): f"group {cells[1]}" for _, cells in rows if not is_missing(cells[1])}
    return np.array([groups.get(i, f"{ALONE}{i}") for i in ids])


def group_ids(folder: Path | str) -> list[str]:
    """The ids that a folder's groups.csv names.

    Args:
        folder: The data folder.

    Returns:
        The ids. Empty if there is no such file.

    Raises:
        UserError: The file cannot be read.
    """
    path = Path(folder) / "groups.csv"
    return [clip_id(cells[0]) for _, cells in _read_rows(path, ",")[1]] if path.is_file() else []


def _shown(header: Sequence[str]) -> str:
    return repr("|".join(header)[:80])


def two_of_different_classes(clips: Clips) -> list[int]:
    """Returns the positions of the first clip and of the first clip of another class.

    Args:
        clips: Clips of genre.

    Returns:
        Both positions.
    """
    return [0, int(np.argmax(clips.targets != clips.targets[0]))]

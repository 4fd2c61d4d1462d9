"""Checks every label row and every array of a folder with NumPy, before a training."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mtmusic.data.labels import (
    Clips,
    GenreClasses,
    Problem,
    label_path,
    scan_affect_labels,
    scan_genre_labels,
    scan_unlabelled,
)
from mtmusic.data.quality.array_checks import (
    ARRAY_PROBLEMS,
    CHECKS_BY_NAME,
    LABEL_ADVICE,
    LEVELS,
    UNREADABLE,
    failed_check,
)
from mtmusic.data.quality.measurements import ArrayMeasurements, measure_arrays
from mtmusic.errors import UserError

LABELS = frozenset({"every label column"})
"""Stands for the label columns, genre or all tasks, among the columns that a finding explains."""

BY_CLASS = LABELS | LEVELS | {"frames"}
"""Columns that differ between classes, because classes differ in level and length."""

EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """A problem of some clips.

    error: whether the clips must not be trained on. Otherwise the finding is a warning.
    clips: `<split>/<id>` of each clip concerned.
    columns: columns of the clips' table whose values the finding explains.
    """

    error: bool
    name: str
    clips: tuple[str, ...]
    message: str
    advice: str
    columns: frozenset[str] = frozenset()

    @property
    def examples(self) -> str:
        return ", ".join(self.clips[:EXAMPLES]) + (", ..." if len(self.clips) > EXAMPLES else "")

    def __str__(self) -> str:
        return f"{self.name} ({len(self.clips)} clips: {self.examples}): {self.message}. {self.advice}"


@dataclass(frozen=True)
class CheckedSplit:
    """A split's clips with the measurements of each array, and a problem for each row and array that cannot be used.

    scanned: the clips of all usable label rows that have an array.
    clips, frames, digests: the clips without a problem, their numbers of frames, and the hashes of their content.
    """

    scanned: Clips
    measurements: tuple[ArrayMeasurements, ...]
    problems: tuple[Problem, ...]

    @property
    def bad_rows(self) -> int:
        """The number of label rows that cannot be used, not counting rows of bad arrays."""
        return sum(problem.kind not in ARRAY_PROBLEMS for problem in self.problems)

    @cached_property
    def good(self) -> list[int]:
        bad = {problem.clip for problem in self.problems if problem.kind in ARRAY_PROBLEMS}
        return [i for i, clip in enumerate(self.scanned.ids) if clip not in bad]

    @cached_property
    def clips(self) -> Clips:
        return replace(self.scanned.take(self.good), digests=self.digests)

    @property
    def frames(self) -> np.ndarray:
        return np.array([self.measurements[i].frames for i in self.good], dtype=int)

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(self.measurements[i].digest for i in self.good)


def checked_genre_split(
    folder: Path | str, split: str, classes: GenreClasses = "lab", known: Sequence[str] = (), levels: bool = True
) -> CheckedSplit:
    """Like `read_genre_labels`, but reads every array once. Raises UserError for a label file that cannot be used.

    levels: whether an array with impossible values is a problem. An unreadable array always is.
    """
    return _checked(*scan_genre_labels(folder, split, classes, known), levels)


def checked_affect_split(folder: Path | str, split: str, levels: bool = True) -> CheckedSplit:
    """Like `checked_genre_split`, for an affect folder."""
    return _checked(*scan_affect_labels(folder, split), levels)


def checked_unlabelled_split(folder: Path | str, split: str) -> CheckedSplit:
    """Like `checked_genre_split`, for the arrays of a split without labels."""
    return _checked(*scan_unlabelled(folder, split), levels=True)


def require_good(folder: Path | str, splits: Mapping[str, CheckedSplit], skip_bad: bool = False) -> tuple[Problem, ...]:
    """Returns the problems of all splits. Raises UserError for problems, unless `skip_bad`, and for an empty split."""
    problems = tuple(problem for part in splits.values() for problem in part.problems)
    if problems and not skip_bad:
        raise UserError.listing(f"Cannot use all of {folder} (`skip_bad=True` leaves these clips out)", problems)
    for split, part in splits.items():
        if not len(part.clips):
            raise UserError(f"Expected clips in {label_path(folder, split)}, got none that can be used")
    return problems


def fingerprint(splits: Mapping[str, CheckedSplit]) -> str:
    """A hash of the clips' splits, ids, labels and contents. It does not depend on their order or file format."""
    lines = sorted(
        f"{split} {clip_id} {np.asarray(target).tolist()} {digest}"
        for split, part in splits.items()
        for clip_id, target, digest in zip(part.clips.ids, part.clips.targets, part.digests, strict=True)
    )
    names = [part.clips.classes + part.clips.tasks for part in splits.values()]
    return hashlib.blake2b(repr((names, lines)).encode(), digest_size=16).hexdigest()


def find_problems(splits: Mapping[str, CheckedSplit]) -> list[Finding]:
    """Returns the splits' problems as errors, one finding for each kind."""
    by_kind: dict[str, list[tuple[str, Problem]]] = defaultdict(list)
    for split, part in splits.items():
        for problem in part.problems:
            by_kind[problem.kind].append((f"{split}/{problem.clip}", problem))
    if "unknown class" in by_kind:  # a class may be missing because its name is misspelt in train
        by_kind.pop("class missing from train", None)
    findings = []
    for kind, problems in by_kind.items():
        check = CHECKS_BY_NAME.get(kind)
        advice, columns = (check.advice, check.columns) if check else (LABEL_ADVICE[kind], BY_CLASS)
        clips = tuple(clip for clip, _ in problems)
        message = problems[0][1].text.removeprefix(f"{kind}: ")
        findings.append(Finding(True, kind, clips, message, advice, columns))
    return findings


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (not finding.error, -len(finding.clips), finding.name))


def _checked(clips: Clips, bad_rows: list[Problem], levels: bool) -> CheckedSplit:
    problems = [*bad_rows]
    arrays = measure_arrays(clips.paths)
    for clip_id, path, array in zip(clips.ids, clips.paths, arrays, strict=True):
        check = failed_check(array)
        if array.problem:
            problems.append(Problem(check.name if check and check.error else UNREADABLE, clip_id, array.problem))
        elif levels and check and check.error:
            problems.append(Problem(check.name, clip_id, f"{check.name}: {check.message(array)} in {path}"))
    return CheckedSplit(clips, tuple(arrays), tuple(problems))

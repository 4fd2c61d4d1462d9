"""What is wrong with a folder, in NumPy: every label row and every array, before any training."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mtmusic.data.facts import ArrayFacts, read_facts
from mtmusic.data.labels import (
    Clips,
    GenreClasses,
    Problem,
    array_ids,
    label_path,
    row_ids,
    scan_affect_labels,
    scan_genre_labels,
    scan_unlabelled,
)
from mtmusic.data.limits import LIMITS
from mtmusic.data.rules import ARRAY_PROBLEMS, CHROMA, LABEL_ADVICE, LEVELS, RULES, UNREADABLE, first_rule
from mtmusic.errors import UserError

LABELS = "labels"
"""In the columns that a finding explains: genre, or every task."""
_ALL_LABELS = frozenset({LABELS})
_BY_CLASS = _ALL_LABELS | LEVELS | {"frames"}  # a class has its own levels and lengths


@dataclass(frozen=True)
class Finding:
    """What is wrong with some clips.

    error: training on it cannot be right; else a warning. clips: `<split>/<id>` of each clip concerned. columns: those
    of the clips' table whose values it explains.
    """

    error: bool
    name: str
    clips: tuple[str, ...]
    message: str
    advice: str
    columns: frozenset[str] = frozenset()

    def __str__(self) -> str:
        shown = ", ".join(self.clips[:3]) + (", ..." if len(self.clips) > 3 else "")
        return f"{self.name} ({len(self.clips)} clips: {shown}): {self.message}. {self.advice}"


@dataclass(frozen=True)
class CheckedSplit:
    """A split's clips with the facts of each array, and a problem for each row and array that cannot be right.

    scanned: every usable label row that has an array. clips, frames, digests: of those without a problem, the clips,
    each clip's number of frames and content hash.
    """

    scanned: Clips
    facts: tuple[ArrayFacts, ...]
    problems: tuple[Problem, ...]

    @cached_property
    def good(self) -> list[int]:
        bad = {problem.clip for problem in self.problems if problem.kind in ARRAY_PROBLEMS}
        return [i for i, clip in enumerate(self.scanned.ids) if clip not in bad]

    @cached_property
    def clips(self) -> Clips:
        return self.scanned.take(self.good)

    @property
    def frames(self) -> np.ndarray:
        return np.array([self.facts[i].frames for i in self.good], dtype=int)

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(self.facts[i].digest for i in self.good)


def checked_genre_split(
    folder: Path | str, split: str, classes: GenreClasses = "lab", known: Sequence[str] = (), levels: bool = True
) -> CheckedSplit:
    """`read_genre_labels`, with every array read once. Raises UserError for a label file that cannot be used at all.

    levels: whether an array whose numbers cannot be right is a problem, beside one that cannot be read.
    """
    return _checked(*scan_genre_labels(folder, split, classes, known), levels)


def checked_affect_split(folder: Path | str, split: str, levels: bool = True) -> CheckedSplit:
    """As `checked_genre_split`, for an affect folder."""
    return _checked(*scan_affect_labels(folder, split), levels)


def checked_unlabelled_split(folder: Path | str, split: str) -> CheckedSplit:
    """As `checked_genre_split`, for the arrays of a split that has no labels."""
    return _checked(*scan_unlabelled(folder, split), levels=True)


def require_good(folder: Path | str, splits: Mapping[str, CheckedSplit], skip_bad: bool = False) -> tuple[str, ...]:
    """All splits' problems, to be told. Raises UserError that lists them unless skip_bad, and for an empty split."""
    problems = tuple(str(problem) for part in splits.values() for problem in part.problems)
    if problems and not skip_bad:
        raise UserError.listing(f"Cannot use all of {folder} (--skip-bad goes on without these)", problems)
    for split, part in splits.items():
        if not len(part.clips):
            raise UserError(f"Expected clips in {label_path(folder, split)}, got none that can be used")
    return problems


def fingerprint(splits: Sequence[CheckedSplit]) -> str:
    """One hash over ids, labels and contents: equal for the same clips whatever their order or number format."""
    lines = sorted(
        f"{clip_id} {np.asarray(target).tolist()} {digest}"
        for split in splits
        for clip_id, target, digest in zip(split.clips.ids, split.clips.targets, split.digests, strict=True)
    )
    names = [split.clips.classes + split.clips.tasks for split in splits]
    return hashlib.blake2b(repr((names, lines)).encode(), digest_size=16).hexdigest()


def find_problems(splits: Mapping[str, CheckedSplit]) -> list[Finding]:
    """The splits' problems, those of a kind together: each an error."""
    by_kind: dict[str, list[tuple[str, Problem]]] = defaultdict(list)
    for split, part in splits.items():
        for problem in part.problems:
            by_kind[problem.kind].append((f"{split}/{problem.clip}", problem))
    rules = {rule.name: rule for rule in RULES}
    findings = []
    for kind, problems in by_kind.items():
        advice = rules[kind].advice if kind in rules else LABEL_ADVICE[kind]
        columns = rules[kind].columns if kind in rules else _BY_CLASS
        clips = tuple(clip for clip, _ in problems)
        message = problems[0][1].text.removeprefix(f"{kind}: ")
        findings.append(Finding(True, kind, clips, message, advice, columns))
    return findings


def find_faults(folder: Path | str, splits: Mapping[str, CheckedSplit], beat: bool) -> list[Finding]:
    """What is wrong with the good clips, alone and together; those that cannot be right are the splits' problems."""
    return [
        *_suspicious_arrays(splits),
        *_mixed_rates(splits, beat),
        *_equal_contents(splits),
        *_shared_ids(splits),
        *_shared_groups(splits),
        *_arrays_without_row(folder, splits),
        *_labels_of_a_task(splits),
        *_class_shares(splits),
        *_split_sizes(splits),
    ]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (not finding.error, -len(finding.clips), finding.name))


def _checked(clips: Clips, problems: list[Problem], levels: bool) -> CheckedSplit:
    facts = read_facts(clips.paths)
    for clip_id, path, fact in zip(clips.ids, clips.paths, facts, strict=True):
        rule = first_rule(fact)
        if fact.problem:
            problems.append(Problem(rule.name if rule and rule.error else UNREADABLE, clip_id, fact.problem))
        elif levels and rule and rule.error:
            problems.append(Problem(rule.name, clip_id, f"{rule.name}: {rule.told(fact)} in {path}"))
    return CheckedSplit(clips, tuple(facts), tuple(problems))


def _good_clips(splits: Mapping[str, CheckedSplit]) -> list[tuple[str, str, ArrayFacts]]:
    """Split, `<split>/<id>` and facts of each."""
    return [
        (split, f"{split}/{part.scanned.ids[i]}", part.facts[i]) for split, part in splits.items() for i in part.good
    ]


def _suspicious_arrays(splits: Mapping[str, CheckedSplit]) -> list[Finding]:
    found: dict[str, list[tuple[str, ArrayFacts]]] = defaultdict(list)
    for _, clip, facts in _good_clips(splits):
        if (rule := first_rule(facts)) and not rule.error:
            found[rule.name].append((clip, facts))
    return [
        Finding(
            False,
            rule.name,
            tuple(clip for clip, _ in found[rule.name]),
            f"{rule.told(found[rule.name][0][1])} in {found[rule.name][0][0]}",
            rule.advice,
            rule.columns,
        )
        for rule in RULES
        if rule.name in found
    ]


def _mixed_rates(splits: Mapping[str, CheckedSplit], beat: bool) -> list[Finding]:
    """A clip of the other rate has many times the folder's median of frames, or a fraction of it."""
    clips = _good_clips(splits)
    median = np.median([facts.frames for _, _, facts in clips])
    ratio, peaks = LIMITS["rate_ratio"].value, LIMITS["full_rate_peaks"].value
    if beat:
        others = [clip for _, clip, f in clips if f.frames > ratio * median and f.chroma_peaks >= peaks]
    else:
        others = [clip for _, clip, f in clips if f.frames < median / ratio and f.chroma_peaks < peaks]
    if not others:
        return []
    names = ("full-rate clips among beat-synchronised ones", "beat-synchronised clips among full-rate ones")
    message = f"expected about {median:.0f} frames, the folder's median, got over {ratio:g} times as many"
    if not beat:
        message = f"expected about {median:.0f} frames, the folder's median, got less than 1/{ratio:g} of it"
    advice = "Keep the two in two folders: a frame is another thing in each"
    return [Finding(True, names[not beat], tuple(others), message, advice, LEVELS | CHROMA | {"frames"})]


def _equal_contents(splits: Mapping[str, CheckedSplit]) -> list[Finding]:
    same: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, clip, facts in _good_clips(splits):
        same[facts.digest].append((split, clip))
    several = [clips for clips in same.values() if len(clips) > 1]
    across = [clips for clips in several if len({split for split, _ in clips}) > 1]
    within = [clips for clips in several if len({split for split, _ in clips}) == 1]
    return [
        *_equal(True, "clip in two splits", across, "Take it out of train: what was learnt cannot be judged by it"),
        *_equal(False, "same content under two ids", within, "Keep one: the other may be held out to judge by it"),
    ]


def _equal(error: bool, name: str, groups: list[list[tuple[str, str]]], advice: str) -> list[Finding]:
    if not groups:
        return []
    message = f"the arrays of {' and '.join(clip for _, clip in groups[0])} are equal"
    return [Finding(error, name, tuple(clip for group in groups for _, clip in group), message, advice)]


def _shared_ids(splits: Mapping[str, CheckedSplit]) -> list[Finding]:
    """Of different content: equal ones are told as such."""
    contents: dict[str, dict[str, str]] = defaultdict(dict)
    for split, clip, facts in _good_clips(splits):
        contents[clip.split("/")[1]][split] = facts.digest
    shared = [(i, by_split) for i, by_split in contents.items() if len(set(by_split.values())) > 1]
    if not shared:
        return []
    clips = tuple(f"{split}/{i}" for i, by_split in shared for split in by_split)
    message = f"the id {shared[0][0]} stands for different clips in {' and '.join(shared[0][1])}"
    return [Finding(False, "id in two splits", clips, message, "Rename one: predictions.csv tells clips by their ids")]


def _shared_groups(splits: Mapping[str, CheckedSplit]) -> list[Finding]:
    members: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for split, part in splits.items():
        groups = part.clips.groups if part.clips.groups is not None else ()
        for clip, group in zip(part.clips.ids, groups, strict=False):
            if group.startswith("group "):  # a clip without one is its own
                members[group][split].append(f"{split}/{clip}")
    shared = {group: by_split for group, by_split in members.items() if len(by_split) > 1}
    if not shared:
        return []
    first, by_split = next(iter(shared.items()))
    clips = tuple(clip for by_split in shared.values() for found in by_split.values() for clip in found)
    message = f"{first} of groups.csv has clips in {' and '.join(by_split)}"
    advice = "Keep a group in one split: a network that knows the artist is judged too well"
    return [Finding(False, "group in two splits", clips, message, advice)]


def _arrays_without_row(folder: Path | str, splits: Mapping[str, CheckedSplit]) -> list[Finding]:
    lonely = [
        f"{split}/{i}"
        for split in splits
        if label_path(folder, split).is_file()
        for i in sorted(array_ids(folder, split) - row_ids(folder, split) - {p.clip for p in splits[split].problems})
    ]
    if not lonely:
        return []
    message = f"{lonely[0].split('/')[0]}_labels.txt has no row for {lonely[0]}"
    return [Finding(False, "array without row", tuple(lonely), message, "Give it a label, or take it out", _ALL_LABELS)]


def _labels_of_a_task(splits: Mapping[str, CheckedSplit]) -> list[Finding]:
    findings = []
    for split, part in splits.items():
        for column, task in enumerate(part.clips.tasks):
            values = part.clips.targets[:, column]
            missing = np.isnan(values)
            clips = tuple(f"{split}/{part.clips.ids[i]}" for i in np.flatnonzero(missing))
            if missing.mean() > LIMITS["missing_labels"].value:
                message = f"{missing.sum()} of {len(values)} clips of {split} have no label of {task}"
                advice = "They teach that task nothing; if that is meant, go on"
                findings.append(Finding(False, "missing labels", clips, message, advice, frozenset({task})))
            if not missing.all() and np.nanmin(values) == np.nanmax(values):
                message = f"every label of {task} in {split} is {np.nanmin(values):g}"
                clips = tuple(f"{split}/{i}" for i in part.clips.ids)
                advice = "Give labels that differ, or leave the task out"
                findings.append(Finding(False, "constant labels", clips, message, advice, frozenset({task})))
    return findings


def _class_shares(splits: Mapping[str, CheckedSplit]) -> list[Finding]:
    """Classes that a split lacks, and those whose shares in two splits differ by more than chance."""
    train = splits.get("train")
    if train is None or not train.clips.classes:
        return []
    counts = {split: part.clips.counts() for split, part in splits.items()}
    findings = []
    for name in train.clips.classes:
        for split in (split for split in counts if split != "train"):
            if not counts[split][name]:
                clips = _of_class(train, "train", name)
                message = f"{split} has no clip of {name}, train has {len(clips)}"
                advice = "Its recall cannot be told: give it clips, or leave the class out with --classes"
                findings.append(Finding(False, f"class missing from {split}", clips, message, advice, _BY_CLASS))
            elif cut := _cut_split(counts, split, name):
                clips = _of_class(splits[cut], cut, name)
                shares = " and ".join(f"{counts[s][name] / len(splits[s].clips):.1%} of {s}" for s in ("train", split))
                message = f"{name} is {shares}"
                advice = f"Were rows of {name} cut in {cut}?"
                findings.append(Finding(False, "class shares differ", clips, message, advice, _BY_CLASS))
    return findings


def _cut_split(counts: Mapping[str, Mapping[str, int]], split: str, name: str) -> str | None:
    """The one of train and `split` in which the class's share is too low to be chance, None where neither is."""
    here = {part: (counts[part][name], sum(counts[part].values())) for part in ("train", split)}
    found, total = (sum(column) for column in zip(*here.values(), strict=True))
    share = found / total
    deviation = np.sqrt(share * (1 - share) * sum(1 / clips for _, clips in here.values()))
    low, high = sorted(here, key=lambda part: here[part][0] / here[part][1])
    lower, higher = (here[part][0] / here[part][1] for part in (low, high))
    is_cut = lower < LIMITS["class_ratio"].value * higher
    return low if is_cut and higher - lower > LIMITS["class_deviations"].value * deviation else None


def _of_class(part: CheckedSplit, split: str, name: str) -> tuple[str, ...]:
    of_class = np.flatnonzero(part.clips.targets == part.clips.classes.index(name))
    return tuple(f"{split}/{part.clips.ids[i]}" for i in of_class)


def _split_sizes(splits: Mapping[str, CheckedSplit]) -> list[Finding]:
    if not {"train", "test"} <= set(splits):
        return []
    train, test = (len(splits[split].scanned) for split in ("train", "test"))
    message = f"train has {train} clips, test {test}"
    clips = tuple(f"{split}/{i}" for split in ("train", "test") for i in splits[split].scanned.ids)
    if test > train:
        return [Finding(False, "splits look swapped", clips, message, "Is train's folder called test?")]
    if test < LIMITS["test_share"].value * (train + test):
        return [Finding(False, "test split looks cut", clips, message, "Is the label file whole?")]
    return []

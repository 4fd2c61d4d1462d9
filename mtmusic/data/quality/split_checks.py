"""Checks clips with each other, and whole splits. The clips have passed the checks of single arrays."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mtmusic.data.labels import ALONE, Clips, array_ids, group_ids, has_label_rows, near_twins, row_ids
from mtmusic.data.quality.array_checks import CHROMA, LEVELS, ArrayCheck, failed_check
from mtmusic.data.quality.checked_split import BY_CLASS, LABELS, CheckedSplit, Finding
from mtmusic.data.quality.measurements import ArrayMeasurements
from mtmusic.data.quality.thresholds import threshold

Splits = Mapping[str, CheckedSplit]


def check_splits(folder: Path | str, splits: Splits, beat: bool) -> list[Finding]:
    """Checks the splits' good clips with each other. Bad clips are among the splits' problems.

    Consequences of a problem are not reported. For example, classes are not counted in a split with many bad rows.
    """
    without_row = _arrays_without_row(folder, splits)
    doubtful = {split for split, part in splits.items() if _is_doubtful(part, split, without_row)}
    return [
        *_suspicious_arrays(splits),
        *_other_rate(splits, beat),
        *_equal_contents(splits),
        *_shared_ids(splits),
        *_shared_groups(splits),
        *_unknown_groups(folder, splits),
        *without_row,
        *_near_twins(splits),
        *_class_shares({split: part for split, part in splits.items() if split not in doubtful}),
        *_split_sizes(splits),
    ]


def check_labels(splits: Mapping[str, Clips]) -> list[Finding]:
    """Finds tasks with many missing labels, or with equal labels."""
    return [finding for split, clips in splits.items() for finding in _labels_of_tasks(split, clips)]


def _good_clips(splits: Splits) -> list[tuple[str, str, ArrayMeasurements]]:
    """The split, `<split>/<id>` and measurements of each good clip."""
    return [
        (split, f"{split}/{part.scanned.ids[i]}", part.measurements[i])
        for split, part in splits.items()
        for i in part.good
    ]


def _suspicious_arrays(splits: Splits) -> list[Finding]:
    found: dict[ArrayCheck, dict[str, str]] = defaultdict(dict)
    for _, clip, array in _good_clips(splits):
        if (check := failed_check(array)) and not check.error:
            found[check][clip] = f"{check.message(array)} in {clip}"
    return [
        Finding(False, check.name, (*clips,), next(iter(clips.values())), check.advice, check.columns)
        for check, clips in found.items()
    ]


def _other_rate(splits: Splits, beat: bool) -> list[Finding]:
    """Finds full-rate clips in a beat-synchronised folder, or the reverse."""
    clips = _good_clips(splits)
    if beat:
        name = "full-rate clips among beat-synchronised ones"
        others = [(clip, array) for _, clip, array in clips if _is_full_rate(array)]
    else:
        name = "beat-synchronised clips among full-rate ones"
        short = np.median([array.frames for _, _, array in clips]) / threshold("beat_ratio")
        others = [(clip, array) for _, clip, array in clips if _is_beat(array, bool(array.frames < short))]
    if not others:
        return []
    first, array = others[0]
    little = "little" if beat else "much"
    rows = "values change" if array.feature == "logmel" else "chroma changes"
    kind = name.split()[0]
    message = f"{first} has {array.frames} frames, and its {rows} as {little} from frame to frame as in {kind} clips"
    advice = "Keep full-rate and beat-synchronised clips in two folders"
    return [Finding(True, name, tuple(clip for clip, _ in others), message, advice, LEVELS | CHROMA | {"frames"})]


def _is_full_rate(array: ArrayMeasurements) -> bool:
    """At full rate each frame's chroma peaks at 1. Successive frames overlap by three quarters, so they are similar."""
    alike = array.chroma_change < threshold("full_rate_change")
    return array.frames >= threshold("full_rate_frames") and _peaks(array) and alike


def _is_beat(array: ArrayMeasurements, short: bool) -> bool:
    """Medians between beats lose the peaks and differ more. A clip that is short for its folder needs one sign."""
    if array.feature == "logmel":
        return array.frames < threshold("full_rate_frames") and array.mel_change > threshold("logmel_change")
    signs = (not _peaks(array), array.chroma_change > threshold("beat_change"))
    return any(signs) if short else all(signs)


def _peaks(array: ArrayMeasurements) -> bool:
    return array.chroma_peaks >= threshold("full_rate_peaks")


def _equal_contents(splits: Splits) -> list[Finding]:
    same: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, clip, array in _good_clips(splits):
        same[array.digest].append((split, clip))
    several = [clips for clips in same.values() if len(clips) > 1]
    across = [clips for clips in several if len({split for split, _ in clips}) > 1]
    within = [clips for clips in several if len({split for split, _ in clips}) == 1]
    return [
        *_equal(True, "clip in two splits", across, "Keep it in one split: test clips must not be in train"),
        *_equal(False, "same content under two ids", within, "Keep one: the other may be held out for the test"),
    ]


def _equal(error: bool, name: str, groups: list[list[tuple[str, str]]], advice: str) -> list[Finding]:
    if not groups:
        return []
    message = f"the arrays of {' and '.join(clip for _, clip in groups[0])} are equal"
    return [Finding(error, name, tuple(clip for group in groups for _, clip in group), message, advice)]


def _shared_ids(splits: Splits) -> list[Finding]:
    """Finds ids that name different clips in two splits. Equal clips are reported by `_equal_contents`."""
    contents: dict[str, dict[str, str]] = defaultdict(dict)
    for split, clip, array in _good_clips(splits):
        contents[clip.split("/")[1]][split] = array.digest
    shared = [(i, by_split) for i, by_split in contents.items() if len(set(by_split.values())) > 1]
    if not shared:
        return []
    clips = tuple(f"{split}/{i}" for i, by_split in shared for split in by_split)
    message = f"the id {shared[0][0]} stands for different clips in {' and '.join(shared[0][1])}"
    return [Finding(False, "id in two splits", clips, message, "Rename one: predictions.csv identifies clips by id")]


def _shared_groups(splits: Splits) -> list[Finding]:
    members: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for split, part in splits.items():
        for clip, group in zip(part.clips.ids, part.clips.group_names, strict=True):
            if not group.startswith(ALONE):
                members[group][split].append(f"{split}/{clip}")
    shared = {group: by_split for group, by_split in members.items() if len(by_split) > 1}
    if not shared:
        return []
    first, by_split = next(iter(shared.items()))
    clips = tuple(clip for by_split in shared.values() for found in by_split.values() for clip in found)
    message = f"{first} of groups.csv has clips in {' and '.join(by_split)}"
    advice = "Keep a group in one split: scores are too high if train and test share an artist"
    return [Finding(False, "group in two splits", clips, message, advice)]


def _arrays_without_row(folder: Path | str, splits: Splits) -> list[Finding]:
    """Finds arrays without a label row. Finds none if rows are shifted or have unusable ids, which explains them."""
    lonely = [
        f"{split}/{i}"
        for split, part in splits.items()
        if has_label_rows(folder, split) and not {p.kind for p in part.problems} & {"shifted columns", "unusable id"}
        for i in sorted(array_ids(folder, split) - row_ids(folder, split))
    ]
    if not lonely:
        return []
    message = f"{lonely[0].split('/')[0]}_labels.txt has no row for {lonely[0]}"
    return [Finding(False, "array without row", tuple(lonely), message, "Add a label, or remove the array", BY_CLASS)]


def _is_doubtful(part: CheckedSplit, split: str, without_row: Sequence[Finding]) -> bool:
    lonely = sum(clip.startswith(f"{split}/") for finding in without_row for clip in finding.clips)
    doubtful = part.bad_rows + lonely
    return doubtful > threshold("doubtful_rows") * (len(part.scanned) + doubtful)


def _labels_of_tasks(split: str, clips: Clips) -> list[Finding]:
    findings = []
    for column, task in enumerate(clips.tasks if len(clips) else ()):
        values = clips.targets[:, column]
        missing = np.isnan(values)
        if missing.mean() > threshold("missing_labels"):
            without = tuple(f"{split}/{clips.ids[i]}" for i in np.flatnonzero(missing))
            message = f"{missing.sum()} of {len(values)} clips of {split} have no label of {task}"
            advice = "These clips do not train the task. Ignore this if it is intended"
            findings.append(Finding(False, "missing labels", without, message, advice, frozenset({task})))
        if not missing.all() and np.nanmin(values) == np.nanmax(values):
            message = f"every label of {task} in {split} is {np.nanmin(values):g}"
            every = tuple(f"{split}/{i}" for i in clips.ids)
            advice = "Give labels that differ, or leave the task out"
            findings.append(Finding(False, "constant labels", every, message, advice, frozenset({task})))
    return findings


def _unknown_groups(folder: Path | str, splits: Splits) -> list[Finding]:
    """Finds rows of groups.csv that name no clip, if there are clips without a group: such clips may be split apart."""
    named = group_ids(folder)
    arrays = [clip for split in ("train", "validation", "test") for clip in array_ids(folder, split)]
    known = {*arrays, *(clip for part in splits.values() for clip in part.scanned.ids)}
    unknown, alone = [clip for clip in named if clip not in known], known - {*named}
    if not unknown or not alone:
        return []
    message = (
        f"{len(unknown)} of {len(named)} rows of groups.csv name no clip, for example {unknown[0]!r}, and {len(alone)} "
        f"clips are in no group, for example {min(alone)!r}"
    )
    advice = "Write the ids as in the arrays' names, with leading zeros"
    return [Finding(len(unknown) == len(named), "groups of no clip", (), message, advice)]


def _near_twins(splits: Splits) -> list[Finding]:
    """Finds classes whose names differ only in case or spaces."""
    scanned = {split: part.scanned for split, part in splits.items()}
    findings = []
    for twins in near_twins(name for clips in scanned.values() for name in clips.classes):
        clips = [
            clip
            for split, part in scanned.items()
            for name in twins
            if name in part.classes
            for clip in _of_class(part, split, name)
        ]
        message = f"the classes {twins[0]!r} and {twins[1]!r} differ only in case or spaces"
        findings.append(Finding(False, "classes of one name", tuple(clips), message, "Use one spelling", LABELS))
    return findings


def _class_shares(splits: Splits) -> list[Finding]:
    """Finds classes that are missing from a split, and classes of which a split seems to have lost clips.

    Every row with an array counts, so a class of bad arrays is not reported as missing.
    """
    counted = {split: part.scanned for split, part in splits.items() if part.scanned.classes and len(part.scanned)}
    train = counted.get("train")
    findings: list[Finding] = []
    for split, clips in counted.items():
        if train is None or split == "train":
            continue
        for name in train.classes:
            if not clips.counts()[name]:
                of_class = _of_class(train, "train", name)
                message = f"{split} has no clip of {name}, train has {len(of_class)}"
                advice = "Its recall cannot be measured: add clips, or leave the class out"
                findings.append(Finding(False, f"class missing from {split}", of_class, message, advice, BY_CLASS))
            elif cut := _cut_split({"train": train, split: clips}, name):
                of_class = _of_class(counted[cut], cut, name)
                shares = " and ".join(f"{_share(counted[part], name):.1%} of {part}" for part in ("train", split))
                advice = f"Check whether rows of {name} are missing in {cut}"
                message = f"the share of {name} is {shares}"
                findings.append(Finding(False, "class shares differ", of_class, message, advice, BY_CLASS))
    return findings


def _cut_split(pair: Mapping[str, Clips], name: str) -> str | None:
    """Returns the split in which the class's share is too low to be chance, or None."""
    low, high = sorted(pair, key=lambda split: _share(pair[split], name))
    lower, higher = _share(pair[low], name), _share(pair[high], name)
    if lower >= threshold("class_ratio") * higher:
        return None
    if _others_agree(pair, name):
        return low
    pooled = sum(clips.counts()[name] for clips in pair.values()) / sum(map(len, pair.values()))
    deviation = np.sqrt(pooled * (1 - pooled) * sum(1 / _independent(clips) for clips in pair.values()))
    return low if higher - lower > threshold("class_deviations") * deviation else None


def _others_agree(pair: Mapping[str, Clips], name: str) -> bool:
    """Whether two or more other classes have equal shares of the rest in both splits, as after a stratified split."""
    rests = [np.array([count for other, count in clips.counts().items() if other != name]) for clips in pair.values()]
    clips_in = [rest.sum() for rest in rests]
    if len(rests[0]) < 2 or not all(clips_in):
        return False
    missed = np.abs(rests[0] / clips_in[0] - rests[1] / clips_in[1]) * min(clips_in)
    groups = min(len(clips) if clips.groups is None else len(set(clips.groups)) for clips in pair.values())
    return bool(missed.max() <= threshold("class_rounding")) and groups >= threshold("class_groups")


def _independent(clips: Clips) -> float:
    """The effective number of independent clips, because the clips of a group are mostly of one class."""
    if clips.groups is None:
        return len(clips)
    _, sizes = np.unique(clips.groups, return_counts=True)
    return float(len(clips) ** 2 / (sizes**2).sum())


def _share(clips: Clips, name: str) -> float:
    return clips.counts()[name] / len(clips)


def _of_class(clips: Clips, split: str, name: str) -> tuple[str, ...]:
    return tuple(f"{split}/{clips.ids[i]}" for i in np.flatnonzero(clips.targets == clips.classes.index(name)))


def _split_sizes(splits: Splits) -> list[Finding]:
    """Compares the numbers of rows in train and test. Bad rows count too."""
    if not {"train", "test"} <= set(splits):
        return []
    train, test = (len(splits[split].scanned) + splits[split].bad_rows for split in ("train", "test"))
    message = f"train has {train} clips, test {test}"
    clips = tuple(f"{split}/{i}" for split in ("train", "test") for i in splits[split].scanned.ids)
    if test > train:
        return [Finding(False, "splits look swapped", clips, message, "Check whether train and test are swapped")]
    if test < threshold("test_share") * (train + test):
        return [Finding(False, "test split looks cut", clips, message, "Check whether the label file is truncated")]
    return []

"""One row a clip: what is known of it, as columns."""

from collections.abc import Mapping
from typing import Any

from mtmusic.data.quality.checked_split import CheckedSplit

ARRAY_COLUMNS = {
    "frames": "frames", "rows": "rows", "dtype": "", "mel_min": "dB", "mel_max": "dB", "mel_mean": "dB",
    "mel_std": "dB",
    "floor_share": "share of frames", "chroma_min": "chroma", "chroma_max": "chroma", "nan_share": "share of values",
}  # fmt: skip
"""Of ArrayFacts, which says what each is, with its unit."""

Row = dict[str, Any]


def clip_table(splits: Mapping[str, CheckedSplit]) -> list[Row]:
    """A row for each label row with an array, in the order of the files, and for each array of an unlabelled split.

    Columns: id, split, genre or a column a task (NaN where the label is missing), group (None without groups.csv),
    ARRAY_COLUMNS, content (a hash) and problem (None for a good clip).
    """
    rows = []
    for split, part in splits.items():
        problems = {problem.clip: problem.kind for problem in part.problems}
        groups = part.scanned.groups if part.scanned.groups is not None else [None] * len(part.scanned)
        for i, (clip_id, facts) in enumerate(zip(part.scanned.ids, part.facts, strict=True)):
            row: Row = {"id": clip_id, "split": split, **_labels(part, i), "group": groups[i]}
            row |= {name: getattr(facts, name) for name in ARRAY_COLUMNS}
            rows.append(row | {"content": facts.digest, "problem": problems.get(clip_id)})
    return rows


def label_columns(splits: Mapping[str, CheckedSplit]) -> tuple[str, ...]:
    """genre, or the tasks."""
    scanned = next(iter(splits.values())).scanned
    return scanned.tasks or ("genre",)


def _labels(part: CheckedSplit, i: int) -> Row:
    if part.scanned.classes:
        return {"genre": part.scanned.classes[part.scanned.targets[i]]}
    return dict(zip(part.scanned.tasks, map(float, part.scanned.targets[i]), strict=True))

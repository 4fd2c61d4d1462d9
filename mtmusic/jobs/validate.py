"""What is in a data folder, and what is wrong with it: the NumPy checks, then TensorFlow Data Validation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.data import validation
from mtmusic.data.checks import (
    LABELS,
    CheckedSplit,
    Finding,
    checked_affect_split,
    checked_genre_split,
    checked_unlabelled_split,
    find_faults,
    find_problems,
    worst_first,
)
from mtmusic.data.labels import GenreClasses, array_ids, has_label_rows, is_genre_folder
from mtmusic.data.limits import LIMITS
from mtmusic.data.table import ARRAY_COLUMNS, Row, clip_table, label_columns
from mtmusic.errors import UserError
from mtmusic.evaluation.data_page import write_data_page
from mtmusic.files import write_json
from mtmusic.jobs.folders import RATES, beat_of_folder

EXAMPLES = 3


@dataclass(frozen=True)
class Validation:
    """What a folder holds, a row a clip (data/table.py), and what is wrong with it, worst first."""

    folder: Path
    beat: bool
    labels: tuple[str, ...]
    rows: dict[str, list[Row]]
    findings: tuple[Finding, ...]


def validate_folder(
    folder: Path,
    classes: GenreClasses = "lab",
    beat: bool | None = None,
    schema: Path | None = None,
    infer_schema: Path | None = None,
    strict: bool = False,
) -> Validation:
    """Checks every label row and array of a genre or affect folder.

    classes: raw genre names to classes. schema: judged by instead of the lab format's. infer_schema: where to write
    one that is inferred from the train split, which is then judged by. strict: warnings are errors. Raises UserError
    where the folder or the schema cannot be read at all.
    """
    splits = _checked_splits(folder, classes)
    labels = label_columns(splits)
    table = clip_table(splits)
    rows = {split: [row for row in table if row["split"] == split] for split in splits}
    frames = np.concatenate([part.frames for part in splits.values()])
    is_beat = beat_of_folder(folder, beat, frames) if len(frames) else bool(beat)
    findings = find_problems(splits)
    if len(frames):
        findings += find_faults(folder, splits, is_beat)
    findings += _tfdv_findings(splits, rows, labels, findings, schema, infer_schema)
    if strict:
        findings = [replace(finding, error=True) for finding in findings]
    return Validation(folder, is_beat, labels, rows, tuple(worst_first(findings)))


def findings_table(validation: Validation) -> str:
    """For the terminal: what the folder holds, then each finding with what to do."""
    clips = ", ".join(f"{len(rows)} {split}" for split, rows in validation.rows.items())
    lines = [f"{validation.folder}: {clips} clips, {RATES[validation.beat]}; {', '.join(validation.labels)}"]
    if not validation.findings:
        return "\n".join([*lines, "Nothing found"])
    width = max(len(finding.name) for finding in validation.findings)
    for finding in validation.findings:
        shown = ", ".join(finding.clips[:EXAMPLES]) + (", ..." if len(finding.clips) > EXAMPLES else "")
        lines.append(f"{_kind(finding):<8} {finding.name:<{width}} {len(finding.clips):>6}  {shown}")
        lines.append(f"{'':8} {finding.message}. {finding.advice}")
    return "\n".join(lines)


def write_findings_json(path: Path, validation: Validation) -> None:
    """folder, beat, clips by split, and each finding with all its clips."""
    content = {
        "folder": str(validation.folder),
        "beat": validation.beat,
        "labels": list(validation.labels),
        "clips": {split: len(rows) for split, rows in validation.rows.items()},
        "findings": [_as_dict(finding, len(finding.clips)) for finding in validation.findings],
    }
    write_json(path, content)


def write_findings_page(path: Path, validation: Validation, command: str) -> None:
    """Findings, distributions by split, and the limits."""
    columns = {name: _by_split(validation.rows, name) for name in (*validation.labels, *ARRAY_COLUMNS)}
    title = f"Data folder {validation.folder.name}"
    findings = [_as_dict(finding, EXAMPLES) | {"clips": len(finding.clips)} for finding in validation.findings]
    write_data_page(path, title, command, findings, columns, LIMITS)


def _checked_splits(folder: Path, classes: GenreClasses) -> dict[str, CheckedSplit]:
    """Train, and validation and test where they are there; a test split without labels too."""
    is_genre = is_genre_folder(folder)
    checked: dict[str, CheckedSplit] = {}
    for split in ("train", "validation", "test"):
        if split != "train" and not has_label_rows(folder, split):
            if array_ids(folder, split):
                checked[split] = checked_unlabelled_split(folder, split)
        elif is_genre:
            known = checked["train"].scanned.classes if "train" in checked else ()
            checked[split] = checked_genre_split(folder, split, classes, known)
        else:
            checked[split] = checked_affect_split(folder, split)
            if set(checked[split].scanned.tasks) != set(checked["train"].scanned.tasks):
                raise UserError(
                    f"Expected the tasks of train, {', '.join(checked['train'].scanned.tasks)}, "
                    f"got {', '.join(checked[split].scanned.tasks)} in {split}_labels.txt of {folder}"
                )
    return checked


def _tfdv_findings(
    splits: dict[str, CheckedSplit],
    rows: dict[str, list[Row]],
    labels: tuple[str, ...],
    found: Sequence[Finding],
    schema: Path | None,
    infer_schema: Path | None,
) -> list[Finding]:
    """Of the clips that the checks left as good; a column whose values a finding explains is not told again."""
    told = {clip for finding in found if not finding.columns.isdisjoint(ARRAY_COLUMNS) for clip in finding.clips}
    good = {
        split: [row for row in part if not row["problem"] and f"{split}/{row['id']}" not in told]
        for split, part in rows.items()
    }
    train = splits["train"].scanned
    if infer_schema is not None:
        inferred = validation.infer_schema(validation.generate_statistics(rows["train"], labels), labels)
        validation.write_schema(infer_schema, inferred)
        schema = infer_schema
    judged_by = validation.read_schema(schema) if schema else validation.lab_schema(train.classes, train.tasks)
    explained = {column for finding in found for column in finding.columns}
    if LABELS in explained:
        explained |= {*labels}
    return [finding for finding in validation.validate(good, judged_by, labels) if not finding.columns & explained]


def _by_split(rows: dict[str, list[Row]], column: str) -> dict[str, list[Any]]:
    """The column's values in each split that has it."""
    values = {split: [row[column] for row in part if row.get(column) is not None] for split, part in rows.items()}
    return {split: known for split, known in values.items() if known}


def _kind(finding: Finding) -> str:
    return "error" if finding.error else "warning"


def _as_dict(finding: Finding, examples: int) -> dict[str, Any]:
    return {
        "kind": _kind(finding),
        "name": finding.name,
        "clips": len(finding.clips),
        "examples": list(finding.clips[:examples]),
        "message": finding.message,
        "advice": finding.advice,
    }

"""Checks a data folder: with NumPy, and with TFDV if it is installed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.data.folder import beat_of_folder, frames_in_words
from mtmusic.data.labels import (
    GenreClasses,
    array_ids,
    folder_feature,
    has_label_rows,
    is_beat_synchronised,
    is_genre_folder,
)
from mtmusic.data.quality import tfdv as validation
from mtmusic.data.quality.checked_split import (
    EXAMPLES,
    LABELS,
    CheckedSplit,
    Finding,
    checked_affect_split,
    checked_genre_split,
    checked_unlabelled_split,
    find_problems,
    worst_first,
)
from mtmusic.data.quality.split_checks import check_labels, check_splits
from mtmusic.data.quality.tfdv import ARRAY_COLUMNS, Row, array_columns, clip_table
from mtmusic.data.quality.thresholds import THRESHOLDS, threshold
from mtmusic.errors import UserError
from mtmusic.evaluation.reports.data import write_data_page
from mtmusic.files import write_json


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    rows: by split, a row for each clip.
    findings: the problems of the folder, errors first.
    skipped: a message about checks that were not made, with the command that installs the missing package. Empty if all
    checks were made.
    """

    folder: Path
    beat: bool
    labels: tuple[str, ...]
    rows: dict[str, list[Row]]
    findings: tuple[Finding, ...]
    feature: str = "fused"
    skipped: str = ""


def validate_folder(
    folder: Path,
    classes: GenreClasses = "lab",
    beat: bool | None = None,
    schema: Path | None = None,
    infer_schema: Path | None = None,
    strict: bool = False,
) -> Validation:
    """Checks every label row and array of a genre or affect folder.

    Without TensorFlow Data Validation, columns are not compared with a schema, nor between train and test, and the
    result says so.
    classes: how raw genre names become classes.
    schema: file of a schema to use instead of that of the lab's format.
    infer_schema: file to write a schema to. It is inferred from the train split, and then used.
    strict: whether warnings count as errors.
    Raises UserError if the folder or the schema cannot be read, and for a schema without TensorFlow Data Validation.
    """
    is_genre = is_genre_folder(folder)
    skipped = _skipped(schema, infer_schema)
    expected = validation.read_schema(schema) if schema else None
    splits = _checked_splits(folder, classes, is_genre)
    labels = splits["train"].scanned.tasks or ("genre",)
    rows = {split: clip_table(part) for split, part in splits.items()}
    frames = np.concatenate([part.frames for part in splits.values()])
    is_beat = beat_of_folder(folder, beat, frames) if len(frames) else bool(beat or is_beat_synchronised(folder))
    findings = [*find_problems(splits), *_missing_splits(splits, is_genre)]
    if len(frames):
        findings += check_splits(folder, splits, is_beat)
    findings += check_labels({split: part.clips for split, part in splits.items()})

    feature = folder_feature(folder)
    if not skipped:
        good = _unexplained(rows, findings)
        if infer_schema is not None:
            expected = _inferred(good["train"], labels, folder)
            validation.write_schema(infer_schema, expected)
        train = splits["train"].scanned
        expected = expected or validation.lab_schema(train.classes, train.tasks, feature)
        whole = all(len(good[split]) >= (1 - threshold("doubtful_rows")) * len(rows[split]) for split in rows)
        # with many bad clips, the rest of a split may have another distribution, so train and test are not compared
        anomalies = validation.validate(good, expected, labels, compare=whole)
        findings += _unexplained_anomalies(anomalies, findings, labels)
    findings = [replace(finding, error=finding.error or strict) for finding in findings]
    return Validation(folder, is_beat, labels, rows, tuple(worst_first(findings)), feature, skipped)


def _skipped(schema: Path | None, infer_schema: Path | None) -> str:
    """Returns a message if TFDV is missing, else "". Raises UserError if it is missing and a schema was requested."""
    if schema or infer_schema:
        validation.tfdv("`schema`" if schema else "`infer_schema`")
    try:
        validation.tfdv()
    except UserError as error:
        return str(error)
    return ""


def findings_table(validation: Validation) -> str:
    """A text for the terminal: the content of the folder, then each finding with its advice."""
    clips = ", ".join(f"{len(rows)} {split}" for split, rows in validation.rows.items())
    lines = [f"{validation.folder}: {clips} clips, {_frames(validation)}; {', '.join(validation.labels)}"]
    if not validation.findings:
        lines.append("Nothing found")
    width = max((len(finding.name) for finding in validation.findings), default=0)
    for finding in validation.findings:
        lines.append(
            f"{_kind(finding):<8} {finding.name:<{width}} {len(finding.clips):>6}  {finding.examples}".rstrip()
        )
        lines.append(f"{'':8} {finding.message}. {finding.advice}")
    if validation.skipped:
        lines.append(f"{'skipped':<8} {validation.skipped}")
    return "\n".join(lines)


def _frames(validation: Validation) -> str:
    return frames_in_words(validation.feature, validation.beat)


def write_findings_json(path: Path, validation: Validation) -> None:
    """Writes folder, feature, beat, clips by split, findings with all their clips, and skipped checks as JSON."""
    content = {
        "folder": str(validation.folder),
        "feature": validation.feature,
        "beat": validation.beat,
        "labels": list(validation.labels),
        "clips": {split: len(rows) for split, rows in validation.rows.items()},
        "findings": [_as_dict(finding) | {"clips": list(finding.clips)} for finding in validation.findings],
        "skipped": validation.skipped,
    }
    write_json(path, content)


def write_findings_page(path: Path, validation: Validation, command: str) -> None:
    """Writes a page with the findings, the distributions by split, and the thresholds of the checks."""
    units = dict.fromkeys(validation.labels, "") | array_columns(validation.feature)
    columns = {name: _by_split(validation.rows, name) for name in units}
    findings = [_as_dict(finding) | {"clips": len(finding.clips)} for finding in validation.findings]
    title = f"Data folder {validation.folder.name}"
    write_data_page(path, title, command, findings, columns, units, THRESHOLDS, validation.skipped)


def _checked_splits(folder: Path, classes: GenreClasses, is_genre: bool) -> dict[str, CheckedSplit]:
    """Checks train, and validation and test if they exist. They may be without labels."""
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
            tasks, found = checked["train"].scanned.tasks, checked[split].scanned.tasks
            if set(found) != set(tasks):
                raise UserError(
                    f"Expected the tasks of train, {', '.join(tasks)}, got {', '.join(found)} in "
                    f"{split}_labels.txt of {folder}"
                )
    return checked


def _missing_splits(splits: dict[str, CheckedSplit], is_genre: bool) -> list[Finding]:
    """Finds what would stop a training: a split without clips, a single class, or no test labels in a genre folder."""
    findings = []
    for split, part in splits.items():
        if not len(part.scanned) and not part.problems:
            advice = "Check the class mapping"
            findings.append(Finding(True, f"no clips in {split}", (), "no row has a known class", advice))
        if is_genre and len(part.scanned) and not part.scanned.classes:
            clips = tuple(f"{split}/{i}" for i in part.scanned.ids)
            message = f"{split} has arrays, but no rows in {split}_labels.txt"
            findings.append(Finding(True, "split without labels", clips, message, "Add labels, or remove the arrays"))
    train = splits["train"].scanned
    if is_genre and len(train) and sum(count > 0 for count in train.counts().values()) == 1:
        message = f"every clip of train has the class {train.classes[int(train.targets[0])]}"
        clips = tuple(f"train/{i}" for i in train.ids)
        findings.append(Finding(True, "one class alone", clips, message, "Training needs two classes or more"))
    if is_genre and "test" not in splits:
        findings.append(
            Finding(True, "no test split", (), "there is no test_labels.txt with rows", "Hold out clips for the test")
        )
    return findings


def _unexplained(rows: dict[str, list[Row]], findings: Sequence[Finding]) -> dict[str, list[Row]]:
    """Returns the rows for TFDV: those of clips without a finding about their arrays."""
    named = {clip for finding in findings if not finding.columns.isdisjoint(ARRAY_COLUMNS) for clip in finding.clips}
    return {
        split: [row for row in part if not row["problem"] and f"{split}/{row['id']}" not in named]
        for split, part in rows.items()
    }


def _inferred(train: Sequence[Row], labels: tuple[str, ...], folder: Path) -> Any:
    if not train:
        raise UserError(f"Expected good clips in {folder / 'train'} to infer a schema from, got none")
    return validation.infer_schema(validation.generate_statistics(train, labels), labels)


def _unexplained_anomalies(
    anomalies: Sequence[Finding], findings: Sequence[Finding], labels: tuple[str, ...]
) -> list[Finding]:
    """Leaves out anomalies of columns whose values a finding explains."""
    explained = {column for finding in findings for column in finding.columns}
    if explained >= LABELS:
        explained |= {*labels}
    return [anomaly for anomaly in anomalies if not anomaly.columns & explained]


def _by_split(rows: dict[str, list[Row]], column: str) -> dict[str, list[Any]]:
    """Returns a column's values in each split that has it, for the arrays that could be read."""
    values = {split: [row[column] for row in part if row["dtype"] and column in row] for split, part in rows.items()}
    return {split: known for split, known in values.items() if known}


def _kind(finding: Finding) -> str:
    return "error" if finding.error else "warning"


def _as_dict(finding: Finding) -> dict[str, Any]:
    return {
        "kind": _kind(finding),
        "name": finding.name,
        "examples": list(finding.clips[:EXAMPLES]),
        "message": finding.message,
        "advice": finding.advice,
    }

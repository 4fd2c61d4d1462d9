"""The clips' table, and its checks by TensorFlow Data Validation: schema, anomalies, and skew between train and test.

TFDV is optional, and its import takes seconds, so functions import it. The other checks do not need it.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mtmusic.constants import LOGMEL_BINS
from mtmusic.data.quality.checked_split import CheckedSplit, Finding
from mtmusic.data.quality.thresholds import threshold
from mtmusic.errors import UserError
from mtmusic.extras import require
from mtmusic.files import write_text

PURPOSE = "The comparison of columns with a schema, and between train and test,"

SCHEMA = Path(__file__).parent / "schema.pbtxt"
"""The schema of the lab's format. `lab_schema` derives the schema of logmel folders from it."""

LABELLED, UNLABELLED = "LABELLED", "UNLABELLED"
"""Environments: the lab's affect folders have a test split without labels."""

COMPARED = ("frames", "mel_mean", "mel_std")
"""Columns whose distributions in train and test are compared, in addition to the labels. The other columns are at a
bound in most clips, where TFDV's histograms show nothing."""

ARRAY_COLUMNS = {
    "frames": "frames", "rows": "rows", "dtype": "", "mel_min": "dB", "mel_max": "dB", "mel_mean": "dB",
    "mel_std": "dB",
    "floor_share": "share of frames", "chroma_min": "chroma", "chroma_max": "chroma", "nan_share": "share of values",
}  # fmt: skip
"""Columns from ArrayMeasurements, with their units."""

LOGMEL_COLUMNS = {
    name: "log10(1 + 10000 power)" if unit == "dB" else unit for name, unit in ARRAY_COLUMNS.items() if unit != "chroma"
}
"""The columns of a logmel folder, with their units."""

Row = dict[str, Any]

HISTOGRAM_BINS = 10  # in TFDV's comparison

Statistics = Any
"""A tensorflow_metadata DatasetFeatureStatisticsList of one split."""

Schema = Any
"""A tensorflow_metadata Schema."""


def clip_table(split: CheckedSplit) -> list[Row]:
    """Returns a row for each label row with an array, in file order, or for each array of an unlabelled split.

    The columns are id, genre or a column for each task (NaN for a missing label), ARRAY_COLUMNS or LOGMEL_COLUMNS, and
    problem (None for a good clip).
    """
    problems = {problem.clip: problem.kind for problem in split.problems}
    return [
        {"id": clip_id, **_labels(split, i), **{name: getattr(array, name) for name in array_columns(array.feature)}}
        | {"problem": problems.get(clip_id)}
        for i, (clip_id, array) in enumerate(zip(split.scanned.ids, split.measurements, strict=True))
    ]


def array_columns(feature: str) -> dict[str, str]:
    """Returns ARRAY_COLUMNS or LOGMEL_COLUMNS."""
    return LOGMEL_COLUMNS if feature == "logmel" else ARRAY_COLUMNS


def _labels(split: CheckedSplit, i: int) -> Row:
    clips = split.scanned
    if clips.classes:
        return {"genre": clips.classes[clips.targets[i]]}
    return dict(zip(clips.tasks, clips.targets[i].tolist(), strict=True))


def generate_statistics(rows: Sequence[Row], labels: Sequence[str]) -> Statistics:
    """Returns TFDV's statistics of a split's rows: of its label columns and of its arrays' columns."""
    module = tfdv()
    import pandas as pd  # comes with TFDV

    present = [name for name in labels if any(_is_known(row.get(name)) for row in rows)]
    columns = [*present, *(name for name in ARRAY_COLUMNS if name in rows[0])]
    frame = pd.DataFrame([{name: row[name] for name in columns} for row in rows])
    return module.generate_statistics_from_dataframe(frame, n_jobs=1)


def infer_schema(statistics: Statistics, labels: Sequence[str]) -> Schema:
    """Lets TFDV infer a schema from a train split. In it, labels are optional for the other splits."""
    schema = tfdv().infer_schema(statistics, infer_feature_shape=True)
    schema.default_environment.extend([LABELLED, UNLABELLED])
    for feature in schema.feature:
        if feature.name in labels:
            feature.not_in_environment.append(UNLABELLED)
    return schema


def lab_schema(classes: Sequence[str] = (), tasks: Sequence[str] = (), feature: str = "fused") -> Schema:
    """Returns the schema of the lab's format for these classes or tasks. Task labels are in [0, 1] and may be missing.

    feature: "logmel" for the schema of a logmel folder.
    """
    schema = read_schema(SCHEMA)
    if feature == "logmel":
        _make_logmel(schema)
    if classes:
        schema.string_domain.add(name="genre", value=classes)
        column = schema.feature.add(name="genre", type="BYTES", domain="genre", not_in_environment=[UNLABELLED])
        column.presence.min_fraction = 1.0
    for task in tasks:
        column = schema.feature.add(name=task, type="FLOAT", not_in_environment=[UNLABELLED])
        column.float_domain.min, column.float_domain.max = 0.0, 1.0
        column.presence.min_count = 1
    return schema


def _make_logmel(schema: Schema) -> None:
    """Changes the schema to that of logmel: other limits of mel, 96 rows, and no chroma."""
    loudest = threshold("logmel_loudest")
    domains = {"mel_min": 0.0, "mel_max": 0.0, "mel_mean": 0.0, "mel_std": threshold("constant_db")}
    for column in [*schema.feature]:
        if column.name not in LOGMEL_COLUMNS:
            schema.feature.remove(column)
        elif column.name == "rows":
            column.int_domain.min = column.int_domain.max = LOGMEL_BINS
        elif column.name in domains:
            column.float_domain.min, column.float_domain.max = domains[column.name], loudest


def read_schema(path: Path) -> Schema:
    """Reads a schema in protobuf's text format. Raises UserError if the file holds none."""
    tfdv()
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), schema_pb2.Schema())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise UserError(
            f"Expected a schema of TensorFlow Data Validation in text format, got {path}: {error} "
            "(`infer_schema` writes one)"
        ) from error


def write_schema(path: Path, schema: Schema) -> None:
    from google.protobuf import text_format

    write_text(path, text_format.MessageToString(schema))


def validate(
    rows: Mapping[str, Sequence[Row]], schema: Schema, labels: Sequence[str], compare: bool = True
) -> list[Finding]:
    """Compares each split's rows with the schema, and with `compare` train with test. Each anomaly is a finding."""
    statistics = {split: generate_statistics(part, labels) for split, part in rows.items() if part}
    findings = []
    for split, of_split in statistics.items():
        environment = LABELLED if _columns(of_split) & {*labels} else UNLABELLED
        known = environment if environment in schema.default_environment else None
        found = tfdv().validate_statistics(of_split, schema, environment=known)
        findings += [_anomaly(split, rows[split], schema, name, info) for name, info in found.anomaly_info.items()]
    if compare and {"train", "test"} <= set(statistics):
        findings += _skew(rows, statistics, labels)
    return findings


def _skew(
    rows: Mapping[str, Sequence[Row]], statistics: Mapping[str, Statistics], labels: Sequence[str]
) -> list[Finding]:
    """Finds columns whose distributions in train and test differ by more than chance."""
    train, test = statistics["train"], statistics["test"]
    there = [name for name in (*labels, *COMPARED) if name in _columns(train) & _columns(test)]
    schema = tfdv().infer_schema(train)
    for feature in schema.feature:
        limit = _skew_limit(feature.name, rows["train"], rows["test"]) if feature.name in there else None
        if limit is not None and feature.name == "genre":
            feature.skew_comparator.infinity_norm.threshold = limit
        elif limit is not None:
            feature.skew_comparator.jensen_shannon_divergence.threshold = limit
    found = tfdv().validate_statistics(train, schema, serving_statistics=test)
    clips = tuple(f"test/{row['id']}" for row in rows["test"])
    return [
        _skewed(skew.path.step[0], skew.skew_measurements[0], clips)
        for skew in found.drift_skew_info
        if skew.skew_measurements[0].value > skew.skew_measurements[0].threshold
    ]


def _skewed(name: str, measured: Any, clips: tuple[str, ...]) -> Finding:
    kind = "L-infinity" if name == "genre" else "Jensen-Shannon divergence"
    message = (
        f"expected a difference of {name} between train and test of at most {measured.threshold:.2f}, "
        f"got {measured.value:.2f} ({kind})"
    )
    advice = "Look at the page: was one split made with other settings, or from other music?"
    return Finding(False, f"skew of {name}", clips, message, advice, frozenset({name}))


def _skew_limit(name: str, train: Sequence[Row], test: Sequence[Row]) -> float | None:
    """The largest difference of a column that counts as chance, or None if the column is not compared.

    For two samples of n and m clips, the standard error of the difference of a share p is sqrt(p(1 - p)(1/n + 1/m)).
    The expected divergence of histograms of ten bins is 9/8 (1/n + 1/m) nats.
    """
    scatter = 1 / len(train) + 1 / len(test)
    if name == "genre":
        return threshold("skew_shares") + threshold("skew_errors") * math.sqrt(_largest_spread(train) * scatter)
    if _is_constant(name, train, test):
        return None
    chance = (HISTOGRAM_BINS - 1) / 8 * scatter / math.log(2)
    return threshold("skew_values") + threshold("skew_groups") * chance


def _largest_spread(rows: Sequence[Row]) -> float:
    """The largest p(1 - p) over the classes, where p is the share of a class."""
    _, counts = np.unique([row["genre"] for row in rows], return_counts=True)
    shares = counts / counts.sum()
    return float((shares * (1 - shares)).max())


def _is_constant(name: str, *parts: Sequence[Row]) -> bool:
    """Whether most clips of all parts have the same value, for example the same number of frames."""
    quartiles = {q for part in parts for q in np.nanquantile([row.get(name, math.nan) for row in part], (0.25, 0.75))}
    return len(quartiles) == 1


def _anomaly(split: str, rows: Sequence[Row], schema: Schema, name: str, info: Any) -> Finding:
    reasons = "; ".join(reason.description.rstrip(". ") for reason in info.reason)
    named = name or "the table"
    clips = tuple(f"{split}/{row['id']}" for row in rows if not name or _is_outside(row.get(name), name, schema))
    clips = clips or tuple(f"{split}/{row['id']}" for row in rows)
    advice = "Correct the data, or the schema if the data are right"
    return Finding(
        False, f"schema: {named}", clips, f"{split}: {reasons or info.description}", advice, frozenset({name})
    )


def _is_outside(value: Any, name: str, schema: Schema) -> bool:
    """Whether a value is outside its column's domain, or missing."""
    feature = next((feature for feature in schema.feature if feature.name == name), None)
    if feature is None or not _is_known(value):
        return True
    if isinstance(value, str):
        domains = {domain.name: domain.value for domain in schema.string_domain}
        return bool(feature.domain) and value not in domains.get(feature.domain, ())
    domain = feature.int_domain if feature.HasField("int_domain") else feature.float_domain
    low, high = (getattr(domain, bound) if domain.HasField(bound) else None for bound in ("min", "max"))
    return (low is not None and value < low) or (high is not None and value > high)


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _columns(statistics: Statistics) -> set[str]:
    return {feature.path.step[0] for dataset in statistics.datasets for feature in dataset.features}


def tfdv(purpose: str = PURPOSE) -> ModuleType:
    """Imports TFDV, without the messages that its import writes.

    Raises UserError if it is not installed. The message begins with `purpose`.
    """
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(StringIO()):  # without IPython it prints that it cannot draw
            return require("tensorflow_data_validation", purpose)
    finally:
        logging.disable(logging.NOTSET)

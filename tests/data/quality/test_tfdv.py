"""A row a clip, and TFDV of the rows: what the shipped schema allows or not, and which columns are compared."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from mtmusic.data.quality import tfdv as validation
from mtmusic.data.quality.checked_split import checked_affect_split, checked_genre_split, checked_unlabelled_split
from mtmusic.data.quality.thresholds import THRESHOLDS
from tests.folders import needs_tfdv

pytestmark = needs_tfdv

DataFolder = Callable[..., Path]
SaveArray = Callable[..., Path]

GOOD = {
    "frames": 60, "rows": 140, "dtype": "float32", "mel_min": -80.0, "mel_max": 0.0, "mel_mean": -40.0, "mel_std": 14.0,
    "floor_share": 0.0, "chroma_min": 0.05, "chroma_max": 1.0, "nan_share": 0.0,
}  # fmt: skip


def rows(count: int, seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """Genre rows, half of each class; lengths and levels as music has them."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        levels = {"mel_mean": rng.normal(-40, 8), "mel_std": rng.normal(14, 3), "frames": int(rng.normal(60, 15))}
        made.append({"id": str(i), "genre": ("Jazz", "Rock")[i % 2], **GOOD, **levels, **changes})
    return made


def found(train: list, test: list, schema: Any = None) -> dict[str, Any]:
    schema = schema or validation.lab_schema(classes=("Jazz", "Rock"))
    findings = validation.validate({"train": train, "test": test}, schema, ("genre",))
    return {finding.name: finding for finding in findings}


def test_the_rows_are_good() -> None:
    assert set(GOOD) == set(validation.ARRAY_COLUMNS)
    assert found(rows(200), rows(80, seed=1)) == {}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("frames", 0), ("rows", 128), ("dtype", "int16"), ("mel_min", -90.0), ("mel_max", 3.0), ("mel_max", -3.0),
        ("mel_mean", 2.0), ("mel_std", 50.0), ("floor_share", 0.9), ("chroma_min", -0.5), ("chroma_max", 1.5),
        ("nan_share", 0.1), ("genre", "Polka"),
    ],
)  # fmt: skip
def test_the_labs_schema_says_what_a_column_may_hold(column: str, value: Any) -> None:
    test = rows(80, seed=1)
    test[3][column] = value
    anomalies = {name: finding for name, finding in found(rows(200), test).items() if not name.startswith("skew")}
    assert list(anomalies) == [f"schema: {column}"]
    assert anomalies[f"schema: {column}"].clips == ("test/3",)
    assert anomalies[f"schema: {column}"].columns == {column}


def test_the_schema_and_the_limits_agree() -> None:
    domains = {feature.name: feature.float_domain for feature in validation.read_schema(validation.SCHEMA).feature}
    limits = {name: value for name, (value, _) in THRESHOLDS.items()}
    as_stored = {
        "mel_min": (limits["floor_db"], limits["loudest_db"]),
        "mel_max": (limits["not_reached_db"], limits["loudest_db"]),
        "floor_share": (0, limits["silent_share"]),
        "chroma_min": (-limits["chroma_margin"], 1 + limits["chroma_margin"]),
        "chroma_max": (-limits["chroma_margin"], 1 + limits["chroma_margin"]),
    }
    for name, (low, high) in as_stored.items():
        assert (domains[name].min, domains[name].max) == pytest.approx((low, high))
    assert domains["mel_std"].min == pytest.approx(limits["constant_db"])


@pytest.mark.parametrize(
    ("column", "moved"),
    [("mel_mean", lambda value: value - 15), ("mel_std", lambda value: value + 6), ("frames", lambda value: value * 3)],
)
def test_a_column_that_is_distributed_otherwise_is_skewed(column: str, moved: Any) -> None:
    test = [row | {column: moved(row[column])} for row in rows(80, seed=1)]
    assert list(found(rows(200), test)) == [f"skew of {column}"]


def test_class_shares_are_compared() -> None:
    test = [row for row in rows(160, seed=1) if row["genre"] == "Jazz" or int(row["id"]) % 8 == 1]
    skew = found(rows(200), test)
    assert list(skew) == ["skew of genre"]
    assert "0.30 (L-infinity)" in skew["skew of genre"].message  # .5 less .2


def test_frames_that_are_nearly_all_alike_are_not_compared() -> None:
    """As full-rate excerpts have: TFDV's histograms of one value and of two lie far apart."""
    train = [row | {"frames": 1292 if i else 700} for i, row in enumerate(rows(200))]
    assert found(train, [row | {"frames": 1292} for row in rows(80, seed=1)]) == {}
    assert list(found(train, [row | {"frames": 646} for row in rows(80, seed=1)])) == ["skew of frames"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("counts", [(24, 9), (100, 30), (2000, 500)])
def test_chance_alone_is_no_skew(seed: int, counts: tuple[int, int]) -> None:
    assert found(rows(counts[0], seed), rows(counts[1], seed + 100)) == {}


def test_a_split_without_labels_is_of_another_environment() -> None:
    tasks = ("valence", "power")
    train = [{"id": str(i), "valence": i / 50, "power": math.nan if i % 3 else 0.5, **GOOD} for i in range(50)]
    test = [{"id": str(i), **GOOD} for i in range(20)]
    schema = validation.lab_schema(tasks=tasks)
    assert validation.validate({"train": train, "test": test}, schema, tasks) == []
    train[4]["valence"] = 1.2
    [finding] = validation.validate({"train": train, "test": test}, schema, tasks)
    assert (finding.name, finding.clips) == ("schema: valence", ("train/4",))
    inferred = validation.infer_schema(validation.generate_statistics(train, tasks), tasks)
    assert validation.validate({"train": train, "test": test}, inferred, tasks) == []


def test_a_schema_is_written_and_read(tmp_path: Any) -> None:
    schema = validation.lab_schema(classes=("Jazz",))
    validation.write_schema(tmp_path / "schema.pbtxt", schema)
    assert validation.read_schema(tmp_path / "schema.pbtxt") == schema
    assert "genre" in text_format.MessageToString(schema)


def test_a_genre_folder_has_a_row_a_clip(data_folder: DataFolder, save_array: SaveArray) -> None:
    folder = data_folder("Id\tGenre\n2\tRock\n1\tPop\n3\tRock\n", [1, 2])
    save_array(folder / "train" / "3.fused.full.npy", np.zeros((128, 5)))
    second, first, third = validation.clip_table(checked_genre_split(folder, "train"))
    assert (first["id"], first["genre"]) == ("1", "Pop")
    assert (first["rows"], first["frames"], first["dtype"], first["problem"]) == (140, 3, "float32", None)
    assert (second["id"], second["genre"]) == ("2", "Rock")
    assert (third["rows"], third["problem"]) == (128, "wrong shape")
    assert math.isnan(third["mel_max"])


def test_an_affect_folder_has_a_column_a_task(data_folder: DataFolder) -> None:
    folder = data_folder("Id,valence,energy\n1,0.25,\n", [1])
    data_folder("", [8, 7], split="test")
    [labelled] = validation.clip_table(checked_affect_split(folder, "train"))
    unlabelled = validation.clip_table(checked_unlabelled_split(folder, "test"))
    assert labelled["valence"] == 0.25
    assert math.isnan(labelled["energy"])
    assert [row["id"] for row in unlabelled] == ["7", "8"]
    assert "valence" not in unlabelled[0]


LOGMEL = {
    "frames": 60, "rows": 96, "dtype": "float16", "mel_min": 0.0, "mel_max": 6.0, "mel_mean": 2.0, "mel_std": 1.1,
    "floor_share": 0.0, "nan_share": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value"),
    [("rows", 140), ("mel_min", -1.0), ("mel_max", 9.0), ("mel_std", 0.001), ("floor_share", 0.9)],
)
def test_logmel_has_a_schema_of_its_own(column: str, value: Any) -> None:
    rows = [{"id": str(i), "valence": i / 50, **LOGMEL} for i in range(50)]
    schema = validation.lab_schema(tasks=("valence",), feature="logmel")
    assert set(LOGMEL) == set(validation.array_columns("logmel"))
    assert validation.validate({"train": rows}, schema, ("valence",)) == []
    rows[4][column] = value
    [finding] = validation.validate({"train": rows}, schema, ("valence",))
    assert (finding.name, finding.clips) == (f"schema: {column}", ("train/4",))

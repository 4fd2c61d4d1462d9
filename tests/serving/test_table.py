"""The table of parts without any model: what is in it, resumed, changed, killed."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mtmusic.errors import UserError
from mtmusic.files import locked
from mtmusic.serving import table as table_module
from mtmusic.serving.table import Known, open_table, parts_of, schema_of, text
from tests.folders import PROJECT

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = {"song": "string", "size": "int64", "mtime_ns": "int64", "seconds": "float64", "status": "string"}


def schema(sha256="a" * 64, window=None, kind="answers", embedding=0, **more):
    models = [{"model": "tiny", "run": "/tiny", "sha256": sha256, "card": {}}]
    return schema_of(COLUMNS | more, {"kind": kind, "models": models, "window": window}, embedding)


def row(song: str, size: int = 1, status: str = "ok") -> dict:
    return {"song": song, "size": size, "mtime_ns": 2, "seconds": None, "status": status}


def songs_in(folder: Path) -> list[str]:
    return parquet.read_table(folder).column("song").to_pylist()


def test_rows_are_put_into_parts_which_open_as_one_table(tmp_path):
    folder = tmp_path / "a.parquet"
    with open_table(folder, schema(embedding=3), part_rows=2) as table:
        assert parquet.read_table(folder).num_rows == 0
        for number in range(5):
            table.add(row(str(number)) | {"embedding": np.full(3, number, np.float32)})
            assert songs_in(folder) == list("01234"[: (number + 1) // 2 * 2])
    assert [part.name for part in parts_of(folder)] == [f"part-00000{number}.parquet" for number in range(4)]
    read = parquet.read_table(folder)
    assert read.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert read.column("embedding").to_pylist() == [[number] * 3 for number in range(5)]
    for part in parts_of(folder):
        assert parquet.read_schema(part) == schema(embedding=3)
        assert parquet.read_schema(part).metadata == schema(embedding=3).metadata
    assert json.loads(read.schema.metadata[b"mtmusic"])["kind"] == "answers"


def test_a_part_is_written_after_some_time_and_in_the_end(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(table_module.time, "monotonic", lambda: now[0])
    folder = tmp_path / "a.parquet"

    def stopped() -> None:
        with open_table(folder, schema(), part_seconds=30) as table:
            for number, at in enumerate((10, 29, 31, 60, 62)):
                now[0] = at
                table.add(row(str(number)))
                assert len(songs_in(folder)) == (0, 0, 3, 3, 5)[number]
            table.add(row("5"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert songs_in(folder) == list("012345")


def test_what_is_known_is_dropped_from_its_part_alone(tmp_path):
    folder = tmp_path / "a.parquet"
    with open_table(folder, schema(), part_rows=2) as table:
        for number in range(4):
            table.add(row(str(number), number, "failed" if number == 3 else "ok"))
    before = parts_of(folder)[1].stat()
    with open_table(folder, schema(), part_rows=2) as table:
        assert table.known["0"] == Known(0, 2, False, "part-000001.parquet")
        assert table.known["3"] == Known(3, 2, True, "part-000002.parquet")
        table.drop(["2", "3"])
        assert songs_in(folder) == ["0", "1"]
        assert [*table.known] == ["0", "1"]
        table.add(row("2", 7))
    assert parts_of(folder)[1].stat() == before
    assert len(parts_of(folder)) == 4
    assert songs_in(folder) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"sha256": "b" * 64}, r"Expected the model tiny \(aaaaaaaa\), as in .*a\.parquet, got .*bbbbbbbb"),
        ({"window": 5.0}, "Expected windows of the models' own length, as in .*, got windows of 5 s: give another"),
        ({"kind": "embeddings"}, "Expected answers, as in .*, got embeddings"),
        ({"power": "float32"}, "Expected the columns of .*, got other columns"),
    ],
)
def test_rows_of_another_kind_are_refused_unless_they_replace_all(tmp_path, other, told):
    folder = tmp_path / "a.parquet"
    with open_table(folder, schema()) as table:
        table.add(row("one"))
    with pytest.raises(UserError, match=told), open_table(folder, schema(**other)):
        pass
    assert songs_in(folder) == ["one"]
    with open_table(folder, schema(**other), overwrite=True) as table:
        assert (table.known, parquet.read_table(folder).num_rows) == ({}, 0)
        table.add(row("two"))
    assert songs_in(folder) == ["two"]


def test_a_second_run_and_other_things_are_refused(tmp_path):
    folder = tmp_path / "a.parquet"
    with open_table(folder, schema()), pytest.raises(UserError, match="Another run is writing"):
        open_table(folder, schema()).__enter__()
    for thing, told in (("file", "got the file"), ("folder", "which holds other things")):
        place = tmp_path / f"{thing}.parquet"
        (place if thing == "file" else place / "photo.png").parent.mkdir(exist_ok=True)
        (place if thing == "file" else place / "photo.png").write_text("dear")
        with pytest.raises(UserError, match=told):
            open_table(place, schema(), overwrite=True).__enter__()
    with locked(folder):
        assert songs_in(folder) == []


def test_a_part_that_cannot_be_read_is_named(tmp_path):
    folder = tmp_path / "a.parquet"
    with open_table(folder, schema()) as table:
        table.add(row("one"))
    (folder / "part-000001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"cannot be read: .*part-000001\.parquet"):
        open_table(folder, schema()).__enter__()


def test_names_that_are_no_text():
    assert text("/ü/\udcff.mp3") == "/ü/\\xff.mp3"


FILLING = """
import sys
from itertools import count
from pathlib import Path
from mtmusic.serving.table import open_table, schema_of
columns = {"song": "string", "size": "int64", "mtime_ns": "int64", "status": "string"}
description = {"kind": "answers", "models": [], "window": None}
with open_table(Path(sys.argv[1]), schema_of(columns, description), part_rows=2) as table:
    table.drop([*table.known][::3])
    for number in count():
        table.add({"song": f"{sys.argv[2]} {number}", "size": 1, "mtime_ns": 1, "status": "ok"})
        if number % 2:
            print(f"{sys.argv[2]} {number - 1}", f"{sys.argv[2]} {number}", sep="\\n", flush=True)
"""


def test_killed_at_ten_random_moments_no_row_is_lost_and_the_table_opens(tmp_path):
    """A program that writes parts all the time, and first takes every third row out, says which rows it has written."""
    folder, rng, before = tmp_path / "a.parquet", random.Random(0), []
    for turn in range(10):
        command = [sys.executable, "-c", FILLING, str(folder), f"turn {turn}"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
        if turn % 2:  # else it is killed while it starts, or takes rows out
            child.stdout.readline()
        time.sleep(rng.uniform(0, 0.5))
        child.kill()
        written = child.communicate()[0].splitlines()
        after = songs_in(folder) if folder.is_dir() and parts_of(folder) else []
        assert {*written, *before} - {*before[::3]} <= {*after}
        assert max(Counter(after).values(), default=1) == 1
        before = after
    assert len(before) > 20

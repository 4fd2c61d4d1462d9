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
from mtmusic.serving.table import Known, open_table, parts_of, schema_of, song_name, text
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


@pytest.fixture
def filled(tmp_path) -> Path:
    """Three parts, the last of two rows."""
    with open_table(tmp_path / "a.parquet", schema()) as table:
        table.add(row("one"))
        table.write()
        table.add(row("two"))
        table.add(row("three"))
    return tmp_path / "a.parquet"


def damage_bytes(part: Path, at: int) -> None:
    content = bytearray(part.read_bytes())
    content[at : at + 40] = b"\xff" * 40
    part.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda part: part.write_bytes(b"PAR1 no"),
        lambda part: part.write_bytes(b""),
        lambda part: part.write_bytes(part.read_bytes()[:-100]),
        lambda part: damage_bytes(part, 4),  # the first page's header
        lambda part: damage_bytes(part, part.stat().st_size - 60),  # the footer
        lambda part: (part.unlink(), part.mkdir()),
    ],
)
def test_a_damaged_part_is_named_and_overwritten(filled, damage):
    damage(part := filled / "part-000001.parquet")
    with pytest.raises(UserError, match=r"cannot be read: .*part-000001\.parquet.*: remove it; .*") as told:
        open_table(filled, schema()).__enter__()
    assert "\n" not in str(told.value)
    if part.is_file():
        with open_table(filled, schema(), overwrite=True) as table:
            assert table.known == {}
    else:
        part.rmdir()
    with open_table(filled, schema()):
        assert "one" not in songs_in(filled)


@pytest.mark.parametrize("metadata", [None, "{}", "no JSON", "[]", '{"kind": "answers", "models": [1], "window": 1}'])
def test_another_programs_parts_are_neither_read_nor_deleted(tmp_path, metadata):
    part = tmp_path / "a.parquet" / "part-000000.parquet"
    part.parent.mkdir()
    parquet.write_table(pa.table({"song": ["x"]}).replace_schema_metadata(metadata and {"mtmusic": metadata}), part)
    for overwrite in (False, True):
        with pytest.raises(UserError, match=rf"Expected a table that mtmusic wrote, got another program's: {part}"):
            open_table(part.parent, schema(), overwrite).__enter__()
    assert songs_in(part.parent) == ["x"]


def test_other_parquet_files_among_the_parts_are_refused(filled):
    (filled / "part-x.parquet").write_bytes((filled / "part-000002.parquet").read_bytes())
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"got .*part-x\.parquet in it: move this file away"):
            open_table(filled, schema(), overwrite).__enter__()


def test_without_its_first_part_a_table_is_completed(filled):
    (filled / "part-000000.parquet").unlink()
    with open_table(filled, schema()) as table:
        assert [*table.known] == ["one", "two", "three"]
        table.add(row("four"))
    assert songs_in(filled) == ["one", "two", "three", "four"]


def test_only_its_own_unfinished_parts_are_removed(filled, tmp_path):
    unfinished, own = filled / f".{'0a' * 6}.part-000003.parquet", filled / ".mine.parquet"
    for file in (unfinished, own):
        file.write_bytes(b"dear")
    with open_table(filled, schema()):
        assert (unfinished.exists(), own.exists()) == (False, True)
    foreign = tmp_path / "b.parquet"
    foreign.mkdir()
    for name in (unfinished.name, "photo.png"):
        (foreign / name).write_bytes(b"dear")
    with pytest.raises(UserError, match="which holds other things"):
        open_table(foreign, schema()).__enter__()
    assert len([*foreign.iterdir()]) == 2
    (foreign / "photo.png").unlink()  # killed before its first part was whole
    with open_table(foreign, schema()):
        assert [file.name for file in foreign.iterdir()] == ["part-000000.parquet"]


def test_a_model_that_has_another_name_is_the_same(filled):
    models = [{"model": "renamed", "run": "/renamed", "sha256": "a" * 64, "card": {}}]
    other = schema_of(COLUMNS, {"kind": "answers", "models": models, "window": None})
    with open_table(filled, other) as table:
        table.add(row("four"))
    assert songs_in(filled) == ["one", "two", "three", "four"]


def test_an_embedding_is_stored_once(tmp_path):
    rows = np.random.default_rng(0).normal(size=(1000, 753)).astype(np.float32)
    with open_table(tmp_path / "a.parquet", schema(embedding=753)) as table:
        for number, values in enumerate(rows):
            table.add(row(f"/music/artist/{number}.mp3") | {"embedding": values})
    size = sum(part.stat().st_size for part in parts_of(tmp_path / "a.parquet"))
    assert 1 < size / rows.nbytes < 1.05


def test_names_that_are_no_text():
    assert text("/ü/\udcff\x1b\n.mp3") == "/ü/\\xff\\x1b\\n.mp3"
    assert song_name(Path("/ü/a\n.mp3")) == "/ü/a\n.mp3"
    assert song_name(Path("/ü/\udcff.mp3")) == "file:///%C3%BC/%FF.mp3"
    assert song_name(Path("/ü/\\xff.mp3")) == "/ü/\\xff.mp3"


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

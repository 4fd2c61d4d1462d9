"""A table of songs: a folder of parquet parts, each of them whole, which opens as one table while rows are added.

Hidden files, unfinished parts, are passed by where pyarrow or pandas read the folder.
"""

import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mtmusic.errors import UserError
from mtmusic.extras import require
from mtmusic.files import locked, refuse_other_things, require_writable, whole_file

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

SUFFIX = ".parquet"
FIRST = f"part-000000{SUFFIX}"
"""The first part has no rows: the columns of a table are known before a song is answered."""

METADATA = b"mtmusic"
"""The key of the schema's metadata: JSON, see `description_of`."""

FAILED = "failed"

Row = dict[str, Any]


class Known(NamedTuple):
    """What a table knows of a song: its file, whether it failed, and the part that holds its row."""

    size: int
    mtime_ns: int
    failed: bool
    part: str


def pyarrow() -> Any:
    """The package. Raises UserError where it is missing."""
    require("pyarrow", "A table of songs")
    import pyarrow as pa
    import pyarrow.parquet

    return pa


def text(path: str | os.PathLike[str]) -> str:
    """A path or a sentence as a table holds it: UTF-8, other bytes as escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def schema_of(columns: Mapping[str, str], description: Mapping[str, Any], embedding: int = 0) -> "pa.Schema":
    """columns: each one's type by name. embedding: the values of the last column, where there is one."""
    pa = pyarrow()
    fields = [(name, pa.type_for_alias(kind)) for name, kind in columns.items()]
    fields += [("embedding", pa.list_(pa.float32(), embedding))] if embedding else []
    return pa.schema(fields, metadata={METADATA: json.dumps(description)})


class Table:
    """Rows are put into parts of `part_rows`, or of `part_seconds`. known: by song, see `text`."""

    def __init__(self, folder: Path, schema: "pa.Schema", part_rows: int, part_seconds: float) -> None:
        self.folder, self.schema = folder, schema
        self.part_rows, self.part_seconds = part_rows, part_seconds
        self.known: dict[str, Known] = {}
        names = [part.name for part in parts_of(folder)]
        for name in names:
            columns = open_part(folder / name).read(columns=["song", "size", "mtime_ns", "status"]).to_pydict()
            for song, size, mtime_ns, status in zip(*columns.values(), strict=True):
                self.known[song] = Known(size, mtime_ns, status == FAILED, name)
        if not names:
            self._write_part(FIRST, [])
        self._number = int(re.sub(r"\D", "", names[-1])) + 1 if names else 1
        self._rows: list[Row] = []
        self._written = time.monotonic()

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= self.part_rows or time.monotonic() >= self._written + self.part_seconds:
            self.write()

    def write(self) -> None:
        """Writes the rows that no part holds. Where it is broken off and called again, it writes the same part."""
        if self._rows:
            self._write_part(f"part-{self._number:06}{SUFFIX}", self._rows)
            self._rows, self._number = [], self._number + 1
        self._written = time.monotonic()

    def drop(self, songs: Collection[str]) -> None:
        """Takes the songs' rows out of their parts."""
        pa, songs = pyarrow(), {*songs}
        for name in sorted({self.known.pop(song).part for song in songs}):
            rows = open_part(self.folder / name).read()
            kept = pa.array([song not in songs for song in rows.column("song").to_pylist()], pa.bool_())
            self._write_part(name, rows.filter(kept))

    def _write_part(self, name: str, rows: "list[Row] | pa.Table") -> None:
        pa = pyarrow()
        table = pa.Table.from_pylist(rows, schema=self.schema) if isinstance(rows, list) else rows
        with whole_file(self.folder / name) as unfinished:
            pa.parquet.write_table(table, os.path.abspath(unfinished))  # noqa: PTH100  PyArrow 10 takes "a: b" for a URI


@contextmanager
def open_table(
    folder: Path, schema: "pa.Schema", overwrite: bool = False, part_rows: int = 1000, part_seconds: float = 30.0
) -> Iterator[Table]:
    """Opens a table to add rows to, or makes it; at the end, whatever ends it, the last rows are written.

    overwrite: empties it first. Raises UserError where another run writes it, where the folder holds other things or
    cannot be written, and where its rows are others: of another model, say.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"Expected `out` to be a new table or an earlier one, which is a folder, got the file {folder}")
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for unfinished in folder.glob(f".*{SUFFIX}"):
            unfinished.unlink()
        refuse_other_things(folder, FIRST)
        if overwrite:
            for part in parts_of(folder)[::-1]:
                part.unlink()
        for part in parts_of(folder)[:1]:
            _require_same(open_part(part).schema_arrow, schema, folder)
        table = Table(folder, schema, part_rows, part_seconds)
        try:
            yield table
        finally:
            table.write()


def parts_of(folder: Path) -> list[Path]:
    """Sorted."""
    return sorted(folder.glob(f"part-*{SUFFIX}"))


def open_part(part: Path) -> "ParquetFile":
    """Raises UserError for a file that is no part of a table."""
    pa = pyarrow()
    try:
        file = pa.parquet.ParquetFile(part)
    except ValueError as error:
        raise UserError(
            f"Expected a part of a table of songs, got a file that cannot be read: {part}: {error}"
        ) from error
    description_of(file.schema_arrow, part)
    return file


def description_of(schema: "pa.Schema", place: Path) -> dict[str, Any]:
    """{"kind": "answers" or "embeddings", "models": [{"model", "run", "sha256", "card"}], "window", "units", ...}.

    Raises UserError where there is none.
    """
    if METADATA not in (schema.metadata or {}):
        raise UserError(f"Expected a table that mtmusic wrote, got another table: {place}")
    return json.loads(schema.metadata[METADATA])


def _require_same(there: "pa.Schema", here: "pa.Schema", folder: Path) -> None:
    old, new = (description_of(schema, folder) for schema in (there, here))
    for name, told in (("kind", str), ("models", _models_told), ("window", _window_told)):
        if (before := told(old[name])) != (now := told(new[name])):
            raise UserError(f"Expected {before}, as in {folder}, got {now}: give another `out`, or `overwrite`")
    if there != here:
        raise UserError(f"Expected the columns of {folder}, got other columns: give another `out`, or `overwrite`")


def _models_told(models: list[dict[str, Any]]) -> str:
    return "the model " + " + ".join(f"{model['model']} ({model['sha256'][:8]})" for model in models)


def _window_told(window: float | None) -> str:
    return f"windows of {window:g} s" if window else "windows of the models' own length"

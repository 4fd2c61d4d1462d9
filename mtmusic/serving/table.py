"""A table of songs: a folder of complete parquet parts, which can be opened as one table while rows are added.

Unfinished parts are hidden files, which pyarrow and pandas ignore.
"""

import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mtmusic.errors import UserError
from mtmusic.extras import require
from mtmusic.files import locked, refuse_other_things, require_writable, unfinished_files, whole_file

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

SUFFIX = ".parquet"
FIRST = f"part-000000{SUFFIX}"
"""The first part has no rows. It has the columns of the table before the first song is predicted."""

PARTS = f"part-{'[0-9]' * 6}{SUFFIX}"

METADATA = b"mtmusic"
"""The key of the JSON in the schema's metadata, see `description_of`."""

KNOWN = "song", "size", "mtime_ns", "status"
"""The columns for `Known`."""

FAILED = "failed"

Row = dict[str, Any]


class Known(NamedTuple):
    """A song in a table: its file, whether it failed, and the part that holds its row."""

    size: int
    mtime_ns: int
    failed: bool
    part: str


def pyarrow() -> Any:
    """Returns the package pyarrow. Raises UserError if it is missing."""
    require("pyarrow", "A table of songs")
    import pyarrow as pa
    import pyarrow.parquet

    return pa


def text(sentence: str | os.PathLike[str]) -> str:
    """Returns one line of UTF-8. Control characters and invalid bytes, which file names may hold, are escaped."""
    decoded = os.fsencode(sentence).decode(errors="backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], decoded)


def song_name(path: Path) -> str:
    """Returns a song's name in a table: its path, or a file: URI, which differs from every path, if it is not UTF-8."""
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError:
        return path.as_uri()


def schema_of(columns: Mapping[str, str], description: Mapping[str, Any], embedding: int = 0) -> "pa.Schema":
    """Makes a schema. columns: types by name. embedding: number of values in the column embedding, 0 for none."""
    pa = pyarrow()
    fields = [(name, pa.type_for_alias(kind)) for name, kind in columns.items()]
    fields += [("embedding", pa.list_(pa.float32(), embedding))] if embedding else []
    return pa.schema(fields, metadata={METADATA: json.dumps(description)})


class Table:
    """A table to add rows to. A part is written after `part_rows` rows or `part_seconds` seconds.

    known: the songs in the table, by `song_name`.
    """

    def __init__(self, folder: Path, schema: "pa.Schema", part_rows: int, part_seconds: float) -> None:
        self.folder, self.schema = folder, schema
        self.part_rows, self.part_seconds = part_rows, part_seconds
        self.known: dict[str, Known] = {}
        names = [part.name for part in parts_of(folder)]
        for name in names:
            for batch in batches(folder / name, KNOWN):
                for song, size, mtime_ns, status in zip(*batch.to_pydict().values(), strict=True):
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
        """Writes the new rows as a part. If it is interrupted and called again, it writes the same part."""
        if self._rows:
            self._write_part(f"part-{self._number:06}{SUFFIX}", self._rows)
            self._rows, self._number = [], self._number + 1
        self._written = time.monotonic()

    def drop(self, songs: Collection[str]) -> None:
        """Removes the rows of these songs from their parts."""
        pa, songs = pyarrow(), {*songs}
        for name in sorted({self.known.pop(song).part for song in songs}):
            with _reading(self.folder / name) as part:
                rows = part.read()
            kept = pa.array([song not in songs for song in rows.column("song").to_pylist()], pa.bool_())
            self._write_part(name, rows.filter(kept))

    def _write_part(self, name: str, rows: "list[Row] | pa.Table") -> None:
        pa = pyarrow()
        table = pa.Table.from_pylist(rows, schema=self.schema) if isinstance(rows, list) else rows
        texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
        with whole_file(self.folder / name) as unfinished:
            place = os.path.abspath(unfinished)  # noqa: PTH100  else PyArrow 10 takes "a: b" for a URI
            pa.parquet.write_table(table, place, use_dictionary=texts)  # else numbers are stored twice


@contextmanager
def open_table(
    folder: Path, schema: "pa.Schema", overwrite: bool = False, part_rows: int = 1000, part_seconds: float = 30.0
) -> Iterator[Table]:
    """Opens or makes a table to add rows. At the end the last rows are written, also after an error.

    overwrite: whether to empty the table first. Raises UserError if another run writes the table, if the folder holds
    other files or cannot be written to, and if its rows differ in kind, for example in the model.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"Expected `out` to be a new table or an earlier one, which is a folder, got the file {folder}")
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        parts, unfinished = parts_of(folder), unfinished_files(folder, PARTS)
        if {*folder.iterdir()} - {*unfinished}:
            refuse_other_things(folder, parts[0].name if parts else FIRST)
        if overwrite:
            _require_ours(parts)
        for file in (*unfinished, *(parts[::-1] if overwrite else ())):
            file.unlink()
        for part in () if overwrite else parts:
            with _reading(part) as file:
                _require_same(file.schema_arrow, schema, folder)
        table = Table(folder, schema, part_rows, part_seconds)
        try:
            yield table
        finally:
            table.write()


def parts_of(folder: Path) -> list[Path]:
    """Returns the sorted parts. Raises UserError if there are other parquet files, which would be read as parts."""
    parts = sorted(folder.glob(PARTS))
    if others := {*folder.glob(f"[!.]*{SUFFIX}")} - {*parts}:
        raise UserError(
            f"Expected a table with parts such as {FIRST} only, got {min(others)} in it: move this file away"
        )
    return parts


def batches(part: Path, columns: Sequence[str], rows: int = 65_536) -> "Iterator[pa.RecordBatch]":
    """Yields columns of a part in batches. Raises UserError if the part is damaged, or if mtmusic did not write it."""
    with _reading(part) as file:
        if missing := {*columns} - {*file.schema_arrow.names}:
            raise UserError(f"Expected a table with the column {min(missing)}, got one without: {part}")
        yield from file.iter_batches(rows, columns=[*columns])


def describe_part(part: Path) -> dict[str, Any]:
    """Reads the `description_of` a part. Raises UserError if it is damaged, or if mtmusic did not write it."""
    with _reading(part) as file:
        return description_of(file.schema_arrow, part)


@contextmanager
def _reading(part: Path) -> "Iterator[ParquetFile]":
    pa = pyarrow()
    try:
        file = pa.parquet.ParquetFile(part)
        description_of(file.schema_arrow, part)
        yield file
    except UserError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = text(" ".join(str(error).split()))
        raise UserError(
            f"Expected a part of a table of songs, got a file that cannot be read: {part}: {reason}: remove it; its "
            "songs are then missing until they are processed again"
        ) from error


def description_of(schema: "pa.Schema", place: Path) -> dict[str, Any]:
    """Reads {"kind": "answers" or "embeddings", "models": [{"model", "run", "sha256", "card"}], "window", ...}.

    Raises UserError if the schema has no such description.
    """
    try:
        found = json.loads(schema.metadata[METADATA])
        if isinstance(found["kind"], str) and all({"model", "run", "sha256"} <= {*one} for one in found["models"]):
            return found | {"window": found["window"] and float(found["window"])}
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(f"Expected a table that mtmusic wrote, got another program's: {place}: give another folder")


def _require_ours(parts: Sequence[Path]) -> None:
    """Raises UserError if mtmusic wrote none of the parts. Some may be damaged."""
    problems = []
    for part in parts:
        try:
            describe_part(part)
        except UserError as error:
            problems.append(error)
        else:
            return
    if problems:
        raise problems[0]


def _require_same(there: "pa.Schema", here: "pa.Schema", folder: Path) -> None:
    old, new = (description_of(schema, folder) for schema in (there, here))
    for name, same, told in (("kind", str, str), ("models", _hashes, _models_told), ("window", str, _window_told)):
        if same(old[name]) != same(new[name]):
            before, now = told(old[name]), told(new[name])
            raise UserError(f"Expected {before}, as in {folder}, got {now}: give another `out`, or `overwrite`")
    if there != here:
        raise UserError(f"Expected the columns of {folder}, got other columns: give another `out`, or `overwrite`")


def _hashes(models: list[dict[str, Any]]) -> list[str]:
    return [model["sha256"] for model in models]


def _models_told(models: list[dict[str, Any]]) -> str:
    return "the model " + " + ".join(f"{model['model']} ({model['sha256'][:8]})" for model in models)


def _window_told(window: float | None) -> str:
    return f"windows of {window:g} s" if window else "windows of the models' own length"

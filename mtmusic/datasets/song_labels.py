"""Labels of songs, from the names of their folders or from a table, and the split of the songs."""

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mtmusic.audio.extraction import plain_id
from mtmusic.data.labels import Clips, Problem, is_missing, label_value, one_form, refuse_taken_names
from mtmusic.data.splits import hold_out
from mtmusic.errors import UserError

NAMED_COLUMNS = ("path", "id", "genre", "group")

Row = dict[str, str]


@dataclass(frozen=True)
class SongLabels:
    """Labels of songs by id, each of which may be missing.

    values: values of the tasks, (tasks,) in [0, 1], NaN if missing.
    """

    genres: dict[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    values: dict[str, np.ndarray] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    unknown: tuple[str, ...] = ()
    """rows: number of rows of the table with a path or an id. unknown: paths or ids that name no song."""

    def ids(self) -> list[str]:
        """The ids of songs with a genre or a value, sorted."""
        return sorted(self.genres.keys() | self.values.keys())


def labels_from_folders(ids: Mapping[Path, str]) -> SongLabels:
    """Takes the name of each song's folder as its genre."""
    genres = {song_id: _genre(path.parent.name) for path, song_id in ids.items()}
    return SongLabels({song_id: genre for song_id, genre in genres.items() if genre})


def labels_from_table(table: Path, ids: Mapping[Path, str], roots: Sequence[Path]) -> SongLabels:
    """Reads the labels of songs from a CSV file with a header.

    A column path or id names the song. The columns genre and group are optional. Each other column is a task, with
    values from 0 to 1. Paths are absolute, or relative to the table, to one of `roots` or to the working folder. The
    cells in `labels.MISSING` are missing labels. Names are compared in one Unicode form. Raises UserError for a table
    that cannot be used, and if no row names a song.
    """
    tasks, rows = _read_table(table)
    labels = SongLabels(tasks=tasks)
    names = {one_form(str(path)): song_id for path, song_id in ids.items()}
    stems = Counter(one_form(path.stem) for path in ids)
    known = {song_id: song_id for song_id in ids.values()}
    known |= {one_form(path.stem): song_id for path, song_id in ids.items() if stems[one_form(path.stem)] == 1}
    problems: list[Problem] = []
    seen: set[str] = set()
    unknown: list[str] = []
    for number, row in rows:
        named = row.get("path") or row.get("id")
        song_id = _song_of(row, names, known, [table.parent, *roots, Path()])
        if song_id is None:
            unknown += [named] if named else []
            continue
        if song_id in seen:
            problems.append(Problem("duplicate id", song_id, f"line {number}: the song {song_id} has a second row"))
        seen.add(song_id)
        _add_row(labels, song_id, row, f"line {number}", problems)
    labels = replace(labels, rows=len(seen) + len(unknown), unknown=tuple(unknown))
    if problems:
        raise UserError.listing(f"Cannot use {table}", problems)
    if not seen:
        raise UserError(f"Expected labels of the songs in {table}, got none: {describe_unknown(labels, ids)}")
    if not labels.ids():
        raise UserError(
            f"Expected labels of the songs in {table}, got none: {len(seen)} rows name a song, none has a label"
        )
    for place, task in enumerate(tasks):
        if all(np.isnan(values[place]) for values in labels.values.values()):
            raise UserError(f"Expected labels of {task} in {table}, got none: leave the column out")
    return labels


def describe_unknown(labels: SongLabels, ids: Mapping[Path, str]) -> str:
    """States how many rows of a table name no song, with an example, and how songs can be named."""
    path, song_id = next(iter(ids.items()))
    return (
        f"{len(labels.unknown)} of {labels.rows} rows name no song, for example {labels.unknown[0]!r}; "
        f"a song's id is for example {song_id!r}, its path {path.name!r}"
        if labels.unknown
        else f"none of {labels.rows} rows names a song"
    )


def splits_of(labels: SongLabels, paths: Mapping[str, Path], test_share: float, seed: int) -> dict[str, str]:
    """Splits the labelled songs into "train" and "test", stratified by genre or else by the tasks' values.

    A group's songs stay in one split. Raises UserError if there are too few songs, or too few of a genre.
    """
    ids = labels.ids()
    if labels.genres:
        commonest = Counter(labels.genres.values()).most_common(1)[0][0]
        genres = [labels.genres.get(i, commonest) for i in ids]  # songs without a genre need no stratification
        classes, targets = np.unique(genres, return_inverse=True)
    else:
        classes, targets = np.array([]), np.array([labels.values[i] for i in ids], np.float32)
    groups = np.array([f"group {labels.groups[i]}" if i in labels.groups else f"clip {i}" for i in ids])
    clips = Clips(
        tuple(ids),
        tuple(paths[i] for i in ids),
        targets,
        tuple(map(str, classes)),
        () if len(classes) else labels.tasks,
        groups if labels.groups else None,
    )
    kept, held = hold_out(clips, test_share, seed)
    return dict.fromkeys(kept.ids, "train") | dict.fromkeys(held.ids, "test")


def _read_table(table: Path) -> tuple[tuple[str, ...], list[tuple[int, Row]]]:
    """Returns the tasks, and each row's line number and cells by column. NAMED_COLUMNS are in lower case."""
    if not table.is_file():
        raise UserError(f"Expected a table of labels, got no such file: {table}")
    try:
        text = table.read_text(encoding="utf-8-sig")
        if "\0" in text:
            line = text[: text.index("\0")].count("\n") + 1
            raise UserError(f"Expected text, got a NUL byte in {table} line {line}")
        lines = csv.reader(io.StringIO(text), strict=True)
        rows = [(lines.line_num, [cell.strip() for cell in cells]) for cells in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"Expected a table in CSV and UTF-8, got something else in {table}: {error}") from error
    rows = _without_unnamed_columns(rows)
    header = [name.lower() if name.lower() in NAMED_COLUMNS else name for name in rows[0][1]] if rows else []
    tasks = tuple(name for name in header if name not in NAMED_COLUMNS)
    if not {"path", "id"} & set(header) or not (tasks or "genre" in header) or len(set(header)) < len(header):
        raise UserError(f"Expected the columns path or id, and genre or tasks, got {','.join(header)!r} in {table}")
    refuse_taken_names(tasks, table)
    for number, cells in rows[1:]:
        if cells and len(cells) != len(header):
            raise UserError(f"Expected {len(header)} columns, got {len(cells)} in {table} line {number}")
    return tasks, [(number, dict(zip(header, cells, strict=True))) for number, cells in rows[1:] if cells]


def _without_unnamed_columns(rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Removes columns with neither a name nor a value, which spreadsheets may add at the right."""
    header = rows[0][1] if rows else []
    empty = {i for i, name in enumerate(header) if not name and not any("".join(cells[i : i + 1]) for _, cells in rows)}
    return [(number, [cell for i, cell in enumerate(cells) if i not in empty]) for number, cells in rows]


def _song_of(row: Row, names: Mapping[str, str], known: Mapping[str, str], roots: Sequence[Path]) -> str | None:
    """Returns the id of the row's song by its path, else by its id, or None if there is no such song.

    names: ids by absolute path. known: ids by id, and by file names that are unique.
    """
    if row.get("path"):
        paths = (one_form(os.path.abspath(root / row["path"])) for root in roots)  # noqa: PTH100  does not resolve links
        return next((names[path] for path in paths if path in names), None)
    name = one_form(row.get("id", ""))
    return known.get(name) or (known.get(plain_id(name)) if name and name.isascii() else None)


def _add_row(labels: SongLabels, song_id: str, row: Row, where: str, problems: list[Problem]) -> None:
    if genre := _genre(row.get("genre", "")):
        labels.genres[song_id] = genre
    if not is_missing(row.get("group", "")):
        labels.groups[song_id] = one_form(row["group"])
    cells = [row[task] for task in labels.tasks]
    try:
        values = np.array([label_value(cell) for cell in cells])
    except ValueError:
        values = np.array([math.inf])
    if np.any((values < 0) | (values > 1)):
        tasks = ", ".join(labels.tasks)
        text = f"{where}: expected numbers from 0 to 1 for the tasks {tasks}, got {','.join(cells)}"
        problems.append(Problem("label out of range", song_id, text))
    elif not np.isnan(values).all():
        labels.values[song_id] = values


def _genre(name: str) -> str:
    """Returns a genre that a label file can hold: valid UTF-8 without TAB and quotation marks. Empty if missing."""
    name = "" if is_missing(name) else one_form(name)
    return " ".join(name.replace('"', "'").encode(errors="replace").decode().split())

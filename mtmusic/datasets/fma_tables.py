"""Reads FMA's metadata tables as `Clips`. Defferrard et al., "FMA: A Dataset for Music Analysis" (ISMIR 2017).

pandas wrote tracks.csv and echonest.csv with columns of several levels. The file has a header line for each level, then
a line with `track_id` only, then a row for each track. Quoted text may contain line breaks.
"""

import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtmusic.data.labels import Clips
from mtmusic.data.splits import hold_out
from mtmusic.errors import UserError

SIZES = ("small", "medium", "large")
"""FMA's subsets. Each is part of the next one, and the table names the smallest subset that has the track."""
SPLITS = {"training": "train", "validation": "validation", "test": "test"}
TASKS = ("valence", "energy", "danceability")
LONGEST_CELL = 2**24  # characters; biographies of artists exceed csv's limit
UNDECODABLE = frozenset({99134, 108925, 133297})
"""Songs of fma_small that cannot be decoded."""

SPLIT, SIZE = ("set", "split"), ("set", "subset")
ARTIST, GENRE = ("artist", "id"), ("track", "genre_top")
AFFECT = tuple(("echonest", "audio_features", task) for task in TASKS)


@dataclass(frozen=True)
class Track:
    """A row of tracks.csv. split: "train", "validation" or "test". The artist and the genre may be empty."""

    split: str
    size: str
    artist: str
    genre: str


def read_tracks(metadata: Path) -> dict[int, Track]:
    """Reads tracks.csv in the folder `metadata`. Returns the tracks by track id.

    Raises UserError for a table that is missing or not FMA's, and for a genre that is not a top-level genre in
    genres.csv. The message names the file and the column.
    """
    path = metadata / "tracks.csv"
    genres = _top_genres(metadata / "genres.csv")
    tracks: dict[int, Track] = {}
    for line, track_id, (split, size, artist, genre) in _tracks(path, (SPLIT, SIZE, ARTIST, GENRE)):
        _require_one_of(split, tuple(SPLITS), SPLIT, path, line)
        _require_one_of(size, SIZES, SIZE, path, line)
        _require_one_of(genre, ("", *genres), GENRE, path, line)
        tracks[track_id] = Track(SPLITS[split], size, artist, genre)
    return tracks


def read_echonest(metadata: Path) -> dict[int, tuple[float, ...]]:
    """Reads echonest.csv in the folder `metadata`. Returns the labels of TASKS by track id, in [0, 1] or NaN.

    Raises UserError for a table that is missing or not FMA's. The message names the file and the column.
    """
    path = metadata / "echonest.csv"
    return {
        track_id: tuple(_label(cell, column, path, line) for cell, column in zip(cells, AFFECT, strict=True))
        for line, track_id, cells in _tracks(path, AFFECT)
    }


def of_size(tracks: Mapping[int, Track], size: str) -> set[int]:
    """Returns the track ids of FMA's subset `size`, with those of smaller subsets. Raises UserError for other sizes."""
    if size not in SIZES:
        raise UserError(f"Expected a size of FMA, {', '.join(SIZES)}, got {size!r}")
    inside = SIZES[: SIZES.index(size) + 1]
    return {track_id for track_id, track in tracks.items() if track.size in inside}


def genre_clips(track_ids: Collection[int], tracks: Mapping[int, Track], audio: Path) -> dict[str, Clips]:
    """Returns these tracks in FMA's official train, validation and test splits, sorted by id. Each must have a genre.

    A clip's path is its song below `audio`, and its group is its artist.
    """
    classes = tuple(sorted({tracks[i].genre for i in track_ids}))
    parts = {split: sorted(i for i in track_ids if tracks[i].split == split) for split in SPLITS.values()}
    targets = {split: [classes.index(tracks[i].genre) for i in part] for split, part in parts.items()}
    return {
        split: Clips(
            ids=tuple(str(i) for i in part),
            paths=tuple(song_path(audio, i) for i in part),
            targets=np.array(targets[split], dtype=np.int64),
            classes=classes,
            groups=np.array([tracks[i].artist for i in part], dtype=str),
        )
        for split, part in parts.items()
    }


def affect_clips(
    echonest: Mapping[int, Sequence[float]], tracks: Mapping[int, Track], audio: Path, seed: int = 0
) -> dict[str, Clips]:
    """Returns the tracks of `echonest` in a train and a test split that share no artist, sorted by id.

    Every track must be in `tracks` and have an artist. Raises UserError if there are too few artists to split.
    """
    ids = sorted(echonest)
    clips = Clips(
        ids=tuple(str(i) for i in ids),
        paths=tuple(song_path(audio, i) for i in ids),
        targets=np.array([echonest[i] for i in ids], dtype=np.float32).reshape(-1, len(TASKS)),
        tasks=TASKS,
        groups=np.array([tracks[i].artist for i in ids], dtype=str),
    )
    train, test = hold_out(clips, seed=seed)
    return {"train": train, "test": test}


def song_path(audio: Path, track_id: int) -> Path:
    """Returns a track's path in FMA's folder layout: 000/000002.mp3 for track 2, 133/133297.mp3 for track 133297."""
    name = f"{track_id:06d}"
    return audio / name[:3] / f"{name}.mp3"


def read_checksums(audio: Path) -> dict[Path, str]:
    """Reads the SHA-1 sum of each song from FMA's file `checksums`. Empty if the file is missing.

    Raises UserError for a line that is not `<sha1>  000/000002.mp3`.
    """
    path = audio / "checksums"
    if not path.is_file():
        return {}
    sums = {}
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        line = re.fullmatch(r"([0-9a-f]{40})  (\S.*)", text)
        if line is None:
            raise UserError(f"Expected '<sha1>  000/000002.mp3', got {text[:80]!r} in {path} line {number}")
        sums[audio / line[2]] = line[1]
    return sums


def _top_genres(path: Path) -> tuple[str, ...]:
    """Returns the titles of the top-level genres."""
    rows = _rows(path)
    _, header = next(rows, (0, []))
    own, title, top = (_position(header, name, path) for name in ("genre_id", "title", "top_level"))
    return tuple(cells[title] for _, cells in rows if cells[own] == cells[top])


def _tracks(path: Path, columns: Sequence[tuple[str, ...]]) -> Iterator[tuple[int, int, list[str]]]:
    """Yields line number, track id and these columns' cells of each row. A column has a name for each header line."""
    rows = _rows(path)
    levels = [next(rows, (0, []))[1] for _ in columns[0]]
    names = ["/".join(column) for column in zip(*levels, strict=False)]
    positions = [_position(names, "/".join(column), path) for column in columns]
    line, last = next(rows, (0, []))
    if last[:1] != ["track_id"]:
        raise UserError(f"Expected header line {len(levels) + 1} to begin with track_id, got {last[:1]} in {path}")
    seen: set[int] = set()
    for line, cells in rows:
        if not re.fullmatch("[0-9]{1,9}", cells[0]):
            raise UserError(f"Expected a number as track_id, got {cells[0]!r} in {path} line {line}")
        track_id = int(cells[0])
        if track_id in seen:
            raise UserError(f"Expected each track_id once, got {track_id} again in {path} line {line}")
        seen.add(track_id)
        yield line, track_id, [cells[position] for position in positions]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and cells of each row. Raises UserError unless all rows are as long as the first."""
    if not path.is_file():
        raise UserError(f"Expected FMA's table {path}, got no such file: give the folder in fma_metadata.zip")
    usual = csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            width = None
            reader = csv.reader(file, strict=True)  # strict: an unclosed quote is an error
            for cells in filter(None, reader):
                width = width or len(cells)
                if len(cells) != width:
                    raise UserError(f"Expected {width} columns, got {len(cells)} in {path} line {reader.line_num}")
                yield reader.line_num, cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"Expected FMA's table, got a broken one in {path}: {error}; unpack it again") from error
    finally:
        csv.field_size_limit(usual)


def _position(header: Sequence[str], column: str, path: Path) -> int:
    if column not in header:
        raise UserError(f"Expected the column {column} of FMA's table, got none in {path}")
    return header.index(column)


def _require_one_of(value: str, allowed: Sequence[str], column: tuple[str, ...], path: Path, line: int) -> None:
    if value not in allowed:
        expected = ", ".join(name for name in allowed if name)
        raise UserError(f"Expected {expected} in the column {'/'.join(column)}, got {value!r} in {path} line {line}")


def _label(cell: str, column: tuple[str, ...], path: Path, line: int) -> float:
    if not cell:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        expected = f"Expected a number from 0 to 1 in the column {'/'.join(column)}"
        raise UserError(f"{expected}, got {cell!r} in {path} line {line}")
    return value

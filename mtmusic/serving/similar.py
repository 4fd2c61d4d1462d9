"""A song and a table of embeddings -> the songs whose embeddings are most like its own."""

import os
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmusic.errors import UserError
from mtmusic.files import write_text
from mtmusic.serving.table import FAILED, description_of, open_part, parts_of, text

BATCH_ROWS = 8192

ROUNDING = 1e-6
"""A value whose deviation is below this share of the largest one varies by rounding alone: it counts in nothing."""


class SimilarSong(NamedTuple):
    """song: its path. score: from -1 to 1. seconds: its length."""

    song: str
    score: float
    seconds: float


def similar(
    song: str | os.PathLike[str],
    embeddings: str | os.PathLike[str],
    *,
    top: int = 20,
    model: str | os.PathLike[str] | None = None,
) -> list[SimilarSong]:
    """The songs of a table that sound most like a song, the most similar first; the song itself is left out.

    The score is the cosine of two embeddings, each value standardised by its mean and deviation over the table. The
    table is read twice, part by part, so that memory does not grow with it.

    Args:
        song: a song of the table, by its path, or another file, which is embedded by the table's model.
        embeddings: a table that `mtmusic embed` wrote.
        top: how many songs.
        model: where the table's model is now, a run or its name; by default where it was.

    Raises:
        UserError: there is no such table or song, the song failed, or the model is another than the table's.

    Example:
        >>> mtmusic.similar("song.mp3", "embeddings.parquet", top=1)
        [SimilarSong(song='/music/other.mp3', score=0.83, seconds=212.4)]
    """
    if top < 1:
        raise UserError(f"Expected `top` of 1 or more, got {top}")
    folder, itself = Path(embeddings), text(os.path.abspath(song))  # noqa: PTH100  as find_songs names it
    count, total, squares, query = 0, np.zeros(1), np.zeros(1), None
    for songs, _, rows in _batches(folder):
        count, total, squares = count + len(rows), total + rows.sum(axis=0), squares + (rows**2).sum(axis=0)
        query = rows[songs.index(itself)] if itself in songs else query
    if query is None:
        query = _embedded(Path(song), folder, model)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    found: list[SimilarSong] = []
    for songs, seconds, rows in _batches(folder):
        scores = cosines(*(standardised(one, mean, deviation) for one in (rows, query[np.newaxis])))[:, 0]
        found += map(SimilarSong, songs, scores.tolist(), seconds)
        found = sorted((one for one in found if one.song != itself), key=lambda one: -one.score)[:top]
    return found


def write_playlist(path: Path, songs: Sequence[SimilarSong]) -> None:
    """An extended M3U in UTF-8."""
    lines = [f"#EXTINF:{round(one.seconds)},{Path(one.song).stem}\n{one.song}" for one in songs]
    write_text(path, "\n".join(["#EXTM3U", *lines]) + "\n")


def standardised(rows: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(songs, values) of mean 0 and deviation 1; what varies by rounding alone becomes 0."""
    return (rows - mean) / np.where(deviation > ROUNDING * np.max(deviation), deviation, np.inf)


def cosines(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(songs, values) and (others, values) -> (songs, others); 0 where one of the two has no length."""
    lengths = np.outer(*(np.linalg.norm(part, axis=1) for part in (rows, others)))
    return np.divide(rows @ others.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def _batches(folder: Path) -> Iterator[tuple[list[str], list[float], np.ndarray]]:
    """Songs, their seconds and (songs, values) of embeddings, those that failed left out."""
    for part in _parts(folder):
        for batch in open_part(part).iter_batches(BATCH_ROWS, columns=["song", "status", "seconds", "embedding"]):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            rows = columns["embedding"].flatten().to_numpy().reshape(len(batch), -1).astype(np.float64)
            fine = np.array([status != FAILED for status in columns["status"].to_pylist()], bool)
            songs, seconds = (columns[name].to_pylist() for name in ("song", "seconds"))
            yield list(compress(songs, fine)), list(compress(seconds, fine)), rows[fine]


def _parts(folder: Path) -> list[Path]:
    parts = parts_of(folder)
    if not parts:
        raise UserError(f"Expected a table that `mtmusic embed` wrote, found none in {folder}")
    if (kind := _description(folder)["kind"]) != "embeddings":
        raise UserError(f"Expected a table of embeddings, got one of {kind}: {folder}")
    return parts


def _description(folder: Path) -> dict[str, Any]:
    part = parts_of(folder)[0]
    return description_of(open_part(part).schema_arrow, part)


def _embedded(song: Path, folder: Path, model: str | os.PathLike[str] | None) -> np.ndarray:
    """By the table's model, as its songs were. TensorFlow is imported for this alone."""
    from mtmusic.serving.predictor import Predictor
    from mtmusic.serving.provenance import sha256_of

    described = _description(folder)
    (used,) = described["models"]
    run = os.fspath(model or used["run"])
    if sha256_of(run) != used["sha256"]:
        raise UserError(
            f"Expected the model of {folder}, {used['model']} ({used['sha256'][:8]}), got another one: {run}"
        )
    return Predictor(run).answer(song, window=described["window"], embed=True)["embedding"]

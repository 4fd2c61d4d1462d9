"""Finds the songs in a table of embeddings that are most similar to a song."""

import logging
import os
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mtmusic.errors import UserError
from mtmusic.files import write_text
from mtmusic.serving.table import FAILED, batches, describe_part, parts_of, song_name, text

logger = logging.getLogger(__name__)

BATCH_ROWS = 8192

ROUNDING = 1e-6
"""A value is left out if its deviation is below this share of the largest one, because it varies only by rounding."""


class SimilarSong(NamedTuple):
    """A song that is similar to another.

    Attributes:
        song: The song's path.
        score: The similarity, from -1 to 1.
        seconds: The song's length.

    Examples:
        >>> from pathlib import Path
        >>> (found,) = mtmusic.similar("song.wav", "embeddings.parquet", top=1)
        >>> Path(found.song).name, found.seconds
        ('other.wav', 6.0)
    """

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
    """Finds the songs of a table that are most similar to a song. The song itself is left out.

    The score is the cosine of two embeddings, with each value standardised by its mean and deviation over the table. It
    is 0 if all embeddings of the table are equal. Songs that failed are left out. Embeddings that are not finite are
    left out too, and their number is logged. The table is read twice, part by part, so memory use does not grow with
    its size.

    Args:
        song: A song of the table, by its path, or another file, which is embedded with the table's model.
        embeddings: A table that `mtmusic embed` wrote.
        top: Number of songs.
        model: The table's model, a run or its name. By default the run that the table names.

    Returns:
        The songs, the most similar first.

    Raises:
        UserError: There is no such table or song, a part of the table is damaged, the table has no other song, the song
            cannot be read, or the model is not the table's.

    Examples:
        >>> mtmusic.similar("song.wav", "embeddings.parquet", top=1)
        [SimilarSong(song='.../other.wav', score=..., seconds=6.0)]
    """
    if top < 1:
        raise UserError(f"Expected `top` of 1 or more, got {top}")
    folder, itself = Path(embeddings), song_name(Path(os.path.abspath(song)))  # noqa: PTH100  as find_songs names it
    count, total, squares, query, broken = 0, np.zeros(1), np.zeros(1), None, 0
    for songs, _, rows, not_finite in _batches(folder):
        broken += not_finite
        count, total, squares = count + len(rows), total + rows.sum(axis=0), squares + (rows**2).sum(axis=0)
        query = rows[songs.index(itself)] if itself in songs else query
    if broken:
        logger.warning(
            f"warning: left out {broken} song{'s' * (broken > 1)} with embeddings that are not finite: {folder}"
        )
    if query is None:
        query = _embedded(Path(song), folder, model)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    found: list[SimilarSong] = []
    for songs, seconds, rows, _ in _batches(folder):
        scores = cosines(*(standardised(one, mean, deviation) for one in (rows, query[np.newaxis])))[:, 0]
        found += map(SimilarSong, songs, scores.tolist(), seconds)
        found = sorted((one for one in found if one.song != itself), key=lambda one: -one.score)[:top]
    if not found:
        raise UserError(f"Expected other songs with embeddings to compare with, found none in {folder}")
    return found


def write_playlist(path: Path, songs: Sequence[SimilarSong]) -> None:
    """Writes songs as a playlist, an extended M3U file in UTF-8. A path with a line break is written as a file: URI.

    Args:
        path: The file.
        songs: The songs.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.serving.similar import SimilarSong, write_playlist
        >>> write_playlist(Path("similar.m3u8"), [SimilarSong("/music/Naima.mp3", score=0.9, seconds=261.3)])
        >>> print(Path("similar.m3u8").read_text())
        #EXTM3U
        #EXTINF:261,Naima
        /music/Naima.mp3
    """
    lines = ["#EXTM3U"]
    for one in songs:
        title = " ".join(Path(one.song).stem.split())
        place = one.song if one.song.splitlines() == [one.song] else Path(one.song).as_uri()
        lines += [f"#EXTINF:{round(one.seconds)},{title}", place]
    write_text(path, "\n".join(lines) + "\n")


def standardised(rows: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Standardises embeddings. Values that vary only by rounding become 0.

    Args:
        rows: Embeddings `(songs, values)`.
        mean: Mean of each value `(values,)`.
        deviation: Standard deviation of each value `(values,)`.

    Returns:
        Embeddings `(songs, values)` with mean 0 and deviation 1.
    """
    return (rows - mean) / np.where(deviation > ROUNDING * np.max(deviation), deviation, np.inf)


def cosines(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Computes cosines between embeddings. The cosine with an embedding of length 0 is 0.

    Args:
        rows: Embeddings `(songs, values)`.
        others: Embeddings `(others, values)`.

    Returns:
        The cosines `(songs, others)`.
    """
    lengths = np.outer(*(np.linalg.norm(part, axis=1) for part in (rows, others)))
    return np.divide(rows @ others.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def _batches(folder: Path) -> Iterator[tuple[list[str], list[float], np.ndarray, int]]:
    """Yields songs, their lengths in seconds and their embeddings (songs, values), without those that failed.

    The last item is the number of embeddings that were left out because they are not finite.
    """
    for part in _parts(folder):
        for batch in batches(part, ("song", "status", "seconds", "embedding"), BATCH_ROWS):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            rows = columns["embedding"].flatten().to_numpy().reshape(len(batch), -1).astype(np.float64)
            answered = np.array([status != FAILED for status in columns["status"].to_pylist()], bool)
            fine = answered & np.isfinite(rows).all(axis=1)
            songs, seconds = (columns[name].to_pylist() for name in ("song", "seconds"))
            yield list(compress(songs, fine)), list(compress(seconds, fine)), rows[fine], int((answered & ~fine).sum())


def _parts(folder: Path) -> list[Path]:
    parts = parts_of(folder)
    if not parts:
        raise UserError(f"Expected a table that `mtmusic embed` wrote, found none in {folder}")
    if (kind := describe_part(parts[0])["kind"]) != "embeddings":
        raise UserError(f"Expected a table of embeddings, got a table of {kind}: {folder}")
    return parts


def _embedded(song: Path, folder: Path, model: str | os.PathLike[str] | None) -> np.ndarray:
    """Embeds a song with the table's model. Only this function imports TensorFlow."""
    from mtmusic.serving.predictor import Predictor
    from mtmusic.serving.provenance import sha256_of

    described = describe_part(parts_of(folder)[-1])  # the last part has the latest path of the model
    (used,) = described["models"]
    run = os.fspath(model or used["run"])
    wanted = f"Expected the model of {folder}, {used['model']} ({used['sha256'][:8]})"
    try:
        found = sha256_of(run)
    except OSError as error:
        raise UserError(f"{wanted}, found none at {run}: give its path as `model`") from error
    if found != used["sha256"]:
        raise UserError(f"{wanted}, got another model: {run}: give its path as `model`")
    answer = Predictor(run).answer(song, window=described["window"], embed=True)
    for doubt in answer.doubts:
        logger.warning(f"warning: {text(doubt)}")
    if not np.isfinite(answer["embedding"]).all():
        raise UserError(f"Expected a song that the model embeds, got an embedding that is not finite: {song}")
    return answer["embedding"]

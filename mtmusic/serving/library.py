"""Predicts or embeds a library of songs: a table of answers or embeddings, or annotation files.

Songs with an answer are not predicted again. The work is done on one machine, or by a dask.distributed cluster.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from mtmusic import __version__
from mtmusic.audio.extraction import KILLED, cluster_map, find_songs, reason_of, require_scheduler
from mtmusic.errors import UserError
from mtmusic.serving.jams import open_annotations
from mtmusic.serving.predictor import GENRE, Predictor, SongAnswer, require_window
from mtmusic.serving.provenance import describe, lasting, name_and_hash, sha256_of
from mtmusic.serving.songs import LATEST, PROGRESS_AFTER_SECONDS, flat, latest_run, with_doubts
from mtmusic.serving.table import FAILED, SUFFIX, Known, Table, open_table, pyarrow, schema_of, song_name, text

logger = logging.getLogger(__name__)

TABLE_VERSION = 1

JAMS, PARQUET = "jams", "parquet"
"""The formats of `out`."""

COLUMNS = {
    "song": "string",
    "size": "int64",
    "mtime_ns": "int64",
    "seconds": "float64",
    "status": "string",
    "reason": "string",
    "warning": "string",
    "model": "string",
    "model_sha256": "string",
}
"""Columns of every table, with their types."""

UNITS = {
    "song": "absolute path; a file: URI where it is not UTF-8",
    "size": "bytes",
    "mtime_ns": "nanoseconds since 1970",
    "seconds": "length of the song",
    "genre": "the most probable class",
    "genre.*": "probability, 0 to 1",
    "tags.*": "score, 0 to 1, not calibrated",
    "tempo": "beats per minute",
    "embedding": "mean of the backbone's features; NaN for a failed song",
    "*": "0 to 1, in the units of the labels that the model was trained on",
}


@dataclass(frozen=True)
class LibraryOptions:
    """The options of `answer_library`.

    models: runs or their names, by default the pretrained models.
    out: a table, NAME.parquet, or with the format "jams" a folder of annotation files.
    embed: whether to compute embeddings instead of answers.
    jobs: number of worker processes, -1 for one per core.
    scheduler: address "tcp://HOST:PORT" of a cluster.
    retry_failed: whether to try songs again that failed before.
    part_rows, part_seconds: a part of the table is written after this number of rows or seconds.
    """

    songs: tuple[Path, ...]
    out: Path
    models: tuple[Path | str, ...] = ()
    embed: bool = False
    format: str | None = None
    window: float | None = None
    jobs: int = -1
    scheduler: str | None = None
    overwrite: bool = False
    retry_failed: bool = False
    part_rows: int = 1000
    part_seconds: float = 30.0


class Place(Protocol):
    """A table or a folder for answers. known: the songs with an answer, by `song_name`."""

    known: dict[str, Known]

    def drop(self, songs: Collection[str]) -> None:
        """Removes the answers of these songs."""

    def add(self, song: SongAnswer, size: int, mtime_ns: int) -> None: ...


def answer_library(options: LibraryOptions) -> int:
    """Predicts or embeds each song without an answer in `out`. Returns the number of songs that failed.

    Logs failures as warnings, and counts. Raises UserError, before the first song, for options that cannot be used.
    """
    as_jams = _is_jams(options)
    require_window(options.window)
    if not as_jams:
        pyarrow()
    paths = find_songs(options.songs)
    runs = tuple(lasting(latest_run() if str(model) == LATEST else model) for model in options.models)
    predictor = Predictor(*runs)
    described = describe(predictor)
    if options.scheduler:
        require_scheduler(options.scheduler, partial(_require_models, _runs(described)))
    if predictor.warning:
        logger.warning("warning: %s", predictor.warning)
    begun, failed = time.monotonic(), 0
    with _place(options, predictor, described, paths) as place:
        files = _missing(place, paths, options.retry_failed)
        missing = [*files]
        answers, verb = _answers(options, predictor, described, missing), "Embedding" if options.embed else "Predicting"
        with tqdm(answers, verb, len(missing), unit="song", delay=PROGRESS_AFTER_SECONDS, disable=None) as songs:
            for song in songs:
                place.add(song, *files[song.path])
                if song.failure:
                    logger.warning(f"failed: {text(song.failure)}")
                    failed += 1
    rate = len(missing) / (time.monotonic() - begun)
    done = f"songs: {len(missing)}, failed: {failed}, {rate:.2g} songs per second" if missing else "nothing to do"
    logger.info(f"{'Annotations' if as_jams else 'Table'}: {options.out} ({done})")
    return failed


def _is_jams(options: LibraryOptions) -> bool:
    """Whether the format is JAMS. Raises UserError if the name of `out` does not fit the format."""
    named = options.out.suffix == SUFFIX
    if options.format == JAMS and not named and not options.embed:
        return True
    if named and options.format in (None, PARQUET):
        return False
    if named:
        raise UserError(f"Expected `out` to be a folder for annotation files, got the name of a table: {options.out}")
    other = "" if options.embed else "; `format=jams` writes a folder of annotation files"
    raise UserError(f"Expected `out` to be a table, NAME{SUFFIX}, got {options.out}{other}")


def _place(
    options: LibraryOptions, predictor: Predictor, described: list[dict[str, Any]], paths: Sequence[Path]
) -> AbstractContextManager[Place]:
    if _is_jams(options):
        return open_annotations(options.out, paths, described, options.window, options.overwrite)
    return _open_answers(options, predictor, described)


def _missing(place: Place, paths: Sequence[Path], retry: bool) -> dict[Path, tuple[int, int]]:
    """Returns the songs to predict, each with size and modification time. Logs the counts.

    The answers of changed songs are removed first, so that no song has two answers.
    """
    counts: Counter[str] = Counter()
    files: dict[Path, tuple[int, int]] = {}
    for path in paths:
        size_and_time = _size_and_time(path)
        state = _state(place.known.get(song_name(path)), size_and_time)
        counts[state] += 1
        if state != "known" and (retry or state != "failed"):
            files[path] = size_and_time
    place.drop([name for name in map(song_name, files) if name in place.known])
    known = counts["known"] + (0 if retry else counts["failed"])
    logger.info(f"known: {known}, new: {counts['new']}, changed: {counts['changed']}")
    if failed := counts["failed"]:
        verb = "are tried again" if retry else "stay failed: `retry_failed` tries them again"
        logger.info(f"failed before: {failed}, which {verb}")
    return files


def _state(known: Known | None, file: tuple[int, int]) -> str:
    if known is None:
        return "new"
    if known[:2] != file:
        return "changed"
    return "failed" if known.failed else "known"


def _size_and_time(path: Path) -> tuple[int, int]:
    """A file's size and modification time, or zeros for a broken link."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


# --- songs -> answers


def _answers(
    options: LibraryOptions, predictor: Predictor, described: list[dict[str, Any]], paths: list[Path]
) -> Iterator[SongAnswer]:
    """Yields the answers in any order."""
    if not paths:
        return iter(())
    if options.scheduler is None:
        return predictor.predict_folder(
            paths, window=options.window, jobs=options.jobs, embed=options.embed, apart=True
        )
    work = partial(answer_song, runs=_runs(described), window=options.window, embed=options.embed)
    answers = cluster_map(options.scheduler, work, {path: path for path in paths})
    return (song or SongAnswer(path, {}, failure=KILLED) for path, song in answers)


def _runs(described: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((model["run"], model["sha256"]) for model in described)


def _require_models(runs: tuple[tuple[str, str], ...]) -> None:
    for run, sha256 in runs:
        if sha256_of(run) != sha256:
            raise UserError(f"Expected the same model on every machine of the cluster, got another model: {run}")


_opening = threading.Lock()


def answer_song(path: Path, runs: tuple[tuple[str, str], ...], window: float | None, embed: bool) -> SongAnswer:
    """Predicts one song in a worker, which keeps its models loaded. runs: the runs with their hashes.

    Raises UserError if the worker has other models.
    """
    with _opening:
        predictor = _opened(runs)
    try:
        return predictor.answer(path, window=window, embed=embed)
    except Exception as error:  # any error of one song, so that the others go on
        return SongAnswer(path, {}, failure=reason_of(error))


@cache
def _opened(runs: tuple[tuple[str, str], ...]) -> Predictor:
    _require_models(runs)
    return Predictor(*(run for run, _ in runs))


# --- answers -> a table


class _AnswerTable:
    def __init__(self, table: Table, described: Sequence[Mapping[str, Any]], embedding: int) -> None:
        self.table, self.known, self.drop = table, table.known, table.drop
        self.model, self.sha256 = name_and_hash(described)
        self.none = {"embedding": np.full(embedding, np.nan, np.float32)} if embedding else {}

    def add(self, song: SongAnswer, size: int, mtime_ns: int) -> None:
        row = {"song": song_name(song.path), "size": size, "mtime_ns": mtime_ns, "seconds": song.seconds or None}
        row |= {"model": self.model, "model_sha256": self.sha256}
        if song.failure:
            self.table.add(row | {"status": FAILED, "reason": text(song.failure)} | self.none)
            return
        cells = flat(with_doubts(song))
        self.table.add(row | {"status": "ok"} | cells | {"warning": text(cells.get("warning", "")) or None})


@contextmanager
def _open_answers(
    options: LibraryOptions, predictor: Predictor, described: list[dict[str, Any]]
) -> Iterator[_AnswerTable]:
    kind, embedding = ("embeddings", predictor.embedding_size) if options.embed else ("answers", 0)
    columns = COLUMNS | ({} if options.embed else _answer_columns(predictor))
    description = {
        "schema_version": TABLE_VERSION,
        "mtmusic": __version__,
        "kind": kind,
        "models": described,
        "window": options.window,
        "units": UNITS,
    }
    schema = schema_of(columns, description, embedding)
    with open_table(options.out, schema, options.overwrite, options.part_rows, options.part_seconds) as table:
        yield _AnswerTable(table, described, embedding)


def _answer_columns(predictor: Predictor) -> dict[str, str]:
    columns: dict[str, str] = {}
    for name in predictor.names:
        columns |= {GENRE: "string"} if name == GENRE else {}
        labels = predictor.labels.get(name)
        columns |= {f"{name}.{label}": "float32" for label in labels} if labels else {name: "float32"}
    return columns

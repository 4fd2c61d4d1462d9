"""Extracts the arrays of many songs in parallel. A song that fails is reported, and does not stop the others.

The work is done by joblib's processes on one machine, or by an existing dask.distributed cluster. joblib's Dask backend
is not used, because it waits for ever if a task has killed its workers. The function that writes an array is an
argument, because files of arrays belong to the data package.
"""

import asyncio
import hashlib
import logging
import os
import re
import threading
import time
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.externals.loky import ProcessPoolExecutor
from threadpoolctl import threadpool_limits

from mtmusic.audio.decoding import SUFFIXES
from mtmusic.audio.features import fused_spectrograms, logmel_spectrogram
from mtmusic.audio.loading import load_with_doubts
from mtmusic.constants import LOGMEL_SAMPLE_RATE
from mtmusic.errors import UserError
from mtmusic.extras import require

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
"""Suffixes of images. Covers among songs are not counted as files that are left out."""

SHOWN_SUFFIXES = 5

CONNECT_SECONDS = 5
ID_LENGTH = 100  # bytes; a file name, which has more than the id, may have 255

IN_FLIGHT = 4096
"""Number of songs on a cluster at a time, enough for a few thousand cores."""

IDLE_SECONDS = 300
"""A worker process ends after this time without work."""

KILLED = "its worker process was killed: a damaged file, or too little memory"

WriteArray = Callable[[Path, np.ndarray], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Excerpt:
    """The part of each song that is decoded, and the number format of its arrays.

    Attributes:
        offset: Seconds to skip at the beginning.
        duration: Seconds to decode.
        dtype: "float32", or "float16" for smaller files.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.audio.extraction import Excerpt, Song, extract_song
        >>> from mtmusic.data.spectrograms import read_array, write_array
        >>> song = Song(Path("song.wav"), logmel=(Path("arrays/middle.logmel.npy"),))
        >>> outcome = extract_song(song, Excerpt(offset=1.0, duration=2.0, dtype="float16"), write_array)
        >>> read_array(song.logmel[0]).shape
        (96, 126)
    """

    offset: float = 0.0
    duration: float = 30.0
    dtype: str = "float32"


@dataclass(frozen=True)
class Song:
    """A song, and the files that each of its arrays is written to.

    Attributes:
        path: The song's file.
        full: Files of the full-rate fused array.
        beat: Files of the beat-synchronised fused array.
        logmel: Files of the logmel array.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.audio.extraction import Song
        >>> song = Song(Path("song.wav"), logmel=(Path("arrays/song.logmel.npy"),))
        >>> song.full, song.beat  # these arrays are not computed
        ((), ())
    """

    path: Path
    full: tuple[Path, ...] = ()
    beat: tuple[Path, ...] = ()
    logmel: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a song's extraction.

    Attributes:
        path: The song's file.
        failure: The reason why the song has no arrays, or empty.
        doubts: Warnings about the song.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.audio.extraction import Excerpt, Song, extract_song
        >>> from mtmusic.data.spectrograms import write_array
        >>> missing = Song(Path("missing.mp3"), full=(Path("arrays/missing.fused.full.npy"),))
        >>> extract_song(missing, Excerpt(), write_array).failure
        "Expected a song's file, got no such file: missing.mp3"
    """

    path: Path
    failure: str = ""
    doubts: tuple[str, ...] = ()


def find_songs(places: Iterable[Path]) -> list[Path]:
    """Finds the songs in files and folders.

    A given file is always a song. Below folders, files with the suffix of a song are. Hidden files and folders are left
    out, and links to folders are not followed. Logs the number of other files in the folders, without images and hidden
    files, and the number of subfolders that cannot be read.

    Args:
        places: Files and folders.

    Returns:
        Each song once, as an absolute path, sorted.

    Raises:
        UserError: A place does not exist or is a folder that cannot be read, or there is no song at all.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.audio.extraction import find_songs
        >>> [song.name for song in find_songs([Path(".")])]
        ['song.wav']
    """
    places = list(places)
    found: set[str] = set()
    others: set[str] = set()
    unread: list[OSError] = []
    for place in places:
        if place.is_dir():
            for path in _files_below(place, unread):
                (found if path.lower().endswith(SUFFIXES) else others).add(path)
        elif os.path.lexists(place):
            found.add(os.path.abspath(place))  # noqa: PTH100  unlike resolve, a link keeps its own name
        else:
            raise UserError(f"Expected a song or a folder of songs, got no such file: {place}")
    if unread:
        first = f"{unread[0].filename}: {unread[0].strerror}"
        logger.warning(f"warning: left out {len(unread)} folder{'s' * (len(unread) > 1)} that cannot be read: {first}")
    if not found:
        raise UserError(f"Expected songs ({' '.join(SUFFIXES)}), found none in {', '.join(map(str, places))}")
    _log_passed_by(others - found)
    return [Path(path) for path in sorted(found)]


def _files_below(folder: Path, unread: list[OSError]) -> Iterator[str]:
    """Yields the files below a folder. Errors of subfolders are added to `unread`."""
    top = os.path.abspath(folder)  # noqa: PTH100

    def note(error: OSError) -> None:
        if error.filename == top:
            raise UserError(f"Cannot read the folder {top}: {error.strerror}") from error
        unread.append(error)

    for parent, folders, files in os.walk(top, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))  # noqa: PTH118


def _log_passed_by(paths: Iterable[str]) -> None:
    """Logs the number of files that are not songs, if there are any."""
    names = sorted(path.lower() for path in paths if not path.lower().endswith(IMAGE_SUFFIXES))
    suffixes = Counter("".join(re.findall(r"\.\w{1,8}\Z", name)) or "no suffix" for name in names)
    shown = [suffix for suffix, _ in suffixes.most_common(SHOWN_SUFFIXES)]
    if names:
        more = ", ..." if len(suffixes) > SHOWN_SUFFIXES else ""
        logger.info(f"Not songs: {len(names)} file{'s' if len(names) > 1 else ''} ({', '.join(shown)}{more})")


def is_song_name(name: str) -> bool:
    """Whether a file's name is a song's, by its suffix. Hidden files are not songs.

    Args:
        name: The file's name.

    Returns:
        Whether it is.
    """
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def plain_id(name: str) -> str:
    """Makes an id from a name, with letters and digits of any script, `-` and `_`.

    Args:
        name: The name.

    Returns:
        The id. A long name is cut, and its hash is added.

    Examples:
        >>> from mtmusic.audio.extraction import plain_id
        >>> plain_id("So What (live).mp3")
        'So_What_live_mp3'
    """
    composed = unicodedata.normalize("NFC", name)
    kept = (one if one in "_-" or unicodedata.category(one)[0] in "LMN" else " " for one in composed)  # letters, marks
    plain = re.sub(" +", "_", "".join(kept)).strip("_") or "song"
    if len(whole := plain.encode()) <= ID_LENGTH:
        return plain
    return f"{whole[: ID_LENGTH - 11].decode(errors='ignore')}-{_hash(name)}"


def song_ids(paths: Sequence[Path], known: Mapping[Path, str]) -> dict[Path, str]:
    """Gives each song an id: its known id, or its file's name without suffix.

    If several songs have the same name, a hash of the path is added.

    Ids differ in more than case, because some file systems ignore case.

    Args:
        paths: Files of the songs.
        known: Ids of songs that have one already.

    Returns:
        The id of each song.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.audio.extraction import song_ids
        >>> ids = song_ids([Path("a/So What.mp3"), Path("b/Naima.mp3")], known={Path("b/Naima.mp3"): "1042"})
        >>> list(ids.values())
        ['So_What', '1042']
    """
    new = {path: plain_id(path.stem) for path in paths if path not in known}
    bearers = Counter(name.lower() for name in (*new.values(), *known.values()))
    ids = {path: name if bearers[name.lower()] == 1 else f"{name}-{_hash(path)}" for path, name in new.items()}
    return {path: known[path] if path in known else ids[path] for path in paths}


def _hash(name: Path | str) -> str:
    return hashlib.blake2b(os.fsencode(name), digest_size=5).hexdigest()


def extract_songs(
    songs: Sequence[Song], excerpt: Excerpt, write: WriteArray, jobs: int = -1, scheduler: str | None = None
) -> Iterator[Outcome]:
    """Extracts the arrays of many songs in parallel. A song that fails does not stop the others.

    A song whose worker process is killed, for example by a fault in a decoder, has failed. With one job there is no
    worker process, so such a song ends this process.

    Args:
        songs: The songs and the files to write.
        excerpt: The part of each song, and the number format.
        write: A function that writes an array to a file, `data.spectrograms.write_array` for example.
        jobs: Number of worker processes, -1 for one on each core.
        scheduler: Address "tcp://HOST:PORT" of a dask.distributed cluster whose workers see the same files. `jobs` is
            not used then.

    Returns:
        An iterator over the outcome of each song, in the order in which they are done.

    Raises:
        UserError: The cluster cannot be used. This is known at once.
        OSError: An array cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.audio.extraction import Excerpt, Song, extract_songs
        >>> from mtmusic.data.spectrograms import read_array, write_array
        >>> song = Song(Path("song.wav"), full=(Path("arrays/song.fused.full.npy"),))
        >>> [outcome.failure for outcome in extract_songs([song], Excerpt(duration=5.0), write_array, jobs=1)]
        ['']
        >>> read_array(song.full[0]).shape
        (140, 216)
    """
    work = partial(extract_song, excerpt=excerpt, write=write)
    items = {song.path: song for song in songs}
    if scheduler is not None:
        require_scheduler(scheduler)
    outcomes = parallel_map(work, items, jobs) if scheduler is None else cluster_map(scheduler, work, items)
    return (outcome or Outcome(path, KILLED) for path, outcome in outcomes)


def parallel_map(
    work: Callable[[Item], Result], items: Mapping[Path, Item], jobs: int = -1
) -> Iterator[tuple[Path, Result | None]]:
    """Processes many items in worker processes. An item whose process is killed does not stop the others.

    A killed process ends all others. Then the items in progress are repeated one by one, and the rest in parallel.

    Args:
        work: A function that processes an item.
        items: The items, by the path that names each.
        jobs: Number of worker processes, -1 for one on each core.

    Yields:
        Each path with the result of its item, in the order of completion. None if its process was killed.
    """
    left = dict(items)
    with parallel_config("loky", n_jobs=jobs, **_ending_with_this_process()):
        while left:
            begun: list[Path] = []
            tasks = (delayed(_named)(path, work, left[path]) for path in _noting(tuple(left), begun))
            try:
                for path, result in Parallel(return_as="generator_unordered", batch_size=1)(tasks):
                    del left[path]
                    yield path, result
            except BrokenExecutor:
                for path in [path for path in begun if path in left]:
                    task = delayed(_named)(path, work, left.pop(path))
                    try:  # n_jobs=1 would use this process
                        yield from Parallel(n_jobs=2)([task])
                    except BrokenExecutor:
                        yield path, None


_POOLS: dict[int, ProcessPoolExecutor] = {}
"""Pools by number of workers. loky's shared pool is not used, because joblib's Parallel could not use it any more."""


class InOrder(Iterator[tuple[Path, Result | None]], Generic[Result]):
    """An iterator over paths and results in the order of the paths. The result is None if a worker process was killed.

    `jobs` worker processes (-1 for one per core) start at once, and work at most `ahead` paths in advance. With one
    job, this process does the work when a result is requested.
    """

    def __init__(self, work: Callable[[Path], Result], paths: Sequence[Path], jobs: int = -1, ahead: int = 8) -> None:
        with parallel_config("loky"):
            jobs = effective_n_jobs(jobs)
        self.work, self.alone, self.workers = work, jobs == 1, min(jobs, len(paths))
        self.left, self.ahead = iter(paths), ahead
        self.begun: deque[tuple[Path, Future[Result]]] = deque()
        self._begin()

    def __next__(self) -> tuple[Path, Result | None]:
        if self.alone:
            path = next(self.left)
            return path, self.work(path)
        self._begin()
        if not self.begun:
            raise StopIteration
        path, future = self.begun.popleft()
        try:
            return path, future.result()
        except BrokenExecutor:
            return path, self._again(path)

    def close(self) -> None:
        """Cancels the work whose results were not requested."""
        self.left = iter(())
        while self.begun:
            self.begun.pop()[1].cancel()

    def _begin(self) -> None:
        while not self.alone and len(self.begun) < self.ahead and (path := next(self.left, None)):
            self.begun.append((path, self._submitted(path)))

    def _submitted(self, path: Path) -> "Future[Result]":
        try:
            return self._pool().submit(self.work, path)
        except BrokenExecutor:
            del _POOLS[self.workers]
            return self._pool().submit(self.work, path)

    def _pool(self) -> ProcessPoolExecutor:
        if self.workers not in _POOLS:
            _POOLS[self.workers] = ProcessPoolExecutor(
                self.workers, timeout=IDLE_SECONDS, **_ending_with_this_process()
            )
        return _POOLS[self.workers]

    def _again(self, path: Path) -> Result | None:
        """Repeats a path after a killed worker, which ends all workers and may have had any of their paths.

        This path is repeated alone. Then the other paths are submitted again.
        """
        broken = [isinstance(future.exception(), BrokenExecutor) for _, future in self.begun]
        try:
            result = self._submitted(path).result()
        except BrokenExecutor:
            result = None
        for i, (other, _) in enumerate(self.begun):
            if broken[i]:
                self.begun[i] = other, self._submitted(other)
        return result


def _ending_with_this_process() -> dict[str, Any]:
    """Arguments of a pool whose workers end if this process is killed. loky's would wait for ever."""
    return {"initializer": _end_with, "initargs": (os.getpid(),)}


def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _named(path: Path, work: Callable[[Item], Result], item: Item) -> tuple[Path, Result]:
    return path, work(item)


def _noting(paths: Iterable[Path], begun: list[Path]) -> Iterator[Path]:
    """Adds the paths that joblib takes to `begun`. joblib takes a few more paths than it has workers."""
    for path in paths:
        begun.append(path)
        yield path


def cluster_map(
    scheduler: str, work: Callable[[Item], Result], items: Mapping[Path, Item]
) -> Iterator[tuple[Path, Result | None]]:
    """Like `parallel_map`, on the workers of a dask.distributed cluster.

    If several workers were killed, their items are repeated one by one, to find the item that kills. IN_FLIGHT items
    are on the cluster at a time. A result is deleted there when it is yielded.

    Args:
        scheduler: Address of the cluster's scheduler.
        work: A function that processes an item.
        items: The items, by the path that names each.

    Yields:
        Each path with the result of its item, in the order of completion. None if its worker was killed.

    Raises:
        UserError: The cluster cannot be used.
    """
    from distributed import Future, KilledWorker, as_completed

    suspects, futures = [], dict[Future, Path]()
    with _cluster(scheduler) as client:

        def submit(path: Path) -> Future:
            future = client.submit(work, items[path], pure=False)
            futures[future] = path
            return future

        following = iter(items)
        completed = as_completed(map(submit, islice(following, IN_FLIGHT)), loop=client.loop)
        for future in completed:
            path = futures.pop(future)
            completed.update(map(submit, islice(following, 1)))
            try:
                yield path, future.result()
            except KilledWorker:
                suspects.append(path)
        for path in suspects:
            try:
                yield path, submit(path).result()
            except KilledWorker:
                yield path, None


def extract_song(song: Song, excerpt: Excerpt, write: WriteArray) -> Outcome:
    """Extracts the arrays of one song, on one thread.

    Args:
        song: The song and the files to write.
        excerpt: The part of the song, and the number format.
        write: A function that writes an array to a file.

    Returns:
        The song's outcome.

    Raises:
        OSError: An array cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.audio.extraction import Excerpt, Song, extract_song
        >>> from mtmusic.data.spectrograms import read_array, write_array
        >>> song = Song(Path("song.wav"), logmel=(Path("arrays/song.logmel.npy"),))
        >>> extract_song(song, Excerpt(offset=4.0), write_array).doubts
        ('song.wav is short: 2.0 s',)
        >>> read_array(song.logmel[0]).shape
        (96, 126)
    """
    with threadpool_limits(1):
        try:
            arrays, doubts = _arrays(song, excerpt)
        except Exception as error:  # any error of one song, memory included, so that the others go on
            return Outcome(song.path, reason_of(error))
        for path, array in arrays:
            write(path, array)
    return Outcome(song.path, doubts=tuple(doubts))


def _arrays(song: Song, excerpt: Excerpt) -> tuple[list[tuple[Path, np.ndarray]], list[str]]:
    """The array for each file, and the warnings."""
    part = (song.path, excerpt.offset, excerpt.duration)
    doubts: list[str] = []
    places = {beat: paths for beat, paths in ((False, song.full), (True, song.beat)) if paths}
    arrays: list[tuple[tuple[Path, ...], np.ndarray]] = []
    if places:
        waveform, doubts = load_with_doubts(*part)
        arrays += zip(places.values(), fused_spectrograms(waveform, [*places]), strict=True)
    if song.logmel:
        waveform, doubts = load_with_doubts(*part, LOGMEL_SAMPLE_RATE)
        arrays.append((song.logmel, logmel_spectrogram(waveform)))
    return [(path, array.astype(excerpt.dtype)) for paths, array in arrays for path in paths], doubts


def reason_of(error: Exception) -> str:
    """Returns the reason why a song failed, in one line.

    Args:
        error: The exception.

    Returns:
        The reason.
    """
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def require_scheduler(scheduler: str, check: Callable[[], None] | None = None) -> None:
    """Checks that a scheduler answers and has workers.

    The connection is tried first without a `distributed.Client`, which writes many lines if it finds no scheduler.

    Args:
        scheduler: Address of the scheduler.
        check: A function that each worker runs. It raises an error if the worker cannot be used.

    Raises:
        UserError: No scheduler answers, it has no workers or a single core, or the package `distributed` is missing.
    """
    comm = require("distributed", "`scheduler`").comm

    async def greet() -> None:
        (await asyncio.wait_for(comm.connect(scheduler, timeout=CONNECT_SECONDS), CONNECT_SECONDS)).abort()

    try:
        with ThreadPoolExecutor(1) as thread:  # in a notebook, this thread has a running event loop
            thread.submit(asyncio.run, greet()).result()
    except Exception as error:  # the answer of another server may cause any error
        raise UserError(f"No dask scheduler answers at {scheduler}: start one with `dask scheduler`") from error
    with _cluster(scheduler) as client:
        if check:
            client.run(check)


@contextmanager
def _cluster(scheduler: str) -> Iterator["Client"]:
    from distributed import CancelledError, Client

    with Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False) as client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise UserError(f"No workers at {scheduler}: start some with `dask worker {scheduler}`") from error
        if sum(client.ncores().values()) == 1:  # not faster than local processes
            raise UserError(f"Expected two cores or more at {scheduler}, got one: start more workers, or use `jobs`")
        try:
            yield client
        except CancelledError as error:
            raise UserError(
                f"The scheduler {scheduler} is gone: start it, then run this command again, which continues"
            ) from error

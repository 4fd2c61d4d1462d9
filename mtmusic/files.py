"""Whole files or none: write beside, then rename."""

import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mtmusic.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and renames it to `path` when the block ends without an error.

    The path given keeps the suffixes, since some writers choose the format by them. An OSError names `path`: that of a
    full disk names no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{uuid.uuid4().hex[:12]}.{path.name}")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        if error.errno and error.filename in (None, str(beside)):
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


class _InMemory(io.BytesIO):
    """A file in memory that Keras takes for one of this name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __str__(self) -> str:
        return self.name


def write_from_memory(path: Path, save: Callable[[Any], Any]) -> None:
    """Has `save` fill a file in memory, and writes that. HDF5 ends the process where it meets a full disk itself."""
    content = _InMemory(path.name)
    save(content)
    with whole_file(path) as beside:
        beside.write_bytes(content.getbuffer())


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Commas and line feeds; file names that are no UTF-8 keep their bytes."""
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_json(path: Path, content: Any) -> None:
    """Raises ValueError for NaN and infinity, which JSON does not know."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def replace_folder(new: Path, old: Path) -> None:
    """Puts the folder `new` in the place of `old`; what was in `old` goes only after the new one stands there."""
    old.parent.mkdir(parents=True, exist_ok=True)
    if not old.exists():
        new.rename(old)
        return
    aside = old.with_name(f".{old.name}.{uuid.uuid4().hex[:12]}.old")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    shutil.rmtree(aside)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Gives the path of a folder to make, and puts it in the place of `path` when the block ends without an error.

    Parents that `path` lacks are made only then.
    """
    there = next(parent for parent in path.absolute().parents if parent.is_dir())
    beside = there / f".{path.name}.{uuid.uuid4().hex[:12]}"
    try:
        yield beside
        replace_folder(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Refuses the folder to a second run. The system lets go when this process ends, however it ends.

    Raises UserError where another run has it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"Another run is writing {folder}: wait for it, or give another folder") from None
    finally:
        os.close(handle)


def require_writable(path: Path) -> None:
    """Raises UserError where nothing can be written to the folder `path`, there or not: before the work, not after it.

    A folder may be read-only, another user's or a file, and the disk full.
    """
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise UserError(f"Cannot write to {path}: {error.strerror}") from error


def refuse_other_things(out: Path, mark: str) -> None:
    """Raises UserError where `out` is neither new, nor empty, nor a folder of ours, which holds the file `mark`.

    Also where it cannot be written to.
    """
    if out.name in ("", ".."):
        raise UserError(f"Expected `out` to be a folder of its own, got {out}")
    if out.exists() and not (out / mark).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"Expected `out` to be new or an earlier result, got {out}, which holds other things")
    require_writable(out)


def refuse_taken(paths: Iterable[Path | None], overwrite: bool) -> None:
    """Raises UserError for a file to be written that is there, unless it may be replaced, for what is no file, and for
    a folder that cannot be written to."""
    given = [path for path in paths if path is not None]
    for path in given:
        if path.exists() and not path.is_file():
            raise UserError(f"Expected a file to write, got {path}, which is not a file")
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists already: `overwrite=True` replaces it")
    if len({path.resolve() for path in given}) < len(given):
        raise UserError(f"Expected a different file for each output, got {', '.join(map(str, given))}")
    for folder in {path.parent for path in given}:
        require_writable(folder)


def content_hash(path: Path) -> str:
    """32 hexadecimal digits, equal for equal files."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def cache_folder() -> Path:
    """The first of `cache_folders` that can be written. Data folders may be read-only, so nothing is cached in them.

    Raises UserError where there is none; one that MTMUSIC_CACHE names is taken as it is.
    """
    for folder in (folders := cache_folders()):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return folder
    if os.environ.get("MTMUSIC_CACHE"):
        return folders[0]
    raise UserError("Expected a folder to write the cache to, found none: set MTMUSIC_CACHE to a folder")


def cache_folders() -> list[Path]:
    """Where what is cached may lie: MTMUSIC_CACHE, else ~/.cache/mtmusic, or the user's own folder in TMPDIR."""
    if given := os.environ.get("MTMUSIC_CACHE"):
        return [Path(given)]
    folders = []
    if (home := os.path.expanduser("~")) != "~":  # noqa: PTH111  Path's raises where there is none
        folders.append(Path(home) / ".cache" / "mtmusic")
    with suppress(FileNotFoundError):  # no TMPDIR
        temporary = Path(tempfile.gettempdir()) / f"mtmusic-{os.getuid()}"
        if not os.path.lexists(temporary) or temporary.lstat().st_uid == os.getuid():  # others can write there
            folders.append(temporary)
    return folders

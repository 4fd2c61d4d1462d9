"""Writes whole files or none: a file is written under a temporary name, then renamed."""

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
    """Yields a temporary path in the same folder, and renames it to `path` when the block ends without an error.

    The temporary path has the same suffixes, because some writers choose the format by them. An OSError gets the name
    of `path`, because the error of a full disk names no file.
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


def unfinished_files(folder: Path, names: str) -> list[Path]:
    """Finds temporary files that a killed `whole_file` left behind. `names` is a pattern of the final names."""
    return sorted(folder.glob(f".{'[0-9a-f]' * 12}.{names}"))


class _InMemory(io.BytesIO):
    """A file in memory with a name, by which Keras chooses the format."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __str__(self) -> str:
        return self.name


def write_from_memory(path: Path, save: Callable[[Any], Any]) -> None:
    """Lets `save` write to memory, then writes the file. HDF5 itself would end the process on a full disk."""
    content = _InMemory(path.name)
    save(content)
    with whole_file(path) as beside:
        beside.write_bytes(content.getbuffer())


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file with line feeds. File names that are not valid UTF-8 keep their bytes."""
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def replace_folder(new: Path, old: Path) -> None:
    """Renames the folder `new` to `old`. The previous content of `old` is deleted after that."""
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
    """Yields the path of a folder to make, and renames it to `path` when the block ends without an error.

    Missing parents of `path` are made only then.
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
    """Locks the folder against a second run. The system releases the lock when this process ends, even if it is killed.

    Raises UserError if another run holds the lock.
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
    """Raises UserError if the folder `path` cannot be written to. The folder need not exist.

    Called before long work, so that a read-only folder, a file or a full disk is found early.
    """
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise UserError(f"Cannot write to {path}: {error.strerror}") from error


def refuse_other_things(out: Path, mark: str) -> None:
    """Raises UserError unless `out` can be written to and is new, empty, or an earlier result, which holds `mark`."""
    if out.name in ("", ".."):
        raise UserError(f"Expected `out` to be a folder with a name, got {out}")
    if out.exists() and not (out / mark).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"Expected `out` to be new or an earlier result, got {out}, which holds other things")
    require_writable(out)


def refuse_taken(paths: Iterable[Path | None], overwrite: bool) -> None:
    """Raises UserError if an output file exists and may not be replaced, is not a file, or cannot be written."""
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
    """Returns a hash of the file's content, 32 hexadecimal digits."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def cache_folder() -> Path:
    """Returns the first of `cache_folders` that can be written. Data folders may be read-only, so they hold no cache.

    MTMUSIC_CACHE is returned unchecked. Raises UserError if there is no such folder.
    """
    for folder in (folders := cache_folders()):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return folder
    if os.environ.get("MTMUSIC_CACHE"):
        return folders[0]
    raise UserError("Expected a folder to write the cache to, found none: set MTMUSIC_CACHE to a folder")


def cache_folders() -> list[Path]:
    """Returns possible cache folders: MTMUSIC_CACHE if it is set, else ~/.cache/mtmusic and the user's in TMPDIR."""
    if given := os.environ.get("MTMUSIC_CACHE"):
        return [Path(given)]
    folders = []
    if (home := os.path.expanduser("~")) != "~":  # noqa: PTH111  Path.expanduser raises without a home
        folders.append(Path(home) / ".cache" / "mtmusic")
    with suppress(FileNotFoundError):  # no TMPDIR
        temporary = Path(tempfile.gettempdir()) / f"mtmusic-{os.getuid()}"
        if not os.path.lexists(temporary) or temporary.lstat().st_uid == os.getuid():  # others can write there
            folders.append(temporary)
    return folders

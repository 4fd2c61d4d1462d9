"""Whole files or none."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtmusic.errors import UserError
from mtmusic.files import (
    cache_folder,
    cache_folders,
    refuse_other_things,
    refuse_taken,
    replace_folder,
    require_writable,
    whole_file,
    whole_folder,
    write_from_memory,
    write_json,
    write_text,
)
from tests import faults


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.npy.gz"
    with whole_file(path) as beside:
        assert beside.parent == path.parent
        assert beside.name.endswith(".run.npy.gz")
        beside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["run.npy.gz"]


def test_an_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_and_fail() -> None:
        with whole_file(path) as beside:
            beside.write_text("ha")
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the last to end
    assert names(tmp_path) == ["a.txt"]


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Björk\n")
    assert (tmp_path / "a.txt").read_bytes() == "Björk\n".encode()


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    with faults.file_size_limit(10), pytest.raises(OSError, match="File too large") as full:
        write_text(tmp_path / "a.txt", "eleven byte")
    assert full.value.filename == str(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError) as missing, whole_file(tmp_path / "a.txt"):
        (tmp_path / "b.txt").read_text()
    assert missing.value.filename == str(tmp_path / "b.txt")
    assert names(tmp_path) == []


def test_what_is_saved_from_memory_knows_its_name_and_meets_no_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_from_memory(path, lambda file: np.save(file, [1, 2]))
    assert np.load(path).tolist() == [1, 2]

    def save(file: Any) -> None:
        assert str(file) == "a.npy"
        saved.append(file.write(bytes(1000)))

    saved: list[int] = []
    with faults.file_size_limit(10), pytest.raises(OSError, match=r"File too large: '/.*/a.npy'"):
        write_from_memory(path, save)
    assert saved == [1000]
    assert np.load(path).tolist() == [1, 2]
    assert names(tmp_path) == ["a.npy"]


REFUSALS = {
    "folder": lambda path: refuse_other_things(path / "run", "card.json"),
    "file": lambda path: refuse_taken([None, path / "table.csv"], overwrite=False),
    "either": require_writable,
}


@pytest.mark.parametrize("refuse", REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_written_is_found_before_the_work(tmp_path: Path, refuse: Callable[[Path], None]) -> None:
    refuse(tmp_path / "new" / "deep")
    assert names(tmp_path) == []
    with faults.file_size_limit(0), pytest.raises(UserError, match=r"Cannot write to .*new.*: File too large"):
        refuse(tmp_path / "new")
    (tmp_path / "new").touch()
    with pytest.raises(UserError, match=r"Cannot write to .*new.*: Not a directory"):
        refuse(tmp_path / "new" / "deep")


def test_json_is_written_with_a_final_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"beat": True, "rate": 0.5})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"beat": True, "rate": 0.5}
    assert text.endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_knows_no_nan_and_no_infinity(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": number})
    assert names(tmp_path) == []


def folder_with(path: Path, file: str) -> Path:
    path.mkdir()
    (path / file).touch()
    return path


def test_a_folder_is_put_where_none_was(tmp_path: Path) -> None:
    replace_folder(folder_with(tmp_path / "new", "model"), tmp_path / "runs" / "genre_cnn")
    assert names(tmp_path / "runs" / "genre_cnn") == ["model"]
    assert names(tmp_path) == ["runs"]


def test_a_folder_replaces_an_old_one_whole(tmp_path: Path) -> None:
    old = folder_with(tmp_path / "old", "old model")
    replace_folder(folder_with(tmp_path / "new", "model"), old)
    assert names(old) == ["model"]
    assert names(tmp_path) == ["old"]


def test_an_old_folder_comes_back_where_the_new_one_cannot_be_put(tmp_path: Path) -> None:
    old = folder_with(tmp_path / "old", "old model")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "absent", old)
    assert names(old) == ["old model"]
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("error", [None, OSError, KeyboardInterrupt])
def test_an_old_folder_stands_until_the_new_one_is_whole(tmp_path: Path, error: type[BaseException] | None) -> None:
    old = folder_with(tmp_path / "out", "old")

    def write() -> None:
        with whole_folder(old) as new:
            folder_with(new, "new")
            assert names(old) == ["old"]
            if error:
                raise error

    if error:
        with pytest.raises(error):
            write()
    else:
        write()
    assert names(old) == ["old" if error else "new"]
    assert names(tmp_path) == ["out"]


def test_a_folder_that_fails_leaves_no_parents(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "deep" / "out") as new:
            folder_with(new, "new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert names(tmp_path) == []


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTMUSIC_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_the_cache_is_in_the_home_folder_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if value is None:
        monkeypatch.delenv("MTMUSIC_CACHE", raising=False)
    else:
        monkeypatch.setenv("MTMUSIC_CACHE", value)
    assert cache_folder() == tmp_path / ".cache" / "mtmusic"


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where files that are no folders stand for homes that cannot be written: root may write to all. -> TMPDIR."""
    monkeypatch.delenv("MTMUSIC_CACHE", raising=False)
    (tmp_path / "home").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_without_a_home_the_cache_is_in_tmpdir(no_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = no_home / f"mtmusic-{os.getuid()}"
    assert cache_folder() == own
    assert cache_folders() == [tmp_path / "home" / ".cache" / "mtmusic", own]
    write_text(cache_folder() / "a", "b")
    assert cache_folder() == own
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # the user is in no list either
    assert cache_folders() == [own]


def test_a_folder_of_another_user_in_tmpdir_is_no_cache(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (no_home / "mtmusic-7").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 7)
    with pytest.raises(UserError, match="found none: set MTMUSIC_CACHE"):
        cache_folder()


def test_without_any_folder_to_write_to_it_says_so(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", find_none)
    with pytest.raises(UserError, match="found none: set MTMUSIC_CACHE"):
        cache_folder()

"""What the tests share: the real data where it is present, tiny data folders, the scripts."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.folders import PROJECT, write_tiny_genre_folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder MTMUSIC_REAL_DATA, default ../shared/data beside the project; skips where it is absent."""
    folder = Path(os.environ.get("MTMUSIC_REAL_DATA") or PROJECT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}")
    return folder


@pytest.fixture
def genre_folder(tmp_path: Path) -> Path:
    return write_tiny_genre_folder(tmp_path / "tiny_beat")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script by its name, as `python scripts/<name>.py` would find it."""
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))

    def load(name: str) -> ModuleType:
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load

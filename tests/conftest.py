"""What the tests share: the real data where it is present, tiny data folders, the scripts."""

import gc
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from matplotlib.figure import Figure

from mtmusic.evaluation import plots
from tests.folders import PROJECT, write_tiny_affect_folder, write_tiny_genre_folder

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the numbers are those of a CPU
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# librosa, an oracle here, compiles with Numba. Two processes that fill one cache of Numba's at once end in a
# segmentation fault: each worker has its own. (The controller sets the variable first, and its workers inherit that.)
os.environ["NUMBA_CACHE_DIR"] = f"{PROJECT}/.pytest_cache/numba/{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
gc.set_threshold(50_000, 20, 20)  # TensorFlow's graphs are many objects: looking for garbage takes a tenth of the time


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder MTMUSIC_REAL_DATA, default ../shared/data beside the project; skips where it is absent."""
    folder = Path(os.environ.get("MTMUSIC_REAL_DATA") or PROJECT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests put into the cache goes with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTMUSIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def trunk_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds a trunk of random weights."""
    cache = tmp_path_factory.mktemp("trunk_cache")
    from tests.runs import write_random_trunk  # TensorFlow takes seconds, which few tests need

    write_random_trunk(cache / "models" / "musicnn")
    return cache


@pytest.fixture
def trunk(trunk_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run musicnn, of random weights, found by its name: no other of the project's folder is."""
    monkeypatch.setenv("MTMUSIC_CACHE", str(trunk_cache))
    monkeypatch.chdir(tmp_path)
    return trunk_cache / "models" / "musicnn"


@pytest.fixture
def genre_folder(tmp_path: Path) -> Path:
    return write_tiny_genre_folder(tmp_path / "tiny_beat")


@pytest.fixture
def affect_folder(tmp_path: Path) -> Path:
    return write_tiny_affect_folder(tmp_path / "affect_beat")


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Imports a command's module by the name of its script."""
    return lambda name: importlib.import_module(f"mtmusic.cli.{name}")


def save_blank(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Figure(figsize=(0.1, 0.1)).savefig(path)


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws no pictures, which take most of a tiny run's time: for tests that look at other things."""
    monkeypatch.setattr(plots, "save_figure", save_blank)


@pytest.fixture(scope="module")
def quick_module_figures() -> Iterator[None]:
    """The same for all tests of a module, and for what they share."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plots, "save_figure", save_blank)
        yield

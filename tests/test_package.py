"""The package as it is installed and imported: what importing it costs, its public names, and what is in a wheel."""

import ast
import configparser
import importlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import numpy as np
import pytest

import mtmusic
from mtmusic.cli.main import commands
from tests.folders import PROJECT
from tests.runs import tiny_card, write_tiny_run

PACKAGE = PROJECT / "mtmusic"
SOURCES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE")
HEAVY = {"numpy", "tensorflow", "keras", "librosa", "sklearn", "matplotlib"}


def test_the_package_imports_nothing_heavy():
    code = f"import sys, mtmusic; dir(mtmusic); print(sorted({HEAVY} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there():
    assert {
        "Predictor", "load_model", "make_dataset", "read_genre_labels", "read_affect_labels", "hold_out",
        "cnn_backbone", "lstm_backbone", "genre_classifier", "affect_regressor", "multitask_regressor", "freeze",
        "load_backbone", "export_savedmodel", "predict", "save_run", "similar",
    } == {*mtmusic.__all__}  # fmt: skip
    assert {*mtmusic.__all__, "__version__"} <= {*dir(mtmusic)}
    for name in mtmusic.__all__:
        public = getattr(mtmusic, name)
        assert public.__name__ == name
        assert public.__module__.startswith("mtmusic.")


def test_a_name_that_is_not_public_is_no_attribute():
    assert not hasattr(mtmusic, "load")
    with pytest.raises(ImportError, match="cannot import name 'load' from 'mtmusic'"):
        exec("from mtmusic import load")
    assert importlib.import_module("mtmusic.files") is mtmusic.files


def test_load_model_takes_a_run_its_file_and_the_options_of_keras(tmp_path):
    model = write_tiny_run(tmp_path / "run", tiny_card())
    for path in (tmp_path / "run", str(tmp_path / "run"), tmp_path / "run" / "model.keras"):
        loaded = mtmusic.load_model(path, compile=False)
        assert not loaded.compiled
        assert all(map(np.array_equal, loaded.get_weights(), model.get_weights()))
    assert mtmusic.load_model(tmp_path / "run").compiled
    with pytest.raises(ValueError, match=r"found no .*model\.keras"):
        mtmusic.load_model(tmp_path)


def test_type_checkers_see_the_names_that_are_imported():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {(alias.name, node.module) for node in guarded.body for alias in node.names}
    assert seen == {(name, f"mtmusic.{module}") for module, names in mtmusic._MODULES.items() for name in names}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    source = copied_sources(tmp_path_factory.mktemp("built") / "source")
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (path,) = source.parent.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(sdist):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(sdist.parent), str(sdist)], check=True, capture_output=True)
    (path,) = sdist.parent.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def package_files() -> set[str]:
    files = {str(path.relative_to(PROJECT)) for path in PACKAGE.rglob("*") if path.is_file()}
    return {name for name in files if "__pycache__" not in name}


def test_an_sdist_holds_the_package_and_what_builds_it(sdist):
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert "PKG-INFO" in held
    written = {name for name in held if name == "PKG-INFO" or name.startswith("mtmusic.egg-info/")}
    assert held - written == package_files() | {*SOURCES}


def test_a_wheel_holds_the_package_and_the_command(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == package_files()
    assert {"mtmusic/py.typed", "mtmusic/data/quality/schema.pbtxt", "mtmusic/cli/train_genre.py"} < held
    assert {"mtmusic/evaluation/reports/templates/page.html", "mtmusic/lab/templates/banner.txt"} < held
    assert "mtmusic/models/pretrained/mood_musicnn/model.keras" in held
    scripts = configparser.ConfigParser()
    scripts.read_string(of_dist_info(wheel, "entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == {"mtmusic": "mtmusic.cli.main:program"}


def test_a_wheel_says_what_it_is(wheel):
    metadata = message_from_bytes(of_dist_info(wheel, "METADATA"))
    assert (metadata["Name"], metadata["Version"], metadata["Author"]) == ("mtmusic", mtmusic.__version__, "mtmusic")
    assert metadata["License"].startswith("Apache-2.0")
    assert metadata.get_payload().strip() == (PROJECT / "README.md").read_text().strip()
    for name in ("LICENSE", "NOTICE"):
        assert of_dist_info(wheel, name) == (PROJECT / name).read_bytes()


def of_dist_info(wheel: zipfile.ZipFile, name: str) -> bytes:
    (found,) = (one for one in wheel.namelist() if ".dist-info/" in one and one.endswith(f"/{name}"))
    return wheel.read(found)


def copied_sources(folder: Path) -> Path:
    """What an sdist is built of: setuptools writes beside it."""
    for name in ("mtmusic", "tests", "scripts"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        shutil.copy(PROJECT / name, folder / name)
    return folder


# --- the library knows no terminal


def library() -> dict[str, str]:
    """Every text file outside of the commands."""
    paths = [path for kind in ("py", "html", "txt", "pbtxt") for path in PACKAGE.rglob(f"*.{kind}")]
    kept = [path for path in paths if PACKAGE / "cli" not in path.parents]
    return {str(path.relative_to(PACKAGE)): path.read_text() for path in kept}


def flags() -> set[str]:
    """Every long flag of every command."""
    parsers = [importlib.import_module(f"mtmusic.cli.{name.replace('-', '_')}").parser() for name in commands()]
    return {flag for parser in parsers for action in parser._actions for flag in action.option_strings if len(flag) > 2}


def found(pattern: str) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in library().items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_nothing_imports_what_compiles():
    """librosa and numba compile when they are imported, into files that several processes at once leave broken."""
    assert found(r"^\s*(from|import) (librosa|numba)\b") == []


def test_only_the_commands_print_and_parse_arguments():
    assert found(r"(?<![\w.])(?<!>>> )print\(|\bargparse\b") == []


def test_only_the_commands_know_flags():
    assert {"--data", "--epochs", "--from", "--skip-checks", "--no-beat"} < flags()
    assert found(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(flags())))})(?![\w-])") == []


def test_only_the_commands_name_scripts():
    assert found(r"\bscripts/|\bpython (?!-m uv)") == []

"""The package as it is installed and imported: what importing it costs, its public names, and what is in a wheel."""

import ast
import configparser
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import mtmusic
from mtmusic.cli.main import commands
from tests.folders import PROJECT
from tests.runs import tiny_card, write_tiny_run

PACKAGE = PROJECT / "mtmusic"
HEAVY = {"numpy", "tensorflow", "keras", "librosa", "sklearn", "matplotlib"}


def test_the_package_imports_nothing_heavy():
    code = f"import sys, mtmusic; dir(mtmusic); print(sorted({HEAVY} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there():
    assert {
        "Predictor", "load_model", "make_dataset", "read_genre_labels", "read_affect_labels", "hold_out",
        "cnn_backbone", "lstm_backbone", "genre_classifier", "affect_regressor", "multitask_regressor", "freeze",
        "load_backbone", "export_savedmodel", "predict", "save_run",
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


def test_a_wheel_holds_the_package_and_the_command(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    source = copied_sources(tmp_path / "source")
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(points).decode())
    wanted = {str(path.relative_to(PROJECT)) for path in PACKAGE.rglob("*") if path.is_file()}
    assert held == {name for name in wanted if "__pycache__" not in name}
    assert {"mtmusic/py.typed", "mtmusic/data/quality/schema.pbtxt", "mtmusic/cli/train_genre.py"} < held
    assert any(name.startswith("mtmusic/evaluation/reports/templates/") for name in held)
    assert dict(scripts["console_scripts"]) == {"mtmusic": "mtmusic.cli.main:main"}


def copied_sources(folder: Path) -> Path:
    """What a wheel is built of: setuptools writes beside it."""
    for name in ("mtmusic", "tests", "scripts"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
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
    assert found(r"(?<![\w.])print\(|\bargparse\b") == []


def test_only_the_commands_know_flags():
    assert {"--data", "--epochs", "--from", "--skip-checks", "--no-beat"} < flags()
    assert found(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(flags())))})(?![\w-])") == []


def test_only_the_commands_name_scripts():
    assert found(r"\bscripts/|\bpython ") == []

"""Docstrings: the pages of docs/api/ have every public name, its arguments are described, and examples are right."""

import doctest
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest
import soundfile

import mtmusic
from mtmusic.audio.synthesis import synthesise
from mtmusic.constants import SAMPLE_RATE
from mtmusic.serving import predictor
from mtmusic.serving.library import COLUMNS
from mtmusic.serving.table import open_table, schema_of
from tests.folders import PROJECT, write_tiny_affect_folder, write_tiny_genre_folder
from tests.runs import tiny_card, write_random_trunk, write_tiny_run

MODULES = [
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((PROJECT / "mtmusic").rglob("*.py"))
    if ">>> " in path.read_text()
]

DOCUMENTED = sorted(
    name
    for page in (PROJECT / "docs" / "api").glob("*.md")
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
)
"""What the pages of docs/api/ show."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What docs/api/index.md promises, and runs in the place of the pretrained ones."""
    folder = tmp_path_factory.mktemp("examples")
    write_tiny_genre_folder(folder / "data" / "genre_beat")
    write_tiny_affect_folder(folder / "data" / "affect_beat")
    soundfile.write(folder / "song.wav", synthesise("Rock", 0, 6.0)[0], SAMPLE_RATE)
    write_tiny_run(folder / "saved_models" / "genre_lstm", tiny_card())
    write_random_trunk(folder / "saved_models" / "musicnn")
    mood = tiny_card(("valence", "arousal"), "affect", feature="logmel", beat=False, clip_frames=250)
    write_tiny_run(folder / "saved_models" / "mood_musicnn", mood)
    described = {"kind": "embeddings", "models": [{"model": "m", "run": "m", "sha256": "", "card": {}}], "window": None}
    with open_table(folder / "embeddings.parquet", schema_of(COLUMNS, described, 2)) as table:
        for name, embedding in (("song.wav", [1.0, 0.0]), ("other.wav", [0.8, 0.1])):
            row = {"song": str(folder / name), "size": 1, "mtime_ns": 1, "status": "ok", "seconds": 6.0}
            table.add(row | {"embedding": np.array(embedding, "float32")})
    yield folder
    predictor._pretrained.cache_clear()


@pytest.mark.parametrize("module", MODULES)
def test_examples_give_what_they_show(module, folder, monkeypatch):
    monkeypatch.chdir(folder)
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    given = {"mtmusic": mtmusic, "np": np}
    for test in doctest.DocTestFinder().find(importlib.import_module(module), extraglobs=given):
        runner.run(test, out=said.append)
    assert runner.tries
    assert not runner.failures, "".join(said)


def test_the_pages_have_every_public_name():
    shown = {id(pkgutil.resolve_name(name)) for name in DOCUMENTED}
    assert not [name for name in mtmusic.__all__ if id(getattr(mtmusic, name)) not in shown]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_has_an_example(name):
    assert ">>> " in pkgutil.resolve_name(name).__doc__


def functions(name: str) -> dict[str, object]:
    """What has arguments: a function, or a class and its own methods that say what they do."""
    one = pkgutil.resolve_name(name)
    if not inspect.isclass(one):
        return {name: one}
    own = {key: value for key, value in vars(one).items() if not key.startswith("_")}
    methods = {
        key: getattr(one, key) for key, value in own.items() if isinstance(value, classmethod) or callable(value)
    }
    described = {f"{name}.{key}": method for key, method in methods.items() if method.__doc__}
    return described | ({name: one} if "__init__" in vars(one) and not hasattr(one, "__match_args__") else {})


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_argument_is_described(name):
    for place, function in functions(name).items():
        documentation = inspect.getdoc(function)
        arguments = documentation.partition("\nArgs:\n")[2].partition("\n\n")[0]
        described = re.findall(r"^    (\*{0,2}\w+): \S", arguments, re.MULTILINE)
        taken = [
            str(one).partition(":")[0].partition("=")[0] for one in inspect.signature(function).parameters.values()
        ]
        assert described == [one for one in taken if one != "self"], place
        if not inspect.isclass(function) and inspect.signature(function).return_annotation is not None:
            assert re.search(r"^(Returns|Yields):$", documentation, re.MULTILINE) or "\n" not in documentation, place

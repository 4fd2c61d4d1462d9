"""The examples in docstrings give what they show, in a folder as docs/api/index.md describes it."""

import doctest
import importlib

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two data folders, a song, three runs and a table of embeddings."""
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

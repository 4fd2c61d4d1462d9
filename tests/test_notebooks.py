"""The notebook, executed on a small demo corpus; what it computed is read."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from joblib import parallel_config
from nbclient import NotebookClient

from mtmusic.audio.synthesis import STYLES, synthesise
from mtmusic.datasets.demo import TASKS, demo_corpus_folder, make_demo_corpus
from mtmusic.serving.predictor import Predictor
from tests.folders import PROJECT

QUICKSTART = PROJECT / "notebooks" / "quickstart.ipynb"
TOLD = """
import json

print(json.dumps({"genre": genre, "affect": affect, "answer": answer, "difference": difference, **history.history}))
"""


def read() -> nbformat.NotebookNode:
    return nbformat.read(QUICKSTART, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[nbformat.NotebookNode, dict[str, Any], Path]:
    """The notebook with its outputs, what a last cell told of its values, and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = read()
    notebook.cells.append(nbformat.v4.new_code_cell(TOLD))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MTMUSIC_CACHE", str(folder / "cache"))
        patched.setenv("PYTHONPATH", str(PROJECT))
        patched.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        with parallel_config(backend="sequential"):  # so few songs are sooner made than workers started
            make_demo_corpus(demo_corpus_folder(), clips_a_genre=5, affect=16)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    (told,) = notebook.cells.pop().outputs
    return notebook, json.loads(told.text), folder


def test_it_trains_reports_and_answers(executed):
    _, told, _ = executed
    assert told["genre"]["clips"] == len(STYLES)
    assert told["loss"][-1] < told["loss"][0]
    assert told["genre"]["accuracy"] > 1 / len(STYLES)
    assert list(told["affect"]["per_task"]) == list(TASKS)
    assert told["difference"] < 1e-4
    assert list(told["answer"]) == ["genre", *TASKS, "warning", "tempo"]
    assert sum(told["answer"]["genre"].values()) == pytest.approx(1)


def test_what_it_saved_answers_as_it_said(executed):
    _, told, folder = executed
    song, _ = synthesise("Jazz", seed=1, seconds=24.0)
    runs = folder / "saved_models"
    exported = Predictor(runs / "quickstart_genre" / "saved_model", runs / "quickstart_affect").predict(song)
    assert exported["genre"] == pytest.approx(told["answer"]["genre"], abs=1e-5)
    assert [exported[task] for task in TASKS] == pytest.approx([told["answer"][task] for task in TASKS], abs=1e-5)


def test_it_shows_tables_and_a_picture_and_no_warning(executed):
    notebook, _, _ = executed
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = "".join(output.get("text", "") for output in outputs)
    assert "accuracy" in shown
    assert "spearman" in shown
    assert any("image/png" in output.get("data", ()) for output in outputs)
    assert "warning" not in shown.lower(), shown


def test_it_is_stored_with_the_outputs_of_an_unbroken_run_and_its_cells_are_short(executed):
    cells, again = ([cell for cell in one.cells if cell.cell_type == "code"] for one in (read(), executed[0]))
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    for cell, other in zip(cells, again, strict=True):  # progress goes to standard error, which is not stored
        shown = {output.output_type for output in other.outputs if output.get("name") != "stderr"}
        assert {output.output_type for output in cell.outputs} == shown
    assert max(len(cell.source.splitlines()) for cell in cells) <= 16

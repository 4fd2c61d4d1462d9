"""The page of a cross-validation: its tables, and a picture a recipe."""

from types import SimpleNamespace

import numpy as np
import pytest

from mtmusic.evaluation.plots import confusion_matrix, png
from mtmusic.evaluation.reports.crossval import write_cross_page
from mtmusic.evaluation.reports.html import data_uri

COSTS = {
    "parameters": 12345, "epochs": 20.0, "best_epoch": 7.5, "seconds_per_epoch": 0.0123, "seconds": 12.0,
    "milliseconds_per_clip": None,
}  # fmt: skip


def results_of(kind: str, **scores: float) -> dict:
    rows = {
        name: {"mean": value, "sd": None, "low": value - 0.1, "high": value + 0.1} for name, value in scores.items()
    }
    return {
        "kind": kind, "folder": "/data/my <songs>", "demo": False, "clips": 4, "groups": 3, "folds": 2, "seeds": [0, 1],
        "command": "mtmusic cross-validate --data 'my <songs>'",
        "recipes": {"one": rows | {"costs": COSTS}, "two": rows | {"costs": COSTS}},
        "comparisons": [{"first": "one", "second": "two", **{
            name: {"value": value, "low": value - 0.2, "high": value + 0.1} for name, value in scores.items()
        }}],
    }  # fmt: skip


@pytest.fixture
def genre(tmp_path) -> str:
    tests = [SimpleNamespace(classes=["a", "b"], tasks=(), targets=np.array(true)) for true in ([0, 1], [1, 1])]
    answers = [[np.eye(2)[[0, 0]], np.eye(2)[[1, 1]]], [np.eye(2)[[1, 1]], np.eye(2)[[0, 1]]]]
    path = write_cross_page(tmp_path, results_of("genre", accuracy=0.75, macro_f1=0.15), tests, {"one": answers})
    assert path == tmp_path / "report.html"
    return path.read_text()


def test_scores_differences_and_costs_stand_in_tables(genre):
    for row in (
        '<th scope="row">one</th><td>accuracy</td><td>0.750</td><td>-</td><td>0.650 to 0.850</td>',
        '<th scope="row">one minus two</th><td>accuracy</td><td>0.750</td><td>0.550 to 0.850</td><td>yes</td>',
        '<th scope="row">one minus two</th><td>macro_f1</td><td>0.150</td><td>-0.050 to 0.250</td><td>no</td>',
        '<th scope="row">two</th><td>12,345</td><td>20</td><td>7.5</td><td>0.0123</td><td>12</td><td>-</td>',
    ):
        assert row in genre
    assert "4 clips of 3 groups in 2 folds" in genre
    assert "seeds: 0, 1." in genre
    assert "<h1>Cross-validation: genre, my &lt;songs&gt;</h1>" in genre
    assert "<pre><code>mtmusic cross-validate --data &#39;my &lt;songs&gt;&#39;</code></pre>" in genre
    assert "banner" not in genre.partition("<body>")[2]
    assert "Fewer training clips" not in genre


def test_the_confusion_is_of_all_folds_and_seeds(genre, tmp_path):
    assert "<h2>Confusion</h2>" in genre
    assert "<figcaption>one: rows are true classes. Each clip counts once per seed.</figcaption>" in genre
    counts = np.array([[1, 1], [2, 4]])  # of the second fold's four answers three are b, as all of its labels are
    assert data_uri(png(confusion_matrix(counts, ["a", "b"]))) in genre
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["confusion_one.png", "scores.png"]


def test_shares_of_the_training_clips_have_a_picture_and_a_column_each(tmp_path):
    tests = [SimpleNamespace(classes=["a", "b"], tasks=(), targets=np.array([0, 1]))]
    whole, half = (results_of("genre", accuracy=value, macro_f1=value) for value in (0.75, 0.5))
    del half["recipes"]["two"]
    half["comparisons"] = []
    shares = {"50": half | {"training_clips": 10.4}, "100": whole | {"training_clips": 21.0}}
    page = write_cross_page(tmp_path, whole | {"shares": shares}, tests, {"one": [[np.eye(2)]]}).read_text()
    assert "<h2>Fewer training clips</h2>" in page
    for row in (
        '<th scope="col">50 %, 10 clips</th><th scope="col">100 %, 21 clips</th>',
        "<td>accuracy</td><td>0.500 (0.400 to 0.600)</td><td>0.750 (0.650 to 0.850)</td>",
        '<th scope="row">two</th><td>accuracy</td><td>-</td><td>0.750 (0.650 to 0.850)</td>',
        '<th scope="row">one minus two</th><td>macro_f1</td><td>-</td><td>0.750 (0.550 to 0.850)</td>',
    ):
        assert row in page
    assert data_uri(tmp_path / "figures" / "shares.png") in page


def test_affect_shows_the_first_seeds_answers(tmp_path):
    true = np.array([[0.1], [0.9]])
    tests = [SimpleNamespace(classes=(), tasks=("valence",), targets=true)] * 2
    results = results_of("affect", rho=0.5, rho_valence=0.5) | {"demo": True}
    page = write_cross_page(tmp_path, results, tests, {"one": [[true], [true]]}).read_text()
    assert "<h2>Answers</h2>" in page
    assert (
        "<figcaption>one: predictions of the first seed, for all folds. rho is that of the table.</figcaption>" in page
    )
    assert (tmp_path / "figures" / "scatter_one.png").is_file()
    assert '<p class="banner">Demo: synthesised music.' in page

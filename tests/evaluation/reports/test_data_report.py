"""The page on a data folder: findings, a picture of what varies, a table of all columns of numbers."""

import math

from matplotlib.figure import Figure

from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.data import write_data_page

FINDING = {
    "kind": "warning", "name": "silent <clip>", "clips": 1, "examples": ["train/1"], "message": "no sound",
    "advice": "Remove it",
}  # fmt: skip


def page_of(tmp_path, columns, findings=()):
    units = dict.fromkeys(columns, "dB")
    limits = {"loudest_db": (0.5, "rounding")}
    write_data_page(tmp_path / "data.html", "Data folder songs", "python x", findings, columns, units, limits)
    return (tmp_path / "data.html").read_text()


def test_findings_limits_and_numbers_are_told(tmp_path):
    page = page_of(tmp_path, {"mel_mean": {"train": [-40.0, -20.0, math.nan], "test": [-30.0]}}, [FINDING])
    assert "<h3>silent &lt;clip&gt;: warning, 1 clip</h3>" in page
    assert "<p>no sound. Remove it</p>" in page
    row = (
        '<tr><th scope="row">mel_mean</th><td>train</td><td>2</td><td>-40</td><td>-30</td><td>-30</td><td>-20</td></tr>'
    )
    assert row in page
    assert '<th scope="row">loudest_db</th><td>0.5</td><td>rounding</td>' in page
    assert page.count("data:image/png") == 1


def test_what_does_not_vary_is_not_drawn(tmp_path):
    page = page_of(
        tmp_path, {"rows": {"train": [140, 140]}, "dtype": {"train": ["float32"]}, "empty": {"train": [math.nan]}}
    )
    assert "data:image/png" not in page
    assert "<td>140</td>" in page
    assert "Nothing was found" in page


def test_a_name_that_is_no_text_does_not_stop_the_page(tmp_path):
    assert "caf?" in page_of(tmp_path, {}, [FINDING | {"examples": ["train/caf\udce9"]}])


def test_shares_of_each_split_are_laid_over_each_other():
    figure = plots.distributions(
        {"genre": {"train": ["Jazz", "Jazz", "Rock"], "test": ["Rock"]}, "frames": {"train": [10, 20, 20, 30]}},
        {"genre": "", "frames": "frames"},
    )
    assert isinstance(figure, Figure)
    bars, histogram = figure.axes
    assert [patch.get_width() for patch in bars.patches] == [2 / 3, 1 / 3, 0, 1]
    assert histogram.get_xlabel() == "frames"
    drawn = histogram.patches[0].get_path().vertices[:, 1]
    assert max(drawn) == 0.5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "test"]

import base64
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mtmusic.evaluation.reports.lab import (
    Part,
    Picture,
    Section,
    Table,
    part_from_json,
    part_to_json,
    write_lab_page,
)

PART = Part(
    ["A < b, of valence_cnn."],
    [Table("What it is", ("", "rho"), [("valence|energy", 0.5)]), Table("Words", ("", "why"), [("x", None)], "words")],
    [Picture("step 1/a.png", "A curve.", "A line that falls.")],
    ["python scripts/train_genre.py --data my data", "python scripts/predict.py"],
)


@pytest.fixture
def written(tmp_path) -> Path:
    (tmp_path / "step 1").mkdir()
    Figure(figsize=(0.1, 0.1)).savefig(tmp_path / "step 1" / "a.png")
    sections = [Section("step-1", "Step 1", "3 s", PART), Section("end", "The end", "", Part(["No more."]))]
    assert write_lab_page(tmp_path, "The lab", ["Demo."], Part(["Hello."]), sections) == tmp_path / "lab.html"
    return tmp_path


def test_the_page_has_contents_tables_and_pictures_inside(written):
    page = (written / "lab.html").read_text()
    assert re.findall('<li><a href="(.*)">(.*)</a></li>', page) == [("#step-1", "Step 1 (3 s)"), ("#end", "The end")]
    assert re.findall(r'<section id="(.*)">\n<h2>(.*)</h2>', page) == [("step-1", "Step 1"), ("end", "The end")]
    assert "<p>A &lt; b, of valence_cnn.</p>" in page
    assert '<table class="numbers"><caption>What it is</caption>' in page
    assert '<th scope="row">valence|energy</th><td>0.500</td>' in page
    assert '<table class="words"><caption>Words</caption>' in page
    assert '<th scope="row">x</th><td>-</td>' in page
    content = base64.b64encode((written / "step 1" / "a.png").read_bytes()).decode()
    assert f'<img src="data:image/png;base64,{content}" alt="A line that falls.">' in page
    assert "<figcaption>A curve.</figcaption>" in page
    commands = "python scripts/train_genre.py --data my data\npython scripts/predict.py"
    assert f"<p>To do this again:</p>\n<pre><code>{commands}</code></pre>" in page
    assert page.count("To do this again") == 1
    assert '<p class="banner">Demo.</p>' in page


def test_the_introduction_stands_before_the_contents_and_these_before_the_steps(written):
    page = (written / "lab.html").read_text()
    places = [page.index(words) for words in ("<h1>The lab</h1>", "Demo.", "Hello.", "<nav", "Step 1</h2>", "No more.")]
    assert places == sorted(places)
    assert [path.name for path in written.iterdir() if path.is_file()] == ["lab.html"]


def test_a_part_comes_back_from_json_as_it_was():
    assert part_from_json(part_to_json(PART)) == PART
    with pytest.raises(KeyError):
        part_from_json({"sentences": []})

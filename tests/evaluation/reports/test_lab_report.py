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
    [Table("What it is", ("", "rho"), [("valence|energy", 0.5)])],
    [Picture("step 1/a.png", "A curve.", "A line that falls.")],
    ["python scripts/train_genre.py --data my data"],
)


@pytest.fixture
def written(tmp_path) -> Path:
    (tmp_path / "step 1").mkdir()
    Figure(figsize=(0.1, 0.1)).savefig(tmp_path / "step 1" / "a.png")
    sections = [Section("step-1", "Step 1", "3 s", PART), Section("end", "The end", "", Part(["No more."]))]
    write_lab_page(tmp_path, "The lab", ["Demo."], Part(["Hello."]), sections)
    return tmp_path


def test_the_page_has_contents_tables_and_pictures_inside(written):
    page = (written / "lab.html").read_text()
    assert '<li><a href="#step-1">Step 1 (3 s)</a></li><li><a href="#end">The end</a></li>' in page
    assert '<section id="step-1">' in page
    assert "A &lt; b, of valence_cnn." in page
    assert '<th scope="row">valence|energy</th><td>0.500</td>' in page
    assert 'src="data:image/png;base64,' in page
    assert 'alt="A line that falls.">' in page
    assert "<figcaption>A curve.</figcaption>" in page
    assert "<pre><code>python scripts/train_genre.py --data my data</code></pre>" in page
    assert '<p class="banner">Demo.</p>' in page


def test_the_copy_links_the_pictures_and_escapes_what_markdown_would_read(written):
    copy = (written / "lab.md").read_text()
    assert "- [Step 1 (3 s)](#step-1)" in copy
    assert "A &lt; b, of valence\\_cnn." in copy
    assert "| valence\\|energy | 0.500 |" in copy
    assert "![A line that falls.](step%201/a.png)" in copy
    assert "```\npython scripts/train_genre.py --data my data\n```" in copy


def test_a_part_comes_back_from_json_as_it_was():
    assert part_from_json(part_to_json(PART)) == PART
    with pytest.raises(KeyError):
        part_from_json({"sentences": []})

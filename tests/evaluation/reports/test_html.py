"""The pieces that all pages share."""

import base64
from collections.abc import Iterator

import pytest
from jinja2 import DictLoader, UndefinedError

from mtmusic.evaluation.reports import html
from mtmusic.evaluation.reports.html import data_uri, interval, render, text

EVIL = "<b>'&"


@pytest.fixture
def templates() -> Iterator[dict[str, str]]:
    """Those of another package."""
    templates: dict[str, str] = {}
    html.loaders.append(DictLoader(templates))
    yield templates
    html.loaders.pop()
    html.environment.cache.clear()


def test_a_page_of_another_package_extends_the_common_one_and_is_escaped(templates):
    templates["other.html"] = '{% extends "page.html" %}{% block main %}<p>{{ words }}</p>{% endblock %}'
    page = render("other.html", title=EVIL, words=EVIL)
    escaped = "&lt;b&gt;&#39;&amp;"
    for tag in ("title", "h1", "p"):
        assert f"<{tag}>{escaped}</{tag}>" in page
    assert page.startswith("<!DOCTYPE html>")
    assert page.endswith("</html>\n")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page


def test_plain_text_is_not_escaped(templates):
    templates["words.txt"] = "{{ words }}\n"
    assert render("words.txt", words=EVIL) == f"{EVIL}\n"


def test_a_value_that_was_forgotten_is_an_error(templates):
    templates["words.txt"] = "{{ words }}"
    with pytest.raises(UndefinedError, match="words"):
        render("words.txt")


def test_a_table_names_its_rows_and_sets_the_last_off(templates):
    templates["t.html"] = '{% from "macros.html" import table %}{{ table(header, rows, "of <x>", "words", true) }}'
    rows = [("a", 0.12345, None), ("<b>", 7, "x")]
    assert render("t.html", header=("", "one", "two"), rows=iter(rows)).strip() == (
        '<div class="wide"><table class="words"><caption>of &lt;x&gt;</caption>\n'
        '<thead><tr><th scope="col"></th><th scope="col">one</th><th scope="col">two</th></tr></thead>\n<tbody>\n'
        '<tr><th scope="row">a</th><td>0.123</td><td>-</td></tr>\n'
        '<tr class="total"><th scope="row">&lt;b&gt;</th><td>7</td><td>x</td></tr>\n</tbody></table></div>'
    )
    assert render("t.html", header=("",), rows=[]).strip() == ""


def test_a_section_without_content_is_not_shown(templates):
    imported = '{% from "macros.html" import section %}'
    templates["s.html"] = imported + '{% call section("Data & more", anchor) %}  {{ words }}\n{% endcall %}'
    assert render("s.html", words=" \n", anchor="x").strip() == ""
    shown = render("s.html", words="<", anchor="x").strip()
    assert shown == '<section id="x">\n<h2>Data &amp; more</h2>\n&lt;\n</section>'
    assert "<section>" in render("s.html", words="w", anchor=None)


def test_a_picture_is_inside_whether_file_or_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    expected = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    assert data_uri(tmp_path / "a.png") == data_uri(b"\x89PNG") == expected


def test_numbers_have_three_decimals():
    assert [text(value) for value in (None, 0.12345, 3, "x")] == ["-", "0.123", "3", "x"]
    assert interval(0.5, 0.25, 0.75) == "0.500 (0.250 to 0.750)"
    assert interval(0.5, None, None) == "0.500"

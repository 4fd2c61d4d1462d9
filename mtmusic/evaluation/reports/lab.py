"""The lab's page: a section for each step, then a table of published figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtmusic.evaluation.reports.html import render
from mtmusic.files import write_text

PAGE = "lab.html"


@dataclass(frozen=True)
class Table:
    """A table. The first cell of a row is its header. kind: "numbers", or "words" if cells hold sentences."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    kind: str = "numbers"


@dataclass(frozen=True)
class Picture:
    """A picture. path: path of the PNG relative to the page. alt: text for screen readers."""

    path: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Part:
    """The content of a section: sentences, tables, pictures, and the commands that reproduce it."""

    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A section of the page. anchor: target of the link in the contents. note: text after the title in the contents."""

    anchor: str
    title: str
    note: str
    part: Part


def part_to_json(part: Part) -> dict[str, Any]:
    return asdict(part)


def part_from_json(content: Mapping[str, Any]) -> Part:
    """Makes a `Part` from JSON. Raises KeyError or TypeError for other content."""
    tables = [Table(**one) for one in content["tables"]]
    return Part(content["sentences"], tables, [Picture(**one) for one in content["pictures"]], content["commands"])


def write_lab_page(folder: Path, title: str, warnings: Sequence[str], intro: Part, sections: Sequence[Section]) -> Path:
    """Writes lab.html, with its pictures inside, to `folder`. Returns its path.

    warnings: banners at the top of the page.
    """
    page = render("lab.html", title=title, folder=folder, warnings=warnings, intro=intro, sections=sections)
    write_text(folder / PAGE, page)
    return folder / PAGE

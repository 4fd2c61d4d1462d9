"""The lab's page: a section a step, then one table of published figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtmusic.evaluation.reports.html import render
from mtmusic.files import write_text

PAGE = "lab.html"


@dataclass(frozen=True)
class Table:
    """The first cell of a row names it. kind: "numbers", or "words" where cells hold sentences."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    kind: str = "numbers"


@dataclass(frozen=True)
class Picture:
    """path: of the PNG, relative to the page. alt: what is to be seen, for those who do not see it."""

    path: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Part:
    """A section: what the numbers show, in sentences; tables, pictures, and the commands that repeat it alone."""

    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """anchor: what the table of contents links to. note: stands behind the title there, the time say."""

    anchor: str
    title: str
    note: str
    part: Part


def part_to_json(part: Part) -> dict[str, Any]:
    return asdict(part)


def part_from_json(content: Mapping[str, Any]) -> Part:
    """Raises KeyError and TypeError for other content."""
    tables = [Table(**one) for one in content["tables"]]
    return Part(content["sentences"], tables, [Picture(**one) for one in content["pictures"]], content["commands"])


def write_lab_page(folder: Path, title: str, warnings: Sequence[str], intro: Part, sections: Sequence[Section]) -> Path:
    """Writes lab.html, which holds its pictures, into `folder`; returns its path.

    warnings: what a reader must know before any number, set off at the top.
    """
    page = render("lab.html", title=title, folder=folder, warnings=warnings, intro=intro, sections=sections)
    write_text(folder / PAGE, page)
    return folder / PAGE

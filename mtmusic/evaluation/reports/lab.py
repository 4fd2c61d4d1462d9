"""The lab's page: a section a step, then one table beside published figures. As HTML, and as Markdown beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from mtmusic.evaluation.reports.html import figure, page, section, table, text
from mtmusic.files import write_text

HTML, MARKDOWN = "lab.html", "lab.md"
CONTENTS = "Contents"


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
    """Writes lab.html, which holds its pictures, and lab.md, which links them, into `folder`; returns the first's path.

    warnings: what a reader must know before any number, set off at the top.
    """
    contents = "".join(f'<li><a href="#{escape(one.anchor)}">{escape(_entry(one))}</a></li>' for one in sections)
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="banner">{escape(warning)}</p>' for warning in warnings),
        _html(folder, intro),
        f'<nav aria-label="{CONTENTS}">\n<h2>{CONTENTS}</h2>\n<ul>{contents}</ul>\n</nav>',
        *(section(one.title, _html(folder, one.part), one.anchor) for one in sections),
    ]
    write_text(folder / HTML, page(title, "\n".join(body)))
    write_text(folder / MARKDOWN, _markdown_page(title, warnings, intro, sections))
    return folder / HTML


def _entry(one: Section) -> str:
    return f"{one.title} ({one.note})" if one.note else one.title


def _html(folder: Path, part: Part) -> str:
    commands = escape("\n".join(part.commands))
    return "\n".join(
        [
            *(f"<p>{escape(sentence)}</p>" for sentence in part.sentences),
            *(table(one.header, one.rows, one.caption, one.kind) for one in part.tables),
            *(figure(folder / one.path, one.caption, one.alt) for one in part.pictures),
            *([f"<p>To do this again:</p>\n<pre><code>{commands}</code></pre>"] if commands else []),
        ]
    )


def _markdown_page(title: str, warnings: Sequence[str], intro: Part, sections: Sequence[Section]) -> str:
    contents = [f"- [{_entry(one)}](#{one.anchor})" for one in sections]
    blocks = [f"# {title}", *(f"> {warning}" for warning in warnings), *_markdown(intro), f"## {CONTENTS}"]
    blocks.append("\n".join(contents))
    for one in sections:
        blocks += [f'<a id="{one.anchor}"></a>\n\n## {one.title}', *_markdown(one.part)]
    return "\n\n".join(blocks) + "\n"


def _markdown(part: Part) -> list[str]:
    return [
        *map(_unmarked, part.sentences),
        *map(_markdown_table, part.tables),
        *(
            f"![{_unmarked(one.alt)}]({one.path.replace(' ', '%20')})\n\n*{_unmarked(one.caption)}*"
            for one in part.pictures
        ),
        *(["```\n" + "\n".join(part.commands) + "\n```"] if part.commands else []),
    ]


def _markdown_table(one: Table) -> str:
    lines = [_markdown_row(row) for row in (one.header, ["---"] * len(one.header), *one.rows)]
    return "\n".join([f"*{_unmarked(one.caption)}*\n", *lines])


def _markdown_row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(_unmarked(text(cell)).replace("|", r"\|") for cell in cells) + " |"


def _unmarked(words: str) -> str:
    """Names of tasks and runs have underscores, which would set what lies between them in italics."""
    return words.replace("_", r"\_").replace("*", r"\*").replace("<", "&lt;")

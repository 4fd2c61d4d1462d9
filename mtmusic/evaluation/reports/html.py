"""The pieces of a self-contained page: no script, no outside address, images inside."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #57606a; --line: #d0d7de;
  --fill: #f3f5f7; --warn: #fff1c2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --paper: #14181d; --soft: #9aa5b1;
  --line: #363d46; --fill: #1e242b; --warn: #4d3b00; } }
* { box-sizing: border-box; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.banner { padding: .75rem 1rem; background: var(--warn); border-radius: 6px; font-weight: 600; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .3rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, .words th, .words td { text-align: left; }
.words td { white-space: normal; }
@media (max-width: 40rem) { th[scope=row] { white-space: normal; min-width: 9rem; overflow-wrap: normal; } }
tr.total th, tr.total td { border-top: 2px solid var(--line); font-weight: 600; }
pre { padding: .75rem 1rem; background: var(--fill); border-radius: 6px; white-space: pre-wrap;
  -webkit-user-select: all; user-select: all; }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { color: var(--soft); margin-top: .4rem; }
"""


def page(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def section(title: str, body: str, anchor: str = "") -> str:
    """Nothing where there is nothing to show. anchor: what a table of contents links to."""
    name = f' id="{escape(anchor)}"' if anchor else ""
    return f"<section{name}>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "", kind: str = "numbers", total: bool = False
) -> str:
    """The first cell of a row is its header; with `total` the last row is set off. Empty without rows."""
    lines = [_row(row) for row in rows]
    if not lines:
        return ""
    if total:
        lines[-1] = lines[-1].replace("<tr>", '<tr class="total">', 1)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table class="{kind}">{title}\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _row(cells: Sequence[Any]) -> str:
    first, *others = (escape(text(cell)) for cell in cells)
    return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"


def text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def figure(path: Path, caption: str, alt: str = "") -> str:
    """The PNG, inside the page. alt: what those hear who do not see it, by default the caption."""
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure>\n<img src="data:image/png;base64,{content}" alt="{escape(alt or caption)}">\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )

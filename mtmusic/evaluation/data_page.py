"""One HTML page on a data folder: what was found, and how each column is distributed in each split."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mtmusic.evaluation import plots
from mtmusic.evaluation.html import figure, page, section, table
from mtmusic.files import write_text

CAPTION = "Each column's distribution, as shares of a split's clips."


def write_data_page(
    path: Path,
    title: str,
    command: str,
    findings: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Mapping[str, Sequence]],
    limits: Mapping[str, tuple[float, str]],
) -> None:
    """Writes the page, whole or not at all.

    findings: kind, name, clips, examples, message and advice of each. columns: column -> split -> a value a clip.
    limits: name -> value and reason.
    """
    body = [
        f"<h1>{escape(title)}</h1>\n<pre><code>{escape(command)}</code></pre>",
        section("Findings", _findings(findings) or "<p>Nothing found.</p>"),
        section("Columns", _picture(columns) + _summary(columns)),
        section(
            "Limits", table(("limit", "value", "reason"), [(name, *limits[name]) for name in limits], kind="words")
        ),
    ]
    write_text(path, page(title, "\n".join(body)))


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(
        f"<h3>{escape(found['name'])}: {found['kind']}, {found['clips']} clips</h3>\n"
        f"<p>{escape(found['message'])}. {escape(found['advice'])}</p>\n<p>{escape(', '.join(found['examples']))}</p>"
        for found in findings
    )


def _picture(columns: Mapping[str, Mapping[str, Sequence]]) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "columns.png"
        plots.save_figure(plots.distributions(columns), path)
        return figure(path, CAPTION)


def _summary(columns: Mapping[str, Mapping[str, Sequence]]) -> str:
    """Of the columns of numbers."""
    rows = []
    for name, by_split in columns.items():
        for split, values in by_split.items():
            if any(isinstance(value, str) for value in values):
                continue
            known = np.asarray(values, float)
            known = known[np.isfinite(known)]
            numbers = (known.min(), np.median(known), known.mean(), known.max()) if known.size else (None,) * 4
            rows.append((name, split, known.size, *(None if n is None else float(n) for n in numbers)))
    return table(("column", "split", "clips", "minimum", "median", "mean", "maximum"), rows)

"""One HTML page on a data folder: what was found, and how each column is distributed in each split."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.html import figure, page, section, table
from mtmusic.files import write_text

CAPTION = "How each column is distributed, as shares of a split's clips. Columns of one value stand in the table alone."

Columns = Mapping[str, Mapping[str, Sequence]]
"""Column -> split -> a value a clip, numbers or names."""


def write_data_page(
    path: Path,
    title: str,
    command: str,
    findings: Sequence[Mapping[str, Any]],
    columns: Columns,
    units: Mapping[str, str],
    limits: Mapping[str, tuple[float, str]],
) -> None:
    """Writes the page, whole or not at all.

    findings: kind, name, clips (how many), examples, message and advice of each. units: of each column. limits: name ->
    value and reason.
    """
    rows = [(name, f"{value:g}", reason) for name, (value, reason) in limits.items()]
    body = [
        f"<h1>{escape(title)}</h1>\n<pre><code>{escape(command)}</code></pre>",
        section("Findings", "\n".join(map(_finding, findings)) or "<p>Nothing found.</p>"),
        section("Columns", _picture(columns, units) + _summary(columns)),
        section("Limits", table(("limit", "value", "reason"), rows, kind="words")),
    ]
    readable = "\n".join(body).encode(errors="replace").decode()  # names of files may be any bytes
    write_text(path, page(title, readable))


def _finding(found: Mapping[str, Any]) -> str:
    clips = f"{found['clips']} clip" + ("s" if found["clips"] != 1 else "")
    return (
        f"<h3>{escape(found['name'])}: {found['kind']}, {clips}</h3>\n"
        f"<p>{escape(found['message'])}. {escape(found['advice'])}</p>\n<p>{escape(', '.join(found['examples']))}</p>"
    )


def _picture(columns: Columns, units: Mapping[str, str]) -> str:
    varied = {name: by_split for name, by_split in columns.items() if _varies(by_split)}
    if not varied:
        return ""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "columns.png"
        plots.save_figure(plots.distributions(varied, units), path)
        return figure(path, CAPTION)


def _varies(by_split: Mapping[str, Sequence]) -> bool:
    values = [value for part in by_split.values() for value in part]
    if any(isinstance(value, str) for value in values):
        return len(set(values)) > 1
    known = _known(values)
    return known.size > 0 and np.ptp(known) > 0.001


def _known(values: Sequence) -> np.ndarray:
    numbers = np.asarray(values, float)
    return numbers[np.isfinite(numbers)]


def _summary(columns: Columns) -> str:
    rows = []
    for name, by_split in columns.items():
        for split, values in by_split.items():
            if any(isinstance(value, str) for value in values):
                continue
            known = _known(values)
            numbers = (known.min(), np.median(known), known.mean(), known.max()) if known.size else ()
            rows.append((name, split, known.size, *(f"{number:.4g}" for number in numbers)))
    return table(("column", "split", "clips", "minimum", "median", "mean", "maximum"), rows)

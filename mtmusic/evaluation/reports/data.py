"""An HTML page about a data folder: the findings, and each column's distribution in each split."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.html import render
from mtmusic.files import write_text

Columns = Mapping[str, Mapping[str, Sequence]]
"""Values of the clips, numbers or names, by column and split."""


def write_data_page(
    path: Path,
    title: str,
    command: str,
    findings: Sequence[Mapping[str, Any]],
    columns: Columns,
    units: Mapping[str, str],
    limits: Mapping[str, tuple[float, str]],
    skipped: str = "",
) -> None:
    """Writes the page, whole or not at all.

    findings: for each finding the kind, name, clips (their number), examples, message and advice.
    columns: see `Columns`. units: unit of each column.
    limits: value and reason of each threshold. skipped: a message about checks that were not made.
    """
    varied = {name: by_split for name, by_split in columns.items() if _varies(by_split)}
    page = render(
        "data.html",
        title=title,
        command=command,
        findings=findings,
        skipped=skipped,
        picture=plots.png(plots.distributions(varied, units)) if varied else None,
        columns=list(_summary(columns)),
        limits=[(name, f"{value:g}", reason) for name, (value, reason) in limits.items()],
    )
    write_text(path, page.encode(errors="replace").decode())  # file names may not be valid UTF-8


def _varies(by_split: Mapping[str, Sequence]) -> bool:
    values = [value for part in by_split.values() for value in part]
    if any(isinstance(value, str) for value in values):
        return len(set(values)) > 1
    known = _known(values)
    return known.size > 0 and np.ptp(known) > 0.001


def _known(values: Sequence) -> np.ndarray:
    numbers = np.asarray(values, float)
    return numbers[np.isfinite(numbers)]


def _summary(columns: Columns) -> Iterator[Sequence[Any]]:
    """Yields a row for each split of each column of numbers."""
    for name, by_split in columns.items():
        for split, values in by_split.items():
            if any(isinstance(value, str) for value in values):
                continue
            known = _known(values)
            numbers = (known.min(), np.median(known), known.mean(), known.max()) if known.size else ()
            yield name, split, known.size, *(f"{number:.4g}" for number in numbers)

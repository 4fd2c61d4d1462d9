"""Renders pages from Jinja templates. A page is one file with its images, without scripts and external addresses."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

loaders: list[BaseLoader] = [PackageLoader("mtmusic.evaluation.reports")]
"""A package with its own templates appends its loader. Earlier loaders have priority."""

environment = Environment(
    loader=ChoiceLoader(loaders),
    autoescape=select_autoescape(),  # escapes *.html, not *.txt
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    return environment.get_template(template).render(values)


def text(value: Any) -> str:
    """Formats a cell of a table."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def interval(value: float, low: float | None, high: float | None) -> str:
    """Formats a value with its interval: 0.412 (0.371 to 0.452)."""
    return text(value) if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def data_uri(content: Path | bytes, kind: str = "image/png") -> str:
    """Returns a data URI with the content of the file."""
    content = content if isinstance(content, bytes) else content.read_bytes()
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


environment.filters |= {"text": text, "data_uri": data_uri}

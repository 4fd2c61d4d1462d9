"""Pages from Jinja templates, each in one file: no script, no outside address, images inside."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

loaders: list[BaseLoader] = [PackageLoader("mtmusic.evaluation.reports")]
"""A package with templates of its own appends its loader; names that stand here already are found first."""

environment = Environment(
    loader=ChoiceLoader(loaders),
    autoescape=select_autoescape(),  # *.html, but no *.txt
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    return environment.get_template(template).render(values)


def text(value: Any) -> str:
    """A cell of a table."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def interval(value: float, low: float | None, high: float | None) -> str:
    """0.412 (0.371 to 0.452)"""
    return text(value) if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def data_uri(content: Path | bytes, kind: str = "image/png") -> str:
    """An address that holds the file."""
    content = content if isinstance(content, bytes) else content.read_bytes()
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


environment.filters |= {"text": text, "data_uri": data_uri}

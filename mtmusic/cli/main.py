"""mtmusic predicts a song's genre and affect, and trains models that predict them.

mtmusic COMMAND --help describes a command.
"""

import ast
import atexit
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from mtmusic import __version__
from mtmusic.cli import common
from mtmusic.errors import UserError

NO_COMMANDS = ("__init__", "main", "common")


def commands() -> dict[str, str]:
    """Returns each command's name and the first line of its module's docstring, without importing the modules."""
    modules = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem not in NO_COMMANDS)
    return {path.stem.replace("_", "-"): _first_line(path) for path in modules}


def _first_line(module: Path) -> str:
    return (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main(argv: Sequence[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    return common.exit_code(partial(_main, name, rest), common.parser(__doc__, __name__))


def program() -> int:
    """Runs the command as a program. It exits at once, because Python's cleanup of TensorFlow would take a second."""
    code: Any = 1

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    atexit.register(leave)  # registered first, so called last
    try:
        code = main()
    except SystemExit as exit:  # by argparse
        code = exit.code
        raise
    return code


def _main(name: str, rest: Sequence[str]) -> int:
    known = commands()
    if name in known:
        return importlib.import_module(f"mtmusic.cli.{name.replace('-', '_')}").main(rest)
    if name == "--version":
        print(__version__)
        return 0
    if name in ("-h", "--help"):
        width = max(map(len, known))
        print(f"{__doc__}\nCommands:\n" + "\n".join(f"  {one:{width}}  {line}" for one, line in known.items()))
        return 0
    raise UserError(f"Expected a command among {', '.join(known)}, got {name}")

"""`mtmusic COMMAND`: the list of commands, their help, and the scripts, which are the same."""

import runpy
import subprocess
import sys
from importlib import import_module

import pytest

from mtmusic import __version__
from mtmusic.cli.main import commands, main
from tests.folders import PROJECT

STANDARD = sys.stdlib_module_names | {"mtmusic", "__main__"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_command_with_one_line(capsys, arguments):
    assert main(arguments) == 0
    listed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [name for name, _ in listed] == sorted(commands())
    assert {"train-genre", "train-affect", "predict", "web-demo", "reproduce-lab"} < {*commands()}
    modules = {name: import_module(f"mtmusic.cli.{name.replace('-', '_')}") for name in commands()}
    assert dict(listed) == {name: module.__doc__.partition("\n")[0] for name, module in modules.items()}


def test_no_command_imports_more_than_the_standard_library_for_its_help():
    code = """
import sys
from mtmusic.cli.main import commands, main
for name in commands():
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert end.code == 0
print(*{module.partition(".")[0] for module in sys.modules})
"""
    *_, imported = run("-S", "-c", f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n{code}").stdout.splitlines()
    assert {*imported.split()} <= STANDARD


@pytest.mark.parametrize("name", sorted(commands()))
def test_a_script_is_its_command(capsys, monkeypatch, name):
    script = PROJECT / "scripts" / f"{name.replace('-', '_')}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(script), run_name="__main__")
    of_script = capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert capsys.readouterr().out == of_script
    assert of_script.startswith(f"usage: mtmusic {name} ")
    assert f"\n    mtmusic {name}" in of_script


def test_every_script_is_a_command():
    assert {path.stem.replace("_", "-") for path in (PROJECT / "scripts").glob("*.py")} == {*commands()}


def test_other_names_are_refused_with_those_that_are(capsys):
    assert main(["train"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Expected a command among compare-runs, cross-validate, ")
    assert error.endswith(", got train\n")


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_the_arguments_are_those_of_the_shell(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mtmusic", "compare-runs", "one"])
    assert main() == 2
    assert capsys.readouterr().err == "error: Expected two runs or more to compare, got 1\n"


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--version"], 0), (["absent"], 2), (["predict", "--help"], 0), (["predict", "--no"], 2)]
)
def test_the_program_ends_as_the_command(arguments, code):
    """What was registered meanwhile is called, and what it wrote is seen; Python's own taking apart is left out."""
    program = """
import atexit, sys
from mtmusic.cli import main
command, main.main = main.main, lambda: (atexit.register(print, "late", end=""), command())[1]
atexit.register(print, "unseen")
sys.exit(main.program())
"""
    ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert ended.stdout.endswith("late")

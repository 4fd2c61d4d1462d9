"""README.md and docs/: commands are parsed, snippets run on tiny data, links lead somewhere, messages are real."""

import ast
import importlib
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import mtmusic
from mtmusic.audio.synthesis import synthesise
from mtmusic.cli.main import commands
from mtmusic.serving import predictor
from tests.folders import PROJECT, write_tiny_affect_folder, write_tiny_genre_folder
from tests.runs import tiny_card, write_tiny_run

DOCS = PROJECT / "docs"
PAGES = (PROJECT / "README.md", *sorted(DOCS.glob("*.md")))
CONTRIBUTING = PROJECT / "CONTRIBUTING.md"
OTHER_PAGES = (CONTRIBUTING, PROJECT / "CHANGELOG.md", PROJECT / "saved_models/README.md")
START = DOCS / "getting-started.md"

NEITHER_RUN_NOR_PARSED = {
    "source .venv/bin/activate": "changes the shell that reads it",
    "pip install": "needs a package index",
    "dask scheduler": "runs until it is stopped",
    "dask worker": "runs until it is stopped",
    "docker run": "needs Docker",
    "python3.11 -m venv": "makes the environment of a peer",
    "torchenv/bin/pip install": "needs a package index",
    "musicnnenv/bin/pip install": "needs a package index",
    "pip download": "needs a package index",
    "curl": "needs the server that docker runs",
    ".venv/bin/python -m pytest": "runs these tests",
}
"""Beginnings of commands, and why."""

NOT_RUN_HERE = {
    "get-pretrained": "needs a package index",
    "make-demo-data": "takes two minutes; the notebook's test makes a small one",
}
"""Commands of the page for beginners, and why."""

SNIPPETS_NOT_RUN = {"ai_edge_litert": "converts a model; tests/models/test_conversion.py runs the same calls"}
"""What a snippet contains, and why it is compiled alone."""

QUICKER = {
    "extract-features": ("--jobs", "1"),
    "train-genre": ("--epochs", "2"),
    "predict": ("--jobs", "1"),
    "embed": ("--jobs", "1"),
}
"""Flags for a test: one process, few epochs."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == language]


def command_lines(page: Path) -> list[list[str]]:
    """Each command of the page in words, without its comment."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def in_code(page: Path) -> list[str]:
    """What stands in backticks between the blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text()))


def module_of(name: str) -> str:
    return name.replace("-", "_")


def cli(name: str):
    return importlib.import_module(f"mtmusic.cli.{module_of(name)}")


def flags_of(name: str) -> set[str]:
    return {flag for action in cli(name).parser()._actions for flag in action.option_strings}


# --- commands


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=lambda page: page.name)
def test_a_block_names_its_language(page):
    assert {kind for kind, _ in FENCE.findall(page.read_text())} <= {"bash", "python", "text"}


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=lambda page: page.name)
def test_every_command_is_taken_by_its_parser(page, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    for words in command_lines(page):
        line = shlex.join(words)
        try:
            assert parsed(words), f"{page.name}: neither run nor parsed: {line}"
        except SystemExit:
            pytest.fail(f"{page.name}: {line}: {capsys.readouterr().err}")


def parsed(words: list[str]) -> bool:
    """Whether the command is known. Ends with SystemExit where its arguments are wrong."""
    if any(words[: len(begin.split())] == begin.split() for begin in NEITHER_RUN_NOR_PARSED):
        return True
    match words:
        case ["mtmusic", "--help"]:
            return True
        case ["mtmusic", name, *arguments]:
            cli(name).parser().parse_args(arguments)
        case [python, path, *arguments] if Path(python).name == "python":
            assert (PROJECT / path).is_file()
            name = Path(path).stem
            module = cli(name) if path.startswith("scripts/") else importlib.import_module(name)
            module.parser().parse_args(arguments)
        case ["make", target, *_]:
            return re.search(rf"^{target}:", (PROJECT / "Makefile").read_text(), re.MULTILINE) is not None
        case _:
            return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_flags_in_the_text_exist(page):
    benchmarks = "".join(path.read_text() for path in (PROJECT / "benchmarks").glob("*.py"))
    every = {flag for name in commands() for flag in flags_of(name)} | {*re.findall(r"\"(--[a-z-]+)\"", benchmarks)}
    for code in in_code(page):
        words = code.split()
        known = flags_of(words[1]) | {"--help"} if words[0] == "mtmusic" and words[1] in commands() else every
        if words[0] in ("mtmusic", "python") or words[0].startswith("--"):
            assert {word for word in words if word.startswith("--")} <= known, f"{page.name}: {code}"


def test_every_command_is_in_the_table_and_is_run_by_a_test():
    """In tests/ the module is called by its name."""
    tests = "\n".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py") if path != Path(__file__))
    table = START.read_text().partition("## All commands")[2]
    for name in commands():
        assert f"`mtmusic {name}`" in table
        module = module_of(name)
        calls = rf"script\(\"{module}\"\)|import_module\(\"{module}\"\)|mtmusic\.cli(\.| import ){module}\b"
        assert re.search(calls, tests), f"no test runs {name}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: songs, data folders, and runs of random weights."""
    folder = tmp_path_factory.mktemp("world")
    for genre in ("Jazz", "Metal"):
        (folder / "music" / genre).mkdir(parents=True)
        song, _ = synthesise(genre, 0, 24.0)
        for number, part in enumerate(np.split(song, 6)):  # of four seconds
            soundfile.write(folder / "music" / genre / f"{number}.flac", part, 22_050)
    for name in ("song", "a", "b"):
        soundfile.write(folder / f"{name}.mp3", song[: 4 * 22_050], 22_050)
    write_tiny_genre_folder(folder / "data" / "fma_genre_spectrograms_beat")
    write_tiny_affect_folder(folder / "data" / "multitask_dataset_beat")
    mood = tiny_card(("valence", "arousal"), "affect", feature="logmel", beat=False, clip_frames=125)
    write_tiny_run(folder / "saved_models" / "mood_musicnn", mood)
    write_tiny_run(folder / "saved_models" / "genre_cnn", tiny_card(beat=False))
    write_tiny_run(folder / "saved_models" / "affect_cnn", tiny_card(("valence", "energy"), "affect", beat=False))
    return folder


@pytest.fixture
def place(world: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a copy of all that, and a trunk in the cache."""
    shutil.copytree(world, Path.cwd(), dirs_exist_ok=True)
    monkeypatch.setattr(predictor, "_pretrained", predictor.Predictor)  # which keeps the first one
    return Path.cwd()


def run(words: list[str]) -> int:
    _, name, *arguments = words
    return cli(name).main([*arguments, *QUICKER.get(name, ())])


def test_the_page_for_beginners_runs_from_top_to_bottom(place, quick_figures, capsys):
    lines = [words for words in command_lines(START) if words[0] == "mtmusic" and words[1] not in NOT_RUN_HERE]
    assert [words[1] for words in lines] == ["predict", "extract-features", "train-genre", "predict"]
    for words in lines:
        assert run(words) == 0, shlex.join(words)
    out = capsys.readouterr().out.splitlines()
    assert {"valence", "arousal"} <= set(out[1].split())
    assert any(line.startswith("Test split, 3 clips") for line in out)
    assert re.match(r"song\.mp3 +(Jazz|Metal) 0\.\d\d +(Jazz|Metal) 0\.\d\d$", out[-1].strip())
    for page in (PROJECT / "README.md",):  # says the same
        assert all(words in command_lines(page) for words in lines)


# --- Python


def snippets(page: Path) -> list[str]:
    return [text for text in blocks(page, "python") if not any(name in text for name in SNIPPETS_NOT_RUN)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_snippets_compile_and_use_public_names(page):
    for text in blocks(page, "python"):
        nodes = list(ast.walk(ast.parse(text)))
        used = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
        names = {node.attr for node in used if node.value.id == "mtmusic"}
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "mtmusic"]
        names |= {alias.name for node in imports for alias in node.names}
        assert names <= {*mtmusic.__all__}


PAGES_TO_RUN = [page for page in PAGES if snippets(page) and page.name != "README.md"]


def test_the_snippets_of_readme_are_those_of_a_page_that_is_run():
    assert {*snippets(PROJECT / "README.md")} <= {text for page in PAGES_TO_RUN for text in snippets(page)}


@pytest.mark.parametrize("page", PAGES_TO_RUN, ids=lambda page: page.name)
@pytest.mark.filterwarnings("ignore:.* is (silent|short|clipped)")
def test_snippets_run(page, place):
    text = "".join(snippets(page))
    if "genre_cnn/saved_model" in text:
        assert run(["mtmusic", "export-model", "saved_models/genre_cnn"]) == 0
    if "embeddings.parquet" in text:
        pytest.importorskip("pyarrow")
        assert run(["mtmusic", "embed", "music", "--model", "genre_cnn", "--out", "embeddings.parquet"]) == 0
    names = {"waveform": np.full(44_100, 0.1, np.float32), "batch": np.full((1, 20, 128), -40, np.float32)}
    for snippet in snippets(page):
        quicker = snippet.replace("epochs=20", "epochs=1, verbose=0").replace('"music")', '"music", jobs=1)')
        exec(compile(quicker, page.name, "exec"), names)


# --- links


def anchors(page: Path) -> set[str]:
    """Of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        if not path.startswith("http"):
            target = (page.parent / path).resolve() if path else page
            assert target.is_file(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_reached_from_readme():
    """The site's first page aside, which says what README says."""
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} - {"docs/index.md"} <= {*links(PROJECT / "README.md")}


def test_readme_is_read_in_two_minutes():
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 150


# --- what the pages say of the code


def test_the_drawing_has_every_module():
    """Commands aside, which `mtmusic --help` lists."""
    drawing = (DOCS / "architecture.md").read_text()
    drawn = set(re.findall(r"\b\w+\.py\b", drawing.partition("```text")[2].partition("scripts/")[0]))
    package = PROJECT / "mtmusic"
    modules = [path for path in package.rglob("*.py") if path.parent != package / "cli"]
    assert {path.name for path in modules if path.name != "__init__.py" or path.parent == package} <= drawn
    assert drawn <= {path.name for path in package.rglob("*.py")}


def test_the_layers_are_those_that_are_checked():
    text = (DOCS / "architecture.md").read_text().partition("## Imports between packages")[2]
    lines = text.split("```")[1].splitlines()[1:]
    contract = (PROJECT / "setup.cfg").read_text().partition("layers =\n")[2].replace("mtmusic.", "").splitlines()
    assert [re.findall(r"\w+", line) for line in lines] == [re.findall(r"\w+", line) for line in contract if line]


def test_messages_are_those_of_the_code():
    """Each part of a message in Troubleshooting: between the dots, which stand for names and numbers."""
    code = "\n".join(path.read_text() for path in (*(PROJECT / "mtmusic").rglob("*.py"), PROJECT / "Makefile"))
    code = re.sub(r"[\"']\s*\n\s*f?[\"']", "", code)  # strings that are split over lines
    messages = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(messages) > 40
    for message in messages:
        parts = re.split(r"\.\.\.|^warning: |^failed: ", message)
        assert [part for part in parts if part.strip() not in code] == [], message


def test_one_version_everywhere():
    for file, pattern in (
        ("setup.cfg", r"^version = (.*)$"),
        ("CITATION.cff", r"^version: (.*)$"),
        ("CHANGELOG.md", r"^## (.*)$"),
    ):
        found = re.search(pattern, (PROJECT / file).read_text(), re.MULTILINE)
        assert found, file
        assert found[1] == mtmusic.__version__, file

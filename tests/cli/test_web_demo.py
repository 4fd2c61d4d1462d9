"""The page in a real browser: Debian's chromium, driven by Playwright."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from mtmusic.audio.synthesis import synthesise
from mtmusic.serving.predictor import Predictor
from tests.folders import PROJECT
from tests.runs import CLASSES, tiny_card, write_tiny_run

RATE = 22_050
WAIT_SECONDS = 120
MILLISECONDS = 1000
WAITING = 2

GATED = f"""
import runpy, signal, time
from pathlib import Path
from mtmusic.serving import web

class Gated(web.DemoApp):
    def answer(self, song, name):
        while Path(GATE).exists():
            time.sleep(0.05)
        return super().answer(song, name)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
web.DemoApp, web.WAITING, web.KEPT_SECONDS, web.SWEEP_SECONDS = Gated, {WAITING}, 5, 0.5
runpy.run_path("scripts/web_demo.py", run_name="__main__")
"""
"""The script, with a short queue and files that are kept a shorter time. It answers no song while GATE exists."""

SONGS = {"first": ("Rock", 6), "leaves": ("Folk", 6), "second": ("Jazz", 7), "third": ("Metal", 8)}
"""Style and seconds, by the page's name."""


class Page:
    """The script, started; temporary: where its temporary files are."""

    def __init__(self, runs: list[Path], temporary: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        self.temporary = temporary
        self.gate = temporary / "gate"
        program = GATED.replace("GATE", repr(str(self.gate)))
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", program, "--model", *map(str, runs), "--port", str(port)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(temporary)},
        )  # fmt: skip
        self.said = self.process.stdout.readline()
        self.address = f"http://127.0.0.1:{port}"

    def uploads(self) -> list[Path]:
        """The files that are there."""
        return [path for path in self.temporary.glob("mtmusic-page-*/uploads/**/*") if path.is_file()]

    def wait_for_no_upload(self) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while self.uploads() and time.monotonic() < end:
            time.sleep(0.1)
        assert self.uploads() == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Windows of 1 s."""
    folder = tmp_path_factory.mktemp("runs")
    write_tiny_run(folder / "genre", tiny_card(beat=False, clip_frames=43), sharpness=8)
    demo = {"beat": False, "clip_frames": 43, "data": {"demo": True}}
    write_tiny_run(folder / "affect", tiny_card(("valence", "energy"), "affect", **demo), seed=1, sharpness=8)
    return [folder / "genre", folder / "affect"]


@pytest.fixture(scope="module")
def served(runs, tmp_path_factory) -> Iterator[Page]:
    page = Page(runs, tmp_path_factory.mktemp("temporary"))
    if not page.said.startswith("The page"):
        pytest.fail(page.said + page.process.communicate()[0])
    yield page
    page.process.kill()
    page.process.communicate()


@pytest.fixture(scope="module")
def chromium():
    if (path := shutil.which("chromium")) is None:
        pytest.skip("found no chromium")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def browser(served, chromium):
    """The page opened; afterwards no request of it may have gone elsewhere, and no script of it have failed."""
    tab = chromium.new_page(viewport={"width": 390, "height": 844})
    tab.set_default_timeout(WAIT_SECONDS * MILLISECONDS)
    asked, failed = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: failed.append(str(error)))
    tab.goto(served.address)
    yield tab
    tab.close()
    assert asked
    assert [url for url in asked if not url.startswith((served.address + "/", "data:", "blob:"))] == []
    assert failed == []


def upload(tab, path: Path) -> None:
    tab.locator("input[type=file]").set_input_files(path)


def test_a_song_is_answered(served, browser, runs, tmp_path):
    song = tmp_path / "three seconds.wav"
    soundfile.write(song, synthesise("Rock", 0, 3.0)[0], RATE)
    upload(browser, song)
    browser.locator(".answer .picture img").nth(1).wait_for()
    assert browser.locator(".answer h2").inner_text() == "three seconds.wav (0:03)"
    with pytest.warns(UserWarning, match="is short"):
        answer = Predictor(*runs).predict(song)
    genres = sorted(answer["genre"].items(), key=lambda item: -item[1])
    assert browser.locator(".answer .name").all_inner_texts() == [name for name, _ in genres]
    assert browser.locator(".answer .share").all_inner_texts() == [f"{share:.0%}" for _, share in genres]
    assert browser.locator(".gauge div").all_inner_texts() == ["valence", "energy"]
    told = [float(text) for text in browser.locator(".gauge text.value").all_text_contents()]
    assert told == pytest.approx([answer["valence"], answer["energy"]], abs=0.0051)
    assert "trained on the synthesised demo corpus" in browser.inner_text("body")
    assert browser.evaluate("document.images.length && [...document.images].every(image => image.naturalWidth)")
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.evaluate("Math.max(...[...document.images].map(i => i.getBoundingClientRect().right)) <= innerWidth")
    browser.wait_for_function("document.querySelector('.answer audio').duration > 1")
    browser.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_one_song_on_two_pages_is_answered_on_both(served, browser, tmp_path):
    """Gradio keeps uploads of one content under one path."""
    song = tmp_path / "shared.wav"
    soundfile.write(song, synthesise("Jazz", 0, 6.0)[0], RATE)
    other = browser.context.browser.new_page()
    other.goto(served.address)
    for tab in (browser, other):
        upload(tab, song)
    for tab in (browser, other):
        tab.locator(".answer .picture img").nth(1).wait_for(timeout=WAIT_SECONDS * MILLISECONDS)
    other.close()


def test_a_text_gets_a_sentence_and_the_next_song_an_answer(served, browser, tmp_path):
    (tmp_path / "notes.txt").write_text("no song\n" * 100)
    upload(browser, tmp_path / "notes.txt")
    assert (
        browser.locator(".refused")
        .inner_text()
        .startswith(
            (
                "No decoder reads notes.txt: ",
                "Expected audio, got a file that no decoder reads: notes.txt: ",
            )  # with ffmpeg
        )
    )
    browser.get_by_role("button", name="Try the example song").click()
    browser.locator(".answer .picture img").nth(1).wait_for()
    assert browser.locator(".answer h2").inner_text() == "Example: synthesised music in three styles (1:30)"
    assert sorted(browser.locator(".answer .name").all_inner_texts()) == sorted(CLASSES)


def test_a_file_over_the_limit_is_refused(served, browser, tmp_path):
    with (tmp_path / "large.wav").open("wb") as file:
        file.truncate(51 * 2**20)
    upload(browser, tmp_path / "large.wav")
    browser.get_by_text(re.compile(r"exceed the maximum allowed size of 50")).first.wait_for()
    assert browser.locator(".answer").count() == 0


def test_several_pages_wait_in_turn_and_each_gets_its_own_answer(served, browser, chromium, runs, tmp_path):
    """Four pages, of which three find a place. The one that leaves makes room for the fourth."""
    pages = {name: browser if name == "first" else chromium.new_context().new_page() for name in SONGS}
    songs = {name: tmp_path / f"{name}.wav" for name in SONGS}

    def shows(name: str, words: str) -> None:
        pages[name].get_by_text(words, exact=True).wait_for(timeout=WAIT_SECONDS * MILLISECONDS)

    def ask(name: str, words: str) -> None:
        upload(pages[name], songs[name])
        shows(name, words)

    for name, (style, seconds) in SONGS.items():
        soundfile.write(songs[name], synthesise(style, 0, seconds)[0], RATE)
        pages[name].goto(served.address)
    served.gate.touch()
    ask("first", "first.wav is being processed.")
    ask("leaves", "One song comes before leaves.wav.")
    ask("second", "2 songs come before second.wav.")
    full = "2 songs are waiting, so third.wav was refused. Try again in a minute."
    ask("third", full)
    assert not pages["second"].get_by_role("button", name="Try the example song").is_visible()
    assert pages["third"].get_by_role("button", name="Try the example song").is_visible()
    pages["leaves"].context.close()
    shows("second", "One song comes before second.wav.")
    ask("third", "2 songs come before third.wav.")
    served.gate.unlink()
    predictor, shares = Predictor(*runs), set()
    for name in ("first", "second", "third"):
        pages[name].locator(".answer .picture img").nth(1).wait_for(timeout=WAIT_SECONDS * MILLISECONDS)
        assert pages[name].locator(".answer h2").inner_text() == f"{name}.wav (0:0{SONGS[name][1]})"
        genres = predictor.predict(songs[name])["genre"]
        shown = pages[name].locator(".answer .share").all_inner_texts()
        assert shown == [f"{share:.0%}" for share in sorted(genres.values(), reverse=True)]
        shares.add(tuple(shown))
    assert len(shares) == 3
    served.wait_for_no_upload()


def test_a_second_page_finds_the_port_taken(served, runs, script, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *given: None)
    port = served.address.rpartition(":")[2]
    assert script("web_demo").main(["--model", str(runs[0]), "--port", port]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: Cannot serve on port {port}: Address already in use: give another --port"


def test_it_prints_its_address_and_leaves_nothing_behind(served, chromium, tmp_path):
    """The last of these tests: it ends the page, while one song is answered and one waits."""
    assert served.said == f"The page: {served.address}  (press Ctrl-C to end)\n"
    (folder,) = served.temporary.glob("mtmusic-page-*")
    soundfile.write(tmp_path / "song.wav", synthesise("Rock", 0, 6.0)[0], RATE)
    served.gate.touch()
    for words in ("song.wav is being processed.", "One song comes before song.wav."):
        tab = chromium.new_page()
        tab.goto(served.address)
        upload(tab, tmp_path / "song.wav")
        tab.get_by_text(words).wait_for()
    served.process.send_signal(signal.SIGTERM)
    threading.Timer(1, served.gate.unlink).start()
    rest, _ = served.process.communicate(timeout=WAIT_SECONDS)
    assert (served.process.returncode, rest) == (0, "")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--model", "absent"), "Expected a run's folder or its model.keras, found no absent/model.keras"),
        (("--model", "absent", "--port", "0"), "Expected --port of 1 to 65535, got 0"),
        (
            (),
            "Expected the pretrained trunk musicnn, found none: `mtmusic get-pretrained` fetches it, or run "
            "this in the clone where `make setup` fetched it",
        ),
    ],
)
def test_refuses_in_one_line(script, capsys, monkeypatch, tmp_path, arguments, told):
    monkeypatch.setattr(signal, "signal", lambda *given: None)
    monkeypatch.chdir(tmp_path)
    assert script("web_demo").main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {told}"

"""What stands behind the page; the page itself is tried in a browser, in tests/cli/test_web_demo.py."""

import asyncio
import base64
import io
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from unittest.mock import MagicMock

import numpy as np
import pytest
import soundfile

from mtmusic.audio.synthesis import synthesise
from mtmusic.errors import UserError
from mtmusic.serving import web
from mtmusic.serving.predictor import Predictor
from mtmusic.serving.web import DemoApp, build_page, keep, load_small, serve, sweep, write_example
from tests.runs import tiny_card, write_random_trunk, write_tiny_run

CLASSES = ("<b>Blues</b>", "Jazz & Soul", "Rock")
RATE = 22_050
NO_SONG = b"no song\n" * 100


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Windows of 1 s; the last has windows of 2 s."""
    folder = tmp_path_factory.mktemp("runs")
    write_tiny_run(folder / "genre", tiny_card(CLASSES, beat=False, clip_frames=43), sharpness=8)
    demo = {"beat": False, "clip_frames": 43, "data": {"demo": True}}
    write_tiny_run(folder / "affect", tiny_card(("valence", "joy <3"), "affect", **demo), sharpness=8)
    write_tiny_run(folder / "long", tiny_card(("power",), "power", beat=False, clip_frames=86))
    return folder


@pytest.fixture(scope="module")
def app(runs) -> DemoApp:
    return DemoApp(Predictor(runs / "genre", runs / "affect"), ("saved_models/<genre>", "affect"))


@pytest.fixture
def song(tmp_path) -> Path:
    parts = [synthesise(name, 2, seconds)[0] for name, seconds in (("Jazz", 2.0), ("Metal", 3.2))]
    soundfile.write(tmp_path / "song.wav", np.concatenate(parts), RATE)
    return tmp_path / "song.wav"


@pytest.fixture
def private(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files; what `serve` puts into the environment goes with the test."""
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_ANALYTICS_CACHE_FREQUENCY",
                 "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"):  # fmt: skip
        monkeypatch.setenv(name, "")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_an_answer_holds_bars_gauges_and_pictures(app, song):
    answer = app.predictor.predict(song)
    page = app.answer(song, "A & B.wav")
    assert "<h2>A &amp; B.wav (0:05)</h2>" in page
    genres = sorted(answer["genre"].items(), key=lambda item: -item[1])
    shown = {"<b>Blues</b>": "&lt;b&gt;Blues&lt;/b&gt;", "Jazz & Soul": "Jazz &amp; Soul", "Rock": "Rock"}
    assert re.findall(r'class="name">(.*?)</span>', page) == [shown[name] for name, _ in genres]
    assert re.findall(r'class="share">(\d+)%', page) == [f"{100 * share:.0f}" for _, share in genres]
    widths = [float(width) for width in re.findall(r"width: ([\d.]+)%", page)]
    assert widths == pytest.approx([100 * share for _, share in genres], abs=0.051)
    gauges = re.findall(r'aria-label="(.*?): ([\d.]+) of 1"', page)
    assert gauges == [("valence", f"{answer['valence']:.2f}"), ("joy &lt;3", f"{answer['joy <3']:.2f}")]
    arcs = [float(arc) for arc in re.findall(r'stroke-dasharray="([\d.]+) 200"', page)]
    assert arcs == pytest.approx([100 * answer["valence"], 100 * answer["joy <3"]], abs=0.051)
    assert page.count('src="data:image/png;base64,iVBOR') == 2
    assert "The song: mel spectrogram and chromagram" in page
    assert "5 windows. The prediction is their mean" in page
    assert 'class="warning"' not in page


def test_the_answer_plays_the_song(app, song):
    page = app.answer(song, "song.wav")
    (sound,) = re.findall(r'<audio controls src="data:audio/mpeg;base64,(.*?)"', page)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)))
    original, _ = soundfile.read(song)
    assert rate == RATE
    assert len(samples) == pytest.approx(len(original), abs=0.1 * RATE)
    assert np.corrcoef(samples[: len(original)], original[: len(samples)])[0, 1] > 0.9


def test_pictures_for_a_phone_are_narrow(app, song):
    page = app.answer(song, "song.wav")
    pictures = re.findall(r'srcset="data:image/png;base64,(.*?)">\n<img src="data:image/png;base64,(.*?)"', page)
    widths = [[int.from_bytes(base64.b64decode(png)[16:20], "big") for png in pair] for pair in pictures]
    assert widths == [[550, 990], [550, 1210]]


def test_what_may_be_wrong_with_a_song_is_told(app, tmp_path):
    soundfile.write(tmp_path / "hush.wav", np.zeros(RATE), RATE)
    page = app.answer(tmp_path / "hush.wav", "hush.wav")
    assert re.findall(r'class="warning">(.*?)</p>', page) == ["hush.wav is silent", "hush.wav is short: 1.0 s"]
    assert "Over time: 1 window. The prediction" in page


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> DemoApp:
    """Tags of random weights, some 0.5 each, and affect in windows of 2 s."""
    folder = tmp_path_factory.mktemp("pretrained")
    write_random_trunk(folder / "musicnn")
    card = tiny_card(("valence", "arousal"), "affect", feature="logmel", beat=False, clip_frames=125)
    write_tiny_run(folder / "mood_musicnn", card)
    return DemoApp(Predictor(folder / "musicnn", folder / "mood_musicnn"), ("musicnn", "mood_musicnn"))


def test_tags_are_bars_next_to_the_mood(pretrained, song):
    answer = pretrained.predictor.predict(song)
    page = pretrained.answer(song, "song.wav")
    assert re.findall("<h3>(.*?)</h3>", page)[:3] == [
        "Genre tags (score, uncalibrated)", "Mood tags (score, uncalibrated)", "Affect (0 to 1)"
    ]  # fmt: skip
    groups = pretrained.predictor.tag_groups
    shown = []
    for group in ("genre", "mood"):
        tags = sorted((tag for tag in groups if groups[tag] == group), key=lambda tag: -answer["tags"][tag])
        shown += [(tag, f"{answer['tags'][tag]:.2f}") for tag in tags[:5] if answer["tags"][tag] >= 0.1]
    names, scores = (re.findall(rf'class="{kind}">(.*?)</span>', page) for kind in ("name", "share"))
    assert list(zip(names, scores, strict=True)) == shown
    assert [name for name, _ in re.findall(r'aria-label="(.*?): ([\d.]+) of 1"', page)] == ["valence", "arousal"]
    assert "1 step of 3 s for tags, 3 windows. The prediction is their mean" in page


def test_a_silent_song_has_no_bars(pretrained, tmp_path):
    soundfile.write(tmp_path / "hush.wav", np.zeros(6 * RATE), RATE)
    page = pretrained.answer(tmp_path / "hush.wav", "hush.wav")
    assert re.findall(r'class="warning">(.*?)</p>', page) == ["hush.wav is silent"]
    assert 'class="bar"' not in page
    assert "3 windows. The prediction is their mean" in page


def heading_of(app: DemoApp) -> str:
    """The heading of the page, of which Gradio's part is played by a mock."""
    gradio = MagicMock()
    build_page(gradio, app, Path("example.flac"))
    return gradio.HTML.call_args_list[0].args[0]


def test_the_heading_names_the_models_and_warns_of_the_demo_corpus(app, runs):
    heading = heading_of(app)
    assert "Models: saved_models/&lt;genre&gt;, affect. They predict genre, valence, joy &lt;3." in heading
    assert "trained on the synthesised demo corpus" in heading
    assert "warning" not in heading_of(DemoApp(Predictor(runs / "genre"), ("genre",)))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("notes.txt", NO_SONG, "No decoder reads notes.txt: install ffmpeg"),
        ("bad.mp3", NO_SONG, "Expected audio, got a file that no decoder reads: bad.mp3: is it damaged, or not audio?"),
        ("empty.wav", b"", "Expected audio, got an empty file: empty.wav"),
        ("absent.wav", None, "Expected a song&#39;s file, got no such file: absent.wav"),
        ("<i>.wav", NO_SONG, "no decoder reads: &lt;i&gt;.wav"),
    ],
)
def test_wrong_files_get_a_sentence(app, tmp_path, monkeypatch, capsys, caplog, name, content, told):
    monkeypatch.setattr("shutil.which", lambda command: None)  # as where there is no ffmpeg
    if content is not None:
        (tmp_path / name).write_bytes(content)
    page = app.answer(tmp_path / name, name)
    assert page.startswith('<p class="refused">')
    assert told in page
    assert str(tmp_path) not in page
    assert (capsys.readouterr().err, caplog.text) == ("", "")


def test_what_nobody_foresaw_is_a_sentence_too_and_a_traceback_in_the_log(app, song, caplog, monkeypatch):
    monkeypatch.setattr(web, "fused_spectrogram", lambda waveform: 1 / 0)
    page = app.answer(song, "song.wav")
    assert page == '<p class="refused">Cannot predict song.wav: ZeroDivisionError: division by zero</p>\n'
    assert "Traceback" in caplog.text


def test_a_file_that_is_too_large_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "header_seconds", lambda song: pytest.fail("was read"))
    with (tmp_path / "large.wav").open("wb") as file:
        file.truncate(51 * 2**20)
    with pytest.raises(UserError, match=r"Expected at most 50 MB, got 51 MB in .*large.wav"):
        load_small(tmp_path / "large.wav")


def test_a_song_that_is_too_long_by_its_header_is_refused_undecoded(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "load_with_doubts", lambda *given, **named: pytest.fail("was decoded"))
    soundfile.write(tmp_path / "long.wav", np.zeros(901 * 1000, np.int16), 1000)
    with pytest.raises(UserError, match=r"Expected at most 15 minutes, got a longer song: .*long.wav"):
        load_small(tmp_path / "long.wav")


def test_a_song_whose_header_tells_nothing_is_decoded_up_to_the_limit(song, monkeypatch):
    monkeypatch.setattr(web, "header_seconds", lambda song: None)
    waveform, _ = load_small(song)
    assert len(waveform) == soundfile.info(song).frames
    asked = []
    original = web.load_with_doubts
    monkeypatch.setattr(
        web, "load_with_doubts", lambda *given, **named: asked.append(named) or original(*given, **named)
    )
    monkeypatch.setattr(web, "LONGEST_MINUTES", 0.05)
    with pytest.raises(UserError, match="got a longer song"):
        load_small(song)
    assert asked == [{"duration": 4.0}]


def test_what_nobody_has_touched_for_so_long_is_swept_away(tmp_path):
    for name in ("growing", "broken off", "waits/song.wav", "answered/song.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("broken off", "waits/song.wav", "waits", "answered/song.wav"):
        os.utime(tmp_path / name, (time.time() - 31,) * 2)
    keep(tmp_path / "waits" / "song.wav")
    sweep(tmp_path, 30)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {
        "growing", "waits", "waits/song.wav", "answered"
    }  # fmt: skip
    os.utime(tmp_path / "answered", (time.time() - 31,) * 2)
    sweep(tmp_path, 30)
    assert not (tmp_path / "answered").exists()


def test_what_goes_while_it_is_swept_stops_nothing(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.touch()
    monkeypatch.setattr(web, "time", SimpleNamespace(time=lambda: gone.unlink() or 1e12))
    sweep(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_sound_of_many_channels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "MOST_SAMPLES", 22_050)
    soundfile.write(tmp_path / "wide.flac", np.zeros((22_050, 2)), 22_050)
    with pytest.raises(UserError, match=r"got 2 channels at 22.05 kHz in .*wide.flac"):
        load_small(tmp_path / "wide.flac")


def test_uploads_go_within_a_minute_of_an_answer():
    assert web.SWEEP_SECONDS + web.KEPT_SECONDS < 60
    assert 5 * web.POLL_SECONDS < web.KEPT_SECONDS


def waits(reply: str) -> str:
    """What a reply of the queue says."""
    return re.findall(r"<p.*?>(.*?)</p>", reply)[0]


class SlowApp(DemoApp):
    """Answers one song at each release of `gate`. answered: their names, in order."""

    gate = threading.Semaphore(0)
    answered: ClassVar[list[str]] = []

    def answer(self, song: Path, name: str) -> str:
        with self.busy:
            self.gate.acquire(timeout=10)
            self.answered.append(name)
            return f"answer of {name}"


def test_one_song_is_answered_ten_wait_and_the_eleventh_is_told(monkeypatch):
    monkeypatch.setattr(web, "POLL_SECONDS", 0.01)
    names = [f"<{number}>.wav" for number in range(12)]
    answered = SlowApp.answered
    answered.clear()

    async def visit() -> None:
        app = SlowApp(MagicMock(), ())
        pages = [app.replies(f"uploads/{name}") for name in names]
        first = [waits((await anext(page))[0]) for page in pages]
        assert first[:3] == [
            "&lt;0&gt;.wav is being processed.",
            "One song comes before &lt;1&gt;.wav.",
            "2 songs come before &lt;2&gt;.wav.",
        ]
        assert first[10] == "10 songs come before &lt;10&gt;.wav."
        assert first[11] == "10 songs are waiting, so &lt;11&gt;.wav was refused. Try again in a minute."
        assert [reply async for reply in pages[11]] == []
        await pages[3].aclose()  # its page is closed
        for _ in range(10):
            app.gate.release()
        rest = [names[number] for number in (0, 1, 2, *range(4, 11))]

        async def last(page: AsyncIterator) -> tuple[str, None]:
            return [reply async for reply in page][-1]

        replies = await asyncio.gather(*(last(pages[names.index(name)]) for name in rest))
        assert replies == [(f"answer of {name}", None) for name in rest]
        assert app.answered == rest
        assert app.queue == []

    asyncio.run(visit())


def test_an_upload_is_kept_while_it_waits_and_is_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "POLL_SECONDS", 0.01)
    songs = [tmp_path / "answered.wav", tmp_path / "waits.wav"]

    def old() -> list[str]:
        return [song.name for song in songs if song.stat().st_mtime < 2]

    async def visit() -> None:
        app = SlowApp(MagicMock(), ())
        pages = [app.replies(song) for song in songs]
        for song, page in zip(songs, pages, strict=True):
            song.touch()
            await anext(page)
            os.utime(song, (1, 1))
        assert old() == ["answered.wav", "waits.wav"]
        answer = asyncio.ensure_future(anext(pages[0]))
        await anext(pages[1])
        await asyncio.sleep(0.05)
        assert old() == []
        app.gate.release()
        assert await answer == ("answer of answered.wav", None)
        for page in pages:
            await page.aclose()

    asyncio.run(visit())


def test_the_example_is_a_song_of_three_styles(tmp_path):
    write_example(tmp_path / "example.flac")
    assert soundfile.info(tmp_path / "example.flac").duration == 90


def test_without_gradio_it_says_what_to_install(runs, private, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"The page needs Gradio .*: pip install gradio"):
        serve([str(runs / "genre")], free_port())
    assert list(private.iterdir()) == []


def test_a_port_in_use_is_told(runs):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"Cannot serve on port \d+: Address already in use: give another `port`"):
            serve([str(runs / "genre")], taken.getsockname()[1])
    for port in (0, -1, 65_536):
        with pytest.raises(UserError, match=f"Expected `port` of 1 to 65535, got {port}"):
            serve([str(runs / "genre")], port)


@pytest.fixture
def without_page(monkeypatch) -> list[str]:
    """Serves no page, which would leave Gradio's event loops open; returns what was called. The first wait is ended."""
    called = []

    def end(seconds: float) -> None:
        raise KeyboardInterrupt

    page = SimpleNamespace(close=lambda verbose: called.append("close"))
    monkeypatch.setattr(web, "_gradio", lambda folder: None)
    monkeypatch.setattr(web, "build_page", lambda *given: page)
    monkeypatch.setattr(web, "_launch", lambda gradio, page, port: called.append(f"launch {port}"))
    monkeypatch.setattr(web.time, "sleep", end)
    return called


def test_models_of_different_windows_are_refused_at_the_start(runs, private, without_page):
    with pytest.raises(UserError, match="got 1 s and 2 s: give a window"):
        serve([str(runs / "genre"), str(runs / "long")], free_port())
    assert without_page == []
    assert list(private.iterdir()) == []


def test_the_page_is_served_until_it_is_interrupted(runs, private, without_page, caplog):
    caplog.set_level("INFO", "mtmusic.serving")
    port = free_port()
    serve([str(runs / "genre"), str(runs / "long")], port, window=3.0)
    assert without_page == [f"launch {port}", "close"]
    assert caplog.messages == [f"The page: http://127.0.0.1:{port}  (press Ctrl-C to end)"]
    assert list(private.iterdir()) == []


def test_uploads_are_swept_while_it_is_served(runs, private, without_page, monkeypatch):
    swept = []

    def wait(seconds: float) -> None:
        if swept:
            raise KeyboardInterrupt

    monkeypatch.setattr(web.time, "sleep", wait)
    monkeypatch.setattr(web, "sweep", lambda folder, seconds: swept.append((folder.name, seconds)))
    serve([str(runs / "genre")], free_port())
    assert swept == [("uploads", web.KEPT_SECONDS)]


def test_gradio_is_told_to_send_nothing_and_to_keep_its_files_with_us(tmp_path, monkeypatch):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "before")
    monkeypatch.setattr("mtmusic.extras.importlib.import_module", lambda name: name)
    assert web._gradio(tmp_path) == "gradio"
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_song_that_is_being_answered_is_answered_to_its_end(runs, private, without_page, monkeypatch):
    def build(gradio: None, app: DemoApp, example: Path) -> SimpleNamespace:
        def finish() -> None:
            without_page.append("answered")
            app.busy.release()

        def close(verbose: bool) -> None:
            app.busy.acquire()
            threading.Timer(0.2, finish).start()

        return SimpleNamespace(close=close)

    monkeypatch.setattr(web, "build_page", build)
    serve([str(runs / "genre")], free_port())
    assert without_page[-1] == "answered"

"""The demo page: shows the predictions of saved models for a dropped song, and the song's features, on this computer.

Gradio serves the page. It loads nothing from other hosts, and sends nothing to them. Several pages may be open. One
song is processed at a time, up to WAITING songs wait, and further songs are refused. So only one decoded song is in
memory, and uploads are on disk. Gradio uses one file for the same song on several pages. So a page does not move or
delete the file: each page that needs it updates its time, and a file that no page has used for KEPT_SECONDS is deleted.
"""

import asyncio
import io
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
from jinja2 import PackageLoader

from mtmusic.audio.decoding import header_seconds
from mtmusic.audio.extraction import reason_of
from mtmusic.audio.features import fused_spectrogram
from mtmusic.audio.loading import load_with_doubts
from mtmusic.audio.synthesis import synthesise
from mtmusic.constants import SAMPLE_RATE
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.html import loaders, render
from mtmusic.extras import require
from mtmusic.serving.predictor import GENRE, TAGS, TEMPO, WARNING, Predictor, Timeline
from mtmusic.serving.songs import SHOWN_GROUPS, timeline_picture, top_tags

logger = logging.getLogger(__name__)
loaders.append(PackageLoader("mtmusic.serving"))

HOST = "127.0.0.1"
LARGEST_MB, LONGEST_MINUTES = 50, 15
MOST_SAMPLES = LONGEST_MINUTES * 60 * 48_000 * 2
WAITING = 10
"""The most songs that may wait."""

POLL_SECONDS = 0.5

SHOWN_SECONDS = 30.0
SHOWN_TAGS = 5
EXAMPLE = "synthesised music in three styles"
EXAMPLE_PARTS = (("Classical", 30.0), ("Electronic", 30.0), ("Rock", 30.0))

KEPT_SECONDS = 10
"""An upload that no page has used for this time is not needed any more."""
SWEEP_SECONDS = 2


@dataclass(frozen=True)
class DemoApp:
    """Predicts the page's songs.

    models: names of the models. window: window length in seconds, None for the length of the models' clips.
    queue: a token for each song in progress or waiting, in order. busy: held while a song is processed.
    """

    predictor: Predictor
    models: tuple[str, ...]
    window: float | None = None
    queue: list[object] = field(default_factory=list)
    busy: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, song: Path, name: str) -> str:
        """Returns the answer as HTML, or the reason if there is none. name: name of the song on the page."""
        try:
            with self.busy:
                waveform, doubts = load_small(song)
                content = self._content(song, waveform)
        except UserError as error:
            return render("demo_answer.html", refused=str(error).replace(str(song), name))
        except Exception as error:
            logger.warning(traceback.format_exc())
            return render("demo_answer.html", refused=f"Cannot predict {name}: {reason_of(error)}")
        doubts = [doubt.replace(str(song), name) for doubt in doubts]
        minutes, seconds = divmod(round(len(waveform) / SAMPLE_RATE), 60)
        return render("demo_answer.html", name=name, length=f"{minutes}:{seconds:02d}", doubts=doubts, **content)

    async def replies(self, song: Path | str, name: str = "") -> AsyncIterator[tuple[str, None]]:
        """Yields HTML for the page: how many songs come first, then the answer; or a message that the queue is full.

        The second item, None, clears the upload field. The song is kept from `sweep` until it is processed. If the page
        is closed, the iteration ends. name: name of the song on the page, by default its file's name.
        """
        path = Path(song)
        name = name or path.name
        if len(self.queue) > WAITING:
            yield render("demo_queue.html", name=name, full=WAITING), None
            return
        place = object()
        self.queue.append(place)
        try:
            while before := self.queue.index(place):
                yield render("demo_queue.html", name=name, before=before), None
                keep(path)
                await asyncio.sleep(POLL_SECONDS)
            yield render("demo_queue.html", name=name, before=0), None
            answering = asyncio.create_task(asyncio.to_thread(self.answer, path, name))
            while not answering.done():
                keep(path)
                await asyncio.wait([answering], timeout=POLL_SECONDS)
            yield answering.result(), None
        finally:
            self.queue.remove(place)

    def _content(self, song: Path, waveform: np.ndarray) -> dict[str, Any]:
        """The variables for demo_answer.html: values and pictures. waveform: the song's samples (samples,)."""
        answered = self.predictor.answer(song, window=self.window, timeline=True)
        clip = fused_spectrogram(waveform[: round(SHOWN_SECONDS * SAMPLE_RATE)])
        answer, groups = answered.answer, self.predictor.tag_groups
        timeline = cast(Timeline, answered.timeline)
        return {
            "tags": {group: top_tags(answer[TAGS], groups, group, SHOWN_TAGS) for group in SHOWN_GROUPS}
            if answer.get(TAGS)
            else {},
            "genres": sorted(answer.get(GENRE, {}).items(), key=lambda item: -item[1]),
            "tasks": {name: value for name, value in answer.items() if name not in (TAGS, GENRE, TEMPO, WARNING)},
            "sound": mp3(waveform),
            "shown": f"First {SHOWN_SECONDS:g} s" if len(waveform) > SHOWN_SECONDS * SAMPLE_RATE else "The song",
            "clip": [
                plots.png(plots.spectrograms([clip], [""], beat=False, narrow=narrow)) for narrow in (False, True)
            ],
            "windows": len(timeline.times),
            "steps": len(timeline.tags),
            "timeline": [plots.png(timeline_picture(timeline, "", groups, narrow)) for narrow in (False, True)],
        }


def serve(models: Sequence[Path | str], port: int, window: float | None = None) -> None:
    """Serves the page on this computer's `port` until KeyboardInterrupt. Logs the address when the page is ready.

    models: runs or their names, by default the pretrained models.
    Raises UserError if Gradio is missing, if the port is in use, or if the models cannot be opened or combined.
    """
    _require_free(port)
    with _private_folder() as folder:
        uploads, example = folder / "uploads", folder / "example.flac"
        uploads.mkdir()
        gradio = _gradio(uploads)
        write_example(example)
        predictor = Predictor(*models)
        app = DemoApp(predictor, tuple(map(str, predictor.runs)), window)
        predictor.timeline(example, window=window)  # raises if models cannot be combined, before the page is served
        page = build_page(gradio, app, example)
        _launch(gradio, page, port)
        try:
            logger.info(f"The page: http://{HOST}:{port}  (press Ctrl-C to end)")
            while True:
                time.sleep(SWEEP_SECONDS)
                sweep(uploads, KEPT_SECONDS)
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)
            with app.busy:  # TensorFlow aborts if Python ends during a prediction
                pass


def build_page(gradio: Any, app: DemoApp, example: Path) -> Any:
    """Builds the page, a gradio.Blocks."""
    predictor = app.predictor
    heading = render("demo_heading.html", models=app.models, names=predictor.names, warning=predictor.warning)
    with gradio.Blocks(title="mtmusic", analytics_enabled=False) as page:
        gradio.HTML(heading)
        upload = gradio.File(
            label=f"A song of up to {LARGEST_MB} MB and {LONGEST_MINUTES} minutes", height=140, elem_classes="ask"
        )
        button = gradio.Button("Try the example song", elem_classes="ask")
        answer = gradio.HTML(min_height=80)
        shared: dict[str, Any] = {
            "outputs": [answer, upload],
            "concurrency_limit": None,  # DemoApp has its own queue, which shows its length
            "show_progress_on": answer,
            "api_visibility": "private",
        }
        upload.upload(app.replies, upload, **shared)
        button.click(partial(app.replies, example, f"Example: {EXAMPLE}"), None, **shared)
    return page


def _launch(gradio: Any, page: Any, port: int) -> None:
    page.launch(
        server_name=HOST,
        server_port=port,
        max_file_size=LARGEST_MB * 2**20,
        state_session_capacity=WAITING + 1,  # number of pages whose last answer Gradio keeps in memory
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=render("demo.css"),
        footer_links=[],
        run_history=False,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        prevent_thread_lock=True,
        quiet=True,
    )


def load_small(song: Path) -> tuple[np.ndarray, list[str]]:
    """Like `load_with_doubts`. Also raises UserError for a song over the page's limits, by its header if possible.

    A song with no length or a wrong length in its header is decoded up to the limit.
    """
    if song.is_file() and song.stat().st_size > LARGEST_MB * 2**20:
        raise UserError(f"Expected at most {LARGEST_MB} MB, got {song.stat().st_size / 2**20:.0f} MB in {song}")
    _require_modest(song)
    longest = 60 * LONGEST_MINUTES
    seconds = header_seconds(song)
    if seconds is None or seconds <= longest:
        waveform, doubts = load_with_doubts(song, duration=longest + 1.0)
        if len(waveform) <= longest * SAMPLE_RATE:
            return waveform, doubts
    raise UserError(f"Expected at most {LONGEST_MINUTES} minutes, got a longer song: {song}")


def _require_modest(song: Path) -> None:
    """Raises UserError for many channels or a high rate: a small file of this kind could fill the memory."""
    try:
        info = soundfile.info(song)
    except (soundfile.SoundFileError, OSError):
        return  # another decoder with other limits may read it
    if info.frames * info.channels > MOST_SAMPLES:
        raise UserError(
            f"Expected at most {LONGEST_MINUTES} minutes of stereo at 48 kHz, got {info.channels} channels at "
            f"{info.samplerate / 1000:g} kHz in {song}"
        )


def mp3(waveform: np.ndarray) -> bytes:
    """(samples,) -> an mp3, which any browser plays."""
    content = io.BytesIO()
    soundfile.write(content, waveform, SAMPLE_RATE, format="MP3")
    return content.getvalue()


def write_example(path: Path) -> None:
    """Writes a song of three parts, each in another synthesised style."""
    parts = [synthesise(style, 0, seconds)[0] for style, seconds in EXAMPLE_PARTS]
    soundfile.write(path, np.concatenate(parts), SAMPLE_RATE)


def keep(upload: Path) -> None:
    """Keeps an upload from `sweep`."""
    with suppress(FileNotFoundError):  # the answer reports a missing file
        os.utime(upload)


def sweep(folder: Path, seconds: float) -> None:
    """Deletes files that were not used for this time, and empty folders."""
    for path in list(folder.rglob("*")):
        with suppress(OSError):  # it is already deleted, or the folder is not empty
            if time.time() - path.stat().st_mtime > seconds:
                path.rmdir() if path.is_dir() else path.unlink()


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for the example and the uploads. Only this user can read it. It is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mtmusic-page-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _gradio(folder: Path) -> Any:
    """Imports Gradio. It keeps its files in the folder, and sends nothing. Raises UserError if it is not installed."""
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(2**31),  # never: its statistics need a newer pandas than TFDV's
    }
    return require("gradio", "The page")


def _require_free(port: int) -> None:
    if not 1 <= port <= 65535:
        raise UserError(f"Expected `port` of 1 to 65535, got {port}")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed is free
        try:
            taken.bind((HOST, port))
        except OSError as error:
            raise UserError(f"Cannot serve on port {port}: {error.strerror}: give another `port`") from error

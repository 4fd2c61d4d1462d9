"""The demo page: a song dropped on it, what saved models say of it, and its features. For this computer alone.

Gradio serves it. Nothing is loaded from elsewhere and nothing is sent away; an upload is deleted once it is answered.
"""

import io
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
WAITING = 16
"""Songs in the queue; one is answered at a time."""

SHOWN_SECONDS = 30.0
SHOWN_TAGS = 5
EXAMPLE = "three synthesised styles"
EXAMPLE_PARTS = (("Classical", 30.0), ("Electronic", 30.0), ("Rock", 30.0))

CLAIMED = "claimed"
"""The folder of uploads that wait for their answer or get it."""

SWEEP_SECONDS = 10
STALLED_SECONDS = 30
"""An upload that has not grown for so long was broken off."""
UNANSWERED_SECONDS = 600
"""Whole uploads that wait so long for an answer are deleted: above the longest queue, since their page is gone."""


@dataclass(frozen=True)
class DemoApp:
    """Answers the page's songs. models: as the user named them. window: seconds, None: as the models' clips.

    busy: held while a song is answered.
    """

    predictor: Predictor
    models: tuple[str, ...]
    window: float | None = None
    busy: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, song: Path, name: str) -> str:
        """The answer as HTML, or a sentence that says why there is none. name: what the page calls the song."""
        try:
            with self.busy:
                waveform, doubts = load_small(song)
                content = self._content(song, waveform)
        except UserError as error:
            return render("demo_answer.html", refused=str(error).replace(str(song), name))
        except Exception as error:
            logger.warning(traceback.format_exc())
            return render("demo_answer.html", refused=f"Cannot hear {name}: {reason_of(error)}")
        doubts = [doubt.replace(str(song), name) for doubt in doubts]
        minutes, seconds = divmod(round(len(waveform) / SAMPLE_RATE), 60)
        return render("demo_answer.html", name=name, length=f"{minutes}:{seconds:02d}", doubts=doubts, **content)

    def answer_upload(self, claimed: str) -> tuple[str, None]:
        """The answer, and nothing for the place that held the upload, which is deleted whatever came of it."""
        path = Path(claimed)
        try:
            return self.answer(path, path.name), None
        finally:
            shutil.rmtree(path.parent, ignore_errors=True)

    def _content(self, song: Path, waveform: np.ndarray) -> dict[str, Any]:
        """The song, and its (samples,) -> what demo_answer.html shows: numbers and pictures."""
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
    """Serves the page on this computer's `port` until KeyboardInterrupt, and logs its address once it is there.

    models: runs or their names; none: the pretrained ones.

    Raises UserError where Gradio is missing, the port is taken, or the models cannot be opened or do not go together.
    """
    _require_free(port)
    with _private_folder() as folder:
        uploads, example = folder / "uploads", folder / "example.flac"
        uploads.mkdir()
        (folder / CLAIMED).mkdir()
        gradio = _gradio(uploads)
        write_example(example)
        predictor = Predictor(*models)
        app = DemoApp(predictor, tuple(map(str, predictor.runs)), window)
        predictor.timeline(example, window=window)  # refuses models that do not go together before the page is up
        page = build_page(gradio, app, example)
        _launch(gradio, page, port)
        try:
            logger.info(f"The page: http://{HOST}:{port}  (Ctrl-C ends it)")
            while True:
                time.sleep(SWEEP_SECONDS)
                sweep(uploads, STALLED_SECONDS)
                sweep(folder / CLAIMED, UNANSWERED_SECONDS)
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)
            with app.busy:  # TensorFlow aborts where Python ends while it is asked
                pass


def build_page(gradio: Any, app: DemoApp, example: Path) -> Any:
    """The page's gradio.Blocks."""
    predictor = app.predictor
    heading = render("demo_heading.html", models=app.models, names=predictor.names, warning=predictor.warning)
    with gradio.Blocks(title="mtmusic", analytics_enabled=False, delete_cache=(60, UNANSWERED_SECONDS)) as page:
        gradio.HTML(heading)
        upload = gradio.File(label=f"A song: up to {LARGEST_MB} MB and {LONGEST_MINUTES} minutes", height=140)
        button = gradio.Button("Try the example song")
        answer = gradio.HTML(min_height=80)
        shared: dict[str, Any] = {
            "concurrency_limit": 1,
            "concurrency_id": "answer",
            "api_visibility": "private",
            "show_progress_on": answer,
        }
        claimed = gradio.State()
        arrived = upload.upload(claim, upload, claimed, queue=False, api_visibility="private")
        arrived.success(app.answer_upload, claimed, [answer, upload], **shared)
        button.click(lambda: app.answer(example, f"Example: {EXAMPLE}"), None, answer, **shared)
    return page


def _launch(gradio: Any, page: Any, port: int) -> None:
    page.queue(max_size=WAITING)
    page.launch(
        server_name=HOST,
        server_port=port,
        max_file_size=LARGEST_MB * 2**20,
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
    """As `load_with_doubts`. Raises UserError for a song over the page's limits too, undecoded if the header says so.

    What has no length in its header, or a wrong one, is decoded no further than the limit.
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
    """Refuses sound of many channels or a high rate, which a small file may hold: decoded, it would fill the memory."""
    try:
        info = soundfile.info(song)
    except (soundfile.SoundFileError, OSError):
        return  # another decoder may read it, with limits of its own
    if info.frames * info.channels > MOST_SAMPLES:
        raise UserError(
            f"Expected at most {LONGEST_MINUTES} minutes of stereo at 48 kHz, got {info.channels} channels at "
            f"{info.samplerate / 1000:g} kHz in {song}"
        )


def mp3(waveform: np.ndarray) -> bytes:
    """(samples,) as any browser plays it: what the models take, whatever the song's own format."""
    content = io.BytesIO()
    soundfile.write(content, waveform, SAMPLE_RATE, format="MP3")
    return content.getvalue()


def write_example(path: Path) -> None:
    """A song of three parts, one synthesised style after the other."""
    parts = [synthesise(style, 0, seconds)[0] for style, seconds in EXAMPLE_PARTS]
    soundfile.write(path, np.concatenate(parts), SAMPLE_RATE)


def claim(upload: str) -> str:
    """Moves an upload to a folder of its own: Gradio names its folders after the content, so two could be one."""
    path = Path(upload)
    own = Path(tempfile.mkdtemp(dir=path.parent.parent.with_name(CLAIMED)))
    path.replace(own / path.name).touch()  # its wait begins now
    with suppress(OSError):  # another upload of the same content lies there
        path.parent.rmdir()
    return str(own / path.name)


def sweep(folder: Path, seconds: float) -> None:
    """Deletes what has not changed for so long: uploads broken off, or refused halfway, or whose page is gone."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # it has moved on meanwhile
            if path.is_file() and time.time() - path.stat().st_mtime > seconds:
                path.unlink()


@contextmanager
def _private_folder() -> Iterator[Path]:
    """For the example and the uploads; nobody else may read it, and it is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mtmusic-page-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _gradio(folder: Path) -> Any:
    """Gradio, set to keep its files in the folder and to send nothing. Raises UserError where it is not installed."""
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(2**31),  # its statistics of calls need a newer pandas than TFDV's
    }
    return require("gradio", "The page")


def _require_free(port: int) -> None:
    if not 1 <= port <= 65535:
        raise UserError(f"Expected `port` of 1 to 65535, got {port}")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just closed is free
        try:
            taken.bind((HOST, port))
        except OSError as error:
            raise UserError(f"Cannot serve on port {port}: {error.strerror}: `port` takes another") from error

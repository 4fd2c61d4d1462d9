"""The demo page: a song dropped on it, what saved models say of it, and what they heard. For this computer alone.

Gradio serves it. Nothing is loaded from elsewhere and nothing is sent away; an upload is deleted once it is answered.
"""

import base64
import importlib
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mtmusic.audio.extraction import reason_of
from mtmusic.audio.features import fused_spectrogram
from mtmusic.audio.loading import header_seconds, load_with_doubts
from mtmusic.audio.synthesis import synthesise
from mtmusic.constants import SAMPLE_RATE
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.serving.predictor import WARNING, Answer, Predictor
from mtmusic.serving.songs import timeline_picture

HOST = "127.0.0.1"
LARGEST_MB, LONGEST_MINUTES = 50, 15
MOST_SAMPLES = LONGEST_MINUTES * 60 * 48_000 * 2
WAITING = 16
"""Songs in the queue; one is heard at a time."""

SHOWN_SECONDS = 30.0
EXAMPLE = "three synthesised styles"
EXAMPLE_PARTS = (("Classical", 30.0), ("Electronic", 30.0), ("Rock", 30.0))

CLAIMED = "claimed"
"""The folder of uploads that wait for their answer or are being heard."""

SWEEP_SECONDS = 10
STALLED_SECONDS = 30
"""An upload that has not grown for so long was broken off."""
UNANSWERED_SECONDS = 600
"""Whole uploads that wait so long for an answer are deleted: above the longest queue, since their page is gone."""

TITLE = "What does a song sound like?"
STYLE = """
.gradio-container { width: 100%; max-width: 980px !important; margin: auto; }
.warning, .refused { border-left: 4px solid #d97706; padding: .5em .8em; margin: .5em 0; }
.answer { color: var(--body-text-color); }
.answer h2 { font-size: 1.2em; margin: .6em 0 .2em; overflow-wrap: anywhere; }
.answer h3 { font-size: 1em; margin: 1.2em 0 .4em; }
.answer .bar { display: grid; grid-template-columns: 7.5em 1fr 3.2em; gap: .7em; align-items: center; margin: .3em 0; }
.answer .bar .name { text-align: right; overflow-wrap: anywhere; }
.answer .track { height: 1em; border-radius: 3px; background: var(--border-color-primary); }
.answer .fill { height: 100%; border-radius: 3px; background: #3f90da; }
.answer .gauges { display: flex; flex-wrap: wrap; gap: 1em; }
.answer .gauge { flex: 1 1 100px; max-width: 150px; text-align: center; overflow-wrap: anywhere; }
.answer .gauge path { fill: none; stroke-width: 12; stroke: var(--border-color-primary); }
.answer .gauge path.fill { stroke: #3f90da; }
.answer .gauge text { fill: var(--body-text-color); text-anchor: middle; font-size: 11px; }
.answer .gauge text.value { font-size: 20px; font-weight: 600; }
.answer .picture { overflow-x: auto; background: white; border-radius: 6px; padding: 6px;
    contain: inline-size; }
.answer .picture img { display: block; margin: auto; max-width: 100%; }
.answer .picture.wide img { min-width: 640px; }
.answer .picture.narrow img { min-width: 480px; }
"""


@dataclass(frozen=True)
class Listener:
    """Answers the page's songs. models: as the user named them. window: seconds, None: as the models' clips.

    hearing: held while a song is heard.
    """

    predictor: Predictor
    models: tuple[str, ...]
    window: float | None = None
    hearing: threading.Lock = field(default_factory=threading.Lock)

    def hear(self, song: Path, name: str) -> str:
        """The answer as HTML, or a sentence that says why there is none. name: what the page calls the song."""
        try:
            with self.hearing:
                waveform, doubts = load_small(song)
                body = self._answer(waveform)
        except UserError as error:
            return _refusal(str(error).replace(str(song), name))
        except Exception as error:
            traceback.print_exc()
            return _refusal(f"Cannot hear {name}: {reason_of(error)}")
        told = "".join(f'<p class="warning">{escape(doubt.replace(str(song), name))}</p>' for doubt in doubts)
        minutes, seconds = divmod(round(len(waveform) / SAMPLE_RATE), 60)
        return f'<div class="answer"><h2>{escape(name)} ({minutes}:{seconds:02d})</h2>{told}{body}</div>'

    def hear_upload(self, claimed: str) -> tuple[str, None]:
        """The answer, and nothing for the place that held the upload, which is deleted whatever came of it."""
        path = Path(claimed)
        try:
            return self.hear(path, path.name), None
        finally:
            shutil.rmtree(path.parent, ignore_errors=True)

    def _answer(self, waveform: np.ndarray) -> str:
        """(samples,) -> bars, gauges and pictures."""
        timeline = self.predictor.timeline(waveform, window=self.window)
        clip = fused_spectrogram(waveform[: round(SHOWN_SECONDS * SAMPLE_RATE)])
        begin = f"First {SHOWN_SECONDS:g} s" if len(waveform) > SHOWN_SECONDS * SAMPLE_RATE else "The song"
        windows = len(timeline.times)
        return (
            _answer_html(mean_answer(timeline.answers))
            + f"<h3>{begin}: mel spectrogram and chromagram</h3>"
            + _picture(plots.spectrograms([clip], [""], beat=False), "mel spectrogram and chromagram", "narrow")
            + f"<h3>Along the song: {windows} window{'s' if windows > 1 else ''}, whose mean is the answer</h3>"
            + _picture(timeline_picture(timeline, ""), "answers along the song", "wide")
        )


def serve(models: Sequence[str], port: int, window: float | None = None) -> None:
    """Serves the page on this computer's `port` until KeyboardInterrupt, and prints its address once it is there.

    Raises UserError where Gradio is missing, the port is taken, or the models cannot be opened or do not go together.
    """
    _require_free(port)
    with _private_folder() as folder:
        uploads, example = folder / "uploads", folder / "example.flac"
        uploads.mkdir()
        (folder / CLAIMED).mkdir()
        gradio = _gradio(uploads)
        write_example(example)
        listener = Listener(Predictor(*models), tuple(models), window)
        listener.predictor.timeline(example, window=window)  # models that do not go together are told of now
        page = build_page(gradio, listener, example)
        _launch(gradio, page, port)
        try:
            print(f"The page: http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)
            while True:
                time.sleep(SWEEP_SECONDS)
                sweep(uploads, STALLED_SECONDS)
                sweep(folder / CLAIMED, UNANSWERED_SECONDS)
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)
            with listener.hearing:  # TensorFlow aborts where Python ends while it is asked
                pass


def build_page(gradio: Any, listener: Listener, example: Path) -> Any:
    """The page's gradio.Blocks."""
    with gradio.Blocks(title="mtmusic", analytics_enabled=False, delete_cache=(60, UNANSWERED_SECONDS)) as page:
        gradio.HTML(_heading(listener))
        upload = gradio.File(label=f"A song: up to {LARGEST_MB} MB and {LONGEST_MINUTES} minutes", height=140)
        button = gradio.Button("Try the example song")
        answer = gradio.HTML(min_height=80)
        shared: dict[str, Any] = {
            "concurrency_limit": 1,
            "concurrency_id": "hear",
            "api_visibility": "private",
            "show_progress_on": answer,
        }
        claimed = gradio.State()
        arrived = upload.upload(claim, upload, claimed, queue=False, api_visibility="private")
        arrived.success(listener.hear_upload, claimed, [answer, upload], **shared)
        button.click(lambda: listener.hear(example, f"Example: {EXAMPLE}"), None, answer, **shared)
    return page


def _launch(gradio: Any, page: Any, port: int) -> None:
    page.queue(max_size=WAITING)
    page.launch(
        server_name=HOST,
        server_port=port,
        max_file_size=LARGEST_MB * 2**20,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=STYLE,
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
    """As `load_with_doubts`. Raises UserError for a song over the page's limits too, undecoded where its header tells.

    What tells no length, or a wrong one, is decoded no further than the limit.
    """
    if song.is_file() and song.stat().st_size > LARGEST_MB * 2**20:
        raise UserError(f"Expected at most {LARGEST_MB} MB, got {song.stat().st_size / 2**20:.0f} MB in {song}")
    _require_modest(song)
    longest = 60 * LONGEST_MINUTES
    told = header_seconds(song)
    if told is None or told <= longest:
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


def mean_answer(answers: Sequence[Answer]) -> Answer:
    """What `Predictor.predict` says of the song, from the answers of its windows."""

    def mean(values: Sequence[Any]) -> Any:
        if isinstance(values[0], Mapping):
            return {name: mean([value[name] for value in values]) for name in values[0]}
        return float(np.mean(values))

    return {name: mean([answer[name] for answer in answers]) for name in answers[0] if name != WARNING}


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
    """Gradio, told to keep its files in the folder and to send nothing. Raises UserError where it is not installed."""
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(2**31),  # its statistics of calls need a newer pandas than TFDV's
    }
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise UserError('The page needs Gradio: pip install ".[web]"') from error


def _require_free(port: int) -> None:
    if not 1 <= port <= 65535:
        raise UserError(f"Expected a port of 1 to 65535, got {port}")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just closed is free
        try:
            taken.bind((HOST, port))
        except OSError as error:
            raise UserError(f"Cannot serve on port {port}: {error.strerror}: --port takes another") from error


def _heading(listener: Listener) -> str:
    models, names = (escape(", ".join(parts)) for parts in (listener.models, listener.predictor.names))
    warning = listener.predictor.warning
    told = f'<p class="warning">Warning about a model: {escape(warning)}.</p>' if warning else ""
    return (
        f"<h1>{TITLE}</h1><p>Drop a song, or choose one. It stays on this computer, and is deleted once it is "
        f"answered.</p><p>Models: {models}. They answer: {names}.</p>{told}"
    )


def _answer_html(answer: Answer) -> str:
    genres = sorted(answer.get("genre", {}).items(), key=lambda item: -item[1])
    tasks = {name: value for name, value in answer.items() if name != "genre"}
    html = "<h3>Genre (probability)</h3>" + "".join(_bar(*genre) for genre in genres) if genres else ""
    if tasks:
        html += f'<h3>Affect (0 to 1)</h3><div class="gauges">{"".join(_gauge(*task) for task in tasks.items())}</div>'
    return html


def _bar(name: str, share: float) -> str:
    return (
        f'<div class="bar"><span class="name">{escape(name)}</span><span class="track"><div class="fill" '
        f'style="width: {share:.1%}"></div></span><span class="share">{share:.0%}</span></div>'
    )


def _gauge(name: str, value: float) -> str:
    """A half circle, filled from the left."""
    arc = 'd="M 16 66 A 54 54 0 0 1 124 66" pathLength="100"'
    return (
        f'<div class="gauge"><svg viewBox="0 0 140 84" role="img" aria-label="{escape(name)}: {value:.2f} of 1">'
        f'<path {arc}/><path class="fill" {arc} stroke-dasharray="{100 * value:.1f} 200"/>'
        f'<text class="value" x="70" y="64">{value:.2f}</text><text x="16" y="81">0</text>'
        f'<text x="124" y="81">1</text></svg><div>{escape(name)}</div></div>'
    )


def _picture(figure: plots.Figure, caption: str, kind: str) -> str:
    """Inside the page, so that no file of it is left. kind: "wide" or "narrow", how far a phone may shrink it."""
    content = base64.b64encode(plots.png(figure)).decode("ascii")
    return f'<div class="picture {kind}"><img src="data:image/png;base64,{content}" alt="{caption}"></div>'


def _refusal(sentence: str) -> str:
    return f'<p class="refused">{escape(sentence)}</p>'

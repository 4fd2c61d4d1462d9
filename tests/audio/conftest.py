"""Files of sound, and the decoders that are found."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import audioread
import numpy as np
import pytest
import soundfile

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """save("x.wav", samples, rate) -> its path."""

    def write(name: str, samples: np.ndarray, rate: int = 22_050, subtype: str | None = None) -> Path:
        soundfile.write(tmp_path / name, samples, rate, subtype=subtype)
        return tmp_path / name

    return write


@pytest.fixture
def save_mp3(tmp_path: Path) -> Save:
    """save_mp3("x.mp3", samples, "VARIABLE") -> its path; its first frame states the length, unless stated is False."""

    def write(name: str, samples: np.ndarray, mode: str, stated: bool = True, rate: int = 44_100) -> Path:
        path = tmp_path / name
        soundfile.write(path, samples, rate, bitrate_mode=mode, compression_level=0.5)
        if not stated:
            path.write_bytes(without_first_frame(path.read_bytes()))
        return path

    return write


def without_first_frame(content: bytes) -> bytes:
    """An mp3's, which states its length."""
    assert re.search(rb"Xing|Info", content[:200])
    return content[re.search(rb"\xff\xfb", content[4:]).start() + 4 :]


@pytest.fixture(params=["ffmpeg", "no ffmpeg"])
def decoders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The decoders that audioread finds, with and without ffmpeg, which it looks for on the PATH."""
    if request.param == "no ffmpeg":
        monkeypatch.setenv("PATH", "")
    elif shutil.which("ffmpeg") is None:
        pytest.skip("found no ffmpeg")
    monkeypatch.setattr(audioread, "BACKENDS", [])  # what it found before
    return request.param

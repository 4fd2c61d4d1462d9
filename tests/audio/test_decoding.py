"""What a file says of itself, and what it holds."""

import os
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mtmusic.audio.decoding import header_seconds
from mtmusic.audio.extraction import is_song_name
from mtmusic.audio.loading import load_waveform, load_with_doubts
from mtmusic.errors import UserError
from tests.audio.conftest import Save
from tests.sounds import loud_then_quiet, tones


def test_what_soundfile_cannot_read_goes_to_librosas_fallback(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save("a.wav", tones(6, 44_100, 2), 44_100)
    expected = load_waveform(path, 1, 5)

    def refuse(*arguments: object) -> None:
        raise soundfile.LibsndfileError(1)

    monkeypatch.setattr(soundfile.SoundFile, "__init__", refuse)
    monkeypatch.setattr(soundfile.SoundFile, "__del__", lambda self: None)
    np.testing.assert_array_equal(load_waveform(path, 1, 5), expected)


def test_a_header_tells_the_length_or_nothing(save: Save, tmp_path: Path) -> None:
    assert header_seconds(save("a.wav", tones(6, 44_100, 2), 44_100)) == 6
    (tmp_path / "b.wav").write_bytes(b"hello\n" * 500)
    assert header_seconds(tmp_path / "b.wav") is None
    assert header_seconds(tmp_path / "absent.wav") is None


@pytest.mark.parametrize("content", [b"", b"RIFF1234WAVE", b"hello\n" * 500])
@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.m4a"])
def test_refuses_what_is_no_audio(tmp_path: Path, decoders: str, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=name) as error:
        load_waveform(path)
    needed = name == "a.m4a" and content != b"" and decoders == "no ffmpeg"
    assert ("install ffmpeg" in str(error.value)) == needed


def test_ffmpeg_reads_what_soundfile_does_not(save: Save, tmp_path: Path, decoders: str) -> None:
    samples, path = tones(6, 22_050)[:, 0], tmp_path / "a.m4a"
    if decoders == "ffmpeg":
        convert = ["ffmpeg", "-v", "error", "-i", str(save("a.wav", samples)), "-b:a", "256k", str(path)]
        subprocess.run(convert, check=True, stdin=subprocess.DEVNULL)
        waveform = load_waveform(path)
        np.testing.assert_allclose(waveform[2_000:120_000], samples[2_000:120_000], atol=0.02)
    else:
        path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
        with pytest.raises(UserError, match=r"No decoder reads .*a\.m4a: install ffmpeg, or convert it to wav"):
            load_waveform(path)


def test_refuses_a_folder_and_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "x.wav").mkdir()
    (tmp_path / "y.wav").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"got a folder: .*x\.wav"):
        load_waveform(tmp_path / "x.wav")
    with pytest.raises(UserError, match=r"got no such file: .*y\.wav"):
        load_waveform(tmp_path / "y.wav")


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_an_mp3_that_does_not_state_its_length_is_read_to_its_end(save_mp3: Save, mode: str) -> None:
    samples = loud_then_quiet(60)
    stated = save_mp3("stated.mp3", samples, mode)
    path = save_mp3("a.mp3", samples, mode, stated=False)
    assert (header_seconds(stated), header_seconds(path)) == (pytest.approx(60, abs=0.1), None)
    estimate = soundfile.info(path).duration
    assert estimate < 40 if mode == "VARIABLE" else abs(estimate - 60) < 1
    whole, doubts = load_with_doubts(path, sample_rate=44_100)
    assert doubts == []
    assert len(whole) / 44_100 == pytest.approx(60, abs=0.1)
    expected, doubts = load_with_doubts(stated, sample_rate=44_100)
    assert doubts == []
    np.testing.assert_array_equal(whole[1105 : 1105 + len(expected)], expected)  # 1105: what the encoder put before
    part, _ = load_with_doubts(path, 50, 5, 44_100)
    assert len(part) == 5 * 44_100
    first = 44_100 // 10  # frames borrow from earlier ones
    np.testing.assert_allclose(part[first:], whole[50 * 44_100 :][first : len(part)], atol=1e-3)


def test_the_parts_of_a_file_are_all_read_or_told_of(save: Save, save_mp3: Save, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 12 * 44_100)
    stated, unstated = (save_mp3(f"{stated}.mp3", samples, "VARIABLE", stated).read_bytes() for stated in (True, False))
    other_rate = save_mp3("other.mp3", samples, "VARIABLE", rate=32_000).read_bytes()
    ogg = save("one.ogg", samples, 44_100).read_bytes()
    damaged = bytearray(unstated)
    half = len(damaged) // 2
    damaged[half : half + 20_000] = b"\x55" * 20_000
    tag = b"TAG" + bytes(125)
    noise = np.random.default_rng(0).bytes(300_000)
    for content, seconds, left_out in (
        (unstated + unstated, 24, None),
        (unstated + tag + unstated, 24, None),
        (stated + tag, 12, None),
        (stated + noise, 12, None),  # a picture, say
        (unstated + b"APETAGEX" + noise, 12, None),
        (stated + stated, 12, 50),
        (stated + tag + unstated, 12, 50),
        (stated + other_rate, 12, 100 * len(other_rate) // len(stated + other_rate)),
        (damaged, 6, 50),
        (ogg, 12, None),
        (ogg + ogg, 12, 50),
        (ogg + ogg + ogg, 12, 67),
    ):
        path = tmp_path / ("a.ogg" if content.startswith(b"OggS") else "a.mp3")
        path.write_bytes(content)
        waveform, doubts = load_with_doubts(path)
        assert len(waveform) / 22_050 == pytest.approx(seconds, abs=0.3)
        told = [int(n) for doubt in doubts for n in re.findall(r"the last (\d+)% of the file", doubt)]
        assert told == ([] if left_out is None else [pytest.approx(left_out, abs=3)])
        assert len(doubts) == len(told)
        assert load_with_doubts(path, duration=3)[1] == []


def set_header(path: Path, offset: int, *numbers: int) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{len(numbers)}I", content, offset, *numbers)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("rate", [0, 1, 44, 999, 1_000_001, 2**31 - 1])
def test_a_rate_that_no_sound_has_is_refused_undecoded(
    save: Save, rate: int, decoders: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = set_header(save("a.wav", tones(10, 44_100), 44_100), 24, rate, 2 * rate % 2**32)
    monkeypatch.delattr(soundfile.SoundFile, "read")
    with pytest.raises(UserError, match=rf"got {rate} in .*a\.wav|no decoder reads: .*a\.wav"):
        load_waveform(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    assert header_seconds(tmp_path / "a.wav") is None
    with pytest.raises(UserError, match=r"Expected a song's file, got a pipe or a device: .*a\.wav"):
        load_waveform(tmp_path / "a.wav")


def test_decoders_do_not_write_to_the_terminal(save_mp3: Save) -> None:
    """What Python writes comes through, and so does what C writes afterwards."""
    path = save_mp3("a.mp3", loud_then_quiet(10), "CONSTANT", stated=False)
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 20_000] = b"\x55" * 20_000
    path.write_bytes(content)
    code = """
import sys, soundfile
from pathlib import Path
from mtmusic.audio.loading import load_with_doubts
print(*load_with_doubts(Path(sys.argv[1]))[1], file=sys.stderr, flush=True)
print("then", file=sys.stderr, flush=True)
song = soundfile.SoundFile(sys.argv[1])
try: song.read()
except soundfile.LibsndfileError: pass
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    quiet, _, loud = done.stderr.partition("then")
    if platform.libc_ver()[0] == "glibc":
        assert len(quiet.splitlines()) == 1
    assert "is decoded up to second" in quiet
    assert "libmpg123" in loud


@pytest.mark.parametrize("suffix", [
    "webm", "mka", "aifc", "mp2", "wv", "wave", "tta", "ac3", "asf", "m4r", "mov", "mkv", "avi", "flv", "3g2", "spx",
    "ogx", "voc", "snd",
])  # fmt: skip
def test_other_suffixes_are_read(save: Save, tmp_path: Path, decoders: str, suffix: str) -> None:
    if decoders == "no ffmpeg":
        pytest.skip("needs ffmpeg")
    samples, path = tones(6, 48_000)[:, 0], tmp_path / f"a.{suffix}"
    kind = {
        "wave": ["-f", "wav"],
        "m4r": ["-f", "ipod"],
        "snd": ["-f", "au"],
        "ogx": ["-f", "ogg"],
        "3g2": ["-c:a", "aac"],
        "flv": ["-ar", "44100"],
        "spx": ["-ar", "32000"],
    }.get(suffix, [])
    source = str(save("a.wav", samples, 48_000))
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, *kind, str(path)], check=True, stdin=subprocess.DEVNULL)
    assert is_song_name(path.name)
    assert len(load_with_doubts(path)[0]) / 22_050 == pytest.approx(6, abs=0.1)


def test_mpeg_layer_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp1"
    path.write_bytes((b"\xff\xff\x14\xc0" + bytes(28)) * 750)  # silent frames of 384 samples at 48 kHz
    assert is_song_name(path.name)
    waveform, doubts = load_with_doubts(path)
    assert (len(waveform) / 22_050, doubts) == (pytest.approx(6), [f"{path} is silent"])

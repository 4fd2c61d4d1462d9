"""Oracle: the same steps by plain librosa calls, as the lab's helper code makes them."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from scipy.ndimage import median_filter

from mtmusic.audio.features import (
    _row_medians,
    beat_frames,
    full_and_beat_spectrograms,
    fused_spectrogram,
    logmel_filters,
    logmel_spectrogram,
    mel_db,
    mel_filters,
    percussive,
    stft,
)
from mtmusic.audio.loading import load_waveform
from mtmusic.audio.synthesis import synthesise
from mtmusic.constants import FEATURE_ROWS, SAMPLE_RATE

MEL, CHROMA = FEATURE_ROWS["mel"], FEATURE_ROWS["chroma"]
RECORDINGS = ("Hungarian", "Karissa", "Tchaikovsky", "Vibe_Ace", "trumpet")


def oracle_beats(waveform: np.ndarray) -> np.ndarray:
    _, percussive_part = librosa.effects.hpss(waveform)
    return librosa.beat.beat_track(y=percussive_part, sr=SAMPLE_RATE)[1]


def oracle(waveform: np.ndarray, beats: np.ndarray | None = None) -> np.ndarray:
    """(140, frames): full rate, or the median between beats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of octaves shorter than one FFT
        mel = librosa.feature.melspectrogram(y=waveform, sr=SAMPLE_RATE)
        chroma = librosa.feature.chroma_cqt(y=waveform, sr=SAMPLE_RATE)
    if beats is not None:
        mel, chroma = (librosa.util.sync(array, beats, aggregate=np.median) for array in (mel, chroma))
    return np.vstack([librosa.power_to_db(mel, ref=np.max), chroma])


def assert_equals_oracle(waveform: np.ndarray) -> None:
    beats = oracle_beats(waveform)
    assert len(beats) > 3
    np.testing.assert_array_equal(beat_frames(percussive(stft(waveform), len(waveform))), beats)
    for array, expected in zip(
        full_and_beat_spectrograms(waveform), (oracle(waveform), oracle(waveform, beats)), strict=True
    ):
        assert array.shape == expected.shape
        np.testing.assert_allclose(array[MEL], expected[MEL], atol=1e-2)
        np.testing.assert_allclose(array[CHROMA], expected[CHROMA], atol=1e-3)


def chords_and_clicks(seconds: float, cents: float = 0.0, interval: float = 0.5) -> np.ndarray:
    """A minor and F major in turn, two seconds each, over clicks of noise; tuned `cents` above A440."""
    rng = np.random.default_rng(7)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    waveform = np.zeros_like(time)
    for start, notes in ((0, (57, 60, 64)), (2, (53, 57, 60))):
        sounding = (time // 2 % 2) == start // 2
        for note in notes:
            waveform += sounding * np.sin(2 * np.pi * librosa.midi_to_hz(note + cents / 100) * time)
    clicks = rng.normal(size=len(time)) * np.exp(-(time % interval) / 0.02)
    return (0.1 * waveform + 0.5 * clicks).astype(np.float32)


@pytest.mark.parametrize(("seconds", "cents", "interval"), [(6.0, 0.0, 0.5), (5.3, 23.0, 0.4), (8.01, -14.0, 0.61)])
def test_equals_the_labs_calls_on_synthesised_sound(seconds: float, cents: float, interval: float) -> None:
    assert_equals_oracle(chords_and_clicks(seconds, cents, interval))


@pytest.mark.real
@pytest.mark.parametrize("name", RECORDINGS)
def test_equals_the_labs_calls_on_recordings(real_data: Path, name: str) -> None:
    (path,) = (real_data / "audio").glob(f"*{name}*.ogg")
    waveform, rate = soundfile.read(path, stop=10 * 44_100, dtype="float32", always_2d=True)
    assert_equals_oracle(librosa.resample(waveform.mean(axis=1), orig_sr=rate, target_sr=SAMPLE_RATE))


def test_one_version_equals_its_half_of_both() -> None:
    waveform = chords_and_clicks(4.0)
    full, beat = full_and_beat_spectrograms(waveform)
    np.testing.assert_array_equal(fused_spectrogram(waveform), full)
    np.testing.assert_array_equal(fused_spectrogram(waveform, beat=True), beat)


def test_shape_type_and_range() -> None:
    waveform = chords_and_clicks(5.0)
    full, beat = full_and_beat_spectrograms(waveform)
    assert full.shape == (140, 1 + 5 * SAMPLE_RATE // 512)
    assert beat.shape[0] == 140
    assert 8 <= beat.shape[1] <= 12
    for array in (full, beat):
        assert array.dtype == np.float32
        assert array[MEL].max() == 0
        assert array[MEL].min() >= -80
        assert array[CHROMA].min() >= 0
        assert array[CHROMA].max() <= 1
    np.testing.assert_allclose(full[CHROMA].max(axis=0), 1, rtol=1e-6)


def test_a_pure_tone_is_its_pitch_class() -> None:
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    chroma = fused_spectrogram(tone)[CHROMA]
    assert (chroma.argmax(axis=0) == 9).all()  # C is 0, A is 9


def test_decibels_by_eye() -> None:
    np.testing.assert_array_equal(
        mel_db(np.array([[1.0, 10.0, 1e-6, 1e-7, 1e-9]], np.float32)), [[-10, 0, -70, -80, -80]]
    )


@pytest.mark.parametrize(("beat", "frames"), [(False, 1 + 3 * SAMPLE_RATE // 512), (True, 1)])
def test_silence(beat: bool, frames: int) -> None:
    array = fused_spectrogram(np.zeros(3 * SAMPLE_RATE, np.float32), beat=beat)
    np.testing.assert_array_equal(array, np.zeros((140, frames)))


@pytest.mark.parametrize("samples", [1, 100, 511, 512, 2047, 2048, 5000])
@pytest.mark.parametrize("loudness", [0.0, 0.1])
def test_short_clips(samples: int, loudness: float) -> None:
    waveform = loudness * np.random.default_rng(0).normal(size=samples).astype(np.float32)
    full, beat = full_and_beat_spectrograms(waveform.astype(np.float32))
    assert full.shape == (140, 1 + samples // 512)
    assert 1 <= beat.shape[1] <= full.shape[1]
    assert np.isfinite(full).all()
    assert np.isfinite(beat).all()
    np.testing.assert_allclose(full[CHROMA], oracle(waveform)[CHROMA], atol=1e-3)


@pytest.mark.parametrize("frames", [1, 14, 15, 16, 31, 80])
def test_row_medians_equal_those_of_two_dimensions(frames: int) -> None:
    array = np.random.default_rng(frames).random((5, frames), dtype=np.float32)
    np.testing.assert_array_equal(_row_medians(array), median_filter(array, size=(1, 31), mode="reflect"))


def test_nothing_is_compiled() -> None:
    """What librosa compiles takes seconds and a folder to write to, and breaks where processes do it at once."""
    code = (
        "import sys; import numpy as np; import mtmusic.audio.windows; from mtmusic.audio.features import *;"
        "print(fused_spectrogram(np.random.default_rng(0).normal(size=44_100).astype('float32'), beat=True).shape[0],"
        "*{'numba', 'librosa'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "140\n"


@pytest.mark.parametrize("bank", [(mel_filters, 22_050, 2048, 128), (logmel_filters, 16_000, 512, 96)])
def test_mel_filters_are_librosas(bank: tuple[Callable[[], np.ndarray], int, int, int]) -> None:
    filters, rate, length, bands = bank
    np.testing.assert_array_equal(filters(), librosa.filters.mel(sr=rate, n_fft=length, n_mels=bands))


@pytest.mark.parametrize("samples", [1, 511, 2048, 5000, 100_001])
def test_stft_and_percussive_part_are_librosas(samples: int) -> None:
    waveform = np.random.default_rng(samples).normal(0, 0.3, samples).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sound shorter than one FFT
        np.testing.assert_allclose(stft(waveform), librosa.stft(waveform), atol=1e-5)
        _, expected = librosa.effects.hpss(waveform)
    np.testing.assert_allclose(percussive(stft(waveform), samples), expected, atol=1e-5)


# --- logmel


def logmel_oracle(waveform: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sound shorter than one FFT
        power = librosa.feature.melspectrogram(y=waveform, sr=16_000, n_fft=512, hop_length=256, n_mels=96)
    return np.log10(1 + 10_000 * power)


@pytest.mark.parametrize("samples", [1, 255, 256, 511, 512, 16_000, 100_001])
def test_logmel_is_librosas(samples: int) -> None:
    waveform = np.random.default_rng(samples).normal(0, 0.3, samples).astype(np.float32)
    found = logmel_spectrogram(waveform)
    assert found.shape == (96, 1 + samples // 256)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, logmel_oracle(waveform), atol=1e-6)


def test_logmel_keeps_the_level_and_silence_is_0() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    loud, quiet = logmel_spectrogram(tone), logmel_spectrogram(tone / 10)
    assert loud.max() - quiet.max() == pytest.approx(2, abs=1e-4)  # a hundredth of the power
    assert 6.7 > loud.max() > 5
    assert not logmel_spectrogram(np.zeros(16_000, np.float32)).any()


@pytest.mark.real
def test_logmel_of_a_recording_is_librosas(real_data: Path) -> None:
    for path in sorted((real_data / "audio").glob("*.ogg")):
        waveform = load_waveform(path, duration=30, sample_rate=16_000)
        np.testing.assert_allclose(logmel_spectrogram(waveform), logmel_oracle(waveform), atol=1e-6)


@pytest.fixture(params=["synthesised", pytest.param("recorded", marks=pytest.mark.real)])
def original(request: pytest.FixtureRequest) -> np.ndarray:
    """Ten seconds at 22.05 kHz."""
    if request.param == "synthesised":
        return synthesise("Rock", 0, 10.0)[0]
    (path,) = (request.getfixturevalue("real_data") / "audio").glob("*Vibe_Ace*.ogg")
    return load_waveform(path, duration=10.0)


@pytest.mark.parametrize("copy", ["int16", "int24", "int32", "stereo", "44100", "48000"])
def test_copies_of_a_song_agree(original: np.ndarray, tmp_path: Path, copy: str) -> None:
    """In logmel's units the mean difference is below .0005, and the largest below .1.

    Measured on five recordings and three synthesised songs, the copies' means were at most .00018, their largest
    differences .07, and each of musicnn's tags within .0006.
    """
    rate = int(copy) if copy.isdecimal() else SAMPLE_RATE
    samples = librosa.resample(original, orig_sr=SAMPLE_RATE, target_sr=rate)
    samples = np.stack([samples, samples], axis=1) if copy == "stereo" else samples
    subtype = {"int16": "PCM_16", "int24": "PCM_24", "int32": "PCM_32", "stereo": "FLOAT"}.get(copy, "PCM_16")
    soundfile.write(tmp_path / "original.wav", original, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "copy.wav", samples, rate, subtype=subtype)
    expected, found = (
        logmel_spectrogram(load_waveform(tmp_path / name, sample_rate=16_000)) for name in ("original.wav", "copy.wav")
    )
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.mean() < 0.0005
    assert difference.max() < 0.1

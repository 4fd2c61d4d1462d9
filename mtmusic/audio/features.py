"""Waveform to mel spectrogram, chromagram and beats: the lab's fused arrays of 140 rows, or logmel arrays of 96 rows.

The numbers of the fused arrays are those of the lab's helper code (slp-ntua/patrec-labs, lab3), which calls librosa for
each step. Here the steps share one STFT, and the slow steps have faster code. No function is compiled. librosa compiles
functions at its import and at their first call: this takes seconds, needs a writable folder, and leaves broken files if
several processes do it at once.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import scipy.fft
from scipy.ndimage import median_filter

from mtmusic.audio.beats import onset_strength, tempo, track_beats
from mtmusic.audio.chroma import chroma
from mtmusic.constants import (
    FFT_LENGTH,
    HOP_LENGTH,
    LOGMEL_BINS,
    LOGMEL_FFT_LENGTH,
    LOGMEL_HOP_LENGTH,
    LOGMEL_SAMPLE_RATE,
    MEL_BINS,
    MEL_FLOOR_DB,
    SAMPLE_RATE,
)
from mtmusic.mel import mel_frequencies

MEDIAN_FRAMES = 31
"""HPSS: the length of both median filters, in frames along time and in bins along frequency."""

FRAMES_AT_ONCE = 64
"""Number of frames of an STFT whose windows are in memory at once."""

LOWEST_POWER = 1e-10
"""Lower powers are set to this: -100 dB."""


def fused_spectrogram(waveform: np.ndarray, beat: bool = False) -> np.ndarray:
    """Mel spectrogram and chromagram of a waveform, as in the lab's arrays.

    A frame is HOP_LENGTH (512) samples. With `beat` a frame is the time from one beat to the next, and each value is
    the median over that time. For mel it is the median of the power. A clip without beats becomes one frame.

    Args:
        waveform: Mono waveform `(samples,)` in float32 at SAMPLE_RATE (22,050 Hz).
        beat: Whether to synchronise the frames with the beats.

    Returns:
        The array `(140, frames)` in float32: 128 rows of mel in dB below the clip's maximum, at least -80, and 12 rows
        of chroma from 0 to 1.

    Examples:
        >>> from mtmusic.audio.features import fused_spectrogram
        >>> from mtmusic.audio.synthesis import synthesise
        >>> waveform, labels = synthesise("Rock", seed=0, seconds=2.0)
        >>> array = fused_spectrogram(waveform)
        >>> array.shape, float(array[:128].max())  # 1 + 44100 // 512 frames
        ((140, 87), 0.0)
    """
    if beat:
        return full_and_beat_spectrograms(waveform)[1]
    spectrum = stft(waveform)
    return _fused(mel_power(spectrum), chroma(waveform, spectrum))


def full_and_beat_spectrograms(
    waveform: np.ndarray, tempos: list[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`fused_spectrogram` without and with `beat`, in little more time than `fused_spectrogram` with `beat`.

    Args:
        waveform: Mono waveform `(samples,)` in float32 at SAMPLE_RATE (22,050 Hz).
        tempos: A list to which the clip's tempo in beats per minute is added, if the clip has onsets.

    Returns:
        The full-rate array and the beat-synchronised array, `(140, frames)` each.

    Examples:
        >>> from mtmusic.audio.features import full_and_beat_spectrograms
        >>> clicks, tempos = np.zeros(9 * 10_240, "float32"), []
        >>> clicks[10_240::10_240] = 1  # one every 20 frames
        >>> full, beat = full_and_beat_spectrograms(clicks, tempos)
        >>> full.shape, beat.shape, round(tempos[0])  # 60 * 22050 / 10240 beats per minute
        ((140, 181), (140, 9), 129)
    """
    spectrum = stft(waveform)
    power, pitch_classes = mel_power(spectrum), chroma(waveform, spectrum)
    onsets = onset_strengths(percussive(spectrum, len(waveform)))
    beats = track_beats(onsets)
    if tempos is not None and onsets.any():
        tempos.append(tempo(onsets))
    return _fused(power, pitch_classes), _fused(_medians(power, beats), _medians(pitch_classes, beats))


def fused_spectrograms(
    waveform: np.ndarray, rates: Sequence[bool], tempos: list[float] | None = None
) -> Sequence[np.ndarray]:
    """Computes a fused array for each rate in one pass.

    Args:
        waveform: Mono waveform `(samples,)` in float32 at SAMPLE_RATE (22,050 Hz).
        rates: `[False]` for full rate, `[True]` for beat-synchronised, or `[False, True]` for both.
        tempos: A list to which the clip's tempo in beats per minute is added, if `rates` has True and the clip has
            onsets.

    Returns:
        An array `(140, frames)` for each of the rates.

    Examples:
        >>> from mtmusic.audio.features import fused_spectrograms
        >>> from mtmusic.audio.synthesis import synthesise
        >>> waveform, labels = synthesise("Rock", seed=0, seconds=2.0)
        >>> full, beat = fused_spectrograms(waveform, rates=[False, True])
        >>> full.shape, beat.shape
        ((140, 87), (140, 4))
    """
    if not any(rates):
        return [fused_spectrogram(waveform)]
    return full_and_beat_spectrograms(waveform, tempos)[-len(rates) :]


def logmel_spectrogram(waveform: np.ndarray) -> np.ndarray:
    """Logarithmic mel spectrogram of a waveform, the input of musicnn (Pons and Serra 2019).

    A frame is LOGMEL_HOP_LENGTH (256) samples. The values are not normalised, so they keep the level of the sound.
    Silence is 0.

    Args:
        waveform: Mono waveform `(samples,)` in float32 at LOGMEL_SAMPLE_RATE (16,000 Hz).

    Returns:
        The array `(96, frames)` in float32: log10(1 + 10000 * power) in mel bands.

    Examples:
        >>> from mtmusic.audio.features import logmel_spectrogram
        >>> logmel = logmel_spectrogram(np.zeros(16_000, "float32"))
        >>> logmel.shape, float(logmel.max())  # 1 + 16000 // 256 frames
        ((96, 63), 0.0)
    """
    power = logmel_filters() @ np.abs(stft(waveform, LOGMEL_FFT_LENGTH, LOGMEL_HOP_LENGTH)) ** 2
    return np.log10(1 + 10_000 * power).astype(np.float32, copy=False)


def _fused(power: np.ndarray, pitch_classes: np.ndarray) -> np.ndarray:
    return np.vstack([mel_db(power), pitch_classes]).astype(np.float32, copy=False)


def _medians(array: np.ndarray, beats: np.ndarray) -> np.ndarray:
    """(bins, frames) -> (bins, beats + 1): medians before the first beat, between beats, and after the last beat."""
    edges = np.unique([0, *beats, array.shape[1]])
    return np.stack([np.median(array[:, begin:end], axis=1) for begin, end in pairwise(edges)], axis=1)


def stft(waveform: np.ndarray, length: int = FFT_LENGTH, hop: int = HOP_LENGTH) -> np.ndarray:
    """Short-time Fourier transform with centred Hann windows, with the same numbers as librosa.stft.

    Args:
        waveform: Waveform `(samples,)`.
        length: Length of a window in samples.
        hop: Samples from one frame to the next.

    Returns:
        The spectrum `(1 + length // 2, 1 + samples // hop)`, complex.

    Examples:
        >>> from mtmusic.audio.features import stft
        >>> tone = np.sin(2 * np.pi * 100 * np.arange(22_050) / 2048)  # 100 periods in a window
        >>> spectrum = stft(tone)
        >>> spectrum.shape, int(np.abs(spectrum[:, 20]).argmax())
        ((1025, 44), 100)
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, length // 2), length)[::hop]
    spectrum = np.empty((len(windows), 1 + length // 2), np.result_type(waveform, np.complex64))
    hann = _hann(length)
    for begin in range(0, len(windows), FRAMES_AT_ONCE):
        part = slice(begin, begin + FRAMES_AT_ONCE)
        spectrum[part] = scipy.fft.rfft(windows[part] * hann)
    return spectrum.T


def _istft(spectrum: np.ndarray, samples: int) -> np.ndarray:
    """(1025, frames) complex -> (samples,), with the same numbers as librosa.istft."""
    hann = _hann(FFT_LENGTH).astype(np.float32)
    frames = scipy.fft.irfft(spectrum.T) * hann
    middle = slice(FFT_LENGTH // 2, FFT_LENGTH // 2 + samples)
    return _added(frames)[middle] / _added(np.broadcast_to(hann**2, frames.shape))[middle]


def _hann(length: int) -> np.ndarray:
    """A periodic Hann window, as in scipy.signal, whose import would take a third of a second."""
    return np.hanning(length + 1)[:-1]


def _added(frames: np.ndarray) -> np.ndarray:
    """(frames, 2048) -> (samples,): overlap-add with a hop of 512 samples."""
    hops = FFT_LENGTH // HOP_LENGTH
    added = np.zeros((len(frames) + hops - 1, HOP_LENGTH), frames.dtype)
    for hop, part in enumerate(np.split(frames, hops, axis=1)):
        added[hop : hop + len(frames)] += part
    return added.ravel()


def mel_power(spectrum: np.ndarray) -> np.ndarray:
    """Power in mel bands.

    Args:
        spectrum: The spectrum `(1025, frames)`, complex.

    Returns:
        The power `(128, frames)`.

    Examples:
        >>> from mtmusic.audio.features import mel_power, stft
        >>> spectrum = stft(np.sin(np.arange(22_050) / 5))
        >>> power = mel_power(spectrum)
        >>> power.shape, np.allclose(mel_power(2 * spectrum), 4 * power)
        ((128, 44), True)
    """
    return mel_filters() @ np.abs(spectrum) ** 2


@cache
def mel_filters() -> np.ndarray:
    """librosa's bank of mel filters at SAMPLE_RATE (22,050 Hz).

    Returns:
        The filters `(128, 1025)` in float32: a row for each mel band, a column for each frequency of the FFT.

    Examples:
        >>> from mtmusic.audio.features import mel_filters
        >>> filters = mel_filters()
        >>> filters.shape, filters.argmax(axis=1)[[0, 64, 127]].tolist()  # where three bands are highest
        ((128, 1025), [2, 187, 997])
    """
    return _mel_filters(SAMPLE_RATE, FFT_LENGTH, MEL_BINS)


@cache
def logmel_filters() -> np.ndarray:
    """The bank of mel filters of logmel, at LOGMEL_SAMPLE_RATE (16,000 Hz).

    Returns:
        The filters `(96, 257)` in float32: a row for each mel band, a column for each frequency of the FFT.

    Examples:
        >>> from mtmusic.audio.features import logmel_filters
        >>> filters = logmel_filters()
        >>> filters.shape, filters.argmax(axis=1)[[0, 48, 95]].tolist()  # where three bands are highest
        ((96, 257), [1, 55, 248])
    """
    return _mel_filters(LOGMEL_SAMPLE_RATE, LOGMEL_FFT_LENGTH, LOGMEL_BINS)


def _mel_filters(rate: int, length: int, bands: int) -> np.ndarray:
    """Overlapping triangles of equal area: each spans two steps of the mel scale."""
    corners = mel_frequencies(bands + 2, rate / 2)
    widths = np.diff(corners)[:, np.newaxis]
    ramps = np.subtract.outer(corners, np.fft.rfftfreq(length, 1 / rate))
    triangles = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]))
    areas = (corners[2:] - corners[:-2])[:, np.newaxis] / 2
    return (triangles.astype(np.float32) * (1 / areas)).astype(np.float32)


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, np.float32(LOWEST_POWER)))


def mel_db(power: np.ndarray) -> np.ndarray:
    """Decibels relative to the clip's maximum, at least MEL_FLOOR_DB (-80).

    Args:
        power: Power in mel bands `(128, frames)`.

    Returns:
        The decibels `(128, frames)`.

    Examples:
        >>> from mtmusic.audio.features import mel_db
        >>> mel_db(np.array([[100.0, 10.0, 0.0]])).tolist()
        [[0.0, -10.0, -80.0]]
    """
    decibels = _decibels(power)
    return np.maximum(decibels - decibels.max(), MEL_FLOOR_DB)


def percussive(spectrum: np.ndarray, samples: int) -> np.ndarray:
    """The percussive part of a waveform, with the same numbers as librosa.effects.hpss with its defaults.

    Method: Fitzgerald, "Harmonic/percussive separation using median filtering" (DAFx 2010).

    Args:
        spectrum: The spectrum of the waveform `(1025, frames)`, complex.
        samples: Length of the waveform.

    Returns:
        The waveform of the percussive part `(samples,)`.

    Examples:
        >>> from mtmusic.audio.features import percussive, stft
        >>> tone, clicks = np.sin(np.arange(22_050) / 5), np.zeros(22_050)
        >>> clicks[::2205] = 1
        >>> [round(float(percussive(stft(sound), 22_050).std() / sound.std())) for sound in (tone, clicks)]
        [0, 1]
    """
    magnitude = np.abs(spectrum)
    across_bins = _row_medians(magnitude.T)
    along_time = np.ascontiguousarray(_row_medians(magnitude).T)  # the spectrum's memory order, which is faster
    mask = _soft_mask(across_bins, along_time).T
    return _istft(spectrum * mask, samples)


def _row_medians(array: np.ndarray) -> np.ndarray:
    """Medians along each row. A row is reflected at its ends.

    All rows are filtered as one 1-D array: scipy's median filter is many times faster in 1-D than in 2-D.
    """
    margin = MEDIAN_FRAMES // 2
    padded = np.pad(array, ((0, 0), (margin, margin)), mode="symmetric")
    medians = median_filter(padded.ravel(), MEDIAN_FRAMES).reshape(padded.shape)
    return medians[:, margin:-margin]


def _soft_mask(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """part² / (part² + rest²), or 1/2 if both are zero. Both are scaled first, as in librosa.util.softmask."""
    scale = np.maximum(part, rest)
    absent = scale < np.finfo(scale.dtype).tiny
    scale[absent] = 1
    part, rest = (part / scale) ** 2, (rest / scale) ** 2
    part[absent] = rest[absent] = 1
    return part / (part + rest)


def beat_frames(percussive_waveform: np.ndarray) -> np.ndarray:
    """The frames of beats, with the same numbers as librosa.beat.beat_track with its defaults.

    Args:
        percussive_waveform: The percussive part of a waveform `(samples,)` at SAMPLE_RATE (22,050 Hz).

    Returns:
        The frame of each beat `(beats,)` int.

    Examples:
        >>> from mtmusic.audio.features import beat_frames
        >>> clicks = np.zeros(9 * 10_240, "float32")
        >>> clicks[10_240::10_240] = 1  # one every 20 frames
        >>> np.diff(beat_frames(clicks)).tolist()
        [20, 20, 20, 20, 20, 20, 20]
    """
    return track_beats(onset_strengths(percussive_waveform))


def onset_strengths(percussive_waveform: np.ndarray) -> np.ndarray:
    """The onset strength of the percussive part of a waveform: how much it rises at each frame.

    Args:
        percussive_waveform: The percussive part of a waveform `(samples,)` at SAMPLE_RATE (22,050 Hz).

    Returns:
        The strengths `(frames,)`.

    Examples:
        >>> from mtmusic.audio.features import onset_strengths
        >>> clicks = np.zeros(22_050, "float32")
        >>> clicks[[5000, 15_000]] = 1
        >>> strengths = onset_strengths(clicks)
        >>> np.flatnonzero(strengths > strengths.max() / 2).tolist()  # frames of 512 samples
        [10, 30]
    """
    decibels = _decibels(mel_power(stft(percussive_waveform)))
    return onset_strength(np.maximum(decibels, decibels.max() + MEL_FLOOR_DB))

"""Sound -> mel spectrogram, chromagram and beats: the lab's fused arrays, 140 rows a frame; or logmel, 96 rows.

The numbers of the fused arrays are those of the lab's helper code (slp-ntua/patrec-labs, lab3), which calls librosa for
each step. The steps share one STFT here, and the two slow ones, HPSS and the constant-Q transform, are written for
speed.
"""

import fcntl
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import librosa
import numpy as np
from scipy.ndimage import median_filter

from mtmusic.constants import (
    CHROMA_BINS,
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

MEDIAN_FRAMES = 31
"""HPSS: the length of both median filters, in frames along time and in bins along frequency."""

OCTAVES = 7
BINS_PER_OCTAVE = 3 * CHROMA_BINS
LOWEST_HZ = float(librosa.note_to_hz("C1"))


def fused_spectrogram(waveform: np.ndarray, beat: bool = False) -> np.ndarray:
    """(samples,) float32 mono at SAMPLE_RATE -> (140, frames) float32: 128 rows of mel in dB, 12 of chroma.

    A frame is HOP_LENGTH samples, or with `beat` the time from one beat to the next: then each value is the median
    over the frames in between (mel's is taken on power), and a clip without beats is one frame.
    """
    if beat:
        return full_and_beat_spectrograms(waveform)[1]
    _compile_alone()
    spectrum = stft(waveform)
    return _fused(mel_power(spectrum), chroma(waveform, spectrum))


def full_and_beat_spectrograms(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`fused_spectrogram` without and with `beat`, at little more than the cost of the second alone."""
    _compile_alone()
    return _full_and_beat(waveform)


def fused_spectrograms(waveform: np.ndarray, rates: Sequence[bool]) -> Sequence[np.ndarray]:
    """A (140, frames) array for each of the rates, [False], [True] or [False, True], in one pass."""
    both = len(rates) == 2
    return full_and_beat_spectrograms(waveform) if both else [fused_spectrogram(waveform, beat) for beat in rates]


def logmel_spectrogram(waveform: np.ndarray) -> np.ndarray:
    """(samples,) float32 mono at LOGMEL_SAMPLE_RATE -> (96, frames) float32: log10(1 + 10000 power) in mel bands.

    A frame is LOGMEL_HOP_LENGTH samples. The level stays: nothing is normalised, and silence is 0. The input of musicnn
    (Pons and Serra 2019).
    """
    power = logmel_filters() @ np.abs(stft(waveform, LOGMEL_FFT_LENGTH, LOGMEL_HOP_LENGTH)) ** 2
    return np.log10(1 + 10_000 * power).astype(np.float32, copy=False)


@cache
def _compile_alone() -> None:
    """Compiles librosa's numba functions while no other process of this machine does.

    Numba keeps what it compiled in files. Where several processes, workers say, fill them at once, they come out
    wrong, and every later process crashes (a segmentation fault in beat_track).
    """
    with (Path(tempfile.gettempdir()) / f"mtmusic-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _full_and_beat(np.random.default_rng(0).normal(size=2 * SAMPLE_RATE).astype(np.float32))


def _full_and_beat(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spectrum = stft(waveform)
    power, pitch_classes = mel_power(spectrum), chroma(waveform, spectrum)
    beats = beat_frames(percussive(spectrum, len(waveform)))
    return _fused(power, pitch_classes), _fused(_medians(power, beats), _medians(pitch_classes, beats))


def _fused(power: np.ndarray, pitch_classes: np.ndarray) -> np.ndarray:
    return np.vstack([mel_db(power), pitch_classes]).astype(np.float32, copy=False)


def _medians(array: np.ndarray, beats: np.ndarray) -> np.ndarray:
    """(bins, frames) -> (bins, beats + 1): medians before the first beat, between beats, after the last."""
    segments = librosa.util.index_to_slice(beats, idx_min=0, idx_max=array.shape[1])
    return librosa.util.sync(array, segments, aggregate=np.median)


def stft(waveform: np.ndarray, length: int = FFT_LENGTH, hop: int = HOP_LENGTH) -> np.ndarray:
    """(samples,) -> (1 + length // 2, frames) complex, frames = 1 + samples // hop, centred as librosa.stft centres.

    Padding comes first, for librosa's own warns of a waveform shorter than one FFT.
    """
    padded = np.pad(waveform, length // 2)
    return librosa.stft(padded, n_fft=length, hop_length=hop, center=False)


def mel_power(spectrum: np.ndarray) -> np.ndarray:
    """(1025, frames) complex -> (128, frames) power in mel bands."""
    return mel_filters() @ np.abs(spectrum) ** 2


@cache
def mel_filters() -> np.ndarray:
    """(128, 1025) float32: librosa's filter bank, a row a mel band, a column a frequency of the FFT."""
    return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=FFT_LENGTH, n_mels=MEL_BINS)


@cache
def logmel_filters() -> np.ndarray:
    """(96, 257) float32, as `mel_filters`."""
    return librosa.filters.mel(sr=LOGMEL_SAMPLE_RATE, n_fft=LOGMEL_FFT_LENGTH, n_mels=LOGMEL_BINS)


def mel_db(power: np.ndarray) -> np.ndarray:
    """(128, frames) power -> dB below the clip's own maximum, at least MEL_FLOOR_DB."""
    decibels = librosa.power_to_db(power, top_db=None)
    return np.maximum(decibels - decibels.max(), MEL_FLOOR_DB)


def chroma(waveform: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """(samples,) and its stft -> (12, frames), C first; the maximum of each frame is 1, or it is silent and 0.

    librosa.feature.chroma_cqt with its defaults. There, each of the seven octaves is filtered anew in the frequency
    domain; but an octave lower at half the rate the filters are the same, so one octave of them, taken back to the
    time domain, serves as a matrix that multiplies the frames of each octave.
    """
    filters = _octave_filters(_tuning(np.abs(spectrum)))
    energy = np.zeros((spectrum.shape[1], BINS_PER_OCTAVE), np.float32)
    for octave in range(OCTAVES):
        if octave > 0:
            waveform = librosa.resample(waveform, orig_sr=2, target_sr=1, res_type="soxr_hq", scale=True)
        energy += _octave_magnitude(waveform, HOP_LENGTH >> octave, filters)[: len(energy)]
    fold = librosa.filters.cq_to_chroma(BINS_PER_OCTAVE, bins_per_octave=BINS_PER_OCTAVE, n_chroma=CHROMA_BINS)
    return librosa.util.normalize(fold @ energy.T, norm=np.inf, axis=0)


def _octave_magnitude(waveform: np.ndarray, hop: int, filters: np.ndarray) -> np.ndarray:
    """(samples,) -> (frames, 36): constant-Q magnitudes of the octave that the filters (length, 72) span."""
    length = len(filters)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, length // 2), length)[::hop]
    real_imaginary = np.ascontiguousarray(frames) @ filters  # a copy, since BLAS takes no overlapping rows
    return np.hypot(real_imaginary[:, :BINS_PER_OCTAVE], real_imaginary[:, BINS_PER_OCTAVE:])


@cache  # by tuning, which has 100 values
def _octave_filters(tuning: float) -> np.ndarray:
    """The constant-Q filters of the highest octave, (length, 72) float32: 36 real parts, 36 imaginary.

    As librosa.vqt builds them: its sparse filters in the frequency domain, only of positive frequencies. The sum of
    a filter times a frame's Fourier transform is that of the filter's own transform times the frame.
    """
    lowest = LOWEST_HZ * 2.0 ** (OCTAVES - 1 + tuning / BINS_PER_OCTAVE)
    frequencies = librosa.cqt_frequencies(BINS_PER_OCTAVE, fmin=lowest, bins_per_octave=BINS_PER_OCTAVE)
    wavelets, lengths = librosa.filters.wavelet(freqs=frequencies, sr=SAMPLE_RATE, norm=1)
    length = wavelets.shape[1]
    wavelets *= np.sqrt(lengths)[:, np.newaxis] / length
    positive = np.fft.fft(wavelets)[:, : length // 2 + 1]
    sparse = librosa.util.sparsify_rows(positive, quantile=0.01).toarray()
    filters = np.fft.fft(sparse, n=length).T
    return np.hstack([filters.real, filters.imag]).astype(np.float32)


def _tuning(magnitude: np.ndarray) -> float:
    """(1025, frames) -> deviation from A440 in bins of 36 an octave: librosa.estimate_tuning, 0 without a pitch.

    Pitches are sought below 4 kHz, so the lower half of the spectrum (as if at half the rate) is enough, but the
    threshold is a tenth of each frame's maximum over all frequencies.
    """
    lower = magnitude[: FFT_LENGTH // 4 + 1]
    threshold = 0.1 * magnitude.max(axis=0, keepdims=True)
    pitches, magnitudes = librosa.piptrack(S=lower, sr=SAMPLE_RATE / 2, ref=threshold)
    found = pitches > 0
    if not found.any():
        return 0.0
    pitches, magnitudes = pitches[found], magnitudes[found]
    loud = pitches[magnitudes >= np.median(magnitudes)]
    return float(librosa.pitch_tuning(loud, bins_per_octave=BINS_PER_OCTAVE))


def percussive(spectrum: np.ndarray, samples: int) -> np.ndarray:
    """(1025, frames) complex -> (samples,): the percussive part, librosa.effects.hpss with its defaults.

    Method: Fitzgerald, "Harmonic/percussive separation using median filtering" (DAFx 2010).
    """
    magnitude = np.abs(spectrum)
    across_bins = _row_medians(magnitude.T)
    along_time = np.ascontiguousarray(_row_medians(magnitude).T)  # all in the spectrum's order in memory: faster
    mask = _soft_mask(across_bins, along_time).T
    return librosa.istft(spectrum * mask, hop_length=HOP_LENGTH, length=samples)


def _row_medians(array: np.ndarray) -> np.ndarray:
    """Medians along each row, reflected at its ends.

    All rows go as one 1-D array, for which scipy has a method many times as fast as the one for 2-D arrays.
    """
    margin = MEDIAN_FRAMES // 2
    padded = np.pad(array, ((0, 0), (margin, margin)), mode="symmetric")
    medians = median_filter(padded.ravel(), MEDIAN_FRAMES).reshape(padded.shape)
    return medians[:, margin:-margin]


def _soft_mask(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """part² / (part² + rest²), a half where both are zero: scaled first, as librosa.util.softmask does."""
    scale = np.maximum(part, rest)
    absent = scale < np.finfo(scale.dtype).tiny
    scale[absent] = 1
    part, rest = (part / scale) ** 2, (rest / scale) ** 2
    part[absent] = rest[absent] = 1
    return part / (part + rest)


def beat_frames(percussive_waveform: np.ndarray) -> np.ndarray:
    """(samples,) -> (beats,) int: the frames on which beats fall, librosa.beat.beat_track with its defaults."""
    decibels = librosa.power_to_db(mel_power(stft(percussive_waveform)))
    strength = librosa.onset.onset_strength(S=decibels, sr=SAMPLE_RATE, aggregate=np.median)
    _, beats = librosa.beat.beat_track(onset_envelope=strength, sr=SAMPLE_RATE, hop_length=HOP_LENGTH)
    return beats

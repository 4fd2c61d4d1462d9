"""The chromagram of librosa.feature.chroma_cqt with its defaults, in a fraction of its time.

librosa filters each of the seven octaves in the frequency domain. At half the sample rate, the next octave down has the
same filters. So this module computes the filters of one octave, transforms them to the time domain, and multiplies each
octave's frames by that matrix.
"""

from functools import cache

import numpy as np

from mtmusic.audio.resampling import resample
from mtmusic.constants import CHROMA_BINS, FFT_LENGTH, HOP_LENGTH, SAMPLE_RATE

OCTAVES = 7
BINS_PER_PITCH = 3
BINS_PER_OCTAVE = BINS_PER_PITCH * CHROMA_BINS
A4_HERTZ = 440.0
LOWEST_HERTZ = A4_HERTZ * 2 ** (-45 / 12)
"""C1."""

PITCHES_HERTZ = 150.0, 4000.0
"""The range of the pitches that the tuning is estimated from."""
PITCH_THRESHOLD = 0.1
"""The smallest magnitude of a pitch, as a share of the frame's maximum."""


def chroma(waveform: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """(samples,) and its STFT -> (12, frames), C first. Each frame's maximum is 1; a silent frame is 0."""
    filters = octave_filters(tuning(np.abs(spectrum)))
    energy = np.zeros((spectrum.shape[1], BINS_PER_OCTAVE), np.float32)
    for octave in range(OCTAVES):
        if octave > 0:
            waveform = resample(waveform, 2, 1) / np.float32(np.sqrt(0.5))  # keeps the energy
        energy += _octave_magnitude(waveform, HOP_LENGTH >> octave, filters)[: len(energy)]
    centred = np.roll(energy, BINS_PER_PITCH // 2, axis=1)  # each pitch gets the bin below it and the bin above it
    pitch_classes = centred.reshape(-1, CHROMA_BINS, BINS_PER_PITCH).sum(axis=2).T
    peaks = pitch_classes.max(axis=0)
    peaks[peaks < np.finfo(np.float32).tiny] = 1
    return pitch_classes / peaks


def _octave_magnitude(waveform: np.ndarray, hop: int, filters: np.ndarray) -> np.ndarray:
    """(samples,) -> (frames, 36): constant-Q magnitudes of one octave, by filters (length, 72)."""
    length = len(filters)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, length // 2), length)[::hop]
    real_imaginary = np.ascontiguousarray(frames) @ filters  # a copy: BLAS does not take overlapping rows
    return np.hypot(real_imaginary[:, :BINS_PER_OCTAVE], real_imaginary[:, BINS_PER_OCTAVE:])


@cache  # the tuning has 100 possible values
def octave_filters(tuning: float) -> np.ndarray:
    """The constant-Q filters of the highest octave, (length, 72) float32: 36 real parts, then 36 imaginary parts.

    As in librosa.vqt, the filters are in the frequency domain, have positive frequencies only, and lose their smallest
    values, which add up to 1 % of each filter. They are then transformed back: a filter times a frame's Fourier
    transform is the filter's Fourier transform times the frame.
    """
    frequencies = LOWEST_HERTZ * 2 ** (OCTAVES - 1 + (tuning + np.arange(BINS_PER_OCTAVE)) / BINS_PER_OCTAVE)
    width = 2 ** (2 / BINS_PER_OCTAVE)
    lengths = (width + 1) / (width - 1) * SAMPLE_RATE / frequencies
    length = 2 ** int(np.ceil(np.log2(lengths.max())))
    filters = np.zeros((BINS_PER_OCTAVE, length), np.complex64)
    for row, frequency, own in zip(filters, frequencies, lengths, strict=True):
        time = np.arange(-own // 2, own // 2) / SAMPLE_RATE
        window = np.hanning(len(time) + 1)[:-1]
        begin = (length - len(time)) // 2
        row[begin : begin + len(time)] = np.exp(2j * np.pi * frequency * time) * window / window.sum()
        row *= np.sqrt(own) / length
    positive = np.fft.fft(filters)[:, : length // 2 + 1]
    magnitude = np.abs(positive)
    ascending = np.sort(magnitude)
    first = np.argmin(np.cumsum(ascending / ascending.sum(axis=1, keepdims=True), axis=1) < 0.01, axis=1)
    positive[magnitude < ascending[np.arange(BINS_PER_OCTAVE), first, np.newaxis]] = 0
    back = np.fft.fft(positive, n=length).T
    return np.hstack([back.real, back.imag]).astype(np.float32)


def tuning(magnitude: np.ndarray) -> float:
    """(1025, frames) -> deviation from A440 in bins, 36 per octave, as librosa.estimate_tuning. 0 without a pitch.

    A pitch is a peak among a frame's loud bins. Its frequency is the vertex of a parabola through the peak and its two
    neighbours.
    """
    first, end = np.searchsorted(np.fft.rfftfreq(FFT_LENGTH, 1 / SAMPLE_RATE), PITCHES_HERTZ)
    loud = np.where(magnitude > PITCH_THRESHOLD * magnitude.max(axis=0), magnitude, 0)
    is_peak = (loud[first:end] > loud[first - 1 : end - 1]) & (loud[first:end] >= loud[first + 1 : end + 1])
    bins, frames = np.nonzero(is_peak)
    if not len(bins):
        return 0.0
    bins += first
    before, peak, after = (magnitude[bins + step, frames] for step in (-1, 0, 1))
    slope, curvature = (after - before) / 2, after + before - 2 * peak
    within = np.abs(slope) < np.abs(curvature)
    shift = np.where(within, -slope / np.where(within, curvature, 1), 0)
    heights = peak + slope * shift / 2
    pitches = ((bins + shift) * SAMPLE_RATE / FFT_LENGTH).astype(np.float32)[heights >= np.median(heights)]
    deviations = np.mod(BINS_PER_OCTAVE * np.log2(pitches / (A4_HERTZ / 16)), 1)
    deviations[deviations >= 0.5] -= 1
    counts, edges = np.histogram(deviations, np.linspace(-0.5, 0.5, 101))
    return float(edges[counts.argmax()])

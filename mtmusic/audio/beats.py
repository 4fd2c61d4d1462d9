"""Beats by dynamic programming, as librosa.beat.beat_track with its defaults, but without compiled functions.

Method: Ellis, "Beat tracking by dynamic programming" (Journal of New Music Research 36.1, 2007).
"""

import numpy as np

from mtmusic.constants import FFT_LENGTH, HOP_LENGTH, SAMPLE_RATE

FRAME_RATE = SAMPLE_RATE / HOP_LENGTH
TEMPO_FRAMES = int(8 * FRAME_RATE)
"""Length of the autocorrelation window for the tempo: eight seconds."""
START_TEMPO, HIGHEST_TEMPO = 120.0, 320.0
"""Beats per minute."""
TIGHTNESS = 100.0


def onset_strength(decibels: np.ndarray) -> np.ndarray:
    """(128, frames) mel in dB -> (frames,): the median rise over the bands, shifted to the centre of its frame."""
    rises = np.median(np.maximum(0, np.diff(decibels, axis=1)), axis=0)
    return np.pad(rises, (1 + FFT_LENGTH // (2 * HOP_LENGTH), 0))[: decibels.shape[1]]


def track_beats(onsets: np.ndarray) -> np.ndarray:
    """(frames,) onset strengths -> (beats,) int: the frames on which beats fall."""
    if not onsets.any():
        return np.zeros(0, int)
    period = round(FRAME_RATE * 60 / tempo(onsets))
    scores = _local_scores(onsets, period)
    before, totals = _best_paths(scores, period)
    frame, beats = _last_beat(totals), []
    while frame >= 0:
        beats.append(frame)
        frame = before[frame]
    return _trimmed(np.array(beats[::-1]), scores)


def tempo(onsets: np.ndarray) -> float:
    """(frames,) onset strengths -> beats per minute, by their mean autocorrelation in windows of eight seconds."""
    padded = np.pad(onsets, TEMPO_FRAMES // 2, mode="linear_ramp")
    windows = np.lib.stride_tricks.sliding_window_view(padded, TEMPO_FRAMES)[: len(onsets)]
    power = np.abs(np.fft.rfft(windows * np.hanning(TEMPO_FRAMES + 1)[:-1], 2 * TEMPO_FRAMES)) ** 2
    correlations = np.fft.irfft(power)[:, :TEMPO_FRAMES]
    peaks = np.abs(correlations).max(axis=1, keepdims=True)
    peaks[peaks < np.finfo(peaks.dtype).tiny] = 1
    tempos = 60 * FRAME_RATE / np.arange(1, TEMPO_FRAMES)
    likelihood = np.log1p(1e6 * (correlations / peaks).mean(axis=0)[1:])
    likelihood -= np.log2(tempos / START_TEMPO) ** 2 / 2
    likelihood[tempos >= HIGHEST_TEMPO] = -np.inf
    return float(tempos[likelihood.argmax()])


def _local_scores(onsets: np.ndarray, period: int) -> np.ndarray:
    """(frames,) onsets / their deviation, smoothed by a Gaussian whose deviation is 1/32 of the period."""
    bell = np.exp(-0.5 * (np.arange(-period, period + 1) * 32 / period) ** 2)
    onsets = onsets / (onsets.std(ddof=1) + np.finfo(onsets.dtype).tiny)
    return np.convolve(onsets, bell)[period : period + len(onsets)]


def _best_paths(scores: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """For each frame, if it is a beat: the beat before it on the best path, or -1, and the score of that path."""
    steps = np.arange(round(period / 2), 2 * period + 1)
    penalties = TIGHTNESS * np.log(steps / period) ** 2
    before, totals = np.full(len(scores), -1), scores.copy()
    first = np.argmax(scores >= 0.01 * scores.max())
    for frame in range(len(scores)):
        possible = steps[: np.searchsorted(steps, frame, side="right")]
        if len(possible):
            paths = totals[frame - possible] - penalties[: len(possible)]
            best = paths.argmax()
            totals[frame] += paths[best]
            if frame >= first:
                before[frame] = frame - possible[best]
    return before, totals


def _last_beat(totals: np.ndarray) -> int:
    """The last peak that is at least half as high as the median peak."""
    rising = np.diff(totals) > 0
    peaks = 1 + np.flatnonzero(rising & ~np.append(rising[1:], False))
    high = peaks[totals[peaks] >= np.median(totals[peaks]) / 2] if len(peaks) else peaks
    return int(high[-1]) if len(high) else len(totals) - 1


def _trimmed(beats: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Drops beats before the first strong frame and after the last one.

    A frame is strong if its score is above half the RMS of the smoothed scores of the beats.
    """
    smoothed = np.convolve(scores[beats], np.hanning(5))[2:]
    strong = np.flatnonzero(scores > np.sqrt(np.mean(smoothed**2)) / 2)
    return beats[(beats >= strong[0]) & (beats <= strong[-1])]

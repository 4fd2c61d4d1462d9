"""A song as a row of windows, each a clip of its own: what a model that was trained on clips predicts from."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from mtmusic.audio.extraction import KILLED, parallel_map, reason_of
from mtmusic.audio.features import fused_spectrograms, mel_db, mel_power, stft
from mtmusic.audio.loading import load_with_doubts
from mtmusic.constants import MEL_BINS, SAMPLE_RATE

LEAST_REST_SECONDS = 1.0

Kind = tuple[float, bool]
"""Seconds a window, and whether its array is beat-synchronised."""


@dataclass(frozen=True)
class SongFeatures:
    """A song's features, or why it has none.

    samples: its length. windows: by kind a (140, frames) array a window. mel: the whole song's (128, frames) in dB, no
    frames where nobody asked for it. failure: why there is nothing, or empty. doubts: what may be wrong with the song.
    """

    samples: int = 0
    windows: dict[Kind, list[np.ndarray]] = field(default_factory=dict)
    mel: np.ndarray = field(default_factory=lambda: np.zeros((MEL_BINS, 0), np.float32))
    failure: str = ""
    doubts: tuple[str, ...] = ()


def window_bounds(samples: int, seconds: float) -> list[tuple[int, int]]:
    """Where windows begin and end, in samples, one after the other.

    The last ends with the song and is as long as the others, so it may overlap the one before; a rest of less than
    LEAST_REST_SECONDS is left out. A song shorter than a window is one.
    """
    length = round(seconds * SAMPLE_RATE)
    if samples <= length:
        return [(0, samples)]
    bounds = [(begin, begin + length) for begin in range(0, samples - length + 1, length)]
    if samples - bounds[-1][1] >= LEAST_REST_SECONDS * SAMPLE_RATE:
        bounds.append((samples - length, samples))
    return bounds


def window_features(waveform: np.ndarray, kinds: Set[Kind], with_mel: bool = False) -> SongFeatures:
    """(samples,) float32 at SAMPLE_RATE -> its windows of each kind. Each has its own maximum as the dB's reference."""
    windows: dict[Kind, list[np.ndarray]] = {kind: [] for kind in sorted(kinds)}
    for seconds in sorted({seconds for seconds, _ in kinds}):
        rates = [beat for beat in (False, True) if (seconds, beat) in kinds]
        for begin, end in window_bounds(len(waveform), seconds):
            for beat, array in zip(rates, fused_spectrograms(waveform[begin:end], rates), strict=True):
                windows[seconds, beat].append(array)
    features = SongFeatures(len(waveform), windows)
    return replace(features, mel=mel_db(mel_power(stft(waveform)))) if with_mel else features


def song_features(
    paths: Sequence[Path], kinds: Set[Kind], with_mel: bool = False, jobs: int = -1
) -> Iterator[tuple[Path, SongFeatures]]:
    """Each song's features, in any order, by worker processes (-1: one a core; a lone song by this one)."""
    work = partial(_file_features, kinds=kinds, with_mel=with_mel)
    for path, features in parallel_map(work, {path: path for path in paths}, 1 if len(paths) == 1 else jobs):
        yield path, features or SongFeatures(failure=KILLED)


def _file_features(path: Path, kinds: Set[Kind], with_mel: bool) -> SongFeatures:
    """On one thread. Whatever is wrong with one song, the others go on."""
    try:
        with threadpool_limits(1):
            waveform, doubts = load_with_doubts(path)
            features = window_features(waveform, kinds, with_mel)
    except Exception as error:
        return SongFeatures(failure=reason_of(error))
    return replace(features, doubts=tuple(doubts))

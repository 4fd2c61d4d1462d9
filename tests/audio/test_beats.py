"""Oracle: librosa's beat tracker and its steps."""

import librosa
import numpy as np
import pytest

from mtmusic.audio.beats import onset_strength, tempo, track_beats

RATE, HOP = 22_050, 512


def onsets(seed: int, frames: int) -> np.ndarray:
    """Noise, and clicks at a steady or a changing tempo: (frames,) float32, as the onset strengths of music."""
    rng = np.random.default_rng(seed)
    strengths = rng.gamma(1, 0.3, frames) * (rng.random(frames) < 0.5)
    gaps = rng.uniform(8, 60) * (1 + rng.normal(0, 0.05, frames)) * np.linspace(1, rng.uniform(0.7, 1.3), frames)
    clicks = np.cumsum(gaps).astype(int)
    strengths[clicks[clicks < frames]] += rng.uniform(0.5, 4)
    strengths[:3] = 0
    return strengths.astype(np.float32)


@pytest.mark.parametrize("seed", range(30))
def test_beats_are_librosas(seed: int) -> None:
    strengths = onsets(seed, (4, 20, 90, 430, 1292)[seed % 5])
    if not strengths.any():
        strengths[3] = 1
    expected_tempo, expected = librosa.beat.beat_track(onset_envelope=strengths, sr=RATE, hop_length=HOP)
    assert tempo(strengths) == pytest.approx(float(expected_tempo[0]), rel=1e-12)
    np.testing.assert_array_equal(track_beats(strengths), expected)


def test_the_beats_of_clicks() -> None:
    clicks = np.zeros(860, np.float32)
    clicks[5::25] = 1
    np.testing.assert_array_equal(track_beats(clicks), np.arange(5, 860, 25))
    assert tempo(clicks) == pytest.approx(60 * RATE / HOP / 25)


def test_no_onset_no_beat() -> None:
    assert track_beats(np.zeros(100, np.float32)).tolist() == []


@pytest.mark.parametrize("frames", [1, 2, 3, 50])
def test_onset_strength_is_librosas(frames: int) -> None:
    decibels = np.random.default_rng(frames).uniform(-80, 0, (128, frames)).astype(np.float32)
    expected = librosa.onset.onset_strength(S=decibels, sr=RATE, aggregate=np.median)
    np.testing.assert_array_equal(onset_strength(decibels), expected)

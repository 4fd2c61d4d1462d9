"""Oracle: librosa. The whole chromagram is tested with the features."""

import librosa
import numpy as np
import pytest

from mtmusic.audio.chroma import BINS_PER_OCTAVE, LOWEST_HERTZ, chroma, octave_filters, tuning
from mtmusic.audio.features import stft


def test_filters_are_built_once_a_tuning() -> None:
    assert octave_filters(0.12) is octave_filters(0.12)
    assert octave_filters(0.12).shape == (1024, 72)


@pytest.mark.parametrize("deviation", [-0.5, 0.0, 0.12])
def test_filters_are_librosas(deviation: float) -> None:
    lowest = LOWEST_HERTZ * 2 ** (6 + deviation / 36)
    frequencies = librosa.cqt_frequencies(BINS_PER_OCTAVE, fmin=lowest, bins_per_octave=BINS_PER_OCTAVE)
    wavelets, lengths = librosa.filters.wavelet(freqs=frequencies, sr=22_050, norm=1)
    wavelets *= np.sqrt(lengths)[:, np.newaxis] / wavelets.shape[1]
    sparse = librosa.util.sparsify_rows(np.fft.fft(wavelets)[:, :513], quantile=0.01).toarray()
    expected = np.fft.fft(sparse, n=1024).T
    np.testing.assert_allclose(octave_filters(deviation), np.hstack([expected.real, expected.imag]), atol=1e-7)
    assert pytest.approx(librosa.note_to_hz("C1"), abs=1e-12) == LOWEST_HERTZ


def magnitude_of(cents: float | None) -> np.ndarray:
    """(1025, frames) of a chord that is tuned `cents` above A440, or of noise."""
    samples = np.random.default_rng(0).normal(0, 0.1, 44_100)
    if cents is not None:
        time = np.arange(len(samples)) / 22_050
        samples = sum(np.sin(2 * np.pi * librosa.midi_to_hz(note + cents / 100) * time) for note in (57, 61, 64)) / 4
    return np.abs(stft(samples.astype(np.float32)))


@pytest.mark.parametrize("cents", [None, -14, 0, 3, 16, 50])
def test_tuning_is_librosas(cents: float | None) -> None:
    magnitude = magnitude_of(cents)
    assert tuning(magnitude) == librosa.estimate_tuning(S=magnitude, sr=22_050, bins_per_octave=36)


def test_tuning_by_eye() -> None:
    assert tuning(magnitude_of(10)) == pytest.approx(0.3, abs=0.06)  # a bin is a third of a semitone
    assert tuning(np.zeros((1025, 5), np.float32)) == 0


def test_a_silent_frame_is_0() -> None:
    silence = np.zeros(5000, np.float32)
    np.testing.assert_array_equal(chroma(silence, stft(silence)), np.zeros((12, 10)))

import numpy as np
import pytest

from mtmusic.audio.features import beat_frames, mel_db, mel_power, percussive, stft
from mtmusic.audio.synthesis import STYLES, synthesise

SECONDS = 12
LABELS = ("valence", "energy", "danceability")


def mel(genre: str, seed: int) -> np.ndarray:
    return mel_db(mel_power(stft(synthesise(genre, seed, SECONDS)[0])))


@pytest.fixture(scope="module")
def clips() -> dict[str, list[np.ndarray]]:
    """24 mel spectrograms a genre."""
    return {genre: [mel(genre, seed) for seed in range(24)] for genre in ("Electronic", "Trip-Hop", "Rock")}


def mean_squared_t(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    """Of the difference in each bin's mean and standard deviation over time: about 1 where there is none."""
    pooled = [np.array([np.r_[array.mean(axis=1), array.std(axis=1)] for array in part]) for part in (some, others)]
    difference = pooled[0].mean(axis=0) - pooled[1].mean(axis=0)
    return float((difference**2 / sum(part.var(axis=0, ddof=1) / len(part) for part in pooled)).mean())


def rise(array: np.ndarray) -> float:
    """dB by which the second half is louder than the first."""
    half = array.shape[1] // 2
    return float(array[:, half:].mean() - array[:, :half].mean())


@pytest.mark.parametrize("genre", STYLES)
def test_waveform(genre: str) -> None:
    waveform, labels = synthesise(genre, 3, 2.5)
    assert waveform.shape == (55_125,)
    assert waveform.dtype == np.float32
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() == pytest.approx(0.9)
    assert tuple(labels) == LABELS


def test_the_seed_decides_everything() -> None:
    first, same, other = (synthesise("Jazz", seed, 2) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0], same[0])
    assert first[1] == same[1]
    assert np.abs(first[0] - other[0]).max() > 0.1
    assert first[1] != other[1]


def test_genres_with_the_same_seed_share_nothing() -> None:
    assert synthesise("Electronic", 5, 2)[1] != synthesise("Trip-Hop", 5, 2)[1]


def test_labels_spread_within_genres() -> None:
    labels = np.array(
        [[list(synthesise(genre, seed, 1)[1].values()) for seed in range(40)] for genre in STYLES]
    )  # (genres, seeds, 3)
    assert labels.min() >= 0
    assert labels.max() <= 1
    total = labels.reshape(-1, 3).std(axis=0)
    assert (total > 0.1).all()
    assert (np.sqrt(labels.var(axis=1).mean(axis=0)) > 0.6 * total).all()


def test_the_pair_has_the_same_pooled_statistics(clips: dict[str, list[np.ndarray]]) -> None:
    assert mean_squared_t(clips["Electronic"], clips["Trip-Hop"]) < 2
    assert mean_squared_t(clips["Electronic"], clips["Rock"]) > 10


def test_the_pair_differs_in_the_order_in_time(clips: dict[str, list[np.ndarray]]) -> None:
    assert all(rise(array) > 0 for array in clips["Electronic"])
    assert all(rise(array) < 0 for array in clips["Trip-Hop"])


@pytest.mark.parametrize("genre", STYLES)
def test_beats_can_be_tracked(genre: str) -> None:
    waveform, _ = synthesise(genre, 1, SECONDS)
    intervals = np.diff(beat_frames(percussive(stft(waveform), len(waveform))))
    assert len(intervals) > 10
    assert np.mean(np.abs(intervals - np.median(intervals)) <= 2) > 0.7


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="got 'Polka'"):
        synthesise("Polka", 0, 12)
    with pytest.raises(ValueError, match="at least one second"):
        synthesise("Jazz", 0, 0.5)

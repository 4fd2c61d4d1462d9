import keras
import numpy as np
import pytest
from scipy import fft, linalg

from mtmusic.models.clip_statistics import (
    MFCC,
    SMALLEST_EIGENVALUE,
    ChromaIntervals,
    DeltaStatistics,
    GaussianEmbedding,
    SpectralVariation,
    StatisticsPooling,
)

FRAMES = 9
LENGTHS = (9, 4, 2)
POOLED = {
    "moments": StatisticsPooling,
    "changes": DeltaStatistics,
    "embedding": GaussianEmbedding,
    "intervals": ChromaIntervals,
    "roughness": SpectralVariation,
}


def noise(frames: int = FRAMES, bins: int = 12) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (len(LENGTHS), frames, bins)).astype("float32")


def present(lengths=LENGTHS, frames: int = FRAMES) -> np.ndarray:
    return np.arange(frames) < np.array(lengths)[:, None]


def of(layer: keras.layers.Layer, x: np.ndarray, *given: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(layer(x, *given))


def clips(x: np.ndarray) -> list[np.ndarray]:
    """Each with its present frames alone."""
    return [clip[:length].astype("float64") for clip, length in zip(x, LENGTHS, strict=True)]


def test_cepstral_coefficients_are_scipys_dct():
    x = noise()
    expected = fft.dct(x, norm="ortho")[..., :5]
    np.testing.assert_allclose(of(MFCC(5), x), expected, atol=1e-5)


def test_moments_and_changes_are_numpys_of_the_present_frames():
    x = noise()
    expected = [np.concatenate([clip.mean(axis=0), clip.std(axis=0)]) for clip in clips(x)]
    np.testing.assert_allclose(of(StatisticsPooling(), x, present()), expected, atol=2e-4)
    expected = [np.diff(clip, axis=0).std(axis=0) for clip in clips(x)]
    np.testing.assert_allclose(of(DeltaStatistics(), x, present()), expected, atol=2e-4)


def test_the_embedding_is_scipys_logarithm_and_distances_are_those_of_the_matrices():
    x = noise(bins=3)
    logarithms = []
    for clip in clips(x):
        extended = np.column_stack([clip, np.ones(len(clip))])
        matrix = extended.T @ extended / len(clip)
        np.testing.assert_allclose(matrix[:3, :3], np.cov(clip.T, bias=True) + np.outer(clip.mean(0), clip.mean(0)))
        logarithms.append(linalg.logm(matrix + SMALLEST_EIGENVALUE * np.eye(4)))
    points = of(GaussianEmbedding(), x, present())
    assert points.shape == (3, 10)
    np.testing.assert_allclose(points[:, 0], [matrix[0, 0] for matrix in logarithms], atol=1e-4)
    np.testing.assert_allclose(points[:, 1], [matrix[0, 1] * 2**0.5 for matrix in logarithms], atol=1e-4)
    distances = [np.linalg.norm(logarithms[0] - other) for other in logarithms[1:]]
    np.testing.assert_allclose(np.linalg.norm(points[0] - points[1:], axis=1), distances, rtol=1e-4)


def test_intervals_are_those_of_a_loop():
    x = noise(bins=12) ** 2
    for row, clip in zip(of(ChromaIntervals(), x, present()), clips(x), strict=True):
        sizes = np.abs(np.fft.rfft(clip))
        np.testing.assert_allclose(row[:7], np.abs(np.fft.rfft(clip.mean(axis=0))), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(row[7:14], sizes.mean(axis=0), rtol=1e-3)
        correlation = np.corrcoef(clip.T)
        together = [np.mean([correlation[i, (i + k) % 12] for i in range(12)]) for k in range(1, 7)]
        np.testing.assert_allclose(row[14:20], together, atol=1e-3)
        following = [np.mean(clip[1:] * np.roll(clip[:-1], -k, axis=1)) for k in range(12)]
        np.testing.assert_allclose(row[20:], following, rtol=1e-3)


def test_a_song_in_another_key_has_the_same_intervals():
    x = noise() ** 2
    here, there = (of(ChromaIntervals(), np.roll(x, turn, axis=2), present()) for turn in (0, 5))
    np.testing.assert_allclose(here, there, atol=1e-4)
    moments = [of(StatisticsPooling(), np.roll(x, turn, axis=2), present()) for turn in (0, 5)]
    assert np.abs(moments[0] - moments[1]).max() > 0.1


def test_roughness_is_the_mean_difference_of_neighbours():
    x = noise(bins=128)
    steps = [np.abs(np.diff(clip, axis=1)).mean(axis=0) for clip in clips(x)]
    expected = [step[:126].reshape(18, 7).mean(axis=1) for step in steps]
    np.testing.assert_allclose(of(SpectralVariation(), x, present()), expected, atol=1e-5)


@pytest.mark.parametrize("kind", POOLED.values(), ids=POOLED)
def test_what_stands_in_absent_frames_counts_in_nothing(kind):
    x = noise()
    other = np.where(present()[..., None], x, 77.0).astype("float32")
    longer = np.pad(x, ((0, 0), (0, 6), (0, 0)), constant_values=-5)
    answers = [
        of(kind(), x, present()),
        of(kind(), other, present()),
        of(kind(), longer, present(frames=FRAMES + 6)),
    ]
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-4)
    np.testing.assert_allclose(answers[2], answers[0], atol=1e-4)
    assert kind().compute_output_spec(keras.KerasTensor((None, None, 12)), keras.KerasTensor((None, None))).shape == (
        None,
        answers[0].shape[1],
    )


@pytest.mark.parametrize("kind", POOLED.values(), ids=POOLED)
def test_one_frame_silence_and_no_frame_give_numbers(kind):
    x = noise()
    x[2] = 0
    assert np.isfinite(of(kind(), x, present((1, 0, 9)))).all()
    assert np.isfinite(of(kind(), x[:, :1], present((1, 0, 1), 1))).all()


def test_they_compute_in_float32_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        mixed = [of(kind(), noise(), present()) for kind in POOLED.values()]
    finally:
        keras.mixed_precision.set_global_policy("float32")
    for answer, kind in zip(mixed, POOLED.values(), strict=True):
        assert answer.dtype == np.float32
        np.testing.assert_array_equal(answer, of(kind(), noise(), present()))

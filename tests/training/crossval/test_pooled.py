import numpy as np
import pytest

from mtmusic.training.crossval.pooled import pooled_statistics


def test_statistics_are_those_that_can_be_told_by_eye():
    array = np.array([[0.0, 2.0, 4.0], [1.0, 1.0, 4.0]])
    deviation = np.sqrt(8 / 3)
    expected = [2, 2, deviation, np.sqrt(2), 2, 1.5, 0, 1.5]
    np.testing.assert_allclose(pooled_statistics(array), expected)


def test_one_frame_has_no_differences():
    statistics = pooled_statistics(np.array([[3.0], [5.0]]))
    np.testing.assert_array_equal(statistics, [3, 5, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("frames", [1, 2, 17])
def test_clips_of_any_length_give_equally_many_numbers(frames):
    array = np.random.default_rng(frames).uniform(-80, 0, (140, frames)).astype("float32")
    pooled = pooled_statistics(array)
    assert pooled.shape == (560,)
    np.testing.assert_allclose(pooled[:140], array.mean(axis=1), rtol=1e-4)

"""Oracle: librosa."""

import librosa
import numpy as np
import pytest

from mtmusic.mel import mel_frequencies


@pytest.mark.parametrize(("points", "highest"), [(130, 11_025.0), (98, 8000.0), (2, 1001.0)])
def test_equals_librosa(points: int, highest: float) -> None:
    found = mel_frequencies(points, highest)
    np.testing.assert_allclose(found, librosa.mel_frequencies(points, fmin=0, fmax=highest), rtol=1e-14)
    assert (found[0], found[-1]) == (0, pytest.approx(highest))

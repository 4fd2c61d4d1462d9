"""Oracle: librosa.resample."""

import librosa
import numpy as np
import pytest

from mtmusic.audio.resampling import resample, resample_blocks


@pytest.mark.parametrize(("rate", "target"), [(22_050, 16_000), (44_100, 22_050), (8_000, 22_050), (2, 1), (7, 7)])
@pytest.mark.parametrize("samples", [1, 2, 999, 50_001])
def test_equals_librosa_at_once_and_in_blocks(rate: int, target: int, samples: int) -> None:
    waveform = np.random.default_rng(0).normal(0, 0.3, samples).astype(np.float32)
    expected = librosa.resample(waveform, orig_sr=rate, target_sr=target)
    found = resample(waveform, rate, target)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    blocks = np.array_split(waveform, 7)
    np.testing.assert_array_equal(np.concatenate([*resample_blocks(blocks, rate, target)]), expected)

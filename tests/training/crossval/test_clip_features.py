"""The features of baselines, beside numbers that can be told by eye and the trunk's own."""

import numpy as np
import pytest

from mtmusic.data.folder import LoadOptions, load_pool, pooled_clips
from mtmusic.data.spectrograms import read_spectrogram
from mtmusic.models.transfer import load_backbone
from mtmusic.training.crossval.features import pooled_statistics, trunk_features
from tests.folders import write_tiny_affect_folder


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


@pytest.mark.parametrize("feature", ["fused", "logmel"])
def test_the_trunks_means_are_those_that_its_backbone_gives(trunk, tmp_path, feature):
    folder = write_tiny_affect_folder(tmp_path / "affect", train=8, test=0, feature=feature)
    clips, _ = pooled_clips(load_pool(LoadOptions(folder, beat=False, checks="off")))
    features, milliseconds = trunk_features(clips, feature)
    assert milliseconds > 0
    assert len({*features}) == 8
    if feature == "logmel":
        backbone = load_backbone("musicnn", "mean")
        for path in clips.paths:
            own = backbone(read_spectrogram(path, feature)[None], training=False)[0]
            np.testing.assert_allclose(features[path], own, rtol=1e-4, atol=1e-5)
    assert np.isfinite([*features.values()]).all()
    assert np.shape([*features.values()]) == (8, 753)

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.gaussian_process.kernels import RBF

from mtmusic.models import nystroem
from mtmusic.models.backbones import statistics_backbone
from mtmusic.models.heads import genre_classifier
from mtmusic.models.nystroem import NystroemFeatures

SIZES = (3, 5)


def features(clips: int, seed: int = 0) -> np.ndarray:
    """Far from standardised."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, (clips, sum(SIZES))) * np.arange(1, 9) + 10).astype("float32")


def adapted(known: np.ndarray, centres: int = 12, seed: int = 0) -> NystroemFeatures:
    layer = NystroemFeatures(centres, SIZES)
    layer.build((None, sum(SIZES)))
    layer.adapt(known, seed)
    return layer


def coordinates(layer: NystroemFeatures, x: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(layer(x))


def oracle(known: np.ndarray, x: np.ndarray) -> np.ndarray:
    """By scikit-learn: a Gaussian of length l is exp(-d / (2 l l))."""
    known, x = ((part - known.mean(axis=0)) / known.std(axis=0) for part in (known, x))
    whole = RBF((known.shape[1] / 2) ** 0.5)(x, known)
    first, second = RBF(SIZES[0] ** 0.5)(x[:, :3], known[:, :3]), RBF(SIZES[1] ** 0.5)(x[:, 3:], known[:, 3:])
    return (whole + (first + second) / 2) / 2


def test_products_of_coordinates_are_the_kernel():
    known, x = features(12), features(4, seed=1)
    layer = adapted(known)
    of_known, of_x = coordinates(layer, known), coordinates(layer, x)
    np.testing.assert_allclose(of_known @ of_known.T, oracle(known, known), atol=1e-3)
    np.testing.assert_allclose(of_x @ of_known.T, oracle(known, x), atol=1e-3)


def test_without_clips_for_all_centres_the_rest_is_zero():
    known = features(5)
    few, just = (coordinates(adapted(known, centres), features(3, seed=1)) for centres in (9, 5))
    assert few.shape == (3, 9)
    assert not few[:, 5:].any()
    np.testing.assert_allclose(few[:, :5], just, atol=1e-6)


def test_more_clips_than_centres_are_drawn_by_seed_and_standardise_all_the_same():
    known = features(40)
    first, again, other = (adapted(known, 6, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.clips, again.clips)
    assert np.abs(first.clips.numpy() - other.clips.numpy()).max() > 0.1
    np.testing.assert_allclose(first.mean, known.mean(axis=0), rtol=1e-5)
    standard = (known - known.mean(axis=0)) / known.std(axis=0)
    for centre in first.clips.numpy():
        assert np.abs(standard - centre).max(axis=1).min() < 1e-5


def test_two_equal_clips_and_a_constant_feature_do_no_harm():
    known = np.concatenate([features(4), features(4)])
    known[:, 2] = 7
    layer = adapted(known)
    answer = coordinates(layer, known)
    np.testing.assert_allclose(answer[:4], answer[4:], atol=1e-4)
    np.testing.assert_allclose(np.sum(answer**2, axis=1), 1, atol=1e-2)  # of a clip with itself
    assert np.isfinite(coordinates(layer, features(3, seed=1))).all()


def test_a_feature_that_varies_by_rounding_alone_is_left_out():
    known = features(6)
    known[:, 2] = 2e-6 + 1e-10 * features(6, seed=1)[:, 2]
    known[:, 4] *= 1e-3  # small, but not rounding
    mean, deviation = nystroem.moments(known)
    np.testing.assert_allclose(mean, known.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.delete(deviation, 2), np.delete(known.std(axis=0), 2), rtol=1e-5)
    assert deviation[2] == 0
    constant = known.copy()
    constant[:, 2] = 2e-6
    np.testing.assert_allclose(coordinates(adapted(known), known), coordinates(adapted(constant), constant), atol=1e-5)


def test_before_it_is_adapted_it_gives_zero_and_no_clips_are_refused():
    layer = NystroemFeatures(4, SIZES)
    assert not coordinates(layer, features(3)).any()
    assert not layer.adapted
    with pytest.raises(ValueError, match="Expected clips"):
        layer.adapt(features(0))
    layer.adapt(features(3))
    assert layer.adapted
    assert layer.trainable_weights == []


def batches(clips: int, seed: int) -> tf.data.Dataset:
    x = np.random.default_rng(seed).uniform(-80, 0, (clips, 11, 128)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, np.zeros(clips))).batch(3)


def test_a_backbone_is_adapted_once_and_is_saved_with_what_it_knows(tmp_path):
    model = genre_classifier(statistics_backbone("mel", centres=7), list("abc"))
    backbone = model.get_layer("backbone")
    nystroem.adapt(backbone, batches(7, 0))
    layer = backbone.get_layer("block1_kernel")
    known = layer.get_weights()
    nystroem.adapt(backbone, batches(5, 1))  # what another training knows stays
    for weight, before in zip(layer.weights, known, strict=True):
        np.testing.assert_array_equal(weight, before)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    x = next(iter(batches(4, 2)))[0]
    np.testing.assert_array_equal(model(x), again(x))
    assert np.abs(np.array(backbone(x))).max() > 0.01


def test_a_backbone_without_a_kernel_is_left_alone():
    linear = statistics_backbone(centres=0)
    nystroem.adapt(linear, batches(3, 0))
    assert linear.output_shape == (None, 231 + 20 + 18 + 24 + 32)

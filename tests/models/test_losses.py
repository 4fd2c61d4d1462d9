"""The weighted loss against sums in NumPy, with labels missing."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from mtmusic.errors import UserError
from mtmusic.models.heads import genre_classifier, multitask_regressor
from mtmusic.models.losses import (
    HUBER_DELTA,
    LOG_VARIANCE_RANGE,
    ClassWeightedCrossentropy,
    NormalizedError,
    TaskUncertainty,
    WeightedLoss,
    complete_weights,
)
from mtmusic.models.trainer import TrainingConfig, fit

TASKS = ("valence", "energy", "danceability")
WEIGHTS = {"valence": 0.4, "energy": 0.2, "danceability": 1.5}
VARIANCES = {"valence": 0.06, "energy": 0.05, "danceability": 0.03}


def targets_and_predictions(missing: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets, predictions = rng.random((2, 7, 3)).astype("float32")
    if missing:
        targets[0, 0] = targets[1:5, 1] = targets[:, 2] = np.nan
    return targets, predictions


def numpy_losses(targets: np.ndarray, predictions: np.ndarray, error: str) -> list[float]:
    """Label by label; a task without labels gives 0."""
    losses = []
    for task in range(targets.shape[1]):
        total, labels = 0.0, 0
        for target, prediction in zip(targets[:, task], predictions[:, task], strict=True):
            if np.isnan(target):
                continue
            size = abs(float(target) - float(prediction))
            if error == "mse":
                total += size**2
            else:
                total += size**2 / 2 if size < HUBER_DELTA else HUBER_DELTA * (size - HUBER_DELTA / 2)
            labels += 1
        losses.append(total / labels if labels else 0.0)
    return losses


@pytest.mark.parametrize("missing", [False, True], ids=["all labels", "labels missing"])
@pytest.mark.parametrize("error", ["mse", "huber"])
def test_the_weighted_loss_is_the_sum_in_numpy_and_its_gradient_is_finite(error, missing):
    targets, predictions = targets_and_predictions(missing)
    loss = WeightedLoss(TASKS, WEIGHTS, error)
    variable = tf.Variable(predictions)
    with tf.GradientTape() as tape:
        value = loss(targets, variable)
    expected = sum(WEIGHTS[t] * part for t, part in zip(TASKS, numpy_losses(targets, predictions, error), strict=True))
    assert float(value) == pytest.approx(expected, rel=1e-5)
    gradient = tape.gradient(value, variable).numpy()
    assert np.isfinite(gradient).all()
    assert np.array_equal(gradient == 0, np.isnan(targets))


def test_huber_is_the_square_near_zero_and_a_line_beyond():
    loss = WeightedLoss(["a"], error="huber")
    assert float(loss(np.float32([[0.5]]), np.float32([[0.45]]))) == pytest.approx(0.05**2 / 2)
    assert float(loss(np.float32([[0.5]]), np.float32([[0.9]]))) == pytest.approx(0.1 * 0.4 - 0.1**2 / 2)
    with pytest.raises(ValueError, match="mse, huber"):
        WeightedLoss(["a"], error="mae")


@pytest.mark.parametrize(
    ("targets", "predictions"), [((4,), (4, 1)), ((4, 1), (4,)), ((4, 1), (5, 1)), ((4, 2), (4, 1)), ((4, 2), (4, 2))]
)
def test_other_shapes_are_an_error_and_no_broadcast(targets, predictions):
    with pytest.raises(ValueError, match=r"Expected targets and predictions \(batch, 1\)"):
        WeightedLoss(["valence"])(np.zeros(targets, "float32"), np.zeros(predictions, "float32"))


def test_by_default_a_task_weighs_one_over_its_variance():
    assert complete_weights(None, TASKS, VARIANCES) == pytest.approx({t: 1 / VARIANCES[t] for t in TASKS})
    assert complete_weights(None, TASKS) == dict.fromkeys(TASKS, 1.0)
    assert list(complete_weights({"energy": 0, "valence": 1, "danceability": 2}, TASKS)) == list(TASKS)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"valence": 1, "energy": 1, "dance": 1}, "got a weight of dance"),
        ({"valence": 1, "energy": 1}, "got no weight of danceability"),
        ({"valence": 1, "energy": -1, "danceability": 1}, "0 or more"),
        ({"valence": 1, "energy": float("nan"), "danceability": 1}, "0 or more"),
        ({"valence": 1, "energy": float("inf"), "danceability": 1}, "0 or more"),
        ({"valence": 0, "energy": 0, "danceability": 0}, "one above 0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, expected):
    with pytest.raises(UserError, match=expected):
        complete_weights(weights, TASKS)


def test_the_normalised_error_is_exact_over_unequal_batches():
    targets, predictions = targets_and_predictions(missing=True)
    metric = NormalizedError(VARIANCES)
    metric.update_state(targets[:5], predictions[:5])
    metric.update_state(targets[5:], predictions[5:])
    errors = numpy_losses(targets, predictions, "mse")
    expected = (errors[0] / VARIANCES["valence"] + errors[1] / VARIANCES["energy"]) / 2  # no label of danceability
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_the_uncertainty_starts_at_the_label_variance_and_passes_predictions_on():
    layer = TaskUncertainty(TASKS, {**VARIANCES, "energy": 1e-9})
    targets, predictions = targets_and_predictions(missing=True)
    np.testing.assert_array_equal(layer(predictions), predictions)
    start = [np.log(0.06), LOG_VARIANCE_RANGE[0], np.log(0.03)]
    np.testing.assert_allclose(layer.log_variances, start, rtol=1e-6)
    errors = numpy_losses(targets, predictions, "mse")
    terms = [np.exp(-s) * error + s for s, error in zip(start[:2], errors[:2], strict=True)]  # danceability: no label
    assert float(layer.loss(targets, predictions)) == pytest.approx(sum(terms) / 2, rel=1e-5)
    assert layer.learned()["weights"]["valence"] == pytest.approx(1 / 0.06 / 2)


def small_multitask(learning_rate: float = 0.05) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 5), name="spectrogram")
    backbone = keras.Model(inputs, keras.layers.Flatten()(inputs), name="backbone")
    return multitask_regressor(backbone, TASKS, variances=VARIANCES, learned_weights=True, learning_rate=learning_rate)


def clips() -> tf.data.Dataset:
    rng = np.random.default_rng(1)
    x, y = rng.random((16, 4, 5)).astype("float32"), rng.random((16, 3)).astype("float32")
    y[::4, 0] = np.nan
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


def log_variances(model: keras.Model) -> np.ndarray:
    return model.get_layer("uncertainty").log_variances.numpy()


def test_learned_weights_move_and_stay_in_their_range():
    model = small_multitask()
    before = log_variances(model)
    assert any("log_variances" in variable.path for variable in model.trainable_variables)
    model.fit(clips(), epochs=2, verbose=0, shuffle=False)
    assert (np.abs(log_variances(model) - before) > 0.01).all()
    fast = small_multitask(learning_rate=10.0)
    fast.fit(clips(), epochs=3, verbose=0, shuffle=False)
    low, high = LOG_VARIANCE_RANGE
    assert ((log_variances(fast) >= low) & (log_variances(fast) <= high)).all()


def test_a_reloaded_model_goes_on_with_its_weights_and_optimizer_without_a_warning(tmp_path):
    model = small_multitask()
    model.fit(clips(), epochs=2, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(log_variances(loaded), log_variances(model))
    losses = [m.fit(clips(), epochs=2, verbose=0, shuffle=False).history["loss"] for m in (model, loaded)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    np.testing.assert_allclose(log_variances(loaded), log_variances(model), rtol=1e-6)


def test_a_resumed_training_learns_the_same_weights(tmp_path):
    straight, resumed = small_multitask(), small_multitask()
    config = TrainingConfig(epochs=4, patience=None, monitor="val_normalized_mse")
    fit(straight, clips(), clips(), config, verbose=0)
    half = TrainingConfig(epochs=2, patience=None, monitor="val_normalized_mse")
    fit(small_multitask(), clips(), clips(), half, tmp_path, verbose=0)
    fit(resumed, clips(), clips(), config, tmp_path, verbose=0)
    np.testing.assert_allclose(log_variances(resumed), log_variances(straight), rtol=1e-5)
    assert not np.allclose(log_variances(resumed), np.log(list(VARIANCES.values())))


def test_a_fixed_weighted_loss_survives_saving(tmp_path):
    inputs = keras.Input((4, 5), name="spectrogram")
    backbone = keras.Model(inputs, keras.layers.Flatten()(inputs), name="backbone")
    model = multitask_regressor(backbone, TASKS, variances=VARIANCES, weights=WEIGHTS, error="huber")
    model.fit(clips(), verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(clips(), verbose=0) == pytest.approx(model.evaluate(clips(), verbose=0))


def test_clips_count_by_the_weight_of_their_class(tmp_path):
    targets = np.array([0, 1, 1, 2, 1, 0])
    logits = np.random.default_rng(0).normal(0, 2, (6, 3)).astype("float32")
    weights = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    loss = ClassWeightedCrossentropy(weights.tolist())
    each = weights[targets]
    expected = log_loss(targets, softmax(logits, axis=1), sample_weight=each) * each.mean()
    assert float(loss(targets, logits)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(targets[:, None].astype("float32"), logits)) == pytest.approx(expected, rel=1e-5)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(ClassWeightedCrossentropy([1, 1, 1])(targets, logits)) == pytest.approx(float(plain(targets, logits)))


def test_a_classifier_with_class_weights_is_trained_saved_and_read(tmp_path):
    spectrogram = keras.Input((None, 12))
    backbone = keras.Model(spectrogram, keras.layers.GlobalAveragePooling1D()(spectrogram), name="backbone")
    model = genre_classifier(backbone, ["a", "b"], class_weights=[0.5, 2])
    x, y = np.random.default_rng(0).random((4, 5, 12)).astype("float32"), np.array([0, 0, 0, 1])
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.loss.weights == [0.5, 2]
    assert again.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))

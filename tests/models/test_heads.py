import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.errors import UserError
from mtmusic.models.backbones import cnn_backbone, lstm_backbone
from mtmusic.models.heads import affect_regressor, genre_classifier, multitask_regressor
from mtmusic.models.losses import WeightedLoss
from mtmusic.models.trainer import overfit_batches

TASKS = ("valence", "energy", "danceability")
VARIANCES = dict.fromkeys(TASKS, 1 / 12)


def clips(targets: np.ndarray, batch_size: int = 4) -> tf.data.Dataset:
    mel = np.random.default_rng(0).uniform(-80, 0, (len(targets), 16, 128)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((mel, targets)).batch(batch_size)


def labels(tasks: int, missing: bool = True) -> np.ndarray:
    values = np.random.default_rng(1).random((12, tasks)).astype("float32")
    if missing:
        values[::5, 0] = np.nan
    return values


def small_cnn() -> keras.Model:
    keras.utils.set_random_seed(0)
    return cnn_backbone("mel", frames=16)


@pytest.mark.parametrize(
    ("head", "targets", "measure"),
    [
        (lambda backbone: genre_classifier(backbone, ["a", "b", "c"]), np.arange(12) % 3, "loss"),
        (lambda backbone: affect_regressor(backbone, "valence", variances=VARIANCES), labels(1), "normalized_mse"),
        (lambda backbone: multitask_regressor(backbone, TASKS, variances=VARIANCES), labels(3), "normalized_mse"),
        (
            lambda backbone: multitask_regressor(backbone, TASKS, variances=VARIANCES, learned_weights=True),
            labels(3),
            "normalized_mse",
        ),
    ],
    ids=["genre", "one task", "multitask", "learned weights"],
)
def test_every_head_learns_a_few_batches_by_heart(head, targets, measure):
    values = overfit_batches(head(small_cnn()), clips(targets), measure=measure)
    assert values[-1] < 0.01 < values[0]


def test_a_regressor_gives_one_sigmoid_named_after_its_task():
    model = affect_regressor(lstm_backbone(units=4), "valence")
    assert model.output_shape == (None, 1)
    assert model.layers[-1].name == "valence"
    predicted = model.predict(clips(labels(1)), verbose=0)
    assert ((predicted > 0) & (predicted < 1)).all()


def test_the_heads_stand_in_the_tasks_order_on_one_trunk():
    model = multitask_regressor(lstm_backbone(units=4), TASKS)
    assert model.output_shape == (None, 3)
    assert [layer.name for layer in model.layers[1:]] == ["backbone", *TASKS, "affect"]
    features = model.get_layer("backbone").predict(clips(labels(3)), verbose=0)
    for column, task in enumerate(TASKS):
        alone = model.get_layer(task)(features)
        np.testing.assert_allclose(model.predict(clips(labels(3)), verbose=0)[:, [column]], alone, atol=1e-6)


def test_fixed_weights_are_those_given_or_one_over_the_variance():
    given = multitask_regressor(lstm_backbone(units=4), TASKS, weights={"valence": 3, "energy": 2, "danceability": 1})
    assert given.loss.task_weights == {"valence": 3, "energy": 2, "danceability": 1}
    default = multitask_regressor(lstm_backbone(units=4), TASKS, variances=VARIANCES)
    assert isinstance(default.loss, WeightedLoss)
    assert default.loss.task_weights == pytest.approx(dict.fromkeys(TASKS, 12))
    with pytest.raises(UserError, match="got a weight of valance"):
        multitask_regressor(lstm_backbone(units=4), TASKS, weights={"valance": 1, "energy": 1, "danceability": 1})


def test_a_constant_prediction_has_a_loss_and_an_error_of_one_a_task():
    targets = labels(3, missing=False)
    variances = dict(zip(TASKS, targets.var(axis=0).tolist(), strict=True))
    model = multitask_regressor(lstm_backbone(units=4), TASKS, variances=variances)
    for task, mean in zip(TASKS, targets.mean(axis=0), strict=True):
        model.get_layer(task).set_weights([np.zeros((4, 1)), np.log([mean / (1 - mean)])])
    loss, error = model.evaluate(clips(targets, batch_size=12), verbose=0)
    assert (loss, error) == pytest.approx((3, 1), rel=1e-4)


@pytest.mark.parametrize("tasks", [("my task", "σθένος"), ("backbone", "energy"), ("a b", "a_b")])
@pytest.mark.parametrize("learned", [False, True])
def test_tasks_may_have_names_that_no_layer_can_have(tasks, learned, tmp_path):
    model = multitask_regressor(
        lstm_backbone(units=2), tasks, variances=dict.fromkeys(tasks, 0.1), learned_weights=learned
    )
    model.fit(clips(labels(2)), verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").output_shape == (None, 2)


def test_targets_without_their_axis_are_refused_by_fit():
    model = affect_regressor(lstm_backbone(units=4), "valence")
    with pytest.raises(ValueError, match=r"Expected targets and predictions \(batch, 1\)"):
        model.fit(clips(labels(1)[:, 0]), verbose=0, shuffle=False)


def test_weight_decay_shrinks_weights_and_leaves_biases(tmp_path):
    spectrogram = keras.Input((None, 12))
    backbone = keras.Model(spectrogram, keras.layers.GlobalAveragePooling1D()(spectrogram), name="backbone")
    model = genre_classifier(backbone, ["a", "b"], learning_rate=0.1, weight_decay=0.5, class_weights=[0, 0])
    head = model.get_layer("genre")
    head.bias.assign([1.0, -2.0])
    before = keras.ops.convert_to_numpy(head.kernel)
    x, y = np.ones((4, 5, 12), "float32"), np.array([0, 1, 0, 1])
    model.fit(x, y, verbose=0)  # one step, and no gradient
    np.testing.assert_allclose(head.kernel, before * (1 - 0.1 * 0.5), rtol=1e-5)
    assert keras.ops.convert_to_numpy(head.bias).tolist() == [1, -2]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    again.fit(x, y, verbose=0)
    assert keras.ops.convert_to_numpy(again.get_layer("genre").bias).tolist() == [1, -2]


@pytest.mark.parametrize(
    ("name", "pooled", "found"),
    {"another name": ("trunk", True, "got 'trunk'"), "frames": ("backbone", False, "to .None, 16, 4.")}.values(),
)
def test_what_cannot_be_found_again_in_a_saved_model_is_refused_at_the_head(name, pooled, found):
    spectrogram = keras.Input((16, 128))
    x = keras.layers.Dense(4)(spectrogram)
    backbone = keras.Model(spectrogram, keras.layers.GlobalAveragePooling1D()(x) if pooled else x, name=name)
    with pytest.raises(UserError, match=f'name="backbone".*{found}'):
        genre_classifier(backbone, ["a", "b"])

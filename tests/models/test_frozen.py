import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.models.backbones import cnn_backbone, lstm_backbone, statistics_backbone
from mtmusic.models.frozen import embedded, head_alone, is_fixed
from mtmusic.models.heads import affect_regressor, genre_classifier, multitask_regressor
from mtmusic.models.transfer import freeze

TASKS = ("valence", "energy")


def frozen_cnn() -> keras.Model:
    keras.utils.set_random_seed(0)
    backbone = cnn_backbone("chroma", frames=16)
    freeze(backbone, "all")
    return backbone


HEADS = {
    "genre": lambda backbone: genre_classifier(backbone, list("abc")),
    "weighted": lambda backbone: genre_classifier(backbone, list("abc"), weight_decay=0.1, class_weights=[1, 2, 3]),
    "one task": lambda backbone: affect_regressor(backbone, "valence"),
    "fixed weights": lambda backbone: multitask_regressor(backbone, TASKS),
    "learned weights": lambda backbone: multitask_regressor(backbone, TASKS, learned_weights=True),
}


def batches(head: str) -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    clips = rng.uniform(0, 1, (10, 16, 12)).astype("float32")
    targets = rng.uniform(0, 1, (10, 1 if head == "one task" else 2)).astype("float32")
    targets = np.arange(10) % 3 if head in ("genre", "weighted") else targets
    return tf.data.Dataset.from_tensor_slices((clips, targets)).batch(4)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_alone_learns_what_it_learns_on_its_frozen_backbone(name, tmp_path):
    results = []
    for alone in (False, True):
        model, dataset = HEADS[name](frozen_cnn()), batches(name)
        fitted = model
        if alone:
            fitted, dataset = head_alone(model), embedded(model.get_layer("backbone"), dataset, 4)
        losses = fitted.fit(dataset, epochs=3, verbose=0, shuffle=False).history["loss"]
        results.append([losses, *model.get_weights()])
        model.save(tmp_path / "model.keras")
        assert keras.models.load_model(tmp_path / "model.keras").optimizer.iterations == 9
    for whole, part in zip(*results, strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-5)


def test_a_backbone_is_fixed_where_nothing_is_trained_and_nothing_drawn():
    assert is_fixed(frozen_cnn())
    assert is_fixed(statistics_backbone(centres=4))
    assert not is_fixed(cnn_backbone(frames=16))
    assert not is_fixed(statistics_backbone(centres=4, dropout=0.1))
    assert not is_fixed(statistics_backbone(centres=0))  # its normalisation learns
    lstm = lstm_backbone(units=4, dropout=0.1)
    freeze(lstm, "all")
    assert not is_fixed(lstm)
    half = cnn_backbone(frames=16)
    freeze(half, "2")
    assert not is_fixed(half)


def test_features_come_in_another_order_each_epoch_with_their_targets_by_seed():
    backbone = frozen_cnn()
    numbered = batches("genre").unbatch().enumerate().map(lambda number, clip: (clip[0], number)).batch(4)
    plain = {}
    for rows, numbers in embedded(backbone, numbered, 3):
        plain |= dict(zip(numbers.numpy().tolist(), rows.numpy(), strict=True))
    assert sorted(plain) == [*range(10)]
    orders = []
    for seed in (1, 1, 2):
        shuffled = embedded(backbone, numbered, 3, shuffle=True, seed=seed)
        for _ in range(2):
            order = []
            for rows, numbers in shuffled:
                order += numbers.numpy().tolist()
                for row, number in zip(rows, numbers, strict=True):
                    np.testing.assert_array_equal(row, plain[int(number)])
            orders.append(order)
    assert orders[:2] == orders[2:4]
    assert len({tuple(order) for order in orders}) == 4

import csv
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.errors import UserError
from mtmusic.models import trainer
from mtmusic.models.trainer import TrainingConfig, fit, history_csv, overfit_batches, require_memory, require_overfit
from tests.faults import file_size_limit


def small_model(learning_rate: float = 0.05) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(learning_rate), "mse", metrics=["mae"])
    return model


def batches(seed: int = 0) -> tf.data.Dataset:
    x = np.random.default_rng(seed).normal(size=(16, 3)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x.sum(axis=1, keepdims=True))).batch(4)


def scripted_score(values: list[float]):
    """A score that takes these values, epoch after epoch."""
    left = iter(values)
    return lambda targets, predictions: {"score": next(left)}


def test_the_best_epoch_is_kept_and_its_weights_come_back():
    model, weights = small_model(), []
    score = scripted_score([0.1, 0.5, 0.4, 0.3, 0.2])

    def recording_score(targets, predictions):
        weights.append(model.get_weights())
        return score(targets, predictions)

    config = TrainingConfig(epochs=5, patience=None, monitor="val_score", mode="max")
    record = fit(model, batches(), batches(1), config, score=recording_score, verbose=0)
    assert (record.epochs, record.best_epoch, record.best_value) == (5, 2, 0.5)
    assert record.history["val_score"] == [0.1, 0.5, 0.4, 0.3, 0.2]
    assert all(np.array_equal(kept, best) for kept, best in zip(model.get_weights(), weights[1], strict=True))


def test_training_stops_after_patience_epochs_without_a_better_value():
    config = TrainingConfig(epochs=50, patience=3, monitor="val_score", mode="min")
    score = scripted_score([5, 4, 6, 7, 4, 9, 9])
    record = fit(small_model(), batches(), batches(1), config, score=score, verbose=0)
    assert (record.epochs, record.best_epoch, record.finished) == (5, 2, True)  # an equal value is not better


def test_the_score_sees_the_whole_validation_set_at_once():
    seen = []

    def score(targets, predictions):
        seen.append((targets.shape, predictions.shape))
        return {"score": 0.0}

    fit(small_model(), batches(), batches(1), TrainingConfig(epochs=1), score=score, verbose=0)
    assert seen == [((16, 1), (16, 1))]


def test_without_validation_the_last_epoch_is_kept():
    record = fit(small_model(), batches(), config=TrainingConfig(epochs=3), verbose=0)
    assert (record.epochs, record.best_epoch) == (3, 3)
    assert set(record.history) == {"loss", "mae"}


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    config = TrainingConfig(epochs=6, patience=None)
    straight = small_model()
    whole = fit(straight, batches(), batches(1), config, verbose=0)

    fit(small_model(), batches(), batches(1), TrainingConfig(epochs=2, patience=None), tmp_path / "c", verbose=0)
    resumed_model = small_model(learning_rate=0.05)
    resumed = fit(resumed_model, batches(), batches(1), config, tmp_path / "c", verbose=0)
    np.testing.assert_allclose(resumed.history["loss"], whole.history["loss"], rtol=1e-5)
    assert resumed.best_epoch == whole.best_epoch
    for one, other in zip(resumed_model.get_weights(), straight.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_resumed_training_keeps_the_best_epoch_and_the_patience_of_before(tmp_path):
    config = TrainingConfig(epochs=2, patience=3, monitor="val_score", mode="max")
    first = small_model()
    fit(first, batches(), batches(1), config, tmp_path / "c", scripted_score([0.9, 0.1]), verbose=0)
    best = first.get_weights()
    second = small_model()
    longer = TrainingConfig(epochs=20, patience=3, monitor="val_score", mode="max")
    record = fit(second, batches(), batches(1), longer, tmp_path / "c", scripted_score([0.2, 0.3, 0.4]), verbose=0)
    assert (record.epochs, record.best_epoch, record.best_value) == (4, 1, 0.9)
    assert record.history["val_score"] == [0.9, 0.1, 0.2, 0.3]
    assert all(np.array_equal(a, b) for a, b in zip(second.get_weights(), best, strict=True))


def test_a_finished_training_is_not_trained_again(tmp_path):
    config = TrainingConfig(epochs=2, patience=None)
    fit(small_model(), batches(), batches(1), config, tmp_path, verbose=0)
    record = fit(small_model(), batches(), batches(1), config, tmp_path, verbose=0)
    assert record.epochs == 2
    assert len(record.history["loss"]) == 2


def test_one_checkpoint_is_left_and_an_unfinished_one_is_no_checkpoint(tmp_path):
    (tmp_path / ".epoch-00099.0a1b2c").mkdir()
    fit(small_model(), batches(), batches(1), TrainingConfig(epochs=3), tmp_path, verbose=0)
    assert [path.name for path in tmp_path.glob("epoch-*")] == ["epoch-00003"]
    kept = tmp_path / "epoch-00003"
    assert {path.name for path in kept.iterdir()} == {
        "best.weights.h5", "history.csv", "last.weights.h5", "record.json",
    }  # fmt: skip
    assert json.loads((kept / "record.json").read_text())["epochs"] == 3


@pytest.mark.parametrize(("seconds", "written"), [(0, [1, 2, 3]), (1e9, [3])])
def test_short_epochs_share_a_checkpoint(tmp_path, monkeypatch, seconds, written):
    epochs, write = [], trainer._Keeper._write_checkpoint
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", seconds)
    monkeypatch.setattr(
        trainer._Keeper, "_write_checkpoint", lambda self, to: (epochs.append(self.record.epochs), write(self, to))
    )
    config = TrainingConfig(epochs=20, patience=2, monitor="val_score", mode="max")
    model = small_model()
    fit(model, batches(), batches(1), config, tmp_path, scripted_score([0.9, 0.1, 0.2]), verbose=0)
    assert epochs == written  # the patience ended it after the third
    other = small_model()
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "epoch-00003" / "best.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(other.get_weights(), model.get_weights(), strict=True))


@pytest.mark.parametrize("size", [0, 5000], ids=["nothing is written", "a part of the weights"])
def test_a_full_disk_leaves_the_last_whole_checkpoint(tmp_path, capsys, size):
    config = TrainingConfig(epochs=1, patience=None)
    fit(small_model(), batches(), batches(1), config, tmp_path, verbose=0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    longer = TrainingConfig(epochs=3, patience=None)
    with file_size_limit(size), pytest.raises(OSError, match="File too large"):
        fit(small_model(), batches(), batches(1), longer, tmp_path, progress=True)
    assert capsys.readouterr().err.endswith("\n")  # the next message has a line of its own
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    resumed = fit(small_model(), batches(), batches(1), longer, tmp_path, verbose=0)
    whole = fit(small_model(), batches(), batches(1), longer, verbose=0)
    np.testing.assert_allclose(resumed.history["loss"], whole.history["loss"], rtol=1e-5)


def test_batches_larger_than_the_memory_are_refused(monkeypatch):
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.Conv1D(64, 3)])
    require_memory(model, 32, 1000)
    require_memory(model, 32, None)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    frames = memory // (32 * 64 * 4)
    require_memory(model, 32, frames)
    message = (
        rf"fit into {memory / 1e9:.0f} GB of memory, got {2 * memory / 1e9:.0f} GB in one layer: lower `batch_size`"
    )
    with pytest.raises(UserError, match=message):
        require_memory(model, 64, frames + 2)


@pytest.mark.parametrize("name", ["record.json", "best.weights.h5", "last.weights.h5"])
def test_a_damaged_checkpoint_is_said_in_one_line(tmp_path, name):
    fit(small_model(), batches(), batches(1), TrainingConfig(epochs=1), tmp_path, verbose=0)
    path = tmp_path / "epoch-00001" / name
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"a damaged one in .*epoch-00001: start with `overwrite=True`"):
        fit(small_model(), batches(), batches(1), TrainingConfig(epochs=2), tmp_path, verbose=0)


def test_history_has_a_row_an_epoch():
    record = fit(small_model(), batches(), batches(1), TrainingConfig(epochs=3), verbose=0)
    rows = list(csv.DictReader(history_csv(record).splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["val_loss"]) for row in rows] == record.history["val_loss"]
    assert record.seconds_per_epoch > 0


def test_a_loss_that_is_not_a_number_stops_with_advice():
    broken = batches().map(lambda x, y: (x * float("nan"), y))
    with pytest.raises(UserError, match="lower `learning_rate`"):
        fit(small_model(), broken, config=TrainingConfig(epochs=3), verbose=0)


def test_a_validation_loss_that_is_not_a_number_stops_too():
    broken = batches(1).map(lambda x, y: (x * float("nan"), y))
    with pytest.raises(UserError, match="val_loss became nan in epoch 1"):
        fit(small_model(), batches(), broken, TrainingConfig(epochs=3), verbose=0)


def test_an_unknown_monitor_is_refused():
    with pytest.raises(ValueError, match="val_lost"):
        fit(small_model(), batches(), batches(1), TrainingConfig(epochs=1, monitor="val_lost"), verbose=0)


def test_tensorboard_logs_are_written(tmp_path):
    fit(small_model(), batches(), batches(1), TrainingConfig(epochs=1), tensorboard=tmp_path, verbose=0)
    assert {path.parent.name for path in tmp_path.rglob("events.*")} == {"train", "validation"}


def test_overfit_batches_takes_only_the_first_batches():
    learnable = batches()
    assert overfit_batches(small_model(), learnable, batches=1)[-1] < 0.01


def test_overfit_batches_fails_for_a_network_that_does_not_learn():
    values = overfit_batches(small_model(learning_rate=0.0), batches(), epochs=4)
    with pytest.raises(UserError, match=r"cannot overfit 3 batches: the loss went from .* in 4 epochs"):
        require_overfit(values)


def test_overfit_batches_goes_by_the_measure_that_it_is_told():
    values = overfit_batches(small_model(), batches(), measure="mae", target=0.2)
    assert values[-1] < 0.2 < values[-2]
    require_overfit(values, measure="mae", target=0.2)
    with pytest.raises(UserError, match=r"the mae went from .*, expected under 0.001"):
        require_overfit(values, measure="mae", target=0.001)


STAGE = TrainingConfig(epochs=2, patience=None, monitor="val_score", mode="max")
WHOLE = TrainingConfig(epochs=20, patience=3, monitor="val_score", mode="max")


def test_a_second_stage_goes_on_from_the_first_ones_record_and_best_weights(tmp_path):
    model = small_model()
    first = fit(model, batches(), batches(1), STAGE, tmp_path / "one", scripted_score([0.9, 0.1]), verbose=0)
    best = model.get_weights()
    score = scripted_score([0.3, 0.4, 0.5, 0.6])
    record = fit(model, batches(), batches(1), WHOLE, tmp_path / "two", score, verbose=0, after=first)
    assert (record.epochs, record.best_epoch, record.best_value, record.finished) == (5, 1, 0.9, True)
    assert record.history["val_score"] == [0.9, 0.1, 0.3, 0.4, 0.5]  # three epochs of its own without a better one
    assert first.epochs == 2
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), best, strict=True))


def test_a_resumed_second_stage_still_knows_the_best_weights_of_the_first(tmp_path):
    model = small_model()
    first = fit(model, batches(), batches(1), STAGE, tmp_path / "one", scripted_score([0.9, 0.1]), verbose=0)
    best = model.get_weights()
    shorter = TrainingConfig(epochs=3, patience=3, monitor="val_score", mode="max")
    fit(model, batches(), batches(1), shorter, tmp_path / "two", scripted_score([0.3]), verbose=0, after=first)

    resumed = small_model()
    again = fit(resumed, batches(), batches(1), STAGE, tmp_path / "one", scripted_score([]), verbose=0)
    score = scripted_score([0.2, 0.1])
    record = fit(resumed, batches(), batches(1), WHOLE, tmp_path / "two", score, verbose=0, after=again)
    assert (record.epochs, record.best_epoch, record.history["val_score"]) == (5, 1, [0.9, 0.1, 0.3, 0.2, 0.1])
    assert all(np.array_equal(a, b) for a, b in zip(resumed.get_weights(), best, strict=True))


def test_one_iterator_for_all_epochs_gives_the_orders_of_one_an_epoch(monkeypatch):
    def shuffled() -> tf.data.Dataset:
        return batches().unbatch().shuffle(16, seed=0).batch(6).apply(tf.data.experimental.assert_cardinality(3))

    plain, dataset = small_model(), shuffled()
    for _ in range(3):
        for x, y in dataset:
            plain.train_on_batch(x, y)

    started, start = [], tf.data.Dataset.__iter__
    monkeypatch.setattr(tf.data.Dataset, "__iter__", lambda dataset: started.append(1) or start(dataset))
    model, dataset = small_model(), shuffled()
    fit(model, dataset, config=TrainingConfig(epochs=3, patience=None), verbose=0)
    assert len(started) == 1
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_progress_is_one_line_of_epochs_and_the_monitored_value(capsys):
    x = np.zeros((4, 2), "float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(2)
    fit(model, data, data, TrainingConfig(epochs=3), progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "3/3" in printed.err
    assert "val_loss=0" in printed.err

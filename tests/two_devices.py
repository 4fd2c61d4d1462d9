"""A process with two logical CPU devices, which a process can make only before it has used TensorFlow.

    python -m tests.two_devices train_genre ...

runs a script with its arguments, then trains tiny networks on one device and on both, and prints both as JSON.
"""

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtmusic.constants import PAD_VALUE
from mtmusic.evaluation import plots
from mtmusic.models.backbones import cnn_backbone, lstm_backbone, statistics_backbone
from mtmusic.models.cpu import lstm
from mtmusic.models.heads import affect_regressor, genre_classifier, multitask_regressor
from mtmusic.models.musicnn import musicnn_backbone
from mtmusic.models.precision import layers_compute_in
from mtmusic.models.trainer import TrainingConfig, fit, overfit_batches
from mtmusic.training.run_folder import seed_everything
from tests.conftest import save_blank

BOTH = ("CPU:0", "CPU:1")
TASKS = ("valence", "energy")
EPOCHS = TrainingConfig(epochs=4, patience=None)
TWO_BLOCKS = ((4, 3), (6, 3))
SMALL = 1e-4
"""Learning rate of the CNNs: at a larger one Adam makes steps of their gradients' rounding errors within an epoch."""


def config_of(case: str) -> TrainingConfig:
    """Two epochs of musicnn, whose patches have ten times the frames of the other clips. It has fewer clips, too."""
    return replace(EPOCHS, epochs=2) if case == "musicnn" else EPOCHS


def genre(backbone: keras.Model, learning_rate: float = 1e-3) -> keras.Model:
    return genre_classifier(backbone, "abc", learning_rate)


def affect(backbone: keras.Model, **settings: Any) -> keras.Model:
    variances = {"valence": 0.05, "energy": 0.1}
    return multitask_regressor(backbone, TASKS, variances=variances, **settings)


def moments() -> keras.Model:
    return statistics_backbone("chroma", centres=0, parts=["moments"])


def in_bfloat16(build: Callable[[], keras.Model]) -> keras.Model:
    with layers_compute_in("bfloat16"):
        return build()


CASES: dict[str, tuple[int, Callable[[], keras.Model]]] = {
    "lstm": (0, lambda: genre(lstm_backbone("chroma", units=6))),
    "flat cnn": (0, lambda: genre(cnn_backbone("chroma", frames=18, blocks=TWO_BLOCKS), SMALL)),
    "masked cnn": (0, lambda: genre(cnn_backbone("chroma", pooling="masked", blocks=TWO_BLOCKS), SMALL / 5)),
    "bfloat16 cnn": (0, lambda: in_bfloat16(lambda: genre(cnn_backbone("chroma", frames=18, blocks=((4, 3),)), SMALL))),
    "dense block": (0, lambda: genre(cnn_backbone("chroma", frames=18, blocks=((4, 3),), dense=5), SMALL)),
    "musicnn": (0, lambda: genre(musicnn_backbone(features="mean"), SMALL)),
    "one task": (1, lambda: affect_regressor(lstm_backbone("chroma", units=6), "valence", error="huber")),
    "multitask": (2, lambda: affect(moments())),
    "learned weights": (2, lambda: affect(moments(), learned_weights=True)),
}
"""The number of tasks, 0 for genre, and the model."""


def batches(tasks: int, clips: int, shuffle: bool = False, bins: int = 12) -> tf.data.Dataset:
    """Clips of 12 to 18 frames in batches of four; the last holds one clip. Half of the second half's labels miss."""
    rng = np.random.default_rng(clips)
    x = rng.uniform(0, 1, (clips, 18, bins)).astype("float32")
    for number in range(clips):
        x[number, 18 - number % 7 :] = PAD_VALUE
    y = rng.uniform(0, 1, (clips, tasks)).astype("float32") if tasks else np.arange(clips) % 3
    if tasks:
        y[clips // 2 :][rng.uniform(size=y[clips // 2 :].shape) < 0.5] = np.nan
    ds = tf.data.Dataset.from_tensor_slices((x, y))
    return (ds.shuffle(clips, seed=0) if shuffle else ds).batch(4)


def trained(case: str, devices: tuple[str, ...]) -> tuple[keras.Model, dict[str, Any]]:
    tasks, build = CASES[case]
    keras.utils.clear_session()  # layers of one name each time
    seed_everything(0)
    model = build()
    score = None if not tasks else lambda true, predicted: {"mean": float(predicted.mean())}
    clips = 5 if case == "musicnn" else 13
    train = batches(tasks, clips, shuffle=True, bins=model.input_shape[2])
    held = batches(tasks, 5, bins=model.input_shape[2])
    record = fit(model, train, held, config_of(case), score=score, verbose=0, devices=devices)
    return model, record.history


def apart(model: keras.Model, other: keras.Model) -> list[float]:
    """The largest differences of the weights and of the optimizers' state, each variable over its largest value."""
    states = [[*one.get_weights(), *(np.array(value) for value in one.optimizer.variables)] for one in (model, other)]
    return [float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6)) for a, b in zip(*states, strict=True)]


def curves() -> dict[str, Any]:
    said: dict[str, Any] = {}
    for case in CASES:
        (model, one), (other, two) = trained(case, ()), trained(case, BOTH)
        said[case] = {"one": one, "two": two, "same config": model.get_config() == other.get_config()}
        if case == "lstm":
            said["apart"] = apart(model, other)
    said["resumed"] = resumed()
    said["overfit"] = [
        overfit_batches(genre(lstm_backbone("chroma", units=6)), batches(0, 13), epochs=3, devices=devices)
        for devices in ((), BOTH)
        if seed_everything(0) is None
    ]
    return said


def resumed() -> dict[str, list[float]]:
    """Two epochs on both devices, which one device goes on with."""
    with tempfile.TemporaryDirectory() as folder:
        for epochs, devices in ((2, BOTH), (4, ())):
            seed_everything(0)
            config, checkpoints = TrainingConfig(epochs, None), Path(folder) / "checkpoints"
            model = CASES["lstm"][1]()
            record = fit(model, batches(0, 13), batches(0, 5), config, checkpoints, verbose=0, devices=devices)
        seed_everything(0)
        straight = fit(CASES["lstm"][1](), batches(0, 13), batches(0, 5), EPOCHS, verbose=0)
    return {"one": straight.history["val_loss"], "two": record.history["val_loss"]}


def main() -> int:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    plots.save_figure = save_blank
    lstm.UNROLLED = 1  # a smaller graph of the same steps
    code = importlib.import_module(sys.argv[1]).main(sys.argv[2:])
    print(json.dumps(curves()))
    return code


if __name__ == "__main__":
    sys.exit(main())

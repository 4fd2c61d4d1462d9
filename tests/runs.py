"""Tiny runs with untrained networks, to export and to predict with."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtmusic.models.backbones import lstm_backbone
from mtmusic.models.heads import genre_classifier, multitask_regressor
from mtmusic.models.musicnn import musicnn_backbone, tagger
from mtmusic.models.saving import save
from mtmusic.training.pretrained import TAG_GROUPS
from mtmusic.training.recipes import Recipe, architecture

CLASSES = ("Blues", "Jazz", "Rock")


def tiny_card(names: tuple[str, ...] = CLASSES, task: str = "genre", **more: Any) -> dict[str, Any]:
    """names: the classes, or the targets of another task."""
    said = {"feature": "mel", "beat": True, "frames": None, "clip_frames": 20, "data": {"demo": False}, "task": task}
    if task == "genre":
        return said | {"classes": list(names)} | more
    return said | {"targets": list(names), "label_means": dict.fromkeys(names, 0.5)} | more


def tiny_examples(model: keras.Model, frames: int | None = None) -> np.ndarray:
    """(3, frames, bins): what lies between mel's floor and its maximum."""
    shape = (3, frames or model.input_shape[1] or 20, model.input_shape[2])
    return np.random.default_rng(0).uniform(-80, 0, shape).astype("float32")


def write_tiny_run(
    folder: Path, card: dict[str, Any], backbone: keras.Model | None = None, seed: int = 0, sharpness: float = 1.0
) -> keras.Model:
    """Saves a model that fits the card, by default on an LSTM of 4 units. sharpness: above 1 answers differ more."""
    keras.utils.set_random_seed(seed)
    backbone = backbone or lstm_backbone(card["feature"], units=4)
    if card["task"] == "genre":
        model = genre_classifier(backbone, card["classes"])
    else:
        model = multitask_regressor(backbone, card["targets"])
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(layer.kernel * sharpness)
    save(model, folder, card, tiny_examples(model, card["frames"]))
    return model


def write_random_trunk(folder: Path, seed: int = 0) -> keras.Model:
    """A run as `training.pretrained` writes it, named musicnn, of random weights; its LICENSE is one line."""
    keras.utils.set_random_seed(seed)
    model = tagger(musicnn_backbone(features="patches"), list(TAG_GROUPS))
    randomise(model.get_layer("backbone"), seed)
    card = {"task": "tags", "tags": list(TAG_GROUPS), "tag_groups": TAG_GROUPS, "feature": "logmel", "beat": False}
    card |= {"frames": None, "clip_frames": 1875, "clip_seconds": None, "sample_rate": 16_000, "license": "ISC"}
    card |= {"backbone": "musicnn", "architecture": architecture(Recipe("musicnn", "logmel", features="patches"))}
    save(model, folder, card, logmel_examples())
    (folder / "LICENSE").write_text("random numbers, free for all\n")
    return model


def logmel_examples(frames: int = 400) -> np.ndarray:
    """(3, frames, 96) of what logmel spans."""
    return np.random.default_rng(0).uniform(0, 4, (3, frames, 96)).astype("float32")


def randomise(backbone: keras.Model, seed: int = 0) -> None:
    """Gives normalisations gamma of either sign, beta, mean and variance, as after a training, and biases numbers."""
    rng = np.random.default_rng(seed)
    for layer in backbone.layers:
        kernel, *others = layer.get_weights() or [None]
        if layer.name.endswith("_norm"):
            ends = [(-0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 1.5)]
            layer.set_weights(
                [rng.uniform(*pair, weight.shape) for pair, weight in zip(ends, layer.weights, strict=True)]
            )
        elif others:
            layer.set_weights([rng.normal(0, 0.05, kernel.shape), rng.normal(0, 0.1, others[0].shape)])

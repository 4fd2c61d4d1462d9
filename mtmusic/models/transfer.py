"""Transfer learning: a trained backbone under a new head, frozen as far as wanted.

Freeze before the head compiles the model: after `fit` it would be silently ignored.
"""

import re
from pathlib import Path

import keras
import numpy as np

from mtmusic.cards import locate
from mtmusic.errors import UserError
from mtmusic.models.musicnn import FEATURES, kind_of, musicnn_backbone
from mtmusic.models.saving import load

UNFROZEN_RATE = 0.1
"""A trained backbone is changed slowly, or the fresh head's first gradients would undo it."""


def load_backbone(path: Path | str, features: str | None = None) -> keras.Model:
    """The backbone, weights and all, of a model that this project saved: (batch, frames, bins) -> (batch, features).

    path: a run's folder, its model.keras or its name; "musicnn" is the pretrained trunk. features: of a musicnn
    backbone, "penultimate" (200) or "mean" (753); by default the model's own, of the trunk "penultimate".
    Raises UserError where there is no such model, it has no backbone, or not these features.
    """
    model, _ = load(path)
    try:
        backbone = model.get_layer("backbone")
    except ValueError as error:
        raise UserError(f'Expected a model with a part named "backbone", got none in {locate(path)[1]}') from error
    kind = kind_of(backbone)
    if features is not None and (kind is None or features not in FEATURES):
        raise UserError(f"Expected `features` {' or '.join(FEATURES)} of a musicnn backbone, got {features} of {path}")
    if kind is None or (features or kind["features"]) == kind["features"] != "patches":
        return backbone
    other = musicnn_backbone(kind["feature"], features or "penultimate")
    set_backbone_weights(other, backbone, path)
    return other


def set_backbone_weights(
    backbone: keras.Model, source: keras.Model, path: Path | str, which: str | int = "all"
) -> list[str]:
    """Puts the weights of `source`, of the model in `path`, into a backbone that may be built for other frames.

    One of musicnn may also be built for another feature, and end earlier.
    which: "all", or the first N blocks, with BatchNorm's statistics; the others stay fresh. Returns the names of the
    layers that were given weights. Raises UserError where a weight's shape depends on the frames and cannot be kept.
    """
    kept = _weights_without_bias(source)
    weights = {layer.name: layer.weights for layer in backbone.layers if layer.weights}
    if kind_of(backbone) and kind_of(source):
        kept = {name: each for name, each in kept.items() if name in weights}
    elif backbone.input_shape[2] != source.input_shape[2]:
        kept = {}
    if {name: len(each) for name, each in weights.items()} != {name: len(each) for name, each in kept.items()}:
        raise UserError(f"Expected a card that fits its model, got one of another backbone beside {path}")
    for name, fresh in weights.items():
        for weight, value in zip(fresh, kept[name], strict=True):
            if tuple(weight.shape) != value.shape:
                raise UserError(
                    f"Expected the frames of {path}, {source.input_shape[1]}, got {backbone.input_shape[1]}: "
                    f"{weight.path} cannot be kept; leave `frames` out"
                )
    layers = backbone.layers if which == "all" else first_blocks(backbone, which, "transfer")
    loaded = [layer for layer in layers if layer.weights]
    for layer in loaded:
        layer.set_weights(kept[layer.name])
    return [layer.name for layer in loaded]


def _weights_without_bias(source: keras.Model) -> dict[str, list[np.ndarray]]:
    """Of each layer that has weights; of a convolution in front of a normalisation no bias.

    Older models have one there. The normalisation's mean takes it up, so that the answers stay.
    """
    kept = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    for name, weights in kept.items():
        norm = name.replace("_conv", "_norm")
        if name.endswith("_conv") and len(weights) == 2 and norm in kept:
            gamma, beta, mean, variance = kept[norm]
            kept[norm] = [gamma, beta, mean - weights.pop(), variance]
    return kept


def freeze(backbone: keras.Model, which: str | int) -> list[str]:
    """Freezes "all" of the backbone, "none", or its first N blocks; returns the frozen layers' names.

    What is frozen keeps its weights, and BatchNorm its statistics. The layers of block N are those named blockN_*.
    Raises UserError for other values, and for N where the backbone has fewer blocks, or none.
    """
    frozen = first_blocks(backbone, which, "freeze")
    backbone.trainable = True  # where it was frozen as a whole, its layers would not count
    for layer in backbone.layers:
        layer.trainable = layer not in frozen
    return [layer.name for layer in frozen]


def first_blocks(backbone: keras.Model, which: str | int, argument: str) -> list[keras.layers.Layer]:
    """The layers of "all" blocks, of "none", or of the first N. Raises UserError for others, of this argument."""
    blocks = _blocks(backbone)
    if which == "all":
        within = [layer for block in blocks for layer in block]
        return within + [layer for layer in backbone.layers if layer.weights and layer not in within]
    count = 0 if which == "none" else which
    if not str(count).isdecimal() or int(count) > len(blocks):
        named = "the backbone's blocks" if blocks else "the backbone has no layers named block1_..."
        known = f'"all", "none" or 0 to {len(blocks)} ({named})'
        raise UserError(f"Expected `{argument}` {known}, got {which}")
    return [layer for block in blocks[: int(count)] for layer in block]


def unfreeze(model: keras.Model) -> None:
    """Trains everything from here on, at a tenth of the rate, with a new optimizer; loss and metrics stay."""
    freeze(model.get_layer("backbone"), "none")
    config = model.get_compile_config()
    config["optimizer"]["config"]["learning_rate"] *= UNFROZEN_RATE
    model.compile_from_config(config)


def describe(model: keras.Model, source: str, loaded: list[str], frozen: list[str]) -> str:
    """What was loaded, what is fresh, what is frozen, for the terminal. loaded, frozen: layers of the backbone."""
    backbone = model.get_layer("backbone")
    fresh = [layer.name for layer in backbone.layers if layer.weights and layer.name not in loaded]
    fresh += [layer.name for layer in model.layers if layer.weights and layer is not backbone]
    parameters = sum(backbone.get_layer(name).count_params() for name in loaded)
    whole = "" if parameters == backbone.count_params() else f" of its {backbone.count_params():,}"
    known = [layer.name for layer in (*backbone.layers, *model.layers) if hasattr(layer, "adapted")]
    trainable = sum(int(weight.shape.num_elements()) for weight in model.trainable_variables)
    return "\n".join(
        [
            f"Loaded:    backbone of {source}, {parameters:,}{whole} parameters",
            f"Fresh:     {', '.join(fresh)}",
            f"Frozen:    {', '.join(frozen) or 'nothing'}",
            *([f"Not trained, but set by clips: {', '.join(known)}"] if known else []),
            f"Trainable: {trainable:,} of {model.count_params():,} parameters",
        ]
    )


def _blocks(backbone: keras.Model) -> list[list[keras.layers.Layer]]:
    """The layers of each block, by their names: block1_conv, block1_norm, ..., block2_conv, ..."""
    blocks: dict[int, list[keras.layers.Layer]] = {}
    for layer in backbone.layers:
        if match := re.match(r"block(\d+)_", layer.name):
            blocks.setdefault(int(match[1]), []).append(layer)
    return [blocks[number] for number in sorted(blocks)]

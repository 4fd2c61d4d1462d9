"""Transfer learning: a trained backbone with a new head. The backbone, or a part of it, may be frozen.

Freeze a backbone before a head compiles the model. After `fit`, Keras would ignore it without a message.
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
"""Factor of the learning rate after unfreezing. First gradients of a new head would change the backbone too much."""


def load_backbone(path: Path | str, features: str | None = None) -> keras.Model:
    """Loads the backbone of a saved model with its weights, for transfer as in the lab's step 9.

    Args:
        path: A run's folder, its model.keras or its name. "musicnn" is the pretrained trunk.
        features: Features of a musicnn backbone: "penultimate" (200) or "mean" (753). By default those of the model, or
            "penultimate" for the trunk.

    Returns:
        The `keras.Model` named "backbone" from `(batch, frames, bins)` to `(batch, features)`.

    Raises:
        UserError: There is no such model, it has no backbone, or the backbone does not have these features.

    Examples:
        >>> backbone = mtmusic.load_backbone("saved_models/genre_lstm")
        >>> frozen = mtmusic.freeze(backbone, "all")
        >>> model = mtmusic.affect_regressor(backbone, "valence")
        >>> [weight.path for weight in model.trainable_weights]
        ['valence/kernel', 'valence/bias']
    """
    model, _ = load(path)
    try:
        backbone = model.get_layer("backbone")
    except ValueError as error:
        raise UserError(f'Expected a model with a part named "backbone", got none in {locate(path)[1]}') from error
    kind = kind_of(backbone)
    if features is not None and (kind is None or features not in FEATURES):
        raise UserError(f"Expected `features` {' or '.join(FEATURES)} of a musicnn backbone, got {features} for {path}")
    if kind is None or (features or kind["features"]) == kind["features"] != "patches":
        return backbone
    other = musicnn_backbone(kind["feature"], features or "penultimate")
    set_backbone_weights(other, backbone, path)
    return other


def set_backbone_weights(
    backbone: keras.Model, source: keras.Model, path: Path | str, which: str | int = "all"
) -> list[str]:
    """Copies the weights of a trained backbone into another one, which may be built for another number of frames.

    A musicnn backbone may also be built for another feature, and may end earlier.

    Args:
        backbone: The backbone to change.
        source: The trained backbone.
        path: The model of `source`, for messages.
        which: "all", or the number of the first blocks to copy, with BatchNorm's statistics. The others are not
            changed.

    Returns:
        Names of the layers that were changed.

    Raises:
        UserError: The backbones differ, or the shape of a weight depends on the number of frames.

    Examples:
        >>> from mtmusic.models.transfer import set_backbone_weights
        >>> source = mtmusic.load_backbone("saved_models/genre_lstm")
        >>> backbone = mtmusic.lstm_backbone("mel", units=4)
        >>> set_backbone_weights(backbone, source, "saved_models/genre_lstm")
        ['block1_lstm']
    """
    kept = _weights_without_bias(source)
    weights = {layer.name: layer.weights for layer in backbone.layers if layer.weights}
    if kind_of(backbone) and kind_of(source):
        kept = {name: each for name, each in kept.items() if name in weights}
    elif backbone.input_shape[2] != source.input_shape[2]:
        kept = {}
    if {name: len(each) for name, each in weights.items()} != {name: len(each) for name, each in kept.items()}:
        raise UserError(f"Expected a card that fits its model, got the card of another backbone next to {path}")
    for name, fresh in weights.items():
        for weight, value in zip(fresh, kept[name], strict=True):
            if tuple(weight.shape) != value.shape:
                raise UserError(
                    f"Expected the frames of {path}, {source.input_shape[1]}, got {backbone.input_shape[1]}: "
                    f"the shape of {weight.path} depends on it; leave `frames` out"
                )
    layers = backbone.layers if which == "all" else first_blocks(backbone, which, "transfer")
    loaded = [layer for layer in layers if layer.weights]
    for layer in loaded:
        layer.set_weights(kept[layer.name])
    return [layer.name for layer in loaded]


def _weights_without_bias(source: keras.Model) -> dict[str, list[np.ndarray]]:
    """Returns the weights of each layer, without the bias of a convolution before a normalisation.

    Older models have that bias. It is subtracted from the mean of the normalisation, so that the answers do not change.
    """
    kept = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    for name, weights in kept.items():
        norm = name.replace("_conv", "_norm")
        if name.endswith("_conv") and len(weights) == 2 and norm in kept:
            gamma, beta, mean, variance = kept[norm]
            kept[norm] = [gamma, beta, mean - weights.pop(), variance]
    return kept


def freeze(backbone: keras.Model, which: str | int) -> list[str]:
    """Freezes layers of a backbone, before it gets a head.

    Frozen layers keep their weights, and BatchNorm keeps its statistics. The layers of block N are those named
    `blockN_*`.

    Args:
        backbone: The backbone. It is changed.
        which: "all", "none", or the number of the first blocks to freeze.

    Returns:
        Names of the frozen layers.

    Raises:
        UserError: `which` is none of these, or larger than the backbone's number of blocks.

    Examples:
        >>> backbone = mtmusic.cnn_backbone("mel", frames=16)
        >>> mtmusic.freeze(backbone, 1)
        ['block1_conv', 'block1_norm', 'block1_relu', 'block1_pool']
    """
    frozen = first_blocks(backbone, which, "freeze")
    backbone.trainable = True  # else the layers of a wholly frozen backbone have no effect
    for layer in backbone.layers:
        layer.trainable = layer not in frozen
    return [layer.name for layer in frozen]


def first_blocks(backbone: keras.Model, which: str | int, argument: str) -> list[keras.layers.Layer]:
    """Returns the layers of a backbone's first blocks.

    Args:
        backbone: The backbone.
        which: "all", "none", or the number of the first blocks.
        argument: Name of the argument that `which` was given as, for the message.

    Returns:
        These layers.

    Raises:
        UserError: `which` is none of these, or larger than the backbone's number of blocks.
    """
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
    """Makes all layers of a model trainable, at a tenth of the learning rate and with a new optimizer.

    Loss and metrics stay. The learning rate is small, because the first gradients of a new head would change a trained
    backbone too much.

    Args:
        model: A compiled model with a layer "backbone". It is changed.

    Examples:
        >>> from mtmusic.models.transfer import unfreeze
        >>> backbone = mtmusic.lstm_backbone(units=8)
        >>> frozen = mtmusic.freeze(backbone, "all")
        >>> model = mtmusic.genre_classifier(backbone, ["Jazz", "Rock"], learning_rate=0.001)
        >>> unfreeze(model)
        >>> round(float(model.optimizer.learning_rate), 6)
        0.0001
        >>> len(model.trainable_weights)  # three of the LSTM, two of the head
        5
    """
    freeze(model.get_layer("backbone"), "none")
    config = model.get_compile_config()
    config["optimizer"]["config"]["learning_rate"] *= UNFROZEN_RATE
    model.compile_from_config(config)


def describe(model: keras.Model, source: str, loaded: list[str], frozen: list[str]) -> str:
    """Describes a transfer: what was loaded, what is new, and what is frozen.

    Args:
        model: A model with a layer "backbone".
        source: The model that the backbone was loaded from.
        loaded: Names of the backbone's layers that were loaded.
        frozen: Names of the backbone's layers that are frozen.

    Returns:
        The description in a few lines.

    Examples:
        >>> from mtmusic.models.transfer import describe
        >>> backbone = mtmusic.load_backbone("saved_models/genre_lstm")
        >>> frozen = mtmusic.freeze(backbone, "all")
        >>> model = mtmusic.affect_regressor(backbone, "valence")
        >>> print(describe(model, "genre_lstm", loaded=["block1_lstm"], frozen=frozen))
        Loaded:    backbone of genre_lstm, 2,128 parameters
        Fresh:     valence
        Frozen:    block1_lstm
        Trainable: 5 of 2,133 parameters
    """
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
            *([f"Set from the train clips, not trained: {', '.join(known)}"] if known else []),
            f"Trainable: {trainable:,} of {model.count_params():,} parameters",
        ]
    )


def _blocks(backbone: keras.Model) -> list[list[keras.layers.Layer]]:
    """Returns the layers of each block, by their names: block1_conv, block1_norm, ..., block2_conv, ..."""
    blocks: dict[int, list[keras.layers.Layer]] = {}
    for layer in backbone.layers:
        if match := re.match(r"block(\d+)_", layer.name):
            blocks.setdefault(int(match[1]), []).append(layer)
    return [blocks[number] for number in sorted(blocks)]

"""The networks below the heads: functional models named "backbone".

They take (batch, frames, bins) in the array's own units, absent frames filled with PAD_VALUE, and give
(batch, features). The layers of block N are named blockN_*, which is what `transfer.freeze` counts.
"""

from typing import Any

import keras
from keras import layers

from mtmusic.constants import FEATURE_BINS, MEL_BINS
from mtmusic.errors import UserError
from mtmusic.models.layers import (
    FrameMask,
    FusedBatchNormalization,
    MaskedAveragePooling,
    SpectrogramNormalization,
    StridedMask,
    ZeroAbsentFrames,
)

CNN_BLOCKS = ((128, 5), (64, 5), (32, 5), (8, 5))
"""Filters and kernel size of each block, as the lab's step 7 has them."""

NORM_MOMENTUM = 0.9
"""As the lab's PyTorch has it. Keras's 0.99 needs hundreds of steps, and an epoch of the lab's data has about 60."""

CNN_SHORTEST = 2 ** len(CNN_BLOCKS)
"""Frames that the four poolings leave one of."""


def lstm_backbone(
    feature: str = "mel", units: int = 128, layers_count: int = 1, bidirectional: bool = False, dropout: float = 0.0
) -> keras.Model:
    """The lab's step 5: the LSTM's state after each clip's last present frame.

    (batch, any number of frames, bins) -> (batch, units), or (batch, 2 * units) where bidirectional: each direction's
    state after the last frame that it reads. Clips need one present frame or more. dropout follows each layer.
    """
    spectrogram, x, mask = _normalised(feature, None)
    for number in range(1, layers_count + 1):
        layer = layers.LSTM(units, return_sequences=number < layers_count, name=f"block{number}_lstm")
        if bidirectional:
            layer = layers.Bidirectional(layer, name=f"block{number}_lstm")
        x = layer(x, mask=mask)
        if dropout:
            x = layers.Dropout(dropout, name=f"block{number}_dropout")(x)
    return keras.Model(spectrogram, x, name="backbone")


def cnn_backbone(feature: str = "mel", frames: int | None = 128, pooling: str = "flatten") -> keras.Model:
    """The lab's step 7: four blocks of Conv2D 5x5, BatchNorm, ReLU, MaxPool 2.

    pooling "flatten", the lab's: (batch, frames, bins) -> (batch, frames // 16 * (bins // 16) * 8), so 512 features
    for 128 frames of mel. pooling "masked": (batch, any number, bins) -> (batch, ceil(bins / 16) * 8), the mean over
    present frames; padding changes neither the answer nor BatchNorm's statistics, and `frames` is not used.
    Poolings stop halving the bins at one (chroma has 12). Raises UserError for fewer frames than 16 where flat.
    """
    if pooling not in ("flatten", "masked"):
        raise ValueError(f'Expected pooling "flatten" or "masked", got {pooling!r}')
    if pooling == "masked":
        return _masked_cnn(feature)
    if frames is None or frames < CNN_SHORTEST:
        raise UserError(f"Expected {CNN_SHORTEST} frames or more for the CNN's four poolings, got {frames} (--frames)")
    spectrogram, x, _ = _normalised(feature, frames)
    x = layers.Reshape((*x.shape[1:], 1), name="channel")(x)
    for number, (filters, kernel) in enumerate(CNN_BLOCKS, 1):
        block = f"block{number}"
        x = layers.Conv2D(filters, kernel, padding="same", name=f"{block}_conv")(x)
        x = FusedBatchNormalization(momentum=NORM_MOMENTUM, name=f"{block}_norm")(x)
        x = layers.ReLU(name=f"{block}_relu")(x)
        x = layers.MaxPooling2D((2, min(2, x.shape[2])), name=f"{block}_pool")(x)
    return keras.Model(spectrogram, layers.Flatten(name="flatten")(x), name="backbone")


def _masked_cnn(feature: str) -> keras.Model:
    """As the flat one, but every block sets absent frames to 0 and keeps them out of BatchNorm's statistics.

    'same' pooling reads the frames from the first on, so an odd last frame is pooled alone, whatever the padding.
    """
    spectrogram, x, mask = _normalised(feature, None)
    x = layers.Reshape((-1, x.shape[2], 1), name="channel")(x)
    for number, (filters, kernel) in enumerate(CNN_BLOCKS, 1):
        block = f"block{number}"
        present = StridedMask(2 ** (number - 1), name=f"{block}_mask")(mask)
        x = layers.Conv2D(filters, kernel, padding="same", name=f"{block}_conv")(x)
        x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{block}_norm")(x, mask=present)
        x = layers.ReLU(name=f"{block}_relu")(x)
        x = ZeroAbsentFrames(name=f"{block}_absent")(x, present)
        x = layers.MaxPooling2D((2, min(2, x.shape[2])), padding="same", name=f"{block}_pool")(x)
    present = StridedMask(2 ** len(CNN_BLOCKS), name="mask")(mask)
    return keras.Model(spectrogram, MaskedAveragePooling(name="pooling")(x, present), name="backbone")


def _normalised(feature: str, frames: int | None) -> tuple[Any, Any, Any]:
    """The input, the normalised spectrogram and the mask of present frames."""
    bins = FEATURE_BINS[feature]
    spectrogram = keras.Input((frames, bins), dtype="float32", name="spectrogram")
    mel_bins = 0 if feature == "chroma" else MEL_BINS
    mask = FrameMask(name="frame_mask")(spectrogram)
    return spectrogram, SpectrogramNormalization(mel_bins, name="normalization")(spectrogram), mask

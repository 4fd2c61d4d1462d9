"""Backbones: the networks below the heads, functional Keras models named "backbone".

A backbone takes spectrograms `(batch, frames, bins)` in the units of the arrays on disk, with absent frames filled with
PAD_VALUE, and returns features `(batch, features)`. It normalises its input itself. The layers of block N are named
`blockN_*`; `models.transfer.freeze` counts blocks by these names.
"""

from collections.abc import Sequence

import keras
from keras import layers

from mtmusic.constants import CHROMA_BINS, FEATURE_BINS, MEL_BINS
from mtmusic.errors import UserError
from mtmusic.models.clip_statistics import (
    MFCC,
    ChromaIntervals,
    DeltaStatistics,
    GaussianEmbedding,
    SpectralVariation,
    StatisticsPooling,
)
from mtmusic.models.cpu import layer_type
from mtmusic.models.cpu.convolution import WinogradConv2D
from mtmusic.models.cpu.lstm import LastStateLSTM
from mtmusic.models.cpu.normalization import FusedBatchNormalization
from mtmusic.models.layers import (
    FrameMask,
    MaskedAveragePooling,
    SpectrogramNormalization,
    StridedMask,
    Tensor,
    ZeroAbsentFrames,
)
from mtmusic.models.nystroem import KERNELS, NystroemFeatures

CNN_BLOCKS = ((128, 5), (64, 5), (32, 5), (8, 5))
"""Filters and kernel size of each block, as in the lab's step 7."""

NORM_MOMENTUM = 0.9
"""PyTorch's default, as in the lab. Keras's 0.99 needs hundreds of steps; an epoch of the lab's data has about 60."""

FRAMES = {True: 128, False: 1280}
AFFECT_FRAMES = {True: 96, False: 1280}
"""Default frames of a flat CNN, by whether the folder is beat-synchronised, as in the lab's report. There the dense
layer takes 512 features for genre, and 384 for affect, whose beat-synchronised clips are shorter."""

POOL = 2
"""Pool size of a block along frames and bins, as in the lab."""

CEPSTRUM = 20
"""Number of cepstral coefficients."""

MEL_PARTS, CHROMA_PARTS = ("embedding", "changes", "roughness"), ("moments", "intervals")
STATISTICS = MEL_PARTS + CHROMA_PARTS
"""Names of a clip's statistics: those of its mel spectrogram, and those of its chromagram."""

Blocks = Sequence[tuple[int, int]]
"""Filters and kernel size of each block of a CNN."""


def lstm_backbone(
    feature: str = "mel",
    units: int = 128,
    layers_count: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    stock: bool = False,
) -> keras.Model:
    """An LSTM that reads a clip frame by frame, as in the lab's step 5.

    The features are the LSTM's state after the clip's last present frame, so padding does not change them.

    Args:
        feature: "mel" (128 bins), "chroma" (12 bins) or "fused" (140 bins).
        units: Size of the LSTM's state.
        layers_count: Number of LSTM layers.
        bidirectional: Whether each layer reads the clip in both directions.
        dropout: Dropout rate after each layer.
        stock: Whether to use Keras's own layers where `models.cpu` has faster ones. Weights and results are the same.

    Returns:
        A `keras.Model` named "backbone" from `(batch, frames, bins)`, with any number of frames, to `(batch, units)`,
        or to `(batch, 2 * units)` if it is bidirectional. Each clip needs at least one present frame.

    Raises:
        UserError: The feature is unknown.

    Examples:
        >>> backbone = mtmusic.lstm_backbone("chroma", units=64)
        >>> backbone.input_shape, backbone.output_shape
        ((None, None, 12), (None, 64))
    """
    spectrogram, x, mask = _normalised(feature, None)
    for number in range(1, layers_count + 1):
        name, last = f"block{number}_lstm", number == layers_count
        kind = layer_type(LastStateLSTM, stock) if last and not bidirectional else layers.LSTM
        layer = kind(units, return_sequences=not last, name=name)
        if bidirectional:
            layer = layers.Bidirectional(layer, name=name)
        x = layer(x, mask=mask)
        if dropout:
            x = layers.Dropout(dropout, name=f"block{number}_dropout")(x)
    return keras.Model(spectrogram, x, name="backbone")


def cnn_backbone(
    feature: str = "mel",
    frames: int | None = 128,
    pooling: str = "flatten",
    blocks: Blocks = CNN_BLOCKS,
    pool: int = POOL,
    dense: int = 0,
    dropout: float = 0.0,
    stock: bool = False,
) -> keras.Model:
    """A CNN of four blocks, as in the lab's step 7, or of other blocks.

    A block is a convolution, BatchNorm, ReLU and max pooling. The convolutions have no bias, because BatchNorm would
    remove it. Once there is only one bin, as for the 12 bins of chroma, the bins are not pooled any further.

    Args:
        feature: "mel" (128 bins), "chroma" (12 bins) or "fused" (140 bins).
        frames: Frames of each clip. Only `pooling="flatten"` uses it.
        pooling: "flatten", as in the lab, flattens the last block's output, for clips of one length. "masked" averages
            it over present frames, for clips of any length. Then padding changes neither the features nor BatchNorm's
            statistics.
        blocks: Filters and kernel size of each block.
        pool: Pool size of each block along frames and bins.
        dense: Units of a dense block after the last pooling, 0 for none.
        dropout: Dropout rate before and after the dense block.
        stock: Whether to use Keras's own layers where `models.cpu` has faster ones. Weights and results are the same.

    Returns:
        A `keras.Model` named "backbone" from `(batch, frames, bins)` to `(batch, features)`. With the default blocks,
        "flatten" gives `frames // 16 * (bins // 16) * 8` features, so 512 for 128 frames of mel, and "masked" gives
        `ceil(bins / 16) * 8`. With a dense block there are `dense` features.

    Raises:
        UserError: `frames` is smaller than the product of the pool sizes (16 by default), `pool` is not 2 with
            `pooling="masked"`, or the feature is unknown.
        ValueError: `pooling` is neither "flatten" nor "masked".

    Examples:
        >>> mtmusic.cnn_backbone("mel", frames=128).output_shape
        (None, 512)
        >>> mtmusic.cnn_backbone("mel", pooling="masked").output_shape
        (None, 64)
    """
    masked, shortest = pooling == "masked", pool ** len(blocks)
    if pooling not in ("flatten", "masked"):
        raise ValueError(f'Expected pooling "flatten" or "masked", got {pooling!r}')
    if masked and pool != POOL:
        raise UserError(f'Expected `pooling="flatten"` for blocks that pool {pool} frames, got "masked"')
    if not masked and (frames is None or frames < shortest):
        raise UserError(
            f"Expected {shortest} frames or more for the CNN's {len(blocks)} poolings, got {frames} (`frames`)"
        )
    spectrogram, x, mask = _normalised(feature, None if masked else frames)
    x = layers.Reshape((-1, x.shape[2], 1), name="channel")(x)
    for number, (filters, kernel) in enumerate(blocks, 1):
        present = StridedMask(pool ** (number - 1), name=f"block{number}_mask")(mask) if masked else None
        x = _cnn_block(x, f"block{number}", filters, kernel, pool, present, stock)
    if masked:
        x = MaskedAveragePooling(name="pooling")(x, StridedMask(shortest, name="mask")(mask))
    else:
        x = layers.Flatten(name="flatten")(x)
    if dense:
        x = _dense_block(x, f"block{len(blocks) + 1}", dense, dropout, stock)
    return keras.Model(spectrogram, x, name="backbone")


def statistics_backbone(
    feature: str = "fused",
    centres: int = 1024,
    parts: Sequence[str] = STATISTICS,
    kernels: Sequence[str] = KERNELS,
    dropout: float = 0.0,
    stock: bool = False,
) -> keras.Model:
    """Computes statistics of a clip's present frames, and compares them with those of training clips by kernels.

    Padding does not change the features. Adapt the backbone to the training clips with `models.nystroem.adapt` before
    the head is trained.

    Args:
        feature: "mel" (128 bins), "chroma" (12 bins) or "fused" (140 bins).
        centres: Number of training clips that a clip is compared with, see `NystroemFeatures`. 0 gives the normalised
            statistics themselves.
        parts: The statistics. Mel has "embedding" (mean and covariance of the cepstrum), "changes" (of the cepstrum
            from frame to frame) and "roughness". Chroma has "moments" (mean and deviation) and "intervals". "fused" has
            all of them. Parts that the feature does not have are left out.
        kernels: The kernels of `NystroemFeatures`.
        dropout: Dropout rate after the features.
        stock: Whether to use Keras's own layers where `models.cpu` has faster ones. Weights and results are the same.

    Returns:
        A `keras.Model` named "backbone" from `(batch, frames, bins)`, with any number of frames, to `(batch, centres)`.

    Raises:
        ValueError: The feature has none of the parts.
        UserError: The feature is unknown.

    Examples:
        >>> from mtmusic.models.backbones import statistics_backbone
        >>> statistics_backbone("chroma", centres=16).output_shape
        (None, 16)
    """
    parts = [part for part in parts if part in {"mel": MEL_PARTS, "chroma": CHROMA_PARTS}.get(feature, STATISTICS)]
    if not parts:
        raise ValueError(f"Expected parts of {feature}, got none: {', '.join(STATISTICS)}")
    spectrogram, x, present = _normalised(feature, None)
    mel, chroma = x[..., :MEL_BINS], x[..., -CHROMA_BINS:]
    cepstrum = MFCC(CEPSTRUM, name="cepstrum")(mel) if {"embedding", "changes"} & {*parts} else None
    layer_of = {
        "embedding": (GaussianEmbedding, cepstrum),
        "changes": (DeltaStatistics, cepstrum),
        "roughness": (SpectralVariation, mel),
        "moments": (StatisticsPooling, chroma),
        "intervals": (ChromaIntervals, chroma),
    }
    statistics = [layer_of[part][0](name=part)(layer_of[part][1], present) for part in parts]
    x = layers.Concatenate(name="statistics", dtype="float32")(statistics) if len(statistics) > 1 else statistics[0]
    if centres:
        x = NystroemFeatures(centres, [part.shape[-1] for part in statistics], kernels, name="block1_kernel")(x)
    else:
        x = _norm("block1", stock)(x)
    if dropout:
        x = layers.Dropout(dropout, name="block1_dropout")(x)
    return keras.Model(spectrogram, x, name="backbone")


def _cnn_block(
    x: Tensor, block: str, filters: int, kernel: int, pool: int, present: Tensor | None, stock: bool
) -> Tensor:
    """Convolution, BatchNorm, ReLU and pooling. Absent frames are left out of BatchNorm's statistics, and pooled as 0.

    With a mask the pooling has "same" padding. Then an odd last frame is pooled alone, however much padding follows.
    """
    conv = layer_type(WinogradConv2D, stock)
    x = conv(filters, kernel, padding="same", use_bias=False, name=f"{block}_conv")(x)
    x = _norm(block, stock)(x, mask=present)
    x = layers.ReLU(name=f"{block}_relu")(x)
    if present is not None:
        x = ZeroAbsentFrames(name=f"{block}_absent")(x, present)
    padding = "valid" if present is None else "same"
    return layers.MaxPooling2D((pool, min(pool, x.shape[2])), padding=padding, name=f"{block}_pool")(x)


def _norm(block: str, stock: bool) -> keras.layers.Layer:
    return layer_type(FusedBatchNormalization, stock)(momentum=NORM_MOMENTUM, name=f"{block}_norm")


def _dense_block(x: Tensor, block: str, units: int, dropout: float, stock: bool) -> Tensor:
    """(batch, features) -> (batch, units): dropout, dense, PReLU, BatchNorm, dropout."""
    x = layers.Dropout(dropout, name=f"{block}_dropout")(x)
    x = layers.Dense(units, name=f"{block}_dense")(x)
    x = layers.PReLU(name=f"{block}_prelu")(x)
    x = _norm(block, stock)(x)
    return layers.Dropout(dropout, name=f"{block}_dropout_after")(x)


def _normalised(feature: str, frames: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the input, the normalised spectrogram and the mask of present frames."""
    bins = FEATURE_BINS[feature]
    spectrogram = keras.Input((frames, bins), dtype="float32", name="spectrogram")
    mel_bins = 0 if feature == "chroma" else MEL_BINS
    mask = FrameMask(name="frame_mask")(spectrogram)
    return spectrogram, SpectrogramNormalization(mel_bins, name="normalization")(spectrogram), mask

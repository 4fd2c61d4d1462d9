"""Normalisation, the mask of present frames, and pooling over those alone.

The mask is an ordinary tensor, handed from layer to layer: Keras's implicit mask does not pass a Conv2D.
"""

from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from mtmusic.constants import MEL_FLOOR_DB, PAD_VALUE
from mtmusic.errors import UserError

PACKAGE = "mtmusic"

Tensor: TypeAlias = keras.KerasTensor | tf.Tensor
"""What a layer is called with: a symbol while a model is built, values when it runs."""


class Float32Layer(keras.layers.Layer):
    """A layer that computes in float32 under every precision policy."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})


@keras.saving.register_keras_serializable(PACKAGE)
class SpectrogramNormalization(Float32Layer):
    """Mel's [-80, 0] dB and chroma's [0, 1] to [-1, 1]; absent frames to 0.

    The ranges are fixed, not statistics of a training set: the model takes what is on disk, and fine-tuning changes
    nothing here. Gives no implicit mask: see FrameMask.

    (batch, frames, bins) -> (batch, frames, bins); the first `mel_bins` bins are mel, the others chroma.
    Raises UserError for clips of other bins, and, where it was built for a number of frames, of other frames or any.
    """

    def __init__(self, mel_bins: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mel_bins = mel_bins

    def build(self, spectrogram_shape: tuple[int | None, ...]) -> None:
        self.frames, self.bins = spectrogram_shape[1:]

    def call(self, spectrogram: Tensor) -> Tensor:
        if self.frames not in (None, spectrogram.shape[1]):
            raise UserError(
                f"Expected clips of {self.frames} frames, got {spectrogram.shape[1] or 'clips of any length'}: "
                f"`make_dataset(..., frames={self.frames})`"
            )
        if spectrogram.shape[-1] != self.bins:
            raise UserError(
                f"Expected clips of {self.bins} bins, got {spectrogram.shape[-1]}: give make_dataset its feature"
            )
        is_mel = np.arange(spectrogram.shape[-1]) < self.mel_bins  # not by slices: one of no bins misleads LiteRT
        scale, offset = np.where(is_mel, -2 / MEL_FLOOR_DB, 2), np.where(is_mel, 1, -1)
        scaled = spectrogram * ops.convert_to_tensor(scale, "float32") + ops.convert_to_tensor(offset, "float32")
        present = ops.any(spectrogram != PAD_VALUE, axis=-1, keepdims=True)
        return ops.where(present, scaled, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mel_bins": self.mel_bins}


@keras.saving.register_keras_serializable(PACKAGE)
class FrameMask(Float32Layer):
    """(batch, frames, bins) in the array's own units -> (batch, frames) bool: which frames are not padding.

    A frame is absent where every bin holds PAD_VALUE; a silent frame is present.
    """

    def call(self, spectrogram: Tensor) -> Tensor:
        return ops.any(spectrogram != PAD_VALUE, axis=-1)


@keras.saving.register_keras_serializable(PACKAGE)
class StridedMask(keras.layers.Layer):
    """(batch, frames) bool -> (batch, ceil(frames / stride), 1) bool: which frames are present after pooling.

    Absent frames stand at the end, so a pooled frame is present where the first of its frames is.
    """

    def __init__(self, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, mask: Tensor) -> Tensor:
        return ops.expand_dims(mask[:, :: self.stride], -1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stride": self.stride}


@keras.saving.register_keras_serializable(PACKAGE)
class ZeroAbsentFrames(keras.layers.Layer):
    """Sets absent frames to 0, what 'same' padding puts beyond the last frame: so they reach no neighbour.

    x (batch, frames, bins, channels), present (batch, frames, 1) bool -> the shape of x. Ends the implicit mask that
    BatchNormalization makes of its `mask` argument and Conv2D would warn of.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        return None

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        return ops.where(ops.expand_dims(present, -1), x, ops.zeros((), x.dtype))


@keras.saving.register_keras_serializable(PACKAGE)
class MaskedAveragePooling(Float32Layer):
    """The mean over present frames.

    x (batch, frames, bins, channels), present (batch, frames, 1) bool -> (batch, bins * channels).
    """

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        x = ops.reshape(x, (*ops.shape(x)[:2], x.shape[2] * x.shape[3]))
        weights = ops.cast(present, x.dtype)
        return ops.sum(x * weights, axis=1) / ops.sum(weights, axis=1)

    def compute_output_shape(self, x_shape: tuple, present_shape: tuple) -> tuple:
        return (x_shape[0], x_shape[2] * x_shape[3])

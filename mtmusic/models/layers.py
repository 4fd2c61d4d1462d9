"""Layers that normalise spectrograms, find the present frames, and pool over those only.

The mask of present frames is an ordinary tensor that is passed to the layers that need it, because Keras's implicit
mask does not pass a Conv2D.
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
"""A tensor: symbolic while a model is built, and with values when it runs."""


class Float32Layer(keras.layers.Layer):
    """A layer that computes in float32 under every dtype policy.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> import keras
        >>> from mtmusic.models.layers import Float32Layer
        >>> from mtmusic.models.precision import layers_compute_in
        >>> with layers_compute_in("bfloat16"):
        ...     Float32Layer().compute_dtype, keras.layers.Layer().compute_dtype
        ('float32', 'bfloat16')
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})


@keras.saving.register_keras_serializable(PACKAGE)
class SpectrogramNormalization(Float32Layer):
    """Scales mel from [-80, 0] dB and chroma from [0, 1] to [-1, 1].

    Takes and returns `(batch, frames, bins)`. The ranges are fixed, and do not depend on a training set. So a model
    takes arrays as they are on disk, and fine-tuning does not change the scale.

    Masking: absent frames, filled with PAD_VALUE, become 0. The layer neither uses nor creates a Keras mask;
    `FrameMask` gives the present frames.

    Args:
        mel_bins: Number of mel bins, which come first. The others are chroma.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        UserError: When the layer is called with another number of bins or frames than it was built for.

    Examples:
        >>> from mtmusic.models.layers import SpectrogramNormalization
        >>> frame = np.array([[[-80.0, -40.0, 0.0, 1.0]]])  # two bins of mel, two of chroma
        >>> SpectrogramNormalization(mel_bins=2)(frame).numpy()
        array([[[-1.,  0., -1.,  1.]]], dtype=float32)
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
                f"Expected clips of {self.bins} bins, got {spectrogram.shape[-1]}: give make_dataset that feature"
            )
        is_mel = np.arange(spectrogram.shape[-1]) < self.mel_bins  # not by slices: LiteRT mishandles empty ones
        scale, offset = np.where(is_mel, -2 / MEL_FLOOR_DB, 2), np.where(is_mel, 1, -1)
        scaled = spectrogram * ops.convert_to_tensor(scale, "float32") + ops.convert_to_tensor(offset, "float32")
        present = ops.any(spectrogram != PAD_VALUE, axis=-1, keepdims=True)
        return ops.where(present, scaled, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mel_bins": self.mel_bins}


@keras.saving.register_keras_serializable(PACKAGE)
class FrameMask(Float32Layer):
    """Finds the present frames of a spectrogram.

    Takes `(batch, frames, bins)` in the units of the arrays on disk, and returns `(batch, frames)` bool.

    Masking: a frame is absent if all of its bins hold PAD_VALUE. A silent frame is present. The result is an ordinary
    tensor and not a Keras mask.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.layers import FrameMask
        >>> spectrogram = np.array([[[-80.0, -80.0], [-1024.0, -1024.0]]])  # a silent frame, an absent one
        >>> FrameMask()(spectrogram).numpy()
        array([[ True, False]])
    """

    def call(self, spectrogram: Tensor) -> Tensor:
        return ops.any(spectrogram != PAD_VALUE, axis=-1)


@keras.saving.register_keras_serializable(PACKAGE)
class StridedMask(keras.layers.Layer):
    """Finds the present frames after pooling.

    Takes the mask `(batch, frames)` bool, and returns `(batch, ceil(frames / stride), 1)` bool.

    Masking: absent frames are at the end of a clip, so a pooled frame is present if the first of its frames is.

    Args:
        stride: The stride of the pooling.
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.layers import StridedMask
        >>> StridedMask(2)(np.array([[True, True, True, False, False]])).numpy().squeeze()
        array([ True,  True, False])
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
    """Sets absent frames to 0, so that they do not affect their neighbours in a convolution or a pooling.

    Takes `x`, `(batch, frames, bins, channels)`, and `present`, `(batch, frames, 1)` bool; returns the shape of `x`.

    Masking: "same" padding also adds zeros after the last frame. The layer removes the implicit mask that
    BatchNormalization creates from its argument `mask`.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.layers import ZeroAbsentFrames
        >>> x, present = np.ones((1, 2, 1, 1)), np.array([[[True], [False]]])
        >>> ZeroAbsentFrames()(x, present).numpy().squeeze()
        array([1., 0.], dtype=float32)
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

    Takes `x`, `(batch, frames, bins, channels)`, and `present`, `(batch, frames, 1)` bool; returns
    `(batch, bins * channels)`.

    Masking: absent frames count neither in the sum nor in the number of frames. A clip needs at least one present
    frame.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Examples:
        >>> from mtmusic.models.layers import MaskedAveragePooling
        >>> x, present = np.array([[[[1.0]], [[3.0]], [[9.0]]]]), np.array([[[True], [True], [False]]])
        >>> MaskedAveragePooling()(x, present).numpy()
        array([[2.]], dtype=float32)
    """

    def call(self, x: Tensor, present: Tensor) -> Tensor:
        x = ops.reshape(x, (*ops.shape(x)[:2], x.shape[2] * x.shape[3]))
        weights = ops.cast(present, x.dtype)
        return ops.sum(x * weights, axis=1) / ops.sum(weights, axis=1)

    def compute_output_shape(self, x_shape: tuple, present_shape: tuple) -> tuple:
        return (x_shape[0], x_shape[2] * x_shape[3])

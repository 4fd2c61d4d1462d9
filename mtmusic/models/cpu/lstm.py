"""An LSTM that is faster on a CPU, for clips of different lengths of which only the last state is needed."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mtmusic.models.cpu import is_quicker
from mtmusic.models.layers import PACKAGE, Tensor

UNROLLED = 4
"""Frames per iteration of the loop."""


@keras.saving.register_keras_serializable(PACKAGE)
class LastStateLSTM(keras.layers.LSTM):
    """Keras's LSTM with a faster computation of the last state on a CPU. The result differs only by rounding.

    Takes sequences `(batch, frames, bins)`, and returns `(batch, units)`. Arguments and weights are those of
    `keras.layers.LSTM`.

    The batch is split into two halves by length. The two loops run on two cores at once, and the loop of the shorter
    clips ends earlier. The method is used with the default activations, without dropout, state between calls and
    initial state, if only the last state is returned, and if no GPU is visible. Otherwise the layer computes as its
    parent class does.

    Masking: `mask`, `(batch, frames)` bool or None, marks the present frames. Absent frames at any place are skipped.
    The result for a clip without present frames is zero.

    Examples:
        >>> from mtmusic.models.cpu.lstm import LastStateLSTM
        >>> sequences = np.random.default_rng(0).normal(size=(1, 10, 12)).astype("float32")
        >>> layer = LastStateLSTM(4)
        >>> first_three = layer(sequences, mask=np.arange(10)[None] < 3)
        >>> first_three.shape, np.allclose(first_three, layer(sequences[:, :3]), atol=1e-3)
        (TensorShape([1, 4]), True)
    """

    def call(
        self, sequences: Tensor, initial_state: Any = None, mask: Tensor | None = None, training: bool = False
    ) -> Tensor:
        fits = mask is None or tuple(getattr(mask, "shape", ())) == tuple(sequences.shape[:2])
        if initial_state is not None or not fits or not self._takes_halves():
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        cell = self.cell
        kernel, recurrent, bias = (tf.identity(w.value) for w in (cell.kernel, cell.recurrent_kernel, cell.bias))
        return _in_halves(sequences, mask, kernel, recurrent, bias, _kept_last_state if training else _last_state)

    def _takes_halves(self) -> bool:
        off = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "dropout", "recurrent_dropout")
        activations = {"activation": keras.activations.tanh, "recurrent_activation": keras.activations.sigmoid}
        return is_quicker(self, dict.fromkeys(off, False) | activations | {"use_bias": True})


def _in_halves(
    x: Tensor, mask: Tensor | None, kernel: Tensor, recurrent: Tensor, bias: Tensor, run: Callable[..., Tensor]
) -> Tensor:
    """x (batch, frames, bins), mask (batch, frames) bool or None -> (batch, units). `run` computes each half."""
    clips = tf.shape(x)[0]
    present = tf.fill(tf.shape(x)[:2], True) if mask is None else tf.cast(mask, tf.bool)
    lengths = tf.reduce_sum(tf.cast(present, tf.int32), axis=1)
    starts = tf.cumsum(lengths, exclusive=True)
    places = tf.where(present)
    kernel = _sigmoids_first(tf.concat([kernel, bias[None]], axis=0))
    recurrent = _sigmoids_first(recurrent)
    order = tf.argsort(lengths, stable=True)
    states = [
        run(_gates(x, places, tf.gather(starts, half), tf.gather(lengths, half), kernel), recurrent)
        for half in (order[: clips // 2], order[clips // 2 :])
    ]
    states = tf.concat(states, axis=0)
    return tf.cast(tf.scatter_nd(order[:, None], states, [clips, recurrent.shape[0]]), x.dtype)


def _sigmoids_first(weights: Tensor) -> Tensor:
    """(any, 4 * units): reorders Keras's gates i, f, g, o to i, f, o, g, so that one sigmoid computes three gates."""
    i, f, g, o = tf.split(weights, 4, axis=1)
    return tf.concat([i, f, o, g], axis=1)


def _gates(x: Tensor, places: Tensor, starts: Tensor, lengths: Tensor, kernel: Tensor) -> Tensor:
    """The contribution of the input to the gates, (steps, clips, 4 * units). Each clip ends at the last step.

    Steps before a clip's first frame are 0. Without input and bias, cell and state stay 0. The gates are float32 for
    bfloat16 input too, as state and cell are, because bfloat16 would round them at every frame.
    places: (frames of all clips, 2), the clip and the frame of each present frame of x.
    starts, lengths: (clips,), the first row of a clip in `places`, and its number of rows.
    kernel: the kernel, with the bias as its last row.
    """
    longest = tf.maximum(tf.reduce_max(lengths), 1)
    steps = (longest + UNROLLED - 1) // UNROLLED * UNROLLED
    frame = tf.range(steps)[:, None] - steps + lengths
    present = frame >= 0
    row = tf.where(present, starts + frame + 1, 0)
    inputs = tf.gather_nd(x, tf.gather(tf.pad(places, [[1, 0], [0, 0]]), row))
    inputs = tf.concat([inputs, tf.ones_like(inputs[..., :1])], axis=2)
    rows = tf.reshape(tf.where(present[..., None], inputs, tf.zeros((), x.dtype)), [-1, kernel.shape[0]])
    gates = tf.reshape(tf.matmul(rows, kernel), [steps, tf.size(lengths), kernel.shape[1]])
    return tf.cast(gates, keras.backend.result_type(gates.dtype.name, "float32"))


def _step(gates: Tensor, state: Tensor, cell: Tensor, recurrent: Tensor) -> tuple[Tensor, ...]:
    """Computes one frame, (clips, 4 * units): the new state and cell, and the values that the gradient needs."""
    units = recurrent.shape[0]
    sigmoids, candidate = tf.split(gates + _product(state, recurrent), [3 * units, units], axis=1)
    sigmoids, candidate = tf.sigmoid(sigmoids), tf.tanh(candidate)
    i, f, o = tf.split(sigmoids, 3, axis=1)
    after = f * cell + i * candidate
    squashed = tf.tanh(after)
    return o * squashed, after, (sigmoids, candidate, squashed, cell, state)


def _last_state(gates: Tensor, recurrent: Tensor) -> Tensor:
    """Gates (steps, clips, 4 * units) -> the last state (clips, units)."""
    frames = _list_of(gates.dtype, tf.shape(gates)[0], gates.shape[2]).unstack(gates)

    def turn(at: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        for step in range(UNROLLED):
            state, cell, _ = _step(frames.read(at + step), state, cell, recurrent)
        return at + UNROLLED, state, cell

    zeros = _zeros(gates, recurrent)
    return tf.while_loop(lambda at, *_: at < frames.size(), turn, (0, zeros, zeros))[1]


@tf.custom_gradient
def _kept_last_state(gates: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """Like `_last_state`, with a custom gradient that computes the weights' gradient for all frames at once."""
    steps, units = tf.shape(gates)[0], recurrent.shape[0]
    frames = _list_of(gates.dtype, steps, gates.shape[2]).unstack(gates)

    def turn(at: Tensor, state: Tensor, cell: Tensor, *kept: tf.TensorArray) -> tuple[Tensor, ...]:
        for step in range(UNROLLED):
            state, cell, new = _step(frames.read(at + step), state, cell, recurrent)
            kept = tuple(one.write(at + step, value) for one, value in zip(kept, new, strict=True))
        return at + UNROLLED, state, cell, *kept

    zeros = _zeros(gates, recurrent)
    empty = [_list_of(gates.dtype, steps, width * units) for width in (3, 1, 1, 1, 1)]
    _, last, _, *kept, states = tf.while_loop(lambda at, *_: at < steps, turn, (0, zeros, zeros, *empty))

    def gradient(dstate: Tensor) -> tuple[Tensor, Tensor]:
        dgates = _gate_gradients(tf.convert_to_tensor(dstate), kept, recurrent)
        before, flat = tf.reshape(states.stack(), [-1, units]), tf.reshape(dgates, [-1, 4 * units])
        narrow = [tf.cast(each, recurrent.dtype) for each in (before, flat)]
        return dgates, tf.matmul(*narrow, transpose_a=True)

    return last, gradient


def _gate_gradients(dstate: Tensor, kept: Sequence[tf.TensorArray], recurrent: Tensor) -> Tensor:
    """The gradient of the last state (clips, units) -> the gradient of all gates (steps, clips, 4 * units)."""
    back = tf.transpose(recurrent)
    steps = kept[0].size()

    def turn(at: Tensor, dstate: Tensor, dcell: Tensor, dgates: tf.TensorArray) -> tuple[Tensor, ...]:
        for step in range(UNROLLED):
            sigmoids, candidate, squashed, cell = (one.read(at - step) for one in kept)
            i, f, o = tf.split(sigmoids, 3, axis=1)
            dcell += tf.raw_ops.TanhGrad(y=squashed, dy=dstate * o)
            dsigmoids = tf.concat([dcell * candidate, dcell * cell, dstate * squashed], axis=1)
            dsigmoids = tf.raw_ops.SigmoidGrad(y=sigmoids, dy=dsigmoids)
            dgate = tf.concat([dsigmoids, tf.raw_ops.TanhGrad(y=candidate, dy=dcell * i)], axis=1)
            dgates = dgates.write(at - step, dgate)
            dstate, dcell = _product(dgate, back), dcell * f
        return at - UNROLLED, dstate, dcell, dgates

    empty = _list_of(dstate.dtype, steps, recurrent.shape[1])
    start = (steps - 1, dstate, tf.zeros_like(dstate), empty)
    return tf.while_loop(lambda at, *_: at >= 0, turn, start)[-1].stack()


def _product(rows: Tensor, weights: Tensor) -> Tensor:
    """Multiplies in the weights' precision. The result has the precision of the rows."""
    return tf.cast(tf.matmul(tf.cast(rows, weights.dtype), weights), rows.dtype)


def _list_of(dtype: tf.DType, steps: Tensor, width: int) -> tf.TensorArray:
    """A TensorArray of `steps` tensors (clips, width)."""
    return tf.TensorArray(dtype, steps, element_shape=(None, width), clear_after_read=False)


def _zeros(gates: Tensor, recurrent: Tensor) -> Tensor:
    return tf.zeros([tf.shape(gates)[1], recurrent.shape[0]], gates.dtype)

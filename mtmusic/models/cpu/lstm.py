"""An LSTM whose steps are quick on a CPU, for clips of different lengths of which only the last state is asked."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mtmusic.models.layers import PACKAGE

UNROLLED = 4
"""Frames of a turn of the loop."""


@keras.saving.register_keras_serializable(PACKAGE)
class LastStateLSTM(keras.layers.LSTM):
    """Keras's LSTM, its options, weights and numbers, with a quicker way to the last state on a CPU.

    The batch is parted in two halves by length, because two loops run on two cores at once and the shorter clips' ends
    early. Taken where the activations are the default ones, nothing is dropped or kept between calls, no initial state
    is given, only the last state is asked and no GPU is visible; elsewhere Keras's own way is.

    sequences (batch, frames, bins), mask (batch, frames) bool or None -> (batch, units). Absent frames stand at the
    end; a clip without a present one gives zeros.
    """

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = False) -> Any:
        if initial_state is not None or not self._takes_halves():
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        cell = self.cell
        kernel, recurrent, bias = (tf.identity(w.value) for w in (cell.kernel, cell.recurrent_kernel, cell.bias))
        return _in_halves(sequences, mask, kernel, recurrent, bias, _kept_last_state if training else _last_state)

    def _takes_halves(self) -> bool:
        others = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "dropout")
        return (
            not any(getattr(self, name) for name in (*others, "recurrent_dropout"))
            and self.use_bias
            and self.activation is keras.activations.tanh
            and self.recurrent_activation is keras.activations.sigmoid
            and not tf.config.list_physical_devices("GPU")
        )


def _in_halves(x: Any, mask: Any, kernel: Any, recurrent: Any, bias: Any, run: Any) -> Any:
    """x (batch, frames, bins), mask (batch, frames) bool or None -> (batch, units), by `run` of either half."""
    clips, frames = tf.shape(x)[0], tf.shape(x)[1]
    lengths = tf.fill([clips], frames) if mask is None else tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
    kernel = _sigmoids_first(tf.concat([kernel, bias[None]], axis=0))
    recurrent = _sigmoids_first(recurrent)
    order = tf.argsort(lengths, stable=True)
    halves = (order[: clips // 2], order[clips // 2 :])
    states = tf.concat([run(_gates(x, half, tf.gather(lengths, half), kernel), recurrent) for half in halves], axis=0)
    return tf.cast(tf.scatter_nd(order[:, None], states, [clips, recurrent.shape[0]]), x.dtype)


def _sigmoids_first(weights: Any) -> Any:
    """(any, 4 * units), Keras's order of the gates, i, f, g, o, to i, f, o, g: one sigmoid serves three of them."""
    i, f, g, o = tf.split(weights, 4, axis=1)
    return tf.concat([i, f, o, g], axis=1)


def _gates(x: Any, half: Any, lengths: Any, kernel: Any) -> Any:
    """What the input gives to the gates: (steps, clips of the half, 4 * units), each clip's last frame at the end.

    Before a clip's first frame stand zeros: with neither input nor bias the cell stays at 0, and so does the state.
    half: the clips' places in x; lengths: theirs; kernel: with the bias as its last row. Of a bfloat16 x the gates are
    float32, as state and cell are: bfloat16 would round them at every frame.
    """
    longest = tf.maximum(tf.reduce_max(lengths), 1)
    steps = (longest + UNROLLED - 1) // UNROLLED * UNROLLED
    frame = tf.range(steps)[:, None] - steps + lengths
    present = tf.cast(frame >= 0, x.dtype)[..., None]
    clip = tf.broadcast_to(half, tf.shape(frame))
    inputs = tf.gather_nd(x, tf.stack([clip, tf.maximum(frame, 0)], axis=-1)) * present
    rows = tf.concat([inputs, present], axis=2)
    gates = tf.matmul(tf.reshape(rows, [steps * tf.size(half), kernel.shape[0]]), kernel)
    gates = tf.reshape(gates, [steps, tf.size(half), kernel.shape[1]])
    return tf.cast(gates, keras.backend.result_type(gates.dtype.name, "float32"))


def _step(gates: Any, state: Any, cell: Any, recurrent: Any) -> tuple[Any, ...]:
    """One frame, (clips, 4 * units): state and cell after it, and what the way back needs of it."""
    units = recurrent.shape[0]
    sigmoids, candidate = tf.split(gates + _product(state, recurrent), [3 * units, units], axis=1)
    sigmoids, candidate = tf.sigmoid(sigmoids), tf.tanh(candidate)
    i, f, o = tf.split(sigmoids, 3, axis=1)
    after = f * cell + i * candidate
    squashed = tf.tanh(after)
    return o * squashed, after, (sigmoids, candidate, squashed, cell, state)


def _last_state(gates: Any, recurrent: Any) -> Any:
    """(steps, clips, 4 * units) -> (clips, units)."""
    frames = _list_of(gates.dtype, tf.shape(gates)[0], gates.shape[2]).unstack(gates)

    def turn(at: Any, state: Any, cell: Any) -> tuple[Any, ...]:
        for step in range(UNROLLED):
            state, cell, _ = _step(frames.read(at + step), state, cell, recurrent)
        return at + UNROLLED, state, cell

    zeros = _zeros(gates, recurrent)
    return tf.while_loop(lambda at, *_: at < frames.size(), turn, (0, zeros, zeros))[1]


@tf.custom_gradient
def _kept_last_state(gates: Any, recurrent: Any) -> tuple[Any, Any]:
    """As `_last_state`, and keeps what a gradient by hand needs, which takes the weights' from all frames at once."""
    steps, units = tf.shape(gates)[0], recurrent.shape[0]
    frames = _list_of(gates.dtype, steps, gates.shape[2]).unstack(gates)

    def turn(at: Any, state: Any, cell: Any, *kept: Any) -> tuple[Any, ...]:
        for step in range(UNROLLED):
            state, cell, new = _step(frames.read(at + step), state, cell, recurrent)
            kept = tuple(one.write(at + step, value) for one, value in zip(kept, new, strict=True))
        return at + UNROLLED, state, cell, *kept

    zeros = _zeros(gates, recurrent)
    empty = [_list_of(gates.dtype, steps, width * units) for width in (3, 1, 1, 1, 1)]
    _, last, _, *kept, states = tf.while_loop(lambda at, *_: at < steps, turn, (0, zeros, zeros, *empty))

    def gradient(dstate: Any) -> tuple[Any, Any]:
        dgates = _gate_gradients(tf.convert_to_tensor(dstate), kept, recurrent)
        before, flat = tf.reshape(states.stack(), [-1, units]), tf.reshape(dgates, [-1, 4 * units])
        narrow = [tf.cast(each, recurrent.dtype) for each in (before, flat)]
        return dgates, tf.matmul(*narrow, transpose_a=True)

    return last, gradient


def _gate_gradients(dstate: Any, kept: Sequence[Any], recurrent: Any) -> Any:
    """The last state's gradient, (clips, units), to that of all gates, (steps, clips, 4 * units)."""
    back = tf.transpose(recurrent)
    steps = kept[0].size()

    def turn(at: Any, dstate: Any, dcell: Any, dgates: Any) -> tuple[Any, ...]:
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


def _product(rows: Any, weights: Any) -> Any:
    """In the weights' precision; the result is of the rows'."""
    return tf.cast(tf.matmul(tf.cast(rows, weights.dtype), weights), rows.dtype)


def _list_of(dtype: Any, steps: Any, width: int) -> tf.TensorArray:
    """Of `steps` tensors (clips, width)."""
    return tf.TensorArray(dtype, steps, element_shape=(None, width), clear_after_read=False)


def _zeros(gates: Any, recurrent: Any) -> Any:
    return tf.zeros([tf.shape(gates)[1], recurrent.shape[0]], gates.dtype)

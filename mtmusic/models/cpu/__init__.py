"""Faster versions of three Keras layers. Each has its parent's options and weights, and its parent's results.

This module says when they are used. A backbone is built of them unless it is asked for Keras's own layers
(`layer_type`). A layer then computes in its own way if `is_quicker`, and as its parent does otherwise.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

_STOCK = ContextVar("stock", default=False)


def layer_type(ours: type[keras.layers.Layer], stock: bool) -> Callable[..., keras.layers.Layer]:
    """This package's layer, or the Keras layer that it is a subclass of. Both have the same weights in the same order.

    Args:
        ours: This package's layer.
        stock: Whether to take Keras's.

    Returns:
        The class.
    """
    return ours.__bases__[0] if stock else ours


def is_quicker(layer: keras.layers.Layer, options: Mapping[str, Any], on_gpu: bool = False) -> bool:
    """Whether a layer computes in its own way. It never does within `stock_operations`.

    Args:
        layer: The layer.
        options: Attributes that it must have, and their values.
        on_gpu: Whether it may where a GPU is visible.

    Returns:
        Whether it does.
    """
    there = all(getattr(layer, name, value) == value for name, value in options.items())
    return there and not _STOCK.get() and (on_gpu or not tf.config.list_physical_devices("GPU"))


@contextmanager
def stock_operations() -> Iterator[None]:
    """A context in which layers are traced with the operations of Keras's own, which converters know."""
    before = _STOCK.set(True)
    try:
        yield
    finally:
        _STOCK.reset(before)

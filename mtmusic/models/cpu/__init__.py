"""Faster versions of three Keras layers. Each has the options, the weights and the results of its parent class.

This module decides when they are used. A backbone has these layers unless it is built with `stock=True`, see
`layer_type`. A layer uses its faster method if `is_quicker`, and the method of its parent class otherwise.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

_STOCK = ContextVar("stock", default=False)


def layer_type(ours: type[keras.layers.Layer], stock: bool) -> Callable[..., keras.layers.Layer]:
    """Returns this package's layer or its parent, a Keras layer. Both have the same weights in the same order.

    Args:
        ours: This package's layer.
        stock: Whether to return the Keras layer.

    Returns:
        The class.
    """
    return ours.__bases__[0] if stock else ours


def is_quicker(layer: keras.layers.Layer, options: Mapping[str, Any], on_gpu: bool = False) -> bool:
    """Whether a layer uses its faster method. Within `stock_operations` it never does.

    Args:
        layer: The layer.
        options: Attributes with the values that they must have.
        on_gpu: Whether the method is also used if a GPU is visible.

    Returns:
        Whether the layer uses it.
    """
    there = all(getattr(layer, name, value) == value for name, value in options.items())
    return there and not _STOCK.get() and (on_gpu or not tf.config.list_physical_devices("GPU"))


@contextmanager
def stock_operations() -> Iterator[None]:
    """A context in which layers are traced with Keras's operations, which converters support."""
    before = _STOCK.set(True)
    try:
        yield
    finally:
        _STOCK.reset(before)

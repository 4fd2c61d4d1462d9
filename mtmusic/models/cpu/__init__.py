"""Quicker versions of three Keras layers. Each has its parent's options and weights, and gives its parent's numbers.

This module says when they are used. A backbone is built of them unless it is asked for stock layers (`layer_type`).
A layer then computes in its own way where `is_quicker`, and as its parent does everywhere else.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

_STOCK = ContextVar("stock", default=False)


def layer_type(ours: type[keras.layers.Layer], stock: bool) -> Callable[..., keras.layers.Layer]:
    """Our layer, or with `stock` the Keras layer that it is a subclass of; both have the same weights in one order."""
    return ours.__bases__[0] if stock else ours


def is_quicker(layer: keras.layers.Layer, options: Mapping[str, Any], on_gpu: bool = False) -> bool:
    """Whether the layer computes in its own way: it has these options, and no GPU is visible, or `on_gpu`.

    Never within `stock_operations`.
    """
    there = all(getattr(layer, name, value) == value for name, value in options.items())
    return there and not _STOCK.get() and (on_gpu or not tf.config.list_physical_devices("GPU"))


@contextmanager
def stock_operations() -> Iterator[None]:
    """What is traced within has the operations of Keras's own layers, which converters to other runtimes know."""
    before = _STOCK.set(True)
    try:
        yield
    finally:
        _STOCK.reset(before)

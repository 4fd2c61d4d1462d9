"""Compute in bfloat16 where the machine has instructions for it; weights, statistics, heads and losses stay float32."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
"""What a user asks for, and Keras's policy."""

CPU_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux names them, on x86 and on ARM."""

GPU_CAPABILITY = (8, 0)
"""The first of NVIDIA's with bfloat16."""


def supported(precision: str, cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """The precision, or float32, which is logged, where this machine would only emulate bfloat16."""
    if precision == "float32" or _has_bfloat16(cpu_info):
        return precision
    logger.info("This machine has no bfloat16 instructions: it computes in float32")
    return "float32"


def _has_bfloat16(cpu_info: Path) -> bool:
    if gpus := tf.config.list_physical_devices("GPU"):
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return all(one.get("compute_capability", (0, 0)) >= GPU_CAPABILITY for one in details)
    try:
        return not CPU_INSTRUCTIONS.isdisjoint(cpu_info.read_text().split())
    except OSError:
        return False


@contextlib.contextmanager
def layers_compute_in(precision: str) -> Iterator[None]:
    """Layers that are built inside compute in it; a layer keeps its own policy, saved and loaded too."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(PRECISIONS[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

"""Computes in bfloat16 if the machine has instructions for it. Weights, statistics, heads and losses stay float32."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
"""Keras's dtype policy of each precision."""

CPU_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Linux's names of the instructions on x86 and ARM."""

GPU_CAPABILITY = (8, 0)
"""NVIDIA's first compute capability with bfloat16."""


def supported(precision: str, cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the precision, or float32 if this machine has no bfloat16 instructions. Then a message is logged."""
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
    """A context for building layers that compute in this precision. A layer keeps it, also after saving and loading."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(PRECISIONS[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

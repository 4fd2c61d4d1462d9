"""Resamples waveforms by soxr, with the same numbers as librosa.resample."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import soxr

QUALITY = "soxr_hq"


def resample(samples: np.ndarray, rate: float, target_rate: float) -> np.ndarray:
    """(samples,) float32 at `rate` -> (ceil(samples * target_rate / rate),) float32."""
    if rate == target_rate:
        return samples
    return _of_size(soxr.resample(samples, rate, target_rate, QUALITY), _size(len(samples), rate, target_rate))


def resample_blocks(blocks: Iterable[np.ndarray], rate: float, target_rate: float) -> Iterator[np.ndarray]:
    """Resamples (samples,) blocks of any lengths. The result is that of `resample` on the joined blocks."""
    if rate == target_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, target_rate, 1, "float32", QUALITY)
    taken = given = 0
    for block in blocks:
        taken += len(block)
        piece = stream.resample_chunk(np.ascontiguousarray(block))
        given += len(piece)
        yield piece
    rest = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    yield _of_size(rest, max(0, _size(taken, rate, target_rate) - given))


def _size(samples: int, rate: float, target_rate: float) -> int:
    return math.ceil(samples * (target_rate / rate))


def _of_size(samples: np.ndarray, size: int) -> np.ndarray:
    """Cuts or zero-pads to the size."""
    return np.pad(samples[:size], (0, max(0, size - len(samples))))

"""Samples to write to files."""

import numpy as np


def tones(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """(samples, channels): 440 Hz and its multiples, one a channel, peak 0.5."""
    time = np.arange(int(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * 440 * np.outer(time, 1 + np.arange(channels)))


def loud_then_quiet(seconds: float) -> np.ndarray:
    """Noise for a tenth of the time, and a tone: at a variable rate its first frames are the largest."""
    samples = 0.4 * tones(seconds, 44_100)[:, 0]
    noisy = len(samples) // 10
    samples[:noisy] += np.random.default_rng(0).uniform(-0.4, 0.4, noisy)
    return samples

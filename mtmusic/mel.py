"""The mel scale of Slaney's Auditory Toolbox, which librosa uses too."""

import math

import numpy as np

HERTZ_A_MEL, KNEE_HERTZ = 200 / 3, 1000.0
"""Below the knee the scale is linear."""
LOG_STEP = math.log(6.4) / 27
"""Above the knee the scale is logarithmic: 27 mels are a factor of 6.4."""


def mel_frequencies(points: int, highest: float) -> np.ndarray:
    """Returns `(points,)` frequencies from 0 to `highest` Hz at equal steps of mel. `highest` is above 1 kHz."""
    knee = KNEE_HERTZ / HERTZ_A_MEL
    mels = np.linspace(0, knee + math.log(highest / KNEE_HERTZ) / LOG_STEP, points)
    return np.where(mels < knee, mels * HERTZ_A_MEL, KNEE_HERTZ * np.exp(LOG_STEP * (mels - knee)))

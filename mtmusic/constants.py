"""What the packages must agree on. Lengths in samples, rates in hertz."""

from mtmusic.errors import UserError

SAMPLE_RATE = 22_050
FFT_LENGTH = 2048
HOP_LENGTH = 512

MEL_BINS = 128
CHROMA_BINS = 12
FUSED_BINS = MEL_BINS + CHROMA_BINS

MEL_FLOOR_DB = -80.0
"""Mel is in dB below the clip's own maximum, so a clip spans [MEL_FLOOR_DB, 0]."""

LOGMEL_BINS = 96
LOGMEL_SAMPLE_RATE = 16_000
LOGMEL_FFT_LENGTH = 512
LOGMEL_HOP_LENGTH = 256
"""Of logmel, log10(1 + 10000 power): the input of the pretrained trunk. Its level is that of the sound."""

PATCH_FRAMES = 187
"""The frames of logmel that the pretrained trunk takes at once: three seconds."""

EMBEDDING, PENULTIMATE = "embedding", "penultimate"
"""What a backbone gives: see `models.savedmodel.OpenedModel`."""

LOUDEST_WHERE_LEVEL_COUNTS = 4.0
"""Samples for logmel lie in -1 to 1. A peak above this is that of 16-bit numbers that nobody scaled."""

FEATURE_ROWS = {
    "mel": slice(0, MEL_BINS),
    "chroma": slice(MEL_BINS, FUSED_BINS),
    "fused": slice(0, FUSED_BINS),
}
"""The rows of a (140, frames) array that make each feature. Arrays of logmel are (96, frames) and hold it alone."""


class _Features(dict[str, int]):
    """Another name is a UserError."""

    def __missing__(self, name: str) -> int:
        raise UserError(f"Expected a feature among {', '.join(self)}, got {name!r}")


FEATURE_BINS = _Features(mel=MEL_BINS, chroma=CHROMA_BINS, fused=FUSED_BINS, logmel=LOGMEL_BINS)

PAD_VALUE = -1024.0
"""Fills absent frames: no real frame can hold it (mel is at least -80, chroma at least 0), and a power of two
is exact in float16 and bfloat16."""

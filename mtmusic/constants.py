"""Constants that several packages share. Lengths are in samples, sample rates in Hz."""

from mtmusic.errors import UserError

SAMPLE_RATE = 22_050
FFT_LENGTH = 2048
HOP_LENGTH = 512

MEL_BINS = 128
CHROMA_BINS = 12
FUSED_BINS = MEL_BINS + CHROMA_BINS

MEL_FLOOR_DB = -80.0
"""Mel is in dB relative to the clip's maximum, so a clip's values are in [MEL_FLOOR_DB, 0]."""

LOGMEL_BINS = 96
LOGMEL_SAMPLE_RATE = 16_000
LOGMEL_FFT_LENGTH = 512
LOGMEL_HOP_LENGTH = 256
"""Logmel is log10(1 + 10000 * power), the input of the pretrained trunk. It keeps the level of the sound."""

PATCH_FRAMES = 187
"""The length of the pretrained trunk's input in frames of logmel: three seconds."""

EMBEDDING, PENULTIMATE = "embedding", "penultimate"
"""The two outputs of a backbone: see `models.savedmodel.OpenedModel`."""

LOUDEST_WHERE_LEVEL_COUNTS = 4.0
"""Samples for logmel are from -1 to 1. A higher peak than this comes from 16-bit samples that were not scaled."""

FEATURE_ROWS = {
    "mel": slice(0, MEL_BINS),
    "chroma": slice(MEL_BINS, FUSED_BINS),
    "fused": slice(0, FUSED_BINS),
}
"""The rows of each feature in a (140, frames) array. A logmel array is (96, frames) and holds no other feature."""


class _Features(dict[str, int]):
    """Raises UserError for an unknown feature."""

    def __missing__(self, name: str) -> int:
        raise UserError(f"Expected a feature among {', '.join(self)}, got {name!r}")


FEATURE_BINS = _Features(mel=MEL_BINS, chroma=CHROMA_BINS, fused=FUSED_BINS, logmel=LOGMEL_BINS)

PAD_VALUE = -1024.0
"""Fills absent frames. Real frames never hold it: mel is at least -80, and chroma at least 0. As a power of two it is
exact in float16 and bfloat16."""

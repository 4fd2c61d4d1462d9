"""The checks of single arrays, each with advice to the user."""

from collections.abc import Callable
from dataclasses import dataclass

from mtmusic.constants import FEATURE_BINS, MEL_FLOOR_DB, PAD_VALUE
from mtmusic.data.quality.measurements import ArrayMeasurements
from mtmusic.data.quality.thresholds import threshold

LEVELS = frozenset({"mel_min", "mel_max", "mel_mean", "mel_std", "floor_share"})
CHROMA = frozenset({"chroma_min", "chroma_max"})
EVERY_LEVEL = LEVELS | CHROMA


@dataclass(frozen=True)
class ArrayCheck:
    """A check of a single array.

    error: whether the array must not be trained on. Otherwise the check gives a warning.
    message: states what was expected of the array, and what it holds.
    columns: columns of the clips' table whose values the failure explains.
    """

    error: bool
    name: str
    fails: Callable[[ArrayMeasurements], bool]
    message: Callable[[ArrayMeasurements], str]
    advice: str
    columns: frozenset[str] = LEVELS


def _is_scaled(array: ArrayMeasurements) -> bool:
    most = max(abs(array.mel_min), abs(array.mel_max))
    return most <= threshold("scaled") and not _is_power(array)


def _is_power(array: ArrayMeasurements) -> bool:
    return 0 <= array.mel_min < array.mel_max and array.mel_mean < threshold("power_mean") * array.mel_max


def _has_chroma_outside(array: ArrayMeasurements) -> bool:
    margin = threshold("chroma_margin")
    return not -margin <= array.chroma_min <= array.chroma_max <= 1 + margin


def _is_logmel_power(array: ArrayMeasurements) -> bool:
    return 0 <= array.mel_min < array.mel_max and array.mel_mean < threshold("logmel_power") * array.mel_max


def _is_logmel_scaled(array: ArrayMeasurements) -> bool:
    standardised = array.mel_min < 0 and max(-array.mel_min, array.mel_max) <= threshold("scaled")
    return standardised or abs(array.mel_max - 1) <= threshold("logmel_scaled")


def _bins(array: ArrayMeasurements) -> int:
    return FEATURE_BINS[array.feature]


def _is_transposed(array: ArrayMeasurements) -> bool:
    """If both dimensions have the right length, impossible values of chroma decide."""
    return array.frames == _bins(array) and (array.rows != _bins(array) or array.chroma_min < MEL_FLOOR_DB / 8)


def _shape(array: ArrayMeasurements) -> str:
    return f"expected ({_bins(array)}, frames), got ({array.rows}, {array.frames})"


def _range(array: ArrayMeasurements) -> str:
    expected = "expected mel from -80 to 0 dB relative to the clip's maximum"
    if array.feature == "logmel":
        expected = f"expected log10(1 + 10000 power), from 0 to {threshold('logmel_loudest'):g}"
    return f"{expected}, got mel from {array.mel_min:.4g} to {array.mel_max:.4g}"


def _floor(array: ArrayMeasurements) -> str:
    return "-80 dB" if array.feature == "fused" else "0"


UNREADABLE = "unreadable array"
EXTRACT = "mtmusic extract-features makes arrays from songs"
OWN_MAXIMUM = "Use each clip's maximum as the reference: librosa.power_to_db(mel, ref=np.max)"
NOT_NORMALISED = "Store the arrays without normalisation: the network normalises its input itself"
NO_PADDING = "Store clips without padding: the data pipeline pads the batches"

MAKE_LOGMEL = f"Logmel is log10(1 + 10000 * power) of sound from -1 to 1, not normalised; {EXTRACT}"

COMMON_CHECKS = (
    ArrayCheck(
        True, "transposed array",
        _is_transposed,
        _shape,
        "Transpose it", EVERY_LEVEL | {"frames", "rows"},
    ),
    ArrayCheck(
        True, "wrong shape",
        lambda array: array.rows != _bins(array) or array.frames < 1,
        _shape,
        f"An array has 128 rows of mel and 12 of chroma, or 96 of logmel; {EXTRACT}", EVERY_LEVEL | {"frames", "rows"},
    ),
    ArrayCheck(
        True, "missing values",
        lambda array: array.nan_share > 0,
        lambda array: f"expected finite numbers, got {array.nan_share:.2%} NaN or infinite",
        "Make the array again", EVERY_LEVEL | {"nan_share"},
    ),
    ArrayCheck(
        True, "padding stored",
        lambda array: array.mel_min <= PAD_VALUE,
        lambda array: f"expected values above {PAD_VALUE:g}, which means padding, got {array.mel_min:.4g}",
        NO_PADDING, EVERY_LEVEL | {"frames"},
    ),
)  # fmt: skip

SILENT_CLIP = ArrayCheck(
    False,
    "silent clip",
    lambda array: array.mel_std < threshold("constant_db"),
    lambda array: f"expected sound, got mel of {array.mel_mean:.4g} in every bin",
    "Remove the clip: nothing can be learned from it",
    EVERY_LEVEL,
)
MOSTLY_SILENCE = ArrayCheck(
    False,
    "mostly silence",
    lambda array: array.floor_share > threshold("silent_share"),
    lambda array: f"expected sound, got {array.floor_share:.0%} of the frames at {_floor(array)}",
    "Listen to the song: is it truncated, or padded with silence?",
    EVERY_LEVEL,
)

FUSED_CHECKS = (
    *COMMON_CHECKS,
    ArrayCheck(
        True, "power, not dB",
        _is_power,
        lambda array: f"{_range(array)}, which looks like power or amplitude",
        "Convert it to dB: librosa.power_to_db(mel, ref=np.max)",
    ),
    SILENT_CLIP,
    ArrayCheck(True, "normalised already", _is_scaled, _range, NOT_NORMALISED, EVERY_LEVEL),
    ArrayCheck(
        True, "louder than 0 dB",
        lambda array: array.mel_max > threshold("loudest_db"),
        _range,
        OWN_MAXIMUM,
    ),
    ArrayCheck(
        True, "padded with zeros",
        lambda array: array.zero_frames > 0,
        lambda array: f"expected no frame of 0 dB in every bin, got {array.zero_frames}: 0 dB is the loudest there is",
        NO_PADDING, EVERY_LEVEL | {"frames"},
    ),
    ArrayCheck(
        True, "chroma outside 0 to 1",
        _has_chroma_outside,
        lambda array: f"expected chroma from 0 to 1, got {array.chroma_min:.4g} to {array.chroma_max:.4g}",
        f"Rows 128-139 hold chroma. Each full-rate frame has a maximum of 1; {EXTRACT}", CHROMA,
    ),
    ArrayCheck(
        False, "constant chroma",
        lambda array: array.chroma_max - array.chroma_min < threshold("constant_chroma"),
        lambda array: f"expected chroma that varies, got {array.chroma_min:.3g} to {array.chroma_max:.3g}",
        "Use the feature mel, or make the arrays again", CHROMA,
    ),
    MOSTLY_SILENCE,
    ArrayCheck(
        False, "never at 0 dB",
        lambda array: array.mel_max < threshold("not_reached_db"),
        _range,
        OWN_MAXIMUM,
    ),
    ArrayCheck(
        False, "deeper than -80 dB",
        lambda array: array.mel_min < threshold("floor_db"),
        _range,
        "Cut at -80 dB: librosa.power_to_db(mel, ref=np.max, top_db=80)",
    ),
)  # fmt: skip

LOGMEL_CHECKS = (
    *COMMON_CHECKS,
    ArrayCheck(True, "power, not its logarithm", _is_logmel_power, _range, MAKE_LOGMEL),
    SILENT_CLIP,
    ArrayCheck(True, "normalised already", _is_logmel_scaled, _range, NOT_NORMALISED, EVERY_LEVEL),
    ArrayCheck(True, "below 0", lambda array: array.mel_min < 0, _range, MAKE_LOGMEL),
    ArrayCheck(
        True,
        "louder than sound can be",
        lambda array: array.mel_max > threshold("logmel_loudest"),
        _range,
        f"Scale integer audio to -1 to 1 first. {MAKE_LOGMEL}",
    ),
    MOSTLY_SILENCE,
)

ARRAY_CHECKS = {"fused": FUSED_CHECKS, "logmel": LOGMEL_CHECKS}
"""The checks of each kind of array. Only the first failure is reported, because it explains the later ones."""

CHECKS_BY_NAME = {check.name: check for checks in ARRAY_CHECKS.values() for check in checks}
"""The checks by name. Checks with the same name are equal for both kinds."""

ARRAY_PROBLEMS = frozenset({UNREADABLE, *CHECKS_BY_NAME})

LABEL_ADVICE = {
    "unusable id": "An id is the text before the first dot",
    "shifted columns": "A row is the id, then a cell for each column of the header",
    "duplicate id": "Keep one of its rows",
    "row without array": "Add the array, or remove the row",
    "missing label": "Add the label, or remove the row",
    "unknown class": "Correct the name, or map it to a class",
    "class missing from train": "Add clips of the class to train: was the label file truncated?",
    "label not a number": "Labels are numbers from 0 to 1; a missing one is an empty cell",
    "label out of range": "Scale labels to 0 to 1",
    UNREADABLE: f"Copy it again, or save it as float32; {EXTRACT}",
}
"""Advice for each kind of problem in a label file or while reading an array."""


def failed_check(array: ArrayMeasurements) -> ArrayCheck | None:
    """Returns the first check that the array fails, or None if it passes all or cannot be read."""
    return next((check for check in ARRAY_CHECKS[array.feature] if check.fails(array)), None) if array.dtype else None

"""What can be wrong with a single array, and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass

from mtmusic.constants import FUSED_BINS, MEL_FLOOR_DB, PAD_VALUE
from mtmusic.data.quality.measurements import ArrayFacts
from mtmusic.data.quality.thresholds import LIMITS

LEVELS = frozenset({"mel_min", "mel_max", "mel_mean", "mel_std", "floor_share"})
CHROMA = frozenset({"chroma_min", "chroma_max"})


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a single array. told: of its facts, what was expected and what came."""

    error: bool
    name: str
    holds: Callable[[ArrayFacts], bool]
    told: Callable[[ArrayFacts], str]
    advice: str
    columns: frozenset[str] = LEVELS


def _range(facts: ArrayFacts) -> str:
    return f"mel from {facts.mel_min:.4g} to {facts.mel_max:.4g}"


def _is_scaled(facts: ArrayFacts) -> bool:
    most = max(abs(facts.mel_min), abs(facts.mel_max))
    return most <= LIMITS["scaled"].value and not _is_power(facts)


def _is_power(facts: ArrayFacts) -> bool:
    return 0 <= facts.mel_min < facts.mel_max and facts.mel_mean < LIMITS["power_mean"].value * facts.mel_max


UNREADABLE = "unreadable array"
AS_MADE = "expected mel from -80 to 0 dB below the clip's own maximum"
EXTRACT = "scripts/extract_features.py makes arrays from songs"

RULES = (
    Rule(
        True,
        "transposed array",
        lambda facts: facts.frames == FUSED_BINS and (facts.rows != FUSED_BINS or facts.chroma_min < MEL_FLOOR_DB / 8),
        lambda facts: f"expected ({FUSED_BINS}, frames), got ({facts.rows}, {facts.frames})",
        "Transpose it",
        LEVELS | CHROMA | {"frames", "rows"},
    ),
    Rule(
        True,
        "wrong shape",
        lambda facts: facts.rows != FUSED_BINS or facts.frames < 1,
        lambda facts: f"expected ({FUSED_BINS}, frames), got ({facts.rows}, {facts.frames})",
        f"128 rows of mel and 12 of chroma are needed; {EXTRACT}",
        LEVELS | CHROMA | {"frames", "rows"},
    ),
    Rule(
        True,
        "missing values",
        lambda facts: facts.nan_share > 0,
        lambda facts: f"expected finite numbers, got {facts.nan_share:.2%} NaN or infinite",
        "Make the array again",
        LEVELS | CHROMA | {"nan_share"},
    ),
    Rule(
        True,
        "padding stored",
        lambda facts: facts.mel_min <= PAD_VALUE,
        lambda facts: f"expected dB above {PAD_VALUE:g}, which means padding, got {facts.mel_min:.4g}",
        "Store clips without padding: batches are padded when they are made",
        LEVELS | CHROMA | {"frames"},
    ),
    Rule(
        True,
        "power, not dB",
        _is_power,
        lambda facts: f"{AS_MADE}, got {_range(facts)}, as of power or amplitude",
        "Make dB of it: librosa.power_to_db(mel, ref=np.max)",
    ),
    Rule(
        False,
        "silent clip",
        lambda facts: facts.mel_std < LIMITS["constant_db"].value,
        lambda facts: f"expected sound, got mel of {facts.mel_mean:.4g} alone",
        "Take it out: it teaches nothing",
        LEVELS | CHROMA,
    ),
    Rule(
        True,
        "normalised already",
        _is_scaled,
        lambda facts: f"{AS_MADE}, got {_range(facts)}",
        "Give the arrays as they were before: the network normalises itself",
        LEVELS | CHROMA,
    ),
    Rule(
        True,
        "louder than 0 dB",
        lambda facts: facts.mel_max > LIMITS["loudest_db"].value,
        lambda facts: f"{AS_MADE}, got {_range(facts)}",
        "Take each clip's own maximum as the reference: librosa.power_to_db(mel, ref=np.max)",
    ),
    Rule(
        True,
        "padded with zeros",
        lambda facts: facts.zero_frames > 0,
        lambda facts: f"expected no frame of 0 dB in every bin, got {facts.zero_frames}: 0 dB is the loudest there is",
        "Store clips without padding: batches are padded when they are made",
        LEVELS | CHROMA | {"frames"},
    ),
    Rule(
        True,
        "chroma outside 0 to 1",
        lambda facts: not -LIMITS["chroma_margin"].value <= facts.chroma_min <= facts.chroma_max
        <= 1 + LIMITS["chroma_margin"].value,
        lambda facts: f"expected chroma from 0 to 1, got {facts.chroma_min:.4g} to {facts.chroma_max:.4g}",
        f"Rows 128-139 hold chroma, each full-rate frame with a maximum of 1; {EXTRACT}",
        CHROMA,
    ),
    Rule(
        False,
        "constant chroma",
        lambda facts: facts.chroma_max - facts.chroma_min < LIMITS["constant_chroma"].value,
        lambda facts: f"expected chroma that varies, got {facts.chroma_min:.3g} to {facts.chroma_max:.3g}",
        "Use --feature mel, or make the arrays again",
        CHROMA,
    ),
    Rule(
        False,
        "mostly silence",
        lambda facts: facts.floor_share > LIMITS["silent_share"].value,
        lambda facts: f"expected sound, got {facts.floor_share:.0%} of the frames at -80 dB",
        "Listen to it: is it cut, or padded with silence?",
        LEVELS | CHROMA,
    ),
    Rule(
        False,
        "never at 0 dB",
        lambda facts: facts.mel_max < LIMITS["not_reached_db"].value,
        lambda facts: f"{AS_MADE}, got {_range(facts)}",
        "Take each clip's own maximum as the reference: librosa.power_to_db(mel, ref=np.max)",
    ),
    Rule(
        False,
        "deeper than -80 dB",
        lambda facts: facts.mel_min < LIMITS["floor_db"].value,
        lambda facts: f"{AS_MADE}, got {_range(facts)}",
        "Cut at -80 dB: librosa.power_to_db(mel, ref=np.max, top_db=80)",
    ),
)  # fmt: skip
"""The first that holds names the array: what is wrong with it explains what follows."""

ARRAY_PROBLEMS = frozenset({UNREADABLE, *(rule.name for rule in RULES)})

LABEL_ADVICE = {
    "unusable id": "An id is the text before the first dot",
    "shifted columns": "A row is the id, then a cell for each column of the header",
    "duplicate id": "Keep one of its rows",
    "row without array": "Give the array, or take the row out",
    "missing label": "Give it one, or take the row out",
    "unknown class": "Correct the name, or give --classes",
    "class missing from train": "A class needs clips in train: was it cut?",
    "label not a number": "Labels are numbers from 0 to 1; a missing one is an empty cell",
    "label out of range": "Scale labels to 0 to 1",
    UNREADABLE: f"Copy it again, or save it as float32; {EXTRACT}",
}
"""What to do about each kind of problem that a label file or reading an array gives."""


def first_rule(facts: ArrayFacts) -> Rule | None:
    """What is wrong with the array; None where nothing is, or where it cannot be read."""
    return next((rule for rule in RULES if rule.holds(facts)), None) if facts.dtype else None

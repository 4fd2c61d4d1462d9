"""Synthesises music for the demo corpus: a waveform and labels from a genre and a seed.

A clip has drums, bass, chords and a lead over four chords in a major or minor key. The ranges of the genres' parameters
overlap, as those of real genres do. Electronic and Trip-Hop differ only in the direction of time: in Electronic the
layers enter one after another, in Trip-Hop they leave. So only the order of the frames distinguishes the two.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.signal import butter, sosfilt

from mtmusic.constants import SAMPLE_RATE

Range = tuple[float, float]

STEPS = 16
"""Steps in a bar of four beats."""
ENTRIES = {"kick": 0.0, "snare": 0.0, "chords": 0.2, "bass": 0.4, "hat": 0.6, "lead": 0.75}
"""When each layer enters a clip that builds up, as a share of its length."""
LOWEST_KEY, KEYS = 45, 3  # MIDI note numbers: A, A sharp and B
PROGRESSIONS = ((0, 5, 3, 4), (0, 3, 4, 0), (0, 4, 5, 3), (0, 3, 0, 4))
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)


@dataclass(frozen=True)
class Style:
    """One genre. Each clip draws one value from each range. In a rhythm, `x` is a hit."""

    tempo: Range  # beats per minute
    minor: float  # probability of a minor key
    kick: str
    snare: str
    hat: str
    bass: str
    chords: str
    lead: str
    swing: float  # delay of the off-beat eighths, in steps
    tilt: Range  # harmonic h of a note has the amplitude h ** -tilt
    decay: Range  # seconds in which a note falls to 1/e
    drums: Range  # level relative to that of the notes
    drive: Range  # gain before the distortion
    noise: Range  # level of steady noise
    density: Range  # probability that a hit off the beat sounds
    jitter: Range  # standard deviation of the timing, in seconds
    arc: int = 0  # 1: layers enter one after another; -1: they leave; 0: all sound throughout


_BUILDS_UP = Style(
    tempo=(85, 115), minor=0.6,
    kick="x...x...x...x...", snare="....x.......x...", hat="..x...x...x...x.",
    bass="x..x..x.x..x..x.", chords="x.......x.......", lead="x.x.x.xxx.x.x.xx",
    swing=0.0, tilt=(0.9, 1.8), decay=(0.08, 0.25), drums=(0.35, 1.0), drive=(1.0, 3.0), noise=(0.0005, 0.004),
    density=(0.35, 1.0), jitter=(0.0, 0.008), arc=1,
)  # fmt: skip
STYLES = {
    "Classical": Style(
        tempo=(70, 130), minor=0.4,
        kick="x...............", snare="................", hat="................",
        bass="x.......x.......", chords="x...x...x...x...", lead="x.x.x.x.x.x.x.x.",
        swing=0.0, tilt=(1.5, 2.6), decay=(0.4, 1.0), drums=(0.1, 0.6), drive=(0.5, 1.5), noise=(0.0002, 0.002),
        density=(0.2, 1.0), jitter=(0.005, 0.03),
    ),
    "Electronic": _BUILDS_UP,
    "Folk": Style(
        tempo=(80, 140), minor=0.35,
        kick="x.......x.......", snare="................", hat="....x.......x...",
        bass="x.......x.......", chords="x..xx.x.x..xx.x.", lead="x...x.x.x...x.x.",
        swing=0.2, tilt=(1.2, 2.2), decay=(0.2, 0.6), drums=(0.1, 0.7), drive=(0.5, 1.8), noise=(0.0005, 0.006),
        density=(0.2, 1.0), jitter=(0.005, 0.025),
    ),
    "Hip-Hop": Style(
        tempo=(80, 112), minor=0.65,
        kick="x..x..x...x.....", snare="....x.......x..x", hat="x.x.x.x.x.x.x.x.",
        bass="x..x......x.....", chords="x...............", lead="x.....x...x.....",
        swing=0.3, tilt=(1.1, 2.2), decay=(0.15, 0.5), drums=(0.35, 1.1), drive=(0.8, 3.0), noise=(0.001, 0.008),
        density=(0.3, 1.0), jitter=(0.0, 0.015),
    ),
    "Jazz": Style(
        tempo=(90, 160), minor=0.45,
        kick="x.......x.......", snare="......x.......x.", hat="x...x.x.x...x.x.",
        bass="x...x...x...x...", chords="....x.....x.....", lead="x.x.x.x.x.x.x.x.",
        swing=0.7, tilt=(1.3, 2.4), decay=(0.2, 0.7), drums=(0.2, 0.8), drive=(0.5, 2.0), noise=(0.0005, 0.006),
        density=(0.2, 1.0), jitter=(0.004, 0.025),
    ),
    "Metal": Style(
        tempo=(110, 170), minor=0.75,
        kick="x.xxx.x.x.xxx.x.", snare="....x.......x...", hat="x...x...x...x...",
        bass="x.x.x.x.x.x.x.x.", chords="x.xxx.xxx.xxx.xx", lead="x...x...x...x...",
        swing=0.0, tilt=(0.6, 1.4), decay=(0.15, 0.5), drums=(0.3, 0.9), drive=(2.0, 8.0), noise=(0.001, 0.008),
        density=(0.3, 1.0), jitter=(0.0, 0.012),
    ),
    "Rock": Style(
        tempo=(95, 150), minor=0.5,
        kick="x.......x.x.....", snare="....x.......x...", hat="x.x.x.x.x.x.x.x.",
        bass="x.x.x.x.x.x.x.x.", chords="x...x.x.x...x.x.", lead="x.....x.x.....x.",
        swing=0.0, tilt=(0.8, 1.8), decay=(0.2, 0.6), drums=(0.35, 0.9), drive=(1.2, 5.0), noise=(0.0008, 0.007),
        density=(0.2, 1.0), jitter=(0.002, 0.018),
    ),
    "Trip-Hop": replace(_BUILDS_UP, arc=-1),
}  # fmt: skip


def synthesise(genre: str, seed: int, seconds: float) -> tuple[np.ndarray, dict[str, float]]:
    """Synthesises a clip of music, for demonstrations and tests. It says nothing about real songs.

    Args:
        genre: The style, one of STYLES.
        seed: Seed of what varies within a style.
        seconds: Length of the clip, at least 1.

    Returns:
        The waveform `(samples,)` in float32 at SAMPLE_RATE (22,050 Hz) with peak 0.9, and the labels "valence",
        "energy" and "danceability" from 0 to 1.

    Raises:
        ValueError: The genre is not one of STYLES, or `seconds` is below 1: such a clip may hold no note.

    Examples:
        >>> from mtmusic.audio.synthesis import synthesise
        >>> waveform, labels = synthesise("Rock", seed=0, seconds=1.0)
        >>> waveform.shape, sorted(labels)
        ((22050,), ['danceability', 'energy', 'valence'])
    """
    if genre not in STYLES:
        raise ValueError(f"Expected one of {', '.join(STYLES)}, got {genre!r}")
    if seconds < 1:
        raise ValueError(f"Expected at least one second, got {seconds}")
    style = STYLES[genre]
    rng = np.random.default_rng([seed, list(STYLES).index(genre)])  # so that genres do not share random numbers
    drawn = {name: rng.uniform(*limits) for name, limits in vars(style).items() if isinstance(limits, tuple)}
    minor = bool(rng.random() < style.minor)
    labels = _labels(drawn, minor, rng)
    waveform = _band(style, drawn, minor, seconds, rng)
    waveform = np.tanh(drawn["drive"] * waveform / np.abs(waveform).max())
    waveform += drawn["noise"] * rng.normal(size=len(waveform))
    return (0.9 * waveform / np.abs(waveform).max()).astype(np.float32), labels


def _band(style: Style, drawn: dict[str, float], minor: bool, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """(samples,): the sum of the sounds of all layers, each at its time."""
    samples = int(seconds * SAMPLE_RATE)
    mixed = np.zeros(samples + 3 * SAMPLE_RATE, np.float32)  # room for the last sounds, which are cut
    progression = np.array(PROGRESSIONS[rng.integers(len(PROGRESSIONS))])
    scale, key = MINOR if minor else MAJOR, LOWEST_KEY + int(rng.integers(KEYS))
    drums = _drums(drawn["drums"], rng)
    first = 4 * int(rng.integers(4 * len(progression)))  # the clip starts at a random beat of the four bars

    @cache
    def tone(degree: int) -> np.ndarray:
        return _tone(key + 12 * (degree // 7) + scale[degree % 7], drawn["tilt"], drawn["decay"])

    @cache
    def sound(layer: str, root: int, turn: int) -> np.ndarray:
        if layer == "chords":
            return 0.25 * (tone(root) + tone(root + 2) + tone(root + 4))
        if layer == "bass":
            return 0.6 * tone(root - 7)
        return 0.35 * tone(root + 7 + 2 * turn) if layer == "lead" else drums[layer]

    for layer in ENTRIES:
        steps, starts = _hits(style, layer, drawn, first, seconds, rng)
        roots, turns = progression[steps // STEPS % len(progression)], rng.integers(3, size=len(steps))
        for start, root, turn in zip(starts.tolist(), roots.tolist(), turns.tolist(), strict=True):
            played = sound(layer, root, turn)
            mixed[start : start + len(played)] += played
    return mixed[:samples]


def _hits(
    style: Style, layer: str, drawn: dict[str, float], first: int, seconds: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The hits of a layer: (hits,) as steps, and (hits,) as samples."""
    step_seconds = 60 / drawn["tempo"] / 4
    elapsed = np.arange(np.ceil(seconds / step_seconds), dtype=int)
    steps = first + elapsed
    progress = (elapsed + 0.5) / len(steps)
    rhythm = np.array([mark == "x" for mark in getattr(style, layer)])[steps % STEPS]
    played = rhythm & ((steps % 4 == 0) | (rng.random(len(steps)) < drawn["density"]))
    if style.arc:
        played &= ENTRIES[layer] <= (progress if style.arc > 0 else 1 - progress)
    times = (elapsed + style.swing * (steps % 4 == 2)) * step_seconds + drawn["jitter"] * rng.normal(size=len(steps))
    return steps[played], (times[played].clip(0) * SAMPLE_RATE).astype(int)


def _tone(midi: int, tilt: float, decay: float) -> np.ndarray:
    """(samples,): eight decaying harmonics, silent after 2.5 times the decay."""
    length = 2.5 * decay
    time = np.arange(0, length, 1 / SAMPLE_RATE, dtype=np.float32)
    harmonics = np.arange(1, 9, dtype=np.float32)
    phases = np.float32(2 * np.pi * 440 * 2 ** ((midi - 69) / 12)) * np.outer(harmonics, time)
    return harmonics**-tilt @ np.sin(phases) * np.exp(-time / decay) * (1 - time / length)


def _drums(level: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Each drum's sound, (samples,): a sine of falling pitch, and bursts of noise."""
    time = np.arange(0, 0.25, 1 / SAMPLE_RATE)
    noise = rng.normal(size=len(time))
    bright = sosfilt(butter(2, 6000, "high", fs=SAMPLE_RATE, output="sos"), noise)
    thump = np.sin(2 * np.pi * (50 * time - 4 * np.exp(-time / 0.04))) * np.exp(-time / 0.09)
    return {
        "kick": level * (1.4 * thump + 0.4 * noise * np.exp(-time / 0.008)),
        "snare": level * (0.4 * noise + 0.5 * np.sin(2 * np.pi * 185 * time)) * np.exp(-time / 0.06),
        "hat": level * 0.4 * bright * np.exp(-time / 0.02),
    }


def _labels(drawn: dict[str, float], minor: bool, rng: np.random.Generator) -> dict[str, float]:
    """Labels from the clip's parameters, with noise.

    Valence comes from the mode and the brightness, energy from density and drive, danceability from a steady beat.
    """
    means = {
        "valence": 0.5 + (-0.16 if minor else 0.16) + 0.28 * (1.6 - drawn["tilt"]),
        "energy": 0.55 * drawn["density"] + 0.14 * np.log2(1 + drawn["drive"]) + 0.1 * drawn["drums"],
        "danceability": 0.3 + 0.55 * drawn["drums"] - 8 * drawn["jitter"],
    }
    return {name: float(np.clip(mean + 0.06 * rng.normal(), 0, 1)) for name, mean in means.items()}

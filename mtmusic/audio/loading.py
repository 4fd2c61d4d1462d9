"""Loads a song's file as a mono waveform at a sample rate, as librosa.load does. Errors name the file."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from mtmusic.audio.decoding import (
    HIGHEST_RATE,
    LOWEST_RATE,
    UNKNOWN_FRAMES,
    decoded,
    decoder_of,
    left_out,
    require_file,
)
from mtmusic.audio.resampling import resample, resample_blocks
from mtmusic.constants import LOUDEST_WHERE_LEVEL_COUNTS, SAMPLE_RATE
from mtmusic.errors import UserError

SILENT_BELOW = 1e-4  # peak; -80 dB of full scale
CANCELLED_BELOW = 1e-6  # energy of the mono mix / energy of the channels; -60 dB
FULL_SCALE, CLIPPED_SHARE = 0.9999, 1e-3
SHORT_SECONDS = 5.0
MISSING_SECONDS = 0.1
LONGEST_HOURS = 24
LOUDEST = 1e6
"""The highest peak at SAMPLE_RATE, where features are relative to the clip's maximum. It admits unscaled 16-bit
samples."""

ZERO_OF_TYPE = {"int8": 0, "uint8": 128, "int16": 0, "int32": 0}
"""Integer types that samples may have, and the value of silence in each."""


def load_waveform(
    path: Path | str, offset: float = 0.0, duration: float | None = None, sample_rate: int = SAMPLE_RATE
) -> np.ndarray:
    """Loads a song, or a part of it, as a mono waveform, with the same numbers as librosa.load.

    Only the requested part is decoded. An mp3 that does not state its length is decoded to its end, while librosa.load
    stops at an estimate. A damaged file is decoded up to the damage. Of a file with several streams the first one is
    decoded. Warns of silence, of clipping, of songs shorter than five seconds, of seconds whose channels cancel each
    other, and of parts of the file that are missing or left out.

    Args:
        path: The song's file.
        offset: Seconds to skip at the beginning.
        duration: Seconds to load. If the song ends earlier, the waveform is shorter.
        sample_rate: Sample rate in Hz. At another rate than SAMPLE_RATE (22,050) the level is checked too, because
            logmel keeps it.

    Returns:
        The waveform `(samples,)` in float32, with full scale 1.

    Raises:
        UserError: The file is missing, empty, or cannot be decoded. It holds NaN or infinite samples, samples above
            1e6, or above 4 if the level is checked. Its channels cancel each other. Its sample rate is not in 1 kHz to
            1 MHz. It is longer than 24 hours. `offset` is negative, or `duration` is not positive.

    Examples:
        >>> from mtmusic.audio.loading import load_waveform
        >>> load_waveform("song.wav").shape  # 6 seconds at 22,050 Hz
        (132300,)
    """
    waveform, doubts = load_with_doubts(Path(path), offset, duration, sample_rate)
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=2)
    return waveform


def load_with_doubts(
    path: Path, offset: float = 0.0, duration: float | None = None, sample_rate: int = SAMPLE_RATE
) -> tuple[np.ndarray, list[str]]:
    """Like `load_waveform`, but returns the warnings as a list, because Python's warnings are not thread-safe.

    Args:
        path: The song's file.
        offset: Seconds to skip at the beginning.
        duration: Seconds to load.
        sample_rate: Sample rate in Hz.

    Returns:
        The waveform `(samples,)` in float32, and the warnings.

    Raises:
        UserError: As `load_waveform`.

    Examples:
        >>> from pathlib import Path
        >>> from mtmusic.audio.loading import load_with_doubts
        >>> waveform, doubts = load_with_doubts(Path("song.wav"), offset=4.0)
        >>> waveform.shape, doubts
        ((44100,), ['song.wav is short: 2.0 s'])
    """
    doubts: list[str] = []
    blocks = stream_waveform(path, sample_rate, offset=offset, duration=duration, doubts=doubts)
    return np.concatenate([*blocks]), doubts


def stream_waveform(
    path: Path | str,
    sample_rate: int = SAMPLE_RATE,
    block_seconds: float = 30.0,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    doubts: list[str] | None = None,
) -> Iterator[np.ndarray]:
    """Loads a song in blocks, with the same samples as `load_waveform`. At most two blocks are in memory.

    Args:
        path: The song's file.
        sample_rate: Sample rate in Hz.
        block_seconds: Length of a block.
        offset: Seconds to skip at the beginning.
        duration: Seconds to load.
        doubts: A list to which the warnings are added at the end of the song.

    Yields:
        The waveform in blocks of `round(block_seconds * sample_rate)` samples. The last block may be shorter.

    Raises:
        UserError: As `load_waveform`, once the iterator reaches the faulty block.

    Examples:
        >>> from mtmusic.audio.loading import stream_waveform
        >>> [block.shape for block in stream_waveform("song.wav", block_seconds=4.0)]
        [(88200,), (44100,)]
    """
    path = Path(path)
    _require_part(path, offset, duration)
    require_file(path)
    with decoder_of(path) as decoder:
        rate = decoder.samplerate
        start = min(int(offset * rate), decoder.frames)
        wanted = UNKNOWN_FRAMES if duration is None else int(duration * rate)
        promised = min(decoder.frames - start, wanted)
        if decoder.frames < UNKNOWN_FRAMES and promised > LONGEST_HOURS * 3600 * rate:
            raise _too_long(f"{promised / rate / 3600:.1f} by the header", path)
        level = _Level(path, offset, sample_rate)
        mono = (level.mono(second) for second in _of_length(decoded(decoder, start, promised), rate))
        samples = 0
        for block in _of_length(resample_blocks(mono, rate, sample_rate), round(block_seconds * sample_rate)):
            samples += len(block)
            if samples > LONGEST_HOURS * 3600 * sample_rate:
                raise _too_long("more", path)
            yield block
        missing = 0 if decoder.frames == UNKNOWN_FRAMES else (promised - level.frames) / rate
        rest = left_out(decoder) if level.frames < wanted else 0
    if missing and not level.frames:
        raise UserError(f"Expected {missing:.1f} s of audio, got none in {path}: is the file damaged?")
    found = level.doubts(samples / sample_rate, duration)
    if missing > MISSING_SECONDS:
        found.append(f"is truncated: {missing:.1f} s of the length in its header are missing")
    elif rest:
        end, share = (start + level.frames) / rate, rest / path.stat().st_size
        found.append(f"is decoded up to second {end:.1f}: the last {share:.0%} of the file are damaged, or not audio")
    if doubts is not None:
        doubts += [f"{path} {doubt}" for doubt in found]


def resampled(
    samples: np.ndarray,
    sample_rate: float = SAMPLE_RATE,
    target_rate: int = SAMPLE_RATE,
    doubts: list[str] | None = None,
) -> np.ndarray:
    """Resamples a waveform, after the checks of `load_waveform`.

    Args:
        samples: The waveform `(samples,)`. Floating-point samples have full scale 1. Integers of 8, 16 or 32 bits are
            scaled by the full scale of their type.
        sample_rate: Sample rate of `samples` in Hz.
        target_rate: Sample rate of the result in Hz.
        doubts: A list to which the warnings are added.

    Returns:
        The waveform `(samples,)` in float32.

    Raises:
        UserError: `samples` has another shape or type, `sample_rate` is not in 1 kHz to 1 MHz, or the samples fail the
            checks of `load_waveform`.

    Examples:
        >>> from mtmusic.audio.loading import resampled
        >>> resampled(np.sin(np.arange(88200)), sample_rate=44_100).shape
        (44100,)
    """
    integers = str(samples.dtype) in ZERO_OF_TYPE
    if samples.ndim != 1 or (samples.dtype.kind != "f" and not integers):
        raise UserError(
            f"Expected a waveform (samples,) of floats, or of int16, int32, int8 or uint8, "
            f"got {samples.shape} {samples.dtype}"
        )
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise UserError(f"Expected a sample rate of {LOWEST_RATE} to {HIGHEST_RATE} Hz, got {sample_rate:g}")
    if integers:
        full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
        samples = (samples.astype(np.float64) - ZERO_OF_TYPE[str(samples.dtype)]) / full_scale
    level = _Level("the waveform", 0.0, target_rate)
    level.noted(samples)
    found = level.doubts(len(samples) / sample_rate)
    if doubts is not None:
        doubts += [f"the waveform {doubt}" for doubt in found]
    samples = samples.astype(np.float32, copy=False)
    return resample(samples, sample_rate, target_rate)


@dataclass
class _Level:
    """Statistics of a song's level, collected block by block. sample_rate: the rate that the song is resampled to."""

    path: Path | str
    offset: float
    sample_rate: int
    frames: int = 0
    peak: float = 0.0
    full_scale: int = 0
    numbers: int = 0
    channels: float = 0.0
    mix: float = 0.0
    cancelled: list[bool] = field(default_factory=list)

    def mono(self, second: np.ndarray) -> np.ndarray:
        """One second (frames, channels) -> (frames,): the mean over channels."""
        mono = self.noted(second).mean(axis=1)
        channels, mix = float(np.vdot(second, second)) / second.shape[1], float(np.vdot(mono, mono))
        silent = channels < SILENT_BELOW**2 * len(second)
        self.cancelled.append(not silent and mix < CANCELLED_BELOW * channels)
        self.channels += channels
        self.mix += mix
        return mono

    def noted(self, block: np.ndarray) -> np.ndarray:
        """Checks and returns the block, (frames,) or (frames, channels). Raises UserError for impossible samples."""
        if not np.isfinite(block).all():
            bad = np.count_nonzero(~np.isfinite(block))
            raise UserError(f"Expected finite samples, got {bad} NaN or infinite in {self.path}")
        level = np.abs(block)
        self.peak = max(self.peak, float(level.max(initial=0)))
        if self.peak > LOUDEST:
            raise UserError(f"Expected samples from -1 to 1, got far larger values in {self.path}")
        if self.sample_rate != SAMPLE_RATE and self.peak > LOUDEST_WHERE_LEVEL_COUNTS:
            raise UserError(
                f"Expected samples from -1 to 1, with no peak above {LOUDEST_WHERE_LEVEL_COUNTS:g}, "
                f"got a peak of {self.peak:g} in {self.path}"
            )
        self.frames += len(block)
        self.numbers += block.size
        self.full_scale += int(np.count_nonzero(level >= FULL_SCALE))
        return block

    def doubts(self, seconds: float, wanted: float | None = None) -> list[str]:
        """Returns the warnings. seconds: the song's length. wanted: the requested length.

        Raises UserError if the song has no samples, or if its channels cancel each other.
        """
        if not self.numbers:
            after = f" after second {self.offset:g}" if self.offset else ""
            raise UserError(f"Expected audio{after}, got none in {self.path}")
        found = []
        share = self.full_scale / self.numbers
        if self.peak < SILENT_BELOW:
            found.append("is silent")
        elif self.mix < CANCELLED_BELOW * self.channels:
            raise UserError(
                f"Expected sound in mono, got channels that cancel each other in {self.path}: invert one channel, or "
                "keep only one"
            )
        elif share >= CLIPPED_SHARE:
            found.append(f"is clipped: {share:.1%} of its samples are at full scale")
        if parts := self._cancelled_parts(seconds):
            found.append(f"has opposite channels in seconds {parts}: they cancel each other in mono")
        if seconds < min(SHORT_SECONDS, wanted or SHORT_SECONDS):
            found.append(f"is short: {seconds:.1f} s")
        return found

    def _cancelled_parts(self, seconds: float) -> str:
        parts, end = [], 0
        for cancelled, run in groupby(self.cancelled):
            begin, end = end, end + len([*run])
            if cancelled:
                parts.append(f"{self.offset + begin:.0f} to {self.offset + min(end, seconds):.0f}")
        return ", ".join(parts)


def _of_length(pieces: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Regroups the samples into pieces of this length. The last piece may be shorter."""
    held: list[np.ndarray] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) >= length:
            joined = np.concatenate(held)
            whole = len(joined) // length * length
            yield from (joined[begin : begin + length] for begin in range(0, whole, length))
            held = [joined[whole:].copy()]
    if any(map(len, held)):
        yield np.concatenate(held)


def _require_part(path: Path, offset: float, duration: float | None) -> None:
    if not 0 <= offset < np.inf:
        raise UserError(f"Expected an offset of 0 seconds or more, got {offset} for {path}")
    if duration is not None and not 0 < duration < np.inf:
        raise UserError(f"Expected a duration above 0 seconds, got {duration} for {path}")


def _too_long(got: str, path: Path) -> UserError:
    return UserError(f"Expected up to {LONGEST_HOURS} hours of audio, got {got} in {path}")

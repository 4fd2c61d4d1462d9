"""A song's file -> mono float32 at a sample rate, as librosa.load gives it, or an error that names the file."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import audioread
import numpy as np
import soundfile

from mtmusic.audio.resampling import resample, resample_blocks
from mtmusic.constants import SAMPLE_RATE
from mtmusic.errors import UserError

SOUNDFILE_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
SUFFIXES = (*SOUNDFILE_SUFFIXES, ".m4a", ".mp4", ".aac", ".wma")
"""Names of songs: what soundfile reads, and what needs another decoder."""

SILENT_BELOW = 1e-4  # peak; -80 dB of full scale
FULL_SCALE, CLIPPED_SHARE = 0.9999, 1e-3
SHORT_SECONDS = 5.0
MISSING_SECONDS = 0.1
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz; kHz given for Hz would make minutes of each second
LOUDEST = 1e6
"""At SAMPLE_RATE, whose features are relative to the clip's maximum: 16-bit numbers that nobody scaled stay below."""
LOUDEST_WHERE_LEVEL_COUNTS = 4.0  # at other rates

ZERO_OF_TYPE = {"int8": 0, "uint8": 128, "int16": 0, "int32": 0}
"""Whole numbers that samples may be, and which of them is silence."""

BLOCK_FRAMES = 2**16
QUEUED_READS = 256  # of 8 kB from ffmpeg, which decodes faster than anybody reads
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a stream whose header does not give its length


class _Stream(soundfile.SoundFile):
    """Reads on without the seek that soundfile makes after each block, which fails at the end of some streams."""

    def seekable(self) -> bool:
        return False


def load_waveform(
    path: Path | str, offset: float = 0.0, duration: float | None = None, sample_rate: int = SAMPLE_RATE
) -> np.ndarray:
    """(samples,) float32, mono, at `sample_rate` Hz: librosa.load's numbers. Only the part asked for is decoded.

    offset and duration are in seconds; a song that ends earlier gives what it has. Integers are scaled by their type,
    so that full scale is 1. Warns of silence, clipping, a truncated file and clips under five seconds. A damaged file
    gives what comes before the damage. Raises UserError for audio that is empty, cannot be decoded, or holds NaN or
    infinity, for an offset below 0 or a duration that is not above 0, and for samples beyond 1e6. At another rate than
    SAMPLE_RATE the level counts, since logmel keeps it: samples beyond 4 are refused there.
    """
    waveform, doubts = load_with_doubts(Path(path), offset, duration, sample_rate)
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=2)
    return waveform


def load_with_doubts(
    path: Path, offset: float = 0.0, duration: float | None = None, sample_rate: int = SAMPLE_RATE
) -> tuple[np.ndarray, list[str]]:
    """As `load_waveform`, with its warnings as a list: Python's warnings are not safe in threads."""
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
    """Yields `load_waveform`'s samples, the very same numbers, in blocks, in one pass and in memory for a block or two.

    Each block has round(block_seconds * sample_rate) samples, the last one what remains, one or more. doubts: a list
    that gets the warnings when the song is over. Raises UserError as `load_waveform`, at whichever block it is.
    """
    path = Path(path)
    _require_part(path, offset, duration)
    _require_file(path)
    with _decoder(path) as decoder:
        rate = decoder.samplerate
        start = min(int(offset * rate), decoder.frames)
        promised = decoder.frames - start
        if duration is not None:
            promised = min(promised, int(duration * rate))
        level = _Level(path, offset, sample_rate)
        blocks = _soundfile_blocks if isinstance(decoder, _Stream) else _audioread_blocks
        mono = (level.noted(block).mean(axis=1) for block in blocks(decoder, start, promised))
        samples = 0
        for block in _of_length(resample_blocks(mono, rate, sample_rate), round(block_seconds * sample_rate)):
            samples += len(block)
            yield block
        missing = 0 if decoder.frames == UNKNOWN_FRAMES else (promised - level.frames) / rate
    if missing and not level.frames:
        raise UserError(f"Expected {missing:.1f} s of audio, got none in {path}: damaged?")
    found = level.doubts()
    if missing > MISSING_SECONDS:
        found.append(f"is truncated: {missing:.1f} s that its header promises are missing")
    if samples / sample_rate < min(SHORT_SECONDS, duration or SHORT_SECONDS):
        found.append(f"is short: {samples / sample_rate:.1f} s")
    if doubts is not None:
        doubts += [f"{path} {doubt}" for doubt in found]


def header_seconds(path: Path) -> float | None:
    """How long the song is by its header, nothing decoded; None where the header does not say, or cannot be read."""
    try:
        with path.open("rb") as file:
            header = soundfile.info(file)
    except (OSError, soundfile.SoundFileError):
        return None
    return None if header.frames == UNKNOWN_FRAMES else header.frames / header.samplerate


def resampled(samples: np.ndarray, sample_rate: float = SAMPLE_RATE, target_rate: int = SAMPLE_RATE) -> np.ndarray:
    """(samples,) at any rate in Hz -> (samples,) float32 at `target_rate`.

    samples: floating-point numbers, full scale 1, or 8-, 16- or 32-bit integers, which are scaled by their type.
    Raises UserError for other shapes and kinds of numbers, for a rate that no sound has, and as `load_waveform`.
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
    level.require_samples()
    samples = samples.astype(np.float32, copy=False)
    return resample(samples, sample_rate, target_rate)


@dataclass
class _Level:
    """What the blocks of a song are found to be, one after the other. sample_rate: that which they are taken to."""

    path: Path | str
    offset: float
    sample_rate: int
    frames: int = 0
    peak: float = 0.0
    full_scale: int = 0
    numbers: int = 0

    def noted(self, block: np.ndarray) -> np.ndarray:
        """The block, (frames,) or (frames, channels). Raises UserError for what no sound is."""
        if not np.isfinite(block).all():
            bad = np.count_nonzero(~np.isfinite(block))
            raise UserError(f"Expected finite samples, got {bad} NaN or infinite in {self.path}")
        level = np.abs(block)
        self.peak = max(self.peak, float(level.max(initial=0)))
        if self.peak > LOUDEST:
            raise UserError(f"Expected samples around 1 or below, got far louder ones in {self.path}")
        if self.sample_rate != SAMPLE_RATE and self.peak > LOUDEST_WHERE_LEVEL_COUNTS:
            raise UserError(
                f"Expected samples from -1 to 1, with no peak above {LOUDEST_WHERE_LEVEL_COUNTS:g}, "
                f"got a peak of {self.peak:g} in {self.path}"
            )
        self.frames += len(block)
        self.numbers += block.size
        self.full_scale += int(np.count_nonzero(level >= FULL_SCALE))
        return block

    def require_samples(self) -> None:
        if not self.numbers:
            after = f" after second {self.offset:g}" if self.offset else ""
            raise UserError(f"Expected audio{after}, got none in {self.path}")

    def doubts(self) -> list[str]:
        """Raises UserError where there was nothing."""
        self.require_samples()
        if self.peak < SILENT_BELOW:
            return ["is silent"]
        share = self.full_scale / self.numbers
        return [f"is clipped: {share:.1%} of its samples are at full scale"] if share >= CLIPPED_SHARE else []


def _of_length(pieces: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """The same samples in pieces of this length; the last one is what remains."""
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


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"Expected a song's file, got {'a folder' if path.is_dir() else 'no such file'}: {path}")
    try:
        with path.open("rb") as file:  # says why it cannot be read, which soundfile does not
            if not file.read(1):
                raise UserError(f"Expected audio, got an empty file: {path}")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error


@contextmanager
def _decoder(path: Path) -> Iterator[Any]:
    """soundfile's, or audioread's for what that does not open: with `samplerate`, `channels` and `frames`.

    What soundfile opens is never given to another decoder, so that a damaged file is the same on every machine.
    """
    try:
        song = _Stream(os.fsencode(path))  # bytes: names need not be UTF-8
    except Exception:  # libsndfile's errors, and soundfile's about names that it takes for headerless formats
        with _audioread(path) as song:
            yield song
    else:
        with song:
            yield song


def _soundfile_blocks(file: soundfile.SoundFile, start: int, frames: int) -> Iterator[np.ndarray]:
    """(frames, channels) blocks: `frames` from `start` on, or those before the end or the first error.

    soundfile does not say how much of a block it read before an error: the rows that are no longer NaN.
    """
    block = np.zeros((0, file.channels), np.float32)
    try:
        file.seek(start)
        while frames > 0:
            block = np.full((min(frames, BLOCK_FRAMES), file.channels), np.nan, np.float32)
            read = file.read(out=block)
            if len(read) == 0:
                return
            frames -= len(read)
            yield read
    except soundfile.LibsndfileError:
        yield block[~np.isnan(block).all(axis=1)]


@contextmanager
def _audioread(path: Path) -> Iterator[Any]:
    """ffmpeg's or the system's own decoder, which librosa turns to as well; raises UserError where none reads it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what was tried in vain, and of deprecated modules
            song = audioread.audio_open(path.absolute())
        song.frames = UNKNOWN_FRAMES
        queue = getattr(getattr(song, "stdout_reader", None), "queue", None)  # ffmpeg's
        try:
            if queue is not None:
                queue.maxsize = QUEUED_READS
            yield song
        finally:
            if queue is not None:
                with queue.not_full:  # its thread is waited for, and must not wait for room
                    queue.maxsize = sys.maxsize
                    queue.not_full.notify_all()
            song.close()
    except (UserError, GeneratorExit):
        raise
    except Exception as error:  # a dozen kinds, by decoder
        if path.suffix.lower() in SOUNDFILE_SUFFIXES:
            raise UserError(f"Expected audio, got what no decoder reads in {path}: damaged, or no audio?") from error
        raise UserError(f"No decoder reads {path}: install ffmpeg, or convert it to wav, flac, ogg or mp3") from error


def _audioread_blocks(song: Any, start: int, frames: int) -> Iterator[np.ndarray]:
    """As `_soundfile_blocks`, of 16-bit numbers."""
    size = 2 * song.channels
    skip, left = start * size, frames * size
    buffer = bytearray()
    for data in song:
        kept = data[skip : skip + left]
        skip, left = max(0, skip - len(data)), left - len(kept)
        buffer += kept
        if len(buffer) >= BLOCK_FRAMES * size or not left:
            whole = len(buffer) // size * size
            yield _floats(buffer[:whole], song.channels)
            del buffer[:whole]
        if not left:
            return
    yield _floats(buffer[: len(buffer) // size * size], song.channels)


def _floats(content: bytearray, channels: int) -> np.ndarray:
    return (np.frombuffer(content, "<i2").astype(np.float32) / 2**15).reshape(-1, channels)

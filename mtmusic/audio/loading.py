"""A song's file -> mono float32 at a sample rate, as librosa.load gives it, or an error that names the file."""

import io
import os
import re
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import audioread
import numpy as np
import soundfile

from mtmusic.audio.quiet import quiet_c
from mtmusic.audio.resampling import resample, resample_blocks
from mtmusic.constants import SAMPLE_RATE
from mtmusic.errors import UserError

SOUNDFILE_SUFFIXES = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga", ".aif", ".aiff", ".aifc", ".au", ".caf",
    ".w64", ".rf64",
)  # fmt: skip
SUFFIXES = (
    *SOUNDFILE_SUFFIXES, ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".asf", ".webm", ".weba", ".mka", ".wv", ".tta",
    ".ac3", ".eac3", ".dts", ".ape", ".mpc", ".amr", ".3gp", ".dsf", ".dff", ".ra",
)  # fmt: skip
"""Names of songs: what soundfile reads, and what needs another decoder."""

SILENT_BELOW = 1e-4  # peak; -80 dB of full scale
CANCELLED_BELOW = 1e-6  # energy of the mono mix, of that of its channels; -60 dB
FULL_SCALE, CLIPPED_SHARE = 0.9999, 1e-3
SHORT_SECONDS = 5.0
MISSING_SECONDS = 0.1
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz; kHz given for Hz would make minutes of each second
LONGEST_HOURS = 24
LOUDEST = 1e6
"""At SAMPLE_RATE, whose features are relative to the clip's maximum: 16-bit numbers that nobody scaled stay below."""
LOUDEST_WHERE_LEVEL_COUNTS = 4.0  # at other rates

ZERO_OF_TYPE = {"int8": 0, "uint8": 128, "int16": 0, "int32": 0}
"""Whole numbers that samples may be, and which of them is silence."""

BLOCK_FRAMES = 2**16
QUEUED_READS = 256  # of 8 kB from ffmpeg, which decodes faster than anybody reads
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a stream whose header does not give its length
LARGEST_REST, LARGEST_OGG_PAGE, LARGEST_MPEG_FRAME = 2**20, 2**16, 2**11  # bytes


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
        wanted = UNKNOWN_FRAMES if duration is None else int(duration * rate)
        promised = min(decoder.frames - start, wanted)
        if decoder.frames < UNKNOWN_FRAMES and promised > LONGEST_HOURS * 3600 * rate:
            raise _too_long(f"{promised / rate / 3600:.1f} by the header", path)
        level = _Level(path, offset, sample_rate)
        blocks = _soundfile_blocks if isinstance(decoder, _Stream) else _audioread_blocks
        mono = (level.mono(block) for block in blocks(decoder, start, promised))
        samples = 0
        for block in _of_length(resample_blocks(mono, rate, sample_rate), round(block_seconds * sample_rate)):
            samples += len(block)
            if samples > LONGEST_HOURS * 3600 * sample_rate:
                raise _too_long("more", path)
            yield block
        missing = 0 if decoder.frames == UNKNOWN_FRAMES else (promised - level.frames) / rate
        left_out = _left_out(decoder) if level.frames < wanted else 0
    if missing and not level.frames:
        raise UserError(f"Expected {missing:.1f} s of audio, got none in {path}: damaged?")
    found = level.doubts(samples / sample_rate, duration)
    if missing > MISSING_SECONDS:
        found.append(f"is truncated: {missing:.1f} s that its header promises are missing")
    elif left_out:
        end, share = (start + level.frames) / rate, left_out / path.stat().st_size
        found.append(
            f"is decoded up to second {end:.1f}: the last {share:.0%} of the file, damaged or another part, is not"
        )
    if doubts is not None:
        doubts += [f"{path} {doubt}" for doubt in found]


def header_seconds(path: Path) -> float | None:
    """How long the song is by its header, nothing decoded; None where the header does not say, or cannot be read."""
    if not path.is_file():  # a pipe would be waited for
        return None
    with ExitStack() as stack:
        try:
            song = _soundfile(path, stack)
        except Exception:
            return None
        return None if song.frames == UNKNOWN_FRAMES else song.frames / song.samplerate


def resampled(
    samples: np.ndarray,
    sample_rate: float = SAMPLE_RATE,
    target_rate: int = SAMPLE_RATE,
    doubts: list[str] | None = None,
) -> np.ndarray:
    """(samples,) at any rate in Hz -> (samples,) float32 at `target_rate`.

    samples: floating-point numbers, full scale 1, or 8-, 16- or 32-bit integers, which are scaled by their type.
    doubts: a list that gets the warnings. Raises UserError for other shapes and kinds of numbers, for a rate that no
    sound has, and as `load_waveform`.
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
    """What the blocks of a song are found to be, one after the other. sample_rate: that which they are taken to."""

    path: Path | str
    offset: float
    sample_rate: int
    frames: int = 0
    peak: float = 0.0
    full_scale: int = 0
    numbers: int = 0
    channels: float = 0.0
    mix: float = 0.0

    def mono(self, block: np.ndarray) -> np.ndarray:
        """(frames, channels) -> (frames,): their mean."""
        mono = self.noted(block).mean(axis=1)
        self.channels += float(np.vdot(block, block)) / block.shape[1]
        self.mix += float(np.vdot(mono, mono))
        return mono

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

    def doubts(self, seconds: float, wanted: float | None = None) -> list[str]:
        """Raises UserError where there was nothing. seconds: how long the song is. wanted: how much was asked for."""
        if not self.numbers:
            after = f" after second {self.offset:g}" if self.offset else ""
            raise UserError(f"Expected audio{after}, got none in {self.path}")
        found = []
        share = self.full_scale / self.numbers
        if self.peak < SILENT_BELOW:
            found.append("is silent")
        elif self.mix < CANCELLED_BELOW * self.channels:
            raise UserError(
                f"Expected sound in mono, got channels that cancel each other in {self.path}: "
                "turn the sign of one, or keep one"
            )
        elif share >= CLIPPED_SHARE:
            found.append(f"is clipped: {share:.1%} of its samples are at full scale")
        if seconds < min(SHORT_SECONDS, wanted or SHORT_SECONDS):
            found.append(f"is short: {seconds:.1f} s")
        return found


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
        what = "a folder" if path.is_dir() else "a pipe or a device" if path.exists() else "no such file"
        raise UserError(f"Expected a song's file, got {what}: {path}")
    try:
        with path.open("rb") as file:  # says why it cannot be read, which soundfile does not
            if not file.read(1):
                raise UserError(f"Expected audio, got an empty file: {path}")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error


def _too_long(got: str, path: Path) -> UserError:
    return UserError(f"Expected up to {LONGEST_HOURS} hours of audio, got {got} in {path}")


class _Stream(soundfile.SoundFile):
    """Reads on without the seek that soundfile makes after each block, which fails at the end of some streams.

    source: what it reads from, where that is not a file that libsndfile opened by its name. frames: UNKNOWN_FRAMES
    where the file does not state them, though libsndfile has an estimate.
    """

    source: io.FileIO | None = None
    states_frames = True

    def seekable(self) -> bool:
        return False

    @property
    def frames(self) -> int:
        return super().frames if self.states_frames else UNKNOWN_FRAMES


class _EndlessFile(io.FileIO):
    """An mp3's file that claims a terabyte.

    Where the first frame of an mp3 does not state its length, libmpg123 estimates it from the first frames and the
    file's size, and libsndfile reads no further than that.
    """

    SIZE = 2**40
    place: int | None = None  # near the claimed end, where libmpg123 looks for a tag

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = self.SIZE + offset if whence == io.SEEK_END else None
        return super().seek(offset, whence) if self.place is None else self.place

    def tell(self) -> int:
        return super().tell() if self.place is None else self.place

    def readinto(self, buffer: Any) -> int | None:
        if self.place is None:
            return super().readinto(buffer)
        count = min(len(buffer), self.SIZE - self.place)
        buffer[:count] = bytes(count)
        return count


@contextmanager
def _decoder(path: Path) -> Iterator[Any]:
    """soundfile's, or audioread's for what that does not open: with `samplerate`, `channels` and `frames`.

    What soundfile opens is never given to another decoder, so that a damaged file is the same on every machine.
    Raises UserError for what none opens, and for a rate that no sound has.
    """
    with ExitStack() as stack:
        try:
            song = _soundfile(path, stack)
        except Exception:  # libsndfile's errors, and soundfile's about names that it takes for headerless formats
            song = stack.enter_context(_audioread(path))
        if not LOWEST_RATE <= song.samplerate <= HIGHEST_RATE:
            raise UserError(
                f"Expected a sample rate of {LOWEST_RATE} to {HIGHEST_RATE} Hz, "
                f"got {song.samplerate} in {path}: damaged?"
            )
        yield song


def _soundfile(path: Path, stack: ExitStack) -> _Stream:
    """Closed with the stack."""
    with quiet_c:
        song = stack.enter_context(_Stream(os.fsencode(path)))  # bytes: names need not be UTF-8
        if song.format not in ("MP3", "OGG"):
            return song
        source = stack.enter_context(_EndlessFile(path) if song.format == "MP3" else io.FileIO(path))
        try:
            stream = stack.enter_context(_Stream(source))
        except soundfile.LibsndfileError:  # without the name it needs to begin with sound
            return song
    stream.source, stream.states_frames = source, stream.frames == song.frames
    return stream


def _left_out(decoder: Any) -> int:
    """How many bytes at the file's end hold sound that the decoder did not come to: another part, or beyond damage."""
    if (source := getattr(decoder, "source", None)) is None:
        return 0
    size, end = os.fstat(source.fileno()).st_size, source.tell()
    if decoder.format == "OGG":  # a stream begins after pages of another; libsndfile has looked at its first ones
        begin = max(0, end - LARGEST_OGG_PAGE)
        content = os.pread(source.fileno(), LARGEST_REST, begin)
        found = re.search(rb"OggS\x00[^\x02].*?(OggS\x00\x02)", content, re.DOTALL)
        return size - begin - found.start(1) if found else 0
    content = os.pread(source.fileno(), LARGEST_REST, end)
    headers = Counter(re.findall(rb"\xff[\xe2-\xfe]", content))  # of MPEG frames, which differ little from each other
    frames = max(headers.values(), default=0)
    return size - end if frames > max(2, len(content) / LARGEST_MPEG_FRAME) else 0


def _soundfile_blocks(file: soundfile.SoundFile, start: int, frames: int) -> Iterator[np.ndarray]:
    """(frames, channels) blocks: `frames` from `start` on, or those before the end or the first error.

    soundfile does not say how much of a block it read before an error: the rows that are no longer NaN.
    """
    block = np.zeros((0, file.channels), np.float32)
    try:
        with quiet_c:
            file.seek(start)
        while frames > 0:
            block = np.full((min(frames, BLOCK_FRAMES), file.channels), np.nan, np.float32)
            with quiet_c:
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
        if path.suffix.lower() in SOUNDFILE_SUFFIXES or shutil.which("ffmpeg"):
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

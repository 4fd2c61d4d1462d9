"""A song's file -> blocks of its samples, by soundfile or, for what that does not read, by ffmpeg."""

import io
import os
import re
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import audioread
import numpy as np
import soundfile

from mtmusic.audio.quiet import quiet_c
from mtmusic.errors import UserError

SOUNDFILE_SUFFIXES = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mp1", ".mpga", ".aif", ".aiff", ".aifc", ".au",
    ".snd", ".caf", ".w64", ".rf64", ".voc", ".ogx",
)  # fmt: skip
SUFFIXES = (
    *SOUNDFILE_SUFFIXES, ".m4a", ".m4b", ".m4r", ".mp4", ".mov", ".aac", ".wma", ".asf", ".webm", ".weba", ".mka",
    ".mkv", ".avi", ".flv", ".spx", ".wv", ".tta", ".ac3", ".eac3", ".dts", ".ape", ".mpc", ".amr", ".3gp", ".3g2",
    ".dsf", ".dff", ".ra",
)  # fmt: skip
"""Names of songs: what soundfile reads, and what needs another decoder."""

LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz; kHz given for Hz would make minutes of each second

BLOCK_FRAMES = 2**16
QUEUED_READS = 256  # of 8 kB from ffmpeg, which decodes faster than anybody reads
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a stream whose header does not give its length
LARGEST_REST, LARGEST_OGG_PAGE, LARGEST_MPEG_FRAME = 2**20, 2**16, 2**11  # bytes


def require_file(path: Path) -> None:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device" if path.exists() else "no such file"
        raise UserError(f"Expected a song's file, got {what}: {path}")
    try:
        with path.open("rb") as file:  # says why it cannot be read, which soundfile does not
            if not file.read(1):
                raise UserError(f"Expected audio, got an empty file: {path}")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error


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
def decoder_of(path: Path) -> Iterator[Any]:
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
                f"got {song.samplerate} in {path}: is the file damaged?"
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


def left_out(decoder: Any) -> int:
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


def decoded(decoder: Any, start: int, frames: int) -> Iterator[np.ndarray]:
    """(frames, channels) float32 blocks: `frames` from `start` on, or those before the end or the first error."""
    blocks = _soundfile_blocks if isinstance(decoder, _Stream) else _audioread_blocks
    return blocks(decoder, start, frames)


def _soundfile_blocks(file: soundfile.SoundFile, start: int, frames: int) -> Iterator[np.ndarray]:
    """soundfile does not say how much of a block it read before an error: the rows that are no longer NaN."""
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
            raise UserError(
                f"Expected audio, got a file that no decoder reads: {path}: is it damaged, or no audio?"
            ) from error
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

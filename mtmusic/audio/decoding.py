"""Decodes a song's file in blocks of samples: by soundfile, or by ffmpeg if soundfile cannot read the file."""

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
"""Suffixes of songs: those that soundfile reads, and those that need another decoder."""

LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz; a rate in kHz by mistake would turn each second into minutes

BLOCK_FRAMES = 2**16
QUEUED_READS = 256  # of 8 kB each; ffmpeg decodes faster than its output is read
UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's value if the header does not state the length
LARGEST_REST, LARGEST_OGG_PAGE, LARGEST_MPEG_FRAME = 2**20, 2**16, 2**11  # bytes


def require_file(path: Path) -> None:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device" if path.exists() else "no such file"
        raise UserError(f"Expected a song's file, got {what}: {path}")
    try:
        with path.open("rb") as file:  # its error says why the file cannot be read; soundfile's does not
            if not file.read(1):
                raise UserError(f"Expected audio, got an empty file: {path}")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error


def header_seconds(path: Path) -> float | None:
    """The song's length by its header, without decoding, or None if the header is unreadable or does not state it."""
    if not path.is_file():  # opening a pipe would block
        return None
    with ExitStack() as stack:
        try:
            song = _soundfile(path, stack)
        except Exception:
            return None
        return None if song.frames == UNKNOWN_FRAMES else song.frames / song.samplerate


class _Stream(soundfile.SoundFile):
    """A SoundFile without the seek after each block, which fails at the end of some streams.

    source: the open file that it reads from, or None if libsndfile opened the file by its name.
    frames: UNKNOWN_FRAMES if the file does not state its length, where libsndfile would give an estimate.
    """

    source: io.FileIO | None = None
    states_frames = True

    def seekable(self) -> bool:
        return False

    @property
    def frames(self) -> int:
        return super().frames if self.states_frames else UNKNOWN_FRAMES


class _EndlessFile(io.FileIO):
    """An mp3 file that claims a size of a terabyte, so that it is read to its end.

    If the first frame of an mp3 does not state the song's length, libmpg123 estimates it from the first frames and the
    file's size. libsndfile stops at that estimate.
    """

    SIZE = 2**40
    place: int | None = None  # a position near the claimed end, where libmpg123 looks for a tag

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
    """Yields a decoder with `samplerate`, `channels` and `frames`: soundfile's, or audioread's if soundfile fails.

    A file that soundfile opens is never given to another decoder, so a damaged file decodes alike on every machine.
    Raises UserError if no decoder opens the file, or if its sample rate is implausible.
    """
    with ExitStack() as stack:
        try:
            song = _soundfile(path, stack)
        except Exception:  # libsndfile's errors, and soundfile's for suffixes of headerless formats
            song = stack.enter_context(_audioread(path))
        if not LOWEST_RATE <= song.samplerate <= HIGHEST_RATE:
            raise UserError(
                f"Expected a sample rate of {LOWEST_RATE} to {HIGHEST_RATE} Hz, "
                f"got {song.samplerate} in {path}: is the file damaged?"
            )
        yield song


def _soundfile(path: Path, stack: ExitStack) -> _Stream:
    """Opens the file; the stack closes it."""
    with quiet_c:
        song = stack.enter_context(_Stream(os.fsencode(path)))  # bytes: names need not be UTF-8
        if song.format not in ("MP3", "OGG"):
            return song
        source = stack.enter_context(_EndlessFile(path) if song.format == "MP3" else io.FileIO(path))
        try:
            stream = stack.enter_context(_Stream(source))
        except soundfile.LibsndfileError:  # opened without its name, the file must begin with audio
            return song
    stream.source, stream.states_frames = source, stream.frames == song.frames
    return stream


def left_out(decoder: Any) -> int:
    """The number of bytes at the file's end whose audio was not decoded: a further stream, or audio after damage."""
    if (source := getattr(decoder, "source", None)) is None:
        return 0
    size, end = os.fstat(source.fileno()).st_size, source.tell()
    if decoder.format == "OGG":  # libsndfile has read the first pages of a further stream
        begin = max(0, end - LARGEST_OGG_PAGE)
        content = os.pread(source.fileno(), LARGEST_REST, begin)
        found = re.search(rb"OggS\x00[^\x02].*?(OggS\x00\x02)", content, re.DOTALL)
        return size - begin - found.start(1) if found else 0
    content = os.pread(source.fileno(), LARGEST_REST, end)
    headers = Counter(re.findall(rb"\xff[\xe2-\xfe]", content))  # MPEG frames of one song have nearly equal headers
    frames = max(headers.values(), default=0)
    return size - end if frames > max(2, len(content) / LARGEST_MPEG_FRAME) else 0


def decoded(decoder: Any, start: int, frames: int) -> Iterator[np.ndarray]:
    """Yields (frames, channels) float32 blocks: `frames` frames from `start`, or fewer at the end or at an error."""
    blocks = _soundfile_blocks if isinstance(decoder, _Stream) else _audioread_blocks
    return blocks(decoder, start, frames)


def _soundfile_blocks(file: soundfile.SoundFile, start: int, frames: int) -> Iterator[np.ndarray]:
    """Reads by soundfile. After an error, the rows that are no longer NaN are the part of the block that was read."""
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
    """Yields audioread's decoder: ffmpeg or the system's, as librosa uses. Raises UserError if none reads the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about failed decoders and deprecated modules
            song = audioread.audio_open(path.absolute())
        song.frames = UNKNOWN_FRAMES
        queue = getattr(getattr(song, "stdout_reader", None), "queue", None)  # ffmpeg's
        try:
            if queue is not None:
                queue.maxsize = QUEUED_READS
            yield song
        finally:
            if queue is not None:
                with queue.not_full:  # `close` joins the reader's thread, which must not block on a full queue
                    queue.maxsize = sys.maxsize
                    queue.not_full.notify_all()
            song.close()
    except (UserError, GeneratorExit):
        raise
    except Exception as error:  # each decoder has its own exceptions
        if path.suffix.lower() in SOUNDFILE_SUFFIXES or shutil.which("ffmpeg"):
            raise UserError(
                f"Expected audio, got a file that no decoder reads: {path}: is it damaged, or not audio?"
            ) from error
        raise UserError(f"No decoder reads {path}: install ffmpeg, or convert it to wav, flac, ogg or mp3") from error


def _audioread_blocks(song: Any, start: int, frames: int) -> Iterator[np.ndarray]:
    """Like `_soundfile_blocks`, from audioread's 16-bit samples."""
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

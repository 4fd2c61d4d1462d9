"""A song's file -> mono float32 at SAMPLE_RATE, as librosa.load gives it, or an error that names the file."""

import os
import warnings
from pathlib import Path

import librosa
import numpy as np
import soundfile

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
LOUDEST = 1e6  # 16-bit numbers that nobody scaled stay below

BLOCK_FRAMES = 2**16
UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a stream whose header does not give its length


class _Stream(soundfile.SoundFile):
    """Reads on without the seek that soundfile makes after each block, which fails at the end of some streams."""

    def seekable(self) -> bool:
        return False


def load_waveform(path: Path | str, offset: float = 0.0, duration: float | None = None) -> np.ndarray:
    """(samples,) float32, mono, at SAMPLE_RATE: librosa.load's numbers. Only the part asked for is decoded.

    offset and duration are in seconds; a song that ends earlier gives what it has. Warns of silence, clipping, a
    truncated file and clips under five seconds. A damaged file gives what comes before the damage. Raises UserError
    for audio that is empty, cannot be decoded, or holds NaN, infinity or samples beyond 1e6, and for an offset below
    0 or a duration that is not above 0.
    """
    waveform, doubts = load_with_doubts(Path(path), offset, duration)
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=2)
    return waveform


def load_with_doubts(path: Path, offset: float = 0.0, duration: float | None = None) -> tuple[np.ndarray, list[str]]:
    """As `load_waveform`, with its warnings as a list: Python's warnings are not safe in threads."""
    if not 0 <= offset < np.inf:
        raise UserError(f"Expected an offset of 0 seconds or more, got {offset} for {path}")
    if duration is not None and not 0 < duration < np.inf:
        raise UserError(f"Expected a duration above 0 seconds, got {duration} for {path}")
    samples, rate, missing = _decode(path, offset, duration)
    _require_sound(samples, path, offset)
    waveform = librosa.resample(librosa.to_mono(samples), orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    seconds = len(waveform) / SAMPLE_RATE
    doubts = _doubts_of_level(samples)
    if missing > MISSING_SECONDS:
        doubts.append(f"is truncated: {missing:.1f} s that its header promises are missing")
    if seconds < min(SHORT_SECONDS, duration or SHORT_SECONDS):
        doubts.append(f"is short: {seconds:.1f} s")
    return waveform, [f"{path} {doubt}" for doubt in doubts]


def header_seconds(path: Path) -> float | None:
    """How long the song is by its header, nothing decoded; None where the header does not say, or cannot be read."""
    try:
        with path.open("rb") as file:
            header = soundfile.info(file)
    except (OSError, soundfile.SoundFileError):
        return None
    return None if header.frames == UNKNOWN_FRAMES else header.frames / header.samplerate


def resampled(samples: np.ndarray, sample_rate: float = SAMPLE_RATE) -> np.ndarray:
    """(samples,) of floating-point numbers at any rate in Hz -> (samples,) float32 at SAMPLE_RATE.

    Raises UserError for other shapes and kinds of numbers, for a rate that no sound has, and as `load_waveform`.
    """
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise UserError(f"Expected a waveform (samples,) of floats, got {samples.shape} {samples.dtype}")
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise UserError(f"Expected a sample rate of {LOWEST_RATE} to {HIGHEST_RATE} Hz, got {sample_rate:g}")
    _require_sound(samples, "the waveform", 0.0)
    samples = samples.astype(np.float32, copy=False)
    return librosa.resample(samples, orig_sr=sample_rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")


def _require_sound(samples: np.ndarray, path: Path | str, offset: float) -> None:
    if samples.size == 0:
        raise UserError(f"Expected audio{f' after second {offset:g}' if offset else ''}, got none in {path}")
    if not np.isfinite(samples).all():
        bad = np.count_nonzero(~np.isfinite(samples))
        raise UserError(f"Expected finite samples, got {bad} NaN or infinite in {path}")
    if np.abs(samples).max() > LOUDEST:
        raise UserError(f"Expected samples around 1 or below, got far louder ones in {path}")


def _doubts_of_level(samples: np.ndarray) -> list[str]:
    level = np.abs(samples)
    if level.max() < SILENT_BELOW:
        return ["is silent"]
    share = np.mean(level >= FULL_SCALE)
    return [f"is clipped: {share:.1%} of its samples are at full scale"] if share >= CLIPPED_SHARE else []


def _decode(path: Path, offset: float, duration: float | None) -> tuple[np.ndarray, float, float]:
    """(samples,) or (channels, samples) float32, their rate, and the seconds that the header promises too much.

    What soundfile opens is never given to another decoder, so that a damaged file is the same on every machine.
    """
    if not path.is_file():
        raise UserError(f"Expected a song's file, got {'a folder' if path.is_dir() else 'no such file'}: {path}")
    try:
        with path.open("rb") as file:  # says why it cannot be read, which soundfile does not
            if not file.read(1):
                raise UserError(f"Expected audio, got an empty file: {path}")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    try:
        song = _Stream(os.fsencode(path))  # bytes: names need not be UTF-8
    except Exception:  # libsndfile's errors, and soundfile's about names that it takes for headerless formats
        return *_decode_otherwise(path, offset, duration), 0.0
    with song:
        start = min(int(offset * song.samplerate), song.frames)
        promised = song.frames - start
        if duration is not None:
            promised = min(promised, int(duration * song.samplerate))
        samples = _read(song, start, promised)
        missing = 0 if song.frames == UNKNOWN_FRAMES else (promised - samples.shape[-1]) / song.samplerate
        if missing and not samples.size:
            raise UserError(f"Expected {missing:.1f} s of audio, got none in {path}: damaged?")
        return samples, song.samplerate, missing


def _read(file: soundfile.SoundFile, start: int, frames: int) -> np.ndarray:
    """(channels, samples): `frames` from `start` on, or those before the end or the first error.

    soundfile does not say how much of a block it read before an error: the rows that are no longer NaN.
    """
    block = np.zeros((0, file.channels), np.float32)
    blocks = [block]
    try:
        file.seek(start)
        while frames > 0:
            block = np.full((min(frames, BLOCK_FRAMES), file.channels), np.nan, np.float32)
            blocks.append(file.read(out=block))
            if len(blocks[-1]) == 0:
                break
            frames -= len(blocks[-1])
    except soundfile.LibsndfileError:
        blocks.append(block[~np.isnan(block).all(axis=1)])
    return np.concatenate(blocks).T


def _decode_otherwise(path: Path, offset: float, duration: float | None) -> tuple[np.ndarray, float]:
    """By audioread: with ffmpeg or the system's own decoders, which librosa turns to as well."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what was tried in vain, and of deprecated modules
            return librosa.load(path, sr=None, mono=False, offset=offset, duration=duration)
    except Exception as error:  # a dozen kinds, by decoder
        if path.suffix.lower() in SOUNDFILE_SUFFIXES:
            raise UserError(f"Expected audio, got what no decoder reads in {path}: damaged, or no audio?") from error
        raise UserError(f"No decoder reads {path}: install ffmpeg, or convert it to wav, flac, ogg or mp3") from error

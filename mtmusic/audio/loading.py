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


def load_waveform(path: Path | str, offset: float = 0.0, duration: float | None = None) -> np.ndarray:
    """(samples,) float32, mono, at SAMPLE_RATE: librosa.load's numbers. Only the part asked for is decoded.

    offset and duration are in seconds; a song that ends earlier gives what it has. Warns of silence, clipping, a
    truncated file and clips under five seconds. Raises UserError for audio that is empty, cannot be decoded or
    holds NaN or infinity.
    """
    waveform, doubts = load_with_doubts(Path(path), offset, duration)
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=2)
    return waveform


def load_with_doubts(path: Path, offset: float = 0.0, duration: float | None = None) -> tuple[np.ndarray, list[str]]:
    """As `load_waveform`, with its warnings as a list: Python's warnings are not safe in threads."""
    samples, rate, missing = _decode(path, offset, duration)
    if samples.size == 0:
        raise UserError(f"Expected audio{f' after second {offset:g}' if offset else ''}, got none in {path}")
    if not np.isfinite(samples).all():
        bad = np.count_nonzero(~np.isfinite(samples))
        raise UserError(f"Expected finite samples, got {bad} NaN or infinite in {path}")
    waveform = librosa.resample(librosa.to_mono(samples), orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    seconds = len(waveform) / SAMPLE_RATE
    doubts = _doubts_of_level(samples)
    if missing > MISSING_SECONDS:
        doubts.append(f"is truncated: {missing:.1f} s that its header promises are missing")
    if seconds < min(SHORT_SECONDS, duration or SHORT_SECONDS):
        doubts.append(f"is short: {seconds:.1f} s")
    return waveform, [f"{path} {doubt}" for doubt in doubts]


def _doubts_of_level(samples: np.ndarray) -> list[str]:
    level = np.abs(samples)
    if level.max() < SILENT_BELOW:
        return ["is silent"]
    share = np.mean(level >= FULL_SCALE)
    return [f"is clipped: {share:.1%} of its samples are at full scale"] if share >= CLIPPED_SHARE else []


def _decode(path: Path, offset: float, duration: float | None) -> tuple[np.ndarray, float, float]:
    """(samples,) or (channels, samples) float32, their rate, and the seconds that the header promises too much."""
    if not path.is_file():
        raise UserError(f"Expected a song's file, got {'a folder' if path.is_dir() else 'no such file'}: {path}")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"Expected audio, got an empty file: {path}")
        with path.open("rb"):  # says why it cannot be read, which soundfile does not
            pass
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:  # bytes: names need not be UTF-8
            start = min(int(offset * file.samplerate), file.frames)
            promised = file.frames - start
            if duration is not None:
                promised = min(promised, int(duration * file.samplerate))
            file.seek(start)
            samples = file.read(promised, dtype="float32").T
            return samples, file.samplerate, (promised - samples.shape[-1]) / file.samplerate
    except soundfile.SoundFileRuntimeError:
        return *_decode_otherwise(path, offset, duration), 0.0


def _decode_otherwise(path: Path, offset: float, duration: float | None) -> tuple[np.ndarray, float]:
    """By audioread: with ffmpeg or the system's own decoders, which librosa turns to as well."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "PySoundFile failed", UserWarning)
            warnings.filterwarnings("ignore", r"librosa\.core\.audio", FutureWarning)
            warnings.filterwarnings("ignore", "'(aifc|audioop|sunau)' is deprecated", DeprecationWarning)
            return librosa.load(path, sr=None, mono=False, offset=offset, duration=duration)
    except Exception as error:  # a dozen kinds, by decoder
        if path.suffix.lower() in SOUNDFILE_SUFFIXES:
            raise UserError(f"Expected audio, got what no decoder reads in {path}: damaged, or no audio?") from error
        raise UserError(f"No decoder reads {path}: install ffmpeg, or convert it to wav, flac, ogg or mp3") from error

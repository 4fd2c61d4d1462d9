"""Cuts a song into windows as long as the clips that a model was trained on, and computes each window's features.

A song is decoded block by block, so memory use does not grow with its length.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from mtmusic.audio.decoding import header_seconds
from mtmusic.audio.extraction import InOrder, reason_of
from mtmusic.audio.features import fused_spectrograms, logmel_spectrogram, mel_db, mel_power, stft
from mtmusic.audio.loading import SILENT_BELOW, resampled, stream_waveform
from mtmusic.constants import (
    FFT_LENGTH,
    HOP_LENGTH,
    LOGMEL_BINS,
    LOGMEL_FFT_LENGTH,
    LOGMEL_HOP_LENGTH,
    LOGMEL_SAMPLE_RATE,
    MEL_BINS,
    SAMPLE_RATE,
)

LEAST_REST_SECONDS = 1.0
BLOCK_SECONDS = 120.0
"""Length of a block: the part of a song that is decoded at once."""

WHOLE_SECONDS = 600.0
"""The longest song whose features a worker process computes."""

SONGS_AHEAD = 8
"""Number of songs whose features worker processes compute in advance."""

FULL, BEAT, LOGMEL, PATCHES, TIMES = "full", "beat", "logmel", "patches", "times"
"""Kinds of windows: fused at full rate; fused and beat-synchronised; logmel of each window; frames of the whole song's
logmel; or no array, only the begin and end of each window."""

Kind = tuple[float, str]
"""A window's length in seconds, and the kind of its array."""

Blocks = Callable[[int], Iterator[np.ndarray]]
"""A function from a sample rate in Hz to a song's blocks, (samples,) float32 each."""

FRAMES_AT_ONCE = 1870
MOST_MEL_FRAMES = 2**15
"""The most frames in a song's picture: twelve minutes of mel, or eight of logmel. Longer songs keep every second frame,
or every fourth."""


@dataclass
class SongFeatures:
    """The features of a song or of a part of it, or the reason why it has none.

    seconds: the song's length up to the end of the part. silent: whether the song is silent up to there.
    windows: by kind, an array (bins, frames) for each window.
    times: by kind, the begin and the end of each window in seconds.
    mel: every `stride`th frame of the whole song, (128, frames) in dB or logmel (96, frames). Without frames if it was
    not requested.
    failure: why there are no features, or empty. doubts: warnings about the song.
    long: whether the song is too long for a worker process, and therefore has no features.
    tempos: beats per minute of each beat-synchronised window that has onsets.
    """

    seconds: float = 0.0
    silent: bool = False
    windows: dict[Kind, list[np.ndarray]] = field(default_factory=dict)
    times: dict[Kind, list[tuple[float, float]]] = field(default_factory=dict)
    mel: np.ndarray = field(default_factory=lambda: np.zeros((MEL_BINS, 0), np.float32))
    stride: int = 1
    failure: str = ""
    doubts: tuple[str, ...] = ()
    long: bool = False
    tempos: list[float] = field(default_factory=list)

    def put(self, kind: Kind, window: np.ndarray, begin: float, end: float) -> None:
        self.windows.setdefault(kind, []).append(window)
        self.times.setdefault(kind, []).append((begin, end))

    def extend(self, part: "SongFeatures") -> None:
        """Adds the next part of the song."""
        self.seconds, self.silent, self.doubts = part.seconds, part.silent, part.doubts
        self.mel, self.stride = (part.mel, part.stride) if part.mel.size else (self.mel, self.stride)
        for kind, windows in part.windows.items():
            self.windows.setdefault(kind, []).extend(windows)
        for kind, times in part.times.items():
            self.times.setdefault(kind, []).extend(times)
        self.tempos.extend(part.tempos)


class Cutter:
    """Cuts a song that comes in blocks into consecutive windows of one length.

    The last window ends with the song and is as long as the others, so it may overlap the one before. If less than
    LEAST_REST_SECONDS remain after a window, they are left out. A song shorter than a window becomes one window.
    """

    def __init__(self, seconds: float, rate: int) -> None:
        self.length, self.least_rest = round(seconds * rate), LEAST_REST_SECONDS * rate
        self.held, self.begin, self.following = np.zeros(0, np.float32), 0, 0

    def add(self, block: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yields each window that is now complete, and before it the sample at which it begins."""
        self.held = np.concatenate([self.held, block])
        while self.begin + len(self.held) >= self.following + self.length:
            self.held, self.begin = self.held[self.following - self.begin :], self.following
            yield self.begin, self.held[: self.length]
            self.following += self.length

    def end(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the last window."""
        samples = self.begin + len(self.held)
        if self.following == 0:
            yield 0, self.held
        elif samples - self.following >= self.least_rest:
            yield samples - self.length, self.held[-self.length :]


class Frames:
    """Computes the frames of a song that comes in blocks, FRAMES_AT_ONCE at a time. They equal those of the whole song.

    make: (samples,) -> (bins, 1 + samples // hop), with centred frames of `fft` samples.
    """

    def __init__(self, make: Callable[[np.ndarray], np.ndarray], fft: int, hop: int) -> None:
        self.make, self.fft, self.hop = make, fft, hop
        self.held, self.before = np.zeros(0, np.float32), 0

    def add(self, block: np.ndarray) -> Iterator[np.ndarray]:
        """Yields (bins, FRAMES_AT_ONCE) whenever that many frames are complete."""
        self.held = np.concatenate([self.held, block])
        margin = self.fft // 2 // self.hop
        while len(self.held) >= (need := (self.before + FRAMES_AT_ONCE - 1) * self.hop + self.fft // 2):
            yield self.make(self.held[:need])[:, self.before : self.before + FRAMES_AT_ONCE]
            self.held = self.held[(self.before + FRAMES_AT_ONCE - margin) * self.hop :]
            self.before = margin

    def end(self) -> np.ndarray:
        """The last frames, (bins, frames)."""
        return self.make(self.held)[:, self.before :]


class _Clips:
    """Cuts windows of one length, and computes an array of each kind in `names` from each window."""

    def __init__(self, seconds: float, names: Sequence[str], rate: int) -> None:
        self.seconds, self.names, self.rate, self.cutter = seconds, names, rate, Cutter(seconds, rate)

    def add(self, block: np.ndarray, into: SongFeatures) -> None:
        self._put(self.cutter.add(block), into)

    def end(self, into: SongFeatures) -> None:
        self._put(self.cutter.end(), into)

    def _put(self, clips: Iterable[tuple[int, np.ndarray]], into: SongFeatures) -> None:
        for begin, clip in clips:
            for name, array in zip(self.names, self._arrays(clip, into.tempos), strict=True):
                into.put((self.seconds, name), array, begin / self.rate, (begin + len(clip)) / self.rate)

    def _arrays(self, clip: np.ndarray, tempos: list[float]) -> Sequence[np.ndarray]:
        if self.rate == LOGMEL_SAMPLE_RATE:
            return [logmel_spectrogram(clip) if name == LOGMEL else clip[:0] for name in self.names]
        return fused_spectrograms(clip, [name == BEAT for name in self.names], tempos)


class _Whole:
    """Computes the whole song's frames once, and hands them to `others`: the patches and the picture."""

    def __init__(self, frames: Frames, others: Sequence["_Patches | _Picture"]) -> None:
        self.frames, self.others = frames, others

    def add(self, block: np.ndarray, into: SongFeatures) -> None:
        for frames in self.frames.add(block):
            for other in self.others:
                other.add(frames, into)

    def end(self, into: SongFeatures) -> None:
        frames = self.frames.end()
        for other in self.others:
            other.add(frames, into)
            other.end(into)


class _Patches:
    """Cuts the frames of the song's logmel into windows. The rest is left out; a shorter song becomes one window."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.step = seconds, LOGMEL_HOP_LENGTH / LOGMEL_SAMPLE_RATE
        self.length, self.count = round(seconds / self.step), 0
        self.rest = np.zeros((LOGMEL_BINS, 0), np.float32)

    def add(self, frames: np.ndarray, into: SongFeatures) -> None:
        frames = np.hstack([self.rest, frames])
        for begin in range(0, frames.shape[1] - self.length + 1, self.length):
            times = (count * self.length * self.step for count in (self.count, self.count + 1))
            into.put((self.seconds, PATCHES), frames[:, begin : begin + self.length], *times)
            self.count += 1
        self.rest = frames[:, frames.shape[1] // self.length * self.length :]

    def end(self, into: SongFeatures) -> None:
        if self.count == 0:
            into.put((self.seconds, PATCHES), self.rest, 0, self.rest.shape[1] * self.step)


class _Picture:
    """Keeps up to MOST_MEL_FRAMES of the song's frames: of a longer song, every `stride`th. scale: frames -> values."""

    def __init__(self, bins: int, scale: Callable[[np.ndarray], np.ndarray]) -> None:
        self.scale, self.kept, self.seen, self.stride = scale, np.zeros((bins, 0), np.float32), 0, 1

    def add(self, frames: np.ndarray, into: SongFeatures) -> None:
        self.kept = np.hstack([self.kept, frames[:, -self.seen % self.stride :: self.stride]])
        self.seen += frames.shape[1]
        while self.kept.shape[1] > MOST_MEL_FRAMES:
            self.kept, self.stride = self.kept[:, ::2], 2 * self.stride

    def end(self, into: SongFeatures) -> None:
        into.mel, into.stride = self.scale(self.kept), self.stride


def window_features(blocks: Blocks, kinds: Set[Kind], with_mel: bool = False) -> Iterator[SongFeatures]:
    """Yields a song's windows of each kind, part by part. The last part at a rate may hold the mel of the whole song.

    The dB of a fused window are relative to the window's maximum.
    blocks: the song's samples, called once for each sample rate that the kinds need.
    with_mel: whether to add the mel of the whole song: in dB if a kind is fused, else logmel, so that the song is not
    resampled a second time.
    """
    fused = {kind for kind in kinds if kind[1] in (FULL, BEAT)}
    if fused:
        frames = Frames(lambda samples: mel_power(stft(samples)), FFT_LENGTH, HOP_LENGTH)
        whole = [_Whole(frames, [_Picture(MEL_BINS, mel_db)])] if with_mel else []
        yield from _features(blocks(SAMPLE_RATE), SAMPLE_RATE, fused, whole)
    if others := kinds - fused:
        patches = {kind for kind in others if kind[1] == PATCHES}
        made: list[_Patches | _Picture] = [_Patches(seconds) for seconds, _ in sorted(patches)]
        made += [_Picture(LOGMEL_BINS, np.asarray)] if with_mel and not fused else []
        frames = Frames(logmel_spectrogram, LOGMEL_FFT_LENGTH, LOGMEL_HOP_LENGTH)
        whole = [_Whole(frames, made)] if made else []
        yield from _features(blocks(LOGMEL_SAMPLE_RATE), LOGMEL_SAMPLE_RATE, others - patches, whole)


def _features(
    blocks: Iterator[np.ndarray], rate: int, kinds: Set[Kind], others: Sequence[_Whole]
) -> Iterator[SongFeatures]:
    """Yields the features at one sample rate. kinds: those whose windows are cut from samples at this rate."""
    names = {seconds: sorted((name for one, name in kinds if one == seconds), reverse=True) for seconds, _ in kinds}
    makers: list[_Clips | _Whole] = [*(_Clips(seconds, names[seconds], rate) for seconds in sorted(names)), *others]
    samples, peak = 0, 0.0
    for block in blocks:
        samples, peak = samples + len(block), max(peak, np.abs(block).max())
        part = SongFeatures(samples / rate, peak < SILENT_BELOW)
        for maker in makers:
            maker.add(block, part)
        yield part
    last = SongFeatures(samples / rate, peak < SILENT_BELOW)
    for maker in makers:
        maker.end(last)
    yield last


def waveform_features(
    waveform: np.ndarray, sample_rate: float, kinds: Set[Kind], with_mel: bool = False
) -> Iterator[SongFeatures]:
    """Like `window_features`, from a waveform (samples,) at `sample_rate` Hz. Each part has the warnings so far."""
    doubts: list[str] = []

    def blocks(rate: int) -> Iterator[np.ndarray]:
        samples, length = resampled(waveform, sample_rate, rate, doubts), round(BLOCK_SECONDS * rate)
        yield from (samples[begin : begin + length] for begin in range(0, len(samples), length))

    for part in window_features(blocks, kinds, with_mel):
        part.doubts = tuple(dict.fromkeys(doubts))
        yield part


def file_features(path: Path, kinds: Set[Kind], with_mel: bool = False) -> Iterator[SongFeatures]:
    """Like `window_features`, from a song's file. The last part has the warnings."""
    doubts: list[str] = []
    for part in window_features(
        partial(stream_waveform, path, block_seconds=BLOCK_SECONDS, doubts=doubts), kinds, with_mel
    ):
        part.doubts = tuple(dict.fromkeys(doubts))  # each rate adds the same warnings
        yield part


def song_features(
    paths: Sequence[Path], kinds: Set[Kind], with_mel: bool = False, jobs: int = -1
) -> InOrder[SongFeatures]:
    """Yields each song's features in order. Worker processes compute SONGS_AHEAD songs in advance.

    Songs over WHOLE_SECONDS have no features. jobs: number of worker processes, -1 for one per core.
    """
    return InOrder(partial(_whole_song, kinds=kinds, with_mel=with_mel), paths, jobs, SONGS_AHEAD)


def _whole_song(path: Path, kinds: Set[Kind], with_mel: bool) -> SongFeatures:
    """A song's features, computed on one thread. Any error becomes the song's `failure`, so that the others go on."""
    song = SongFeatures(header_seconds(path) or 0.0)
    try:
        with threadpool_limits(1):
            parts = file_features(path, kinds, with_mel)
            while song.seconds <= WHOLE_SECONDS:
                if (part := next(parts, None)) is None:
                    return song
                song.extend(part)
    except Exception as error:
        return SongFeatures(failure=reason_of(error))
    return SongFeatures(long=True)

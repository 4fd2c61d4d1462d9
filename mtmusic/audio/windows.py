"""A song as a row of windows, each a clip of its own: what a model that was trained on clips predicts from.

A song is taken from its decoder block by block, so that what is in memory does not grow with its length.
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
"""Of a song, decoded and made into features at once."""

WHOLE_SECONDS = 600.0
"""Songs up to this length are made into features by worker processes, as a whole."""

SONGS_AHEAD = 8
"""Songs whose features worker processes make before they are asked for."""

FULL, BEAT, LOGMEL, PATCHES, TIMES = "full", "beat", "logmel", "patches", "times"
"""The arrays of windows: fused at full rate, or beat-synchronised; logmel; frames of the whole song's logmel; or none,
only when each window begins and ends."""

Kind = tuple[float, str]
"""Seconds a window, and its array."""

Blocks = Callable[[int], Iterator[np.ndarray]]
"""A song's samples at a rate in Hz, (samples,) float32 each, in blocks one after the other."""

FRAMES_AT_ONCE = 1870
MOST_MEL_FRAMES = 2**15
"""Of the picture of a song, twelve minutes at full rate, or eight of logmel; of a longer song every second frame, or
every fourth."""


@dataclass
class SongFeatures:
    """A song's features, or those of a part of it, or why it has none.

    seconds: its length up to the part's end. windows: by kind an array (bins, frames) a window; times: where each
    begins and ends, in seconds. mel: the whole song's (128, frames) in dB, or logmel (96, frames), every `stride`th
    frame, none where nobody asked for it. failure: why there is nothing, or empty. doubts: what may be wrong with the
    song. long: whether the song is too long for a worker process, and has no features for that.
    tempos: of each window of beats, in beats a minute; of none without onsets.
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
        """Goes on with the next part."""
        self.seconds, self.silent, self.doubts = part.seconds, part.silent, part.doubts
        self.mel, self.stride = (part.mel, part.stride) if part.mel.size else (self.mel, self.stride)
        for kind, windows in part.windows.items():
            self.windows.setdefault(kind, []).extend(windows)
        for kind, times in part.times.items():
            self.times.setdefault(kind, []).extend(times)
        self.tempos.extend(part.tempos)


class Cutter:
    """Cuts a song that comes in blocks into windows of one length, one after the other.

    The last ends with the song and is as long as the others, so it may overlap the one before; a rest of less than
    LEAST_REST_SECONDS is left out. A song shorter than a window is one.
    """

    def __init__(self, seconds: float, rate: int) -> None:
        self.length, self.least_rest = round(seconds * rate), LEAST_REST_SECONDS * rate
        self.held, self.begin, self.following = np.zeros(0, np.float32), 0, 0

    def add(self, block: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yields where each window that is now complete begins, in samples, and the window."""
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
    """Makes a song that comes in blocks into frames, FRAMES_AT_ONCE at a time: those that it has in one piece.

    make: (samples,) -> (bins, 1 + samples // hop), each frame centred, from `fft` samples.
    """

    def __init__(self, make: Callable[[np.ndarray], np.ndarray], fft: int, hop: int) -> None:
        self.make, self.fft, self.hop = make, fft, hop
        self.held, self.before = np.zeros(0, np.float32), 0

    def add(self, block: np.ndarray) -> Iterator[np.ndarray]:
        """Yields (bins, FRAMES_AT_ONCE) each time as many are complete."""
        self.held = np.concatenate([self.held, block])
        margin = self.fft // 2 // self.hop
        while len(self.held) >= (need := (self.before + FRAMES_AT_ONCE - 1) * self.hop + self.fft // 2):
            yield self.make(self.held[:need])[:, self.before : self.before + FRAMES_AT_ONCE]
            self.held = self.held[(self.before + FRAMES_AT_ONCE - margin) * self.hop :]
            self.before = margin

    def end(self) -> np.ndarray:
        """(bins, frames): the last ones."""
        return self.make(self.held)[:, self.before :]


class _Clips:
    """Windows of one length, each made into an array of its own for each of the names."""

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
    """The whole song's frames, made once, and handed to each of the others: its patches, its picture."""

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
    """Windows of whole frames of the song's logmel, the rest left out; a song shorter than a window is one."""

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
    """The whole song's frames, up to MOST_MEL_FRAMES, of more every `stride`th. scale: from frames to what is shown."""

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
    """Yields a song's windows of each kind, part by part, and with the last part of a rate the mel of the whole song.

    blocks: the song's samples, asked for once for each rate that the kinds need. A fused window's own maximum is the
    dB's reference. with_mel: the mel in dB where a kind is fused, else logmel, so that it needs no rate of its own.
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
    """kinds: of clips, whose rate this is."""
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
    """As `window_features`, of (samples,) at `sample_rate` Hz; what may be wrong with it comes with each part."""
    doubts: list[str] = []

    def blocks(rate: int) -> Iterator[np.ndarray]:
        samples, length = resampled(waveform, sample_rate, rate, doubts), round(BLOCK_SECONDS * rate)
        yield from (samples[begin : begin + length] for begin in range(0, len(samples), length))

    for part in window_features(blocks, kinds, with_mel):
        part.doubts = tuple(dict.fromkeys(doubts))
        yield part


def file_features(path: Path, kinds: Set[Kind], with_mel: bool = False) -> Iterator[SongFeatures]:
    """As `window_features`, of a song's file; what may be wrong with it comes with the last part."""
    doubts: list[str] = []
    for part in window_features(
        partial(stream_waveform, path, block_seconds=BLOCK_SECONDS, doubts=doubts), kinds, with_mel
    ):
        part.doubts = tuple(dict.fromkeys(doubts))  # each rate has the same
        yield part


def song_features(
    paths: Sequence[Path], kinds: Set[Kind], with_mel: bool = False, jobs: int = -1
) -> InOrder[SongFeatures]:
    """Each song's features, in order, by worker processes (-1: one a core), SONGS_AHEAD songs ahead; not of those over
    WHOLE_SECONDS."""
    return InOrder(partial(_whole_song, kinds=kinds, with_mel=with_mel), paths, jobs, SONGS_AHEAD)


def _whole_song(path: Path, kinds: Set[Kind], with_mel: bool) -> SongFeatures:
    """On one thread. Whatever is wrong with one song, the others go on."""
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

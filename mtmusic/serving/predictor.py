"""Saved models and a song -> an answer. The models are loaded once, and asked about files, waveforms and arrays."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.audio.extraction import find_songs
from mtmusic.audio.loading import load_waveform, resampled
from mtmusic.audio.windows import Kind, SongFeatures, song_features, window_bounds, window_features
from mtmusic.constants import FEATURE_ROWS, FUSED_BINS, HOP_LENGTH, PAD_VALUE, SAMPLE_RATE
from mtmusic.errors import UserError
from mtmusic.models.savedmodel import Ask, open_model
from mtmusic.models.saving import trained_on_demo

LAB_SECONDS = 30.0
"""A clip of the lab's, where a card does not say how long the model's were."""

SHORTEST_SECONDS = 1.0
BATCH_FRAMES = 4096
"""Frames that a model is given at once: a CNN's first block holds 64 kB a frame and more."""

SONGS_AT_ONCE = 16
"""Songs of a folder whose features are in memory together."""

SONG, WARNING = "song", "warning"
"""Keys next to those of the answers: no task may be named so."""

DEMO = "it learnt from the demo corpus, which is synthesised: what it says of real songs means nothing"

Answer = dict[str, Any]
"""{"genre": {class: probability}, task: 0 to 1, ...}, and under "warning" why it may mean nothing."""

Song = str | os.PathLike[str] | np.ndarray
"""A file, a waveform (samples,), or a fused array (140, frames) as it lies on disk."""


@dataclass(frozen=True)
class Timeline:
    """An answer for each window of a song.

    times: (windows, 2), where each begins and ends, in seconds. mel: of the whole song, (128, frames) in dB, full rate.
    """

    times: np.ndarray
    answers: tuple[Answer, ...]
    mel: np.ndarray


@dataclass(frozen=True)
class SongAnswer:
    """What became of a song. failure: why it has no answer, or empty. doubts: what may be wrong with it."""

    path: Path
    answer: Answer
    timeline: Timeline | None = None
    failure: str = ""
    doubts: tuple[str, ...] = ()


class Predictor:
    """Predicts genre and affect: `Predictor("saved_models/genre_cnn", "saved_models/affect_cnn").predict("song.mp3")`.

    runs: runs' folders, their model.keras, or exported SavedModels; the answer joins what each says. Features are made
    as each card says. A song is cut into windows, one after the other, and the answer is their mean: by default windows
    of the length of the clips that the model was trained on, else of 30 s. The last window ends with the song, and may
    overlap the one before; a shorter song is one window.

    Raises UserError for a model that cannot be opened, and where two answer the same question.
    """

    def __init__(self, *runs: Path | str) -> None:
        if not runs:
            raise UserError("Expected a run to predict with, got none")
        self._models = [open_model(run) for run in runs]
        names = Counter([SONG, WARNING, *(name for model in self._models for name in _names(model.card))])
        if twice := [name for name, count in names.items() if count > 1]:
            where = " and ".join(map(str, runs))
            raise UserError(f"Expected models that answer different questions, got {', '.join(twice)} twice in {where}")
        self.warning = DEMO if any(trained_on_demo(model.card) for model in self._models) else None

    @property
    def names(self) -> tuple[str, ...]:
        """What is answered, in order: "genre", tasks."""
        return tuple(name for model in self._models for name in _names(model.card))

    def predict(
        self,
        song: Song | list[Any] | tuple[Any, ...],
        *,
        sample_rate: float = SAMPLE_RATE,
        window: float | None = None,
    ) -> Any:
        """The answer: {"genre": {class: probability, ...}, "valence": 0.153, ...}; a list of songs gives a list.

        song: a file; a waveform (samples,) of floats, mono, at `sample_rate` Hz; or a fused array (140, frames) as on
        disk, which is taken for one clip at the frame rate of the models. window: its length in seconds. The key
        "warning" is there where a model was trained on the demo corpus.
        Raises UserError for what is no song: no such file, damaged, empty, NaN, other shapes.
        """
        if isinstance(song, list | tuple):
            return [self.predict(one, sample_rate=sample_rate, window=window) for one in song]
        kinds = self._kinds(window)
        return self._mean_answer(self._ask([_features(song, set(kinds), sample_rate)], kinds)[0])

    def timeline(self, song: Song, *, sample_rate: float = SAMPLE_RATE, window: float | None = None) -> Timeline:
        """The answers along a song, a file or waveform, whose mean is what `predict` says.

        Raises UserError as `predict`, for an array, which has no windows, and where the models were trained on clips
        of different lengths and no window is given.
        """
        kinds = self._kinds(window)
        _require_one_length(kinds)
        waveform = _waveform(song, sample_rate)
        features = window_features(waveform, set(kinds), with_mel=True)
        return self._timeline(features, self._ask([features], kinds)[0], kinds)

    def embed(self, song: Song, *, sample_rate: float = SAMPLE_RATE, window: float | None = None) -> np.ndarray:
        """(features,) float32: what the backbone makes of the song, the mean over windows.

        Raises UserError as `predict`, and for several models.
        """
        if len(self._models) > 1:
            raise UserError(f"Expected one model to embed with, got {len(self._models)}")
        kinds, (model,) = self._kinds(window), self._models
        arrays = _features(song, set(kinds), sample_rate).windows[kinds[0]]
        return _in_batches(model.embed, arrays, model.card["feature"])["embedding"].mean(axis=0)

    def predict_folder(
        self,
        folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        window: float | None = None,
        jobs: int = -1,
        timelines: bool = False,
    ) -> Iterator[SongAnswer]:
        """Yields the answer of every song below the folder, or of the files and folders in a list, sorted by path.

        Features are made by `jobs` processes, -1: one a core. Some 16 songs are in memory at a time, however many there
        are. A song that cannot be read has failed, and stops nothing. Raises UserError at once where there is no song,
        and as `timeline`.
        """
        places = [folder] if isinstance(folder, str | os.PathLike) else folder
        kinds = self._kinds(window)
        if timelines:
            _require_one_length(kinds)
        return self._answers(find_songs(map(Path, places)), kinds, jobs, timelines)

    def _answers(self, paths: list[Path], kinds: list[Kind], jobs: int, timelines: bool) -> Iterator[SongAnswer]:
        remaining = iter(paths)
        while some := list(islice(remaining, SONGS_AT_ONCE)):
            features = dict(song_features(some, set(kinds), timelines, jobs))
            good = [path for path in some if not features[path].failure]
            asked = dict(zip(good, self._ask([features[path] for path in good], kinds), strict=True))
            for path in some:
                song = features[path]
                if song.failure:
                    yield SongAnswer(path, {}, failure=song.failure)
                else:
                    timeline = self._timeline(song, asked[path], kinds) if timelines else None
                    yield SongAnswer(path, self._mean_answer(asked[path]), timeline, doubts=song.doubts)

    def _kinds(self, window: float | None) -> list[Kind]:
        """What each model takes. Raises UserError for a window below a second."""
        if window is not None and not SHORTEST_SECONDS <= window < math.inf:
            raise UserError(f"Expected a window of {SHORTEST_SECONDS:g} second or more, got {window:g}")
        return [(window or clip_seconds(model.card), model.card["beat"]) for model in self._models]

    def _ask(self, songs: Sequence[SongFeatures], kinds: list[Kind]) -> list[dict[str, np.ndarray]]:
        """What the models say of each song: by name (windows, 1), or of genre (windows, classes)."""
        said: list[dict[str, np.ndarray]] = [{} for _ in songs]
        if not songs:
            return said
        for model, kind in zip(self._models, kinds, strict=True):
            arrays = [array for song in songs for array in song.windows[kind]]
            ends = np.cumsum([len(song.windows[kind]) for song in songs])[:-1]
            for name, values in _in_batches(model.serve, arrays, model.card["feature"]).items():
                for one, part in zip(said, np.split(values, ends), strict=True):
                    one[name] = part
        return said

    def _mean_answer(self, said: Mapping[str, np.ndarray]) -> Answer:
        return self._answer({name: values.mean(axis=0, dtype=np.float64) for name, values in said.items()})

    def _timeline(self, features: SongFeatures, said: Mapping[str, np.ndarray], kinds: list[Kind]) -> Timeline:
        times = np.array(window_bounds(features.samples, kinds[0][0])) / SAMPLE_RATE
        rows = [{name: values[i] for name, values in said.items()} for i in range(len(times))]
        return Timeline(times, tuple(self._answer(row) for row in rows), features.mel)

    def _answer(self, values: Mapping[str, np.ndarray]) -> Answer:
        """One number a name, or one a class of genre, as the user sees them."""
        answer: Answer = {}
        for model in self._models:
            for name in _names(model.card):
                numbers = values[name].tolist()
                is_genre = model.card["task"] == "genre"
                answer[name] = dict(zip(model.card["classes"], numbers, strict=True)) if is_genre else numbers[0]
        return answer | ({WARNING: self.warning} if self.warning else {})


def _names(card: Mapping[str, Any]) -> list[str]:
    return ["genre"] if card["task"] == "genre" else card["targets"]


def clip_seconds(card: Mapping[str, Any]) -> float:
    """How long the clips were that the model was trained on: by frames; of beats as their folder says, or 30 s."""
    if not card["beat"] and "clip_frames" in card:
        return round(card["clip_frames"] * HOP_LENGTH / SAMPLE_RATE, 1)  # 30 s have 1292 frames, which span 30.0008 s
    return card.get("clip_seconds") or LAB_SECONDS


def _require_one_length(kinds: Iterable[Kind]) -> None:
    if len(lengths := {seconds for seconds, _ in kinds}) > 1:
        found = " and ".join(f"{seconds:g} s" for seconds in sorted(lengths))
        raise UserError(f"Expected models that learnt from clips of one length, got {found}: give a window")


def _features(song: Song, kinds: set[Kind], sample_rate: float) -> SongFeatures:
    if isinstance(song, np.ndarray) and song.ndim == 2:
        _require_fused(song)
        if len({beat for _, beat in kinds}) > 1:
            raise UserError("Expected a song or waveform, got an array: one model takes beats, another the full rate")
        return SongFeatures(windows={kind: [song.astype(np.float32)] for kind in kinds})
    return window_features(_waveform(song, sample_rate), kinds)


def _waveform(song: Any, sample_rate: float) -> np.ndarray:
    """(samples,) float32 at SAMPLE_RATE."""
    if isinstance(song, str | os.PathLike):
        return load_waveform(Path(song))
    if isinstance(song, np.ndarray):
        return resampled(song, sample_rate)
    raise UserError(f"Expected a song's file or a NumPy array, got {type(song).__name__}")


def _require_fused(array: np.ndarray) -> None:
    if array.shape[0] != FUSED_BINS or array.shape[1] < 1 or array.dtype.kind != "f":
        raise UserError(
            f"Expected a waveform (samples,), mono, or an array ({FUSED_BINS}, frames), both of floats, "
            f"got {array.shape} {array.dtype}"
        )
    if not (np.abs(array).max() < np.finfo(np.float32).max and array.min() > PAD_VALUE):  # NaN is no less than that
        raise UserError(f"Expected finite numbers above {PAD_VALUE:g}, which means padding, got others in the array")


def _in_batches(ask: Ask, arrays: Sequence[np.ndarray], feature: str) -> dict[str, np.ndarray]:
    """The model's outputs for (140, frames) arrays, one row an array. Arrays of like length share a batch."""
    order = sorted(range(len(arrays)), key=lambda i: arrays[i].shape[1])
    outputs = [ask(batch) for batch in _batches([arrays[i][FEATURE_ROWS[feature]].T for i in order])]
    back = np.argsort(order)
    return {name: np.concatenate([output[name] for output in outputs])[back] for name in outputs[0]}


def _batches(clips: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """(frames, bins) each, the shortest first -> (batch, frames, bins), padded, of at most BATCH_FRAMES or one clip."""
    batch: list[np.ndarray] = []
    for clip in clips:
        if batch and (len(batch) + 1) * len(clip) > BATCH_FRAMES:
            yield _padded(batch)
            batch = []
        batch.append(clip)
    yield _padded(batch)


def _padded(clips: Sequence[np.ndarray]) -> np.ndarray:
    padded = np.full((len(clips), len(clips[-1]), clips[-1].shape[1]), PAD_VALUE, np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    return padded

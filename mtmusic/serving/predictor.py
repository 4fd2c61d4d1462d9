"""Predicts songs with saved models.

The models are loaded once, and predict for files, waveforms and arrays. TensorFlow is imported with the first model, so
that features of songs can be computed during the import.
"""

import atexit
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtmusic.audio.extraction import KILLED, InOrder, find_songs, reason_of
from mtmusic.audio.windows import (
    BEAT,
    FULL,
    LOGMEL,
    PATCHES,
    TIMES,
    Kind,
    SongFeatures,
    file_features,
    song_features,
    waveform_features,
)
from mtmusic.cards import TRUNK, find_card, trained_on_demo
from mtmusic.constants import (
    EMBEDDING,
    FEATURE_BINS,
    FEATURE_ROWS,
    FUSED_BINS,
    HOP_LENGTH,
    LOGMEL_BINS,
    LOGMEL_HOP_LENGTH,
    LOGMEL_SAMPLE_RATE,
    MEL_BINS,
    PAD_VALUE,
    PATCH_FRAMES,
    PENULTIMATE,
    SAMPLE_RATE,
)
from mtmusic.errors import UserError

if TYPE_CHECKING:
    from mtmusic.models.savedmodel import Ask

PRETRAINED = ("musicnn", "mood_musicnn")
"""The default runs."""

LAB_SECONDS = 30.0
"""Length of the lab's clips, used if a card does not state the length of the model's clips."""

PATCH_SECONDS = PATCH_FRAMES * LOGMEL_HOP_LENGTH / LOGMEL_SAMPLE_RATE

SHORTEST_SECONDS = 1.0
BATCH_FRAMES = 4096
"""The most frames in a batch. The first block of a CNN needs 64 kB per frame or more."""

FIRST_SONGS = 1, 2, 4
SONGS_AT_ONCE = 8
"""Numbers of songs of a folder that are predicted together. The first groups are smaller, because worker processes
compute further songs while the models are traced."""

SONG, WARNING, GENRE, TAGS, TEMPO = "song", "warning", "genre", "tags", "tempo"
"""Keys of answers. No task may have the name SONG, WARNING or TEMPO."""

_LABELS = {GENRE: "classes", TAGS: "tags"}
"""For answers of several values, the key of the card with their names."""

DEMO = "the model was trained on the synthesised demo corpus: its predictions for real songs mean nothing"
SILENT = "the song is silent, so it has no tags"

Answer = dict[str, Any]
"""{"genre": {class: probability}, "tags": {tag: score}, task: 0 to 1, ...}. If a model takes beat-synchronised arrays,
"tempo" is in beats per minute. "warning" says why the answer may be meaningless. Scores are from 0 to 1. They are not
calibrated, and the scores of two tags cannot be compared."""

Name = str | tuple[str, str]
Said = dict[Name, np.ndarray]
"""Answers by name, with a row for each window, and features of a trunk by the names of trunk and features, with a row
for each patch."""

Song = str | os.PathLike[str] | np.ndarray
"""A file, a waveform (samples,), or an array (bins, frames) as it is on disk."""


@dataclass(frozen=True)
class Timeline:
    """Answers along a song.

    Attributes:
        times: Begin and end of each window in seconds, `(windows, 2)`.
        answers: The answer of each window, without tags.
        mel: Spectrogram of the whole song, `(128, frames)` in dB, or `(96, frames)` logmel if all models take that.
        tag_times: Begin and end of each step of three seconds for tags, `(steps, 2)`, if a model predicts tags.
        tags: Score of each tag at each of these steps.
        stride: `mel` holds every `stride`-th frame. It is 1 for songs of up to eight minutes.

    Examples:
        >>> timeline = mtmusic.predict("song.wav", timeline=True).timeline
        >>> sorted(timeline.answers[0]), timeline.mel.shape
        (['arousal', 'valence'], (96, 376))
        >>> timeline.tag_times.round(1).tolist()
        [[0.0, 3.0], [3.0, 6.0]]
    """

    times: np.ndarray
    answers: tuple[Answer, ...]
    mel: np.ndarray
    tag_times: np.ndarray
    tags: tuple[dict[str, float], ...] = ()
    stride: int = 1


@dataclass(frozen=True)
class SongAnswer:
    """The answer for a song. `song["valence"]` is short for `song.answer["valence"]`.

    Attributes:
        path: The song's file.
        answer: The answer of `Predictor.predict`. Empty if the song failed.
        timeline: Answers along the song, if they were requested.
        failure: The reason why the song has no answer, or empty.
        doubts: Warnings about the song.
        seconds: The song's length.

    Examples:
        >>> song = mtmusic.predict("song.wav")
        >>> song.path.name, song.seconds, song["valence"] == song.answer["valence"]
        ('song.wav', 6.0, True)
    """

    path: Path
    answer: Answer
    timeline: Timeline | None = None
    failure: str = ""
    doubts: tuple[str, ...] = ()
    seconds: float = 0.0

    def __getitem__(self, name: str) -> Any:
        return self.answer[name]


@cache
def _pretrained() -> "Predictor":
    return Predictor()


atexit.register(_pretrained.cache_clear)  # deleted before TensorFlow's modules, else TensorFlow prints errors


def predict(path: str | os.PathLike[str], *, timeline: bool = False) -> SongAnswer:
    """Predicts a song's tags, valence and arousal with the pretrained models, which stay loaded.

    The tags are those of musicnn (Pons and Serra 2019). Their scores are from 0 to 1. They are not calibrated, and
    cannot be compared between tags.

    Args:
        path: The song's file.
        timeline: Whether to also predict along the song.

    Returns:
        The song's answer: `song["tags"]` is a score for each tag, `song["valence"]` and `song["arousal"]` are numbers.

    Raises:
        UserError: The pretrained models are missing, or the file is not a song.

    Examples:
        >>> song = mtmusic.predict("song.wav")
        >>> sorted(song.answer), len(song["tags"])
        (['arousal', 'tags', 'valence'], 50)
    """
    return _pretrained().answer(path, timeline=timeline)


@dataclass(frozen=True)
class Begun:
    """Songs whose features worker processes are computing.

    Attributes:
        asked: The paths, the kinds of windows, and whether a spectrogram is kept for timelines.
        songs: The features.
    """

    asked: tuple[list[Path], set[Kind], bool]
    songs: InOrder[SongFeatures]


@contextmanager
def begin(
    runs: Sequence[Path | str],
    paths: list[Path],
    *,
    window: float | None = None,
    jobs: int = -1,
    timelines: bool = False,
) -> Iterator[Begun | None]:
    """Starts to compute the features of songs in worker processes, while TensorFlow is being imported.

    The windows are those of the runs' cards. `Predictor.predict_folder` uses the features.

    Args:
        runs: The runs, see `Predictor`.
        paths: Files of the songs.
        window: Length of a window in seconds, see `Predictor.predict`.
        jobs: Number of worker processes, -1 for one on each core.
        timelines: Whether timelines are wanted.

    Yields:
        The songs that were started. None if a card or `window` is wrong, which `Predictor` reports.
    """
    try:
        cards = list(map(find_card, runs or PRETRAINED))
        require_window(window)
        kinds = _features(_kind(card, _on_trunk(card), window) for card in cards)
    except UserError:
        begun = None
    else:
        begun = Begun((paths, kinds, timelines), song_features(paths, kinds, timelines, jobs))
    try:
        yield begun
    finally:
        if begun:
            begun.songs.close()


class Predictor:
    """Predicts tags, genre and affect of songs with saved models.

    The features for each model are computed as its card says. A song is cut into consecutive windows, and the answer is
    the mean over windows. The last window ends with the song, so it may overlap the one before. A song shorter than a
    window is one window.

    Models on the pretrained trunk share its features, which are computed once, from patches of three seconds. A shorter
    rest at the end of the song is not used. Tags are scored for each patch. Other heads predict for a window from the
    mean of the patches whose centres are in the window.

    Args:
        *runs: Names of runs, their folders, their model.keras, or exported SavedModels. The answer joins the models'
            answers. By default the pretrained models "musicnn" and "mood_musicnn".

    Raises:
        UserError: A model is missing or cannot be opened, or two models predict the same task.

    Examples:
        >>> predictor = mtmusic.Predictor("genre_lstm")  # looked up in ./saved_models
        >>> answer = predictor.predict("song.wav")
        >>> sorted(answer["genre"]), round(sum(answer["genre"].values()), 3)
        (['Blues', 'Jazz', 'Rock'], 1.0)
    """

    def __init__(self, *runs: Path | str) -> None:
        from mtmusic.models.savedmodel import open_model

        self.runs = runs or PRETRAINED
        self._models = [open_model(run) for run in self.runs]
        names = Counter([SONG, WARNING, TEMPO, *(name for model in self._models for name in _names(model.card))])
        if twice := [name for name, count in names.items() if count > 1]:
            where = " and ".join(map(str, self.runs))
            raise UserError(f"Expected models that predict different things, got {', '.join(twice)} twice in {where}")
        heads = [(model.head, model.embed) for model in self._models if model.head]
        heads.sort(key=lambda one: one[0].takes == PENULTIMATE)  # their trunk also returns the embedding
        self._trunks = {head.trunk: embed for head, embed in heads}
        self.warning = DEMO if any(trained_on_demo(model.card) for model in self._models) else None

    @property
    def names(self) -> tuple[str, ...]:
        """Keys of the answers in order: "tags", "genre" or the tasks, and "tempo" if a model takes beats."""
        beats = any(kind[1] == BEAT for kind in self._kinds(None))
        return (*(name for model in self._models for name in _names(model.card)), *([TEMPO] if beats else []))

    @property
    def cards(self) -> tuple[dict[str, Any], ...]:
        """Card of each model."""
        return tuple(model.card for model in self._models)

    @property
    def labels(self) -> dict[str, list[str]]:
        """Classes of "genre" and tags of "tags", in order, if they are predicted."""
        cards = [card for card in self.cards if card["task"] in _LABELS]
        return {card["task"]: card[_LABELS[card["task"]]] for card in cards}

    @property
    def embedding_size(self) -> int:
        """Number of features that `embed` returns. Raises UserError if there are several models."""
        self._embedding_kinds(None)
        (model,) = self._models
        clip = np.zeros((1, PATCH_FRAMES, FEATURE_BINS[model.card["feature"]]), np.float32)
        return model.embed(clip)[EMBEDDING].shape[1]

    @property
    def tag_groups(self) -> dict[str, str]:
        """Group of each tag: "genre", "mood", "era", "voice" or "other". Empty if no model predicts tags."""
        cards = [model.card for model in self._models if model.card["task"] == TAGS]
        return {tag: card["tag_groups"].get(tag, "other") for card in cards for tag in card["tags"]}

    def predict(
        self,
        song: Song | list[Any] | tuple[Any, ...],
        *,
        sample_rate: float | None = None,
        window: float | None = None,
    ) -> Any:
        """Predicts for a song or for a list of songs.

        Args:
            song: A file; a mono waveform `(samples,)` at `sample_rate`; an array `(bins, frames)` as it is on disk,
                which is one clip at the models' frame rate; or a list of these.
            sample_rate: Sample rate of a waveform in Hz, by default 22,050. Models of logmel need it.
            window: Length of a window in seconds, at least 1. By default the length of the clips that the model was
                trained on, else 30.

        Returns:
            The answer, or a list of answers for a list. It has "genre" with a probability for each class, "tags" with a
            score for each tag, and a value from 0 to 1 for each other task. If a model takes beats, it has "tempo", the
            median over windows in beats per minute. It has "warning" if a model was trained on the demo corpus, or if a
            silent song has no tags.

        Raises:
            UserError: The song is missing, damaged or empty, has another shape, or holds NaN.

        Examples:
            >>> predictor = mtmusic.Predictor("genre_lstm")
            >>> waveform = np.sin(np.arange(220_500) / 10) / 2
            >>> list(predictor.predict(waveform, sample_rate=44_100)["genre"])
            ['Blues', 'Jazz', 'Rock']
        """
        if isinstance(song, list | tuple):
            return [self.predict(one, sample_rate=sample_rate, window=window) for one in song]
        kinds = self._kinds(window)
        return self._mean_answer(*self._ask_parts(_parts(song, kinds, sample_rate), kinds))

    def timeline(self, song: Song, *, sample_rate: float | None = None, window: float | None = None) -> Timeline:
        """Predicts along a song. The mean of the answers is what `predict` returns.

        Args:
            song: A file, or a mono waveform `(samples,)` at `sample_rate`.
            sample_rate: Sample rate of a waveform in Hz, by default 22,050. Models of logmel need it.
            window: Length of a window in seconds, see `predict`.

        Returns:
            The answers along the song.

        Raises:
            UserError: As `predict`. Also if an array is given, which has no windows, or if the models were trained on
                clips of different lengths and `window` is not given.

        Examples:
            >>> mtmusic.Predictor("genre_lstm").timeline("song.wav", window=3.0).times
            array([[0., 3.],
                   [3., 6.]])
        """
        kinds = self._kinds(window)
        _require_one_length(kinds)
        return self._timeline(*self._ask_parts(_parts(song, kinds, sample_rate, with_mel=True), kinds), kinds)

    def embed(self, song: Song, *, sample_rate: float | None = None, window: float | None = None) -> np.ndarray:
        """Embeds a song: the backbone's output, as the mean over windows.

        Args:
            song: A file, a waveform or an array, see `predict`.
            sample_rate: Sample rate of a waveform in Hz, by default 22,050. Models of logmel need it.
            window: Length of a window in seconds, see `predict`.

        Returns:
            The embedding `(features,)` in float32.

        Raises:
            UserError: As `predict`, or there are several models.

        Examples:
            >>> mtmusic.Predictor("genre_lstm").embed("song.wav").shape
            (4,)
        """
        kinds = self._embedding_kinds(window)
        return self._ask_parts(_parts(song, kinds, sample_rate), kinds, embed=True)[1][EMBEDDING].mean(axis=0)

    def answer(
        self,
        path: str | os.PathLike[str],
        *,
        window: float | None = None,
        timeline: bool = False,
        embed: bool = False,
    ) -> SongAnswer:
        """Predicts for a song's file, and returns the warnings about the song too.

        Args:
            path: The song's file.
            window: Length of a window in seconds, see `predict`.
            timeline: Whether to also predict along the song.
            embed: Whether the answer is `{"embedding": ...}` as `embed` returns it.

        Returns:
            The song's answer, with its warnings and its length.

        Raises:
            UserError: As `timeline`.
        """
        kinds = self._embedding_kinds(window) if embed else self._kinds(window)
        if timeline:
            _require_one_length(kinds)
        song, said = self._ask_parts(file_features(Path(path), _features(kinds), timeline), kinds, embed)
        return self._song_answer(Path(path), song, said, kinds if timeline else ())

    def predict_folder(
        self,
        folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        window: float | None = None,
        jobs: int = -1,
        timelines: bool = False,
        embed: bool = False,
        apart: bool = False,
        begun: "Begun | None" = None,
    ) -> Iterator[SongAnswer]:
        """Predicts for each song below a folder.

        Worker processes compute features while the models predict. About 16 songs are in memory at a time. A song
        longer than ten minutes, or a single one, is predicted part by part in this process. A song that cannot be read
        has failed and does not stop the others.

        Args:
            folder: A folder, or a list of files and folders.
            window: Length of a window in seconds, see `predict`.
            jobs: Number of worker processes, -1 for one on each core.
            timelines: Whether to also predict along each song.
            embed: Whether each answer is `{"embedding": ...}` as `embed` returns it, without a timeline.
            apart: Whether a single song is read in a worker process too. Then a song that kills its process only counts
                as failed.
            begun: The result of `begin` for the same songs.

        Returns:
            An iterator over the answer of each song, sorted by path.

        Raises:
            UserError: There is no song, or as `timeline` and `embed`. This is known at once.

        Examples:
            >>> predictor = mtmusic.Predictor("genre_lstm")
            >>> [song.path.name for song in predictor.predict_folder(["song.wav"])]
            ['song.wav']
        """
        places = [folder] if isinstance(folder, str | os.PathLike) else folder
        kinds = self._embedding_kinds(window) if embed else self._kinds(window)
        if timelines:
            _require_one_length(kinds)
        paths = find_songs(map(Path, places))
        if begun and begun.asked == (paths, _features(kinds), timelines):
            return self._answers(begun.songs, kinds, timelines, embed)
        if len(paths) == 1 and not apart:
            return self._answers(iter([(paths[0], SongFeatures(long=True))]), kinds, timelines, embed)
        return self._made_and_answered(paths, kinds, jobs, timelines, embed)

    def _made_and_answered(
        self, paths: list[Path], kinds: list[Kind], jobs: int, timelines: bool, embed: bool
    ) -> Iterator[SongAnswer]:
        with closing(song_features(paths, _features(kinds), timelines, jobs)) as songs:
            yield from self._answers(songs, kinds, timelines, embed)

    def _answers(
        self, songs: Iterator[tuple[Path, SongFeatures | None]], kinds: list[Kind], timelines: bool, embed: bool
    ) -> Iterator[SongAnswer]:
        """Yields the songs' answers. songs: paths and features, None for a song that killed its worker process."""
        for count in chain(FIRST_SONGS, repeat(SONGS_AT_ONCE)):
            some = {path: song or SongFeatures(failure=KILLED) for path, song in islice(songs, count)}
            if not some:
                return
            whole = [path for path, song in some.items() if not (song.failure or song.long)]
            asked = zip(whole, self._ask([some[path] for path in whole], kinds, embed), strict=True)
            answers = {path: self._with_heads(some[path], said, kinds) for path, said in asked}
            for path in [*some]:
                song, said = some.pop(path), answers.get(path)
                if song.long:
                    try:
                        song, said = self._ask_parts(file_features(path, _features(kinds), timelines), kinds, embed)
                    except Exception as error:
                        song = SongFeatures(failure=reason_of(error))
                if said is None:
                    yield SongAnswer(path, {}, failure=song.failure)
                else:
                    yield self._song_answer(path, song, said, kinds if timelines else ())

    def _kinds(self, window: float | None) -> list[Kind]:
        """The windows of each model. Raises UserError as `require_window`."""
        require_window(window)
        return [_kind(model.card, model.head is not None, window) for model in self._models]

    def _embedding_kinds(self, window: float | None) -> list[Kind]:
        if len(self._models) > 1:
            raise UserError(f"Expected one model to embed with, got {len(self._models)}")
        return [_arrays(kind) for kind in self._kinds(window)]

    def _ask_parts(
        self, parts: Iterable[SongFeatures], kinds: list[Kind], embed: bool = False
    ) -> tuple[SongFeatures, dict[str, np.ndarray]]:
        """Predicts a song part by part. Returns its features without windows, and the outputs of the models."""
        song, said = SongFeatures(), dict[Name, list[np.ndarray]]()
        for part in parts:
            for name, values in self._ask([part], kinds, embed)[0].items():
                said.setdefault(name, []).append(values)
            song.extend(part)
            song.windows.clear()
        return song, self._with_heads(song, {name: np.concatenate(values) for name, values in said.items()}, kinds)

    def _ask(self, songs: Sequence[SongFeatures], kinds: list[Kind], embed: bool = False) -> list[Said]:
        """The outputs of the models, or embeddings, for each song's windows. Each trunk is computed once."""
        said: list[Said] = [{} for _ in songs]
        for model, kind in zip(self._models, kinds, strict=True):
            head, windows = None if embed else model.head, [song.windows.get(_arrays(kind), []) for song in songs]
            if not any(windows) or (head and (head.trunk, head.takes) in said[0]):
                continue
            ask = model.embed if embed else self._trunks[head.trunk] if head else model.serve
            outputs = _in_batches(ask, [array for arrays in windows for array in arrays], model.card["feature"])
            ends = np.cumsum([len(arrays) for arrays in windows])[:-1]
            for name, values in outputs.items():
                for one, part in zip(said, np.split(values, ends), strict=True):
                    one[(head.trunk, name) if head else name] = part
        return said

    def _with_heads(self, song: SongFeatures, said: Said, kinds: Sequence[Kind]) -> dict[str, np.ndarray]:
        """Adds the outputs of heads on a trunk. Returns all outputs by name: (windows, 1) or (windows, classes)."""
        answers = {name: values for name, values in said.items() if isinstance(name, str)}
        if EMBEDDING in answers:
            return answers
        for model, kind in zip(self._models, kinds, strict=True):
            if head := model.head:
                patches = said[head.trunk, head.takes]
                answers |= head.ask(_window_means(patches, song.times[kind]) if kind[1] == TIMES else patches)
        return answers

    def _song_answer(
        self, path: Path, song: SongFeatures, said: Mapping[str, np.ndarray], kinds: Sequence[Kind]
    ) -> SongAnswer:
        """Makes a song's answer. kinds: kinds of windows for a timeline, empty for an answer without timeline."""
        timeline = self._timeline(song, said, kinds) if kinds else None
        return SongAnswer(path, self._mean_answer(song, said), timeline, doubts=song.doubts, seconds=song.seconds)

    def _mean_answer(self, song: SongFeatures, said: Mapping[str, np.ndarray]) -> Answer:
        if EMBEDDING in said:
            return {EMBEDDING: said[EMBEDDING].mean(axis=0)}
        answer = self._answer({name: values.mean(axis=0, dtype=np.float64) for name, values in said.items()})
        if song.silent and TAGS in answer:
            answer |= {TAGS: {}, WARNING: "; ".join(filter(None, [self.warning, SILENT]))}
        return answer | ({TEMPO: float(np.median(song.tempos))} if song.tempos else {})

    def _timeline(self, song: SongFeatures, said: Mapping[str, np.ndarray], kinds: Sequence[Kind]) -> Timeline:
        steps = [(kind[1] == PATCHES, np.array(song.times[kind])) for kind in kinds]
        none = np.zeros((0, 2))
        tag_times, times = (next((one for tags, one in steps if tags is wanted), none) for wanted in (True, False))
        tags = [] if song.silent else [self._answer({TAGS: row})[TAGS] for row in said.get(TAGS, ())]
        others = {name: values for name, values in said.items() if name != TAGS}
        rows = [self._answer({name: values[i] for name, values in others.items()}) for i in range(len(times))]
        return Timeline(times, tuple(rows), song.mel, tag_times[: len(tags)], tuple(tags), song.stride)

    def _answer(self, values: Mapping[str, np.ndarray]) -> Answer:
        """The answer for one row of outputs: a value for each task, or values by class or tag."""
        answer: Answer = {}
        for model in self._models:
            for name in _names(model.card):
                if name in values:
                    numbers, labels = values[name].tolist(), _LABELS.get(name)
                    answer[name] = dict(zip(model.card[labels], numbers, strict=True)) if labels else numbers[0]
        return answer | ({WARNING: self.warning} if self.warning else {})


def _names(card: Mapping[str, Any]) -> list[str]:
    return [card["task"]] if card["task"] in _LABELS else card["targets"]


def require_window(window: float | None) -> None:
    """Checks the length of a window.

    Args:
        window: Length in seconds, or None.

    Raises:
        UserError: It is shorter than one second, or not finite.
    """
    if window is not None and not SHORTEST_SECONDS <= window < math.inf:
        raise UserError(f"Expected `window` of {SHORTEST_SECONDS:g} second or more, got {window:g}")


def clip_seconds(card: Mapping[str, Any]) -> float:
    """Length of the clips that a model was trained on.

    Args:
        card: The model's card.

    Returns:
        The length in seconds: from the number of frames at full rate, and with beats as the card says, or 30.
    """
    if not card["beat"] and "clip_frames" in card:
        logmel = card.get("feature") == LOGMEL
        hop = LOGMEL_HOP_LENGTH / LOGMEL_SAMPLE_RATE if logmel else HOP_LENGTH / SAMPLE_RATE
        return round(card["clip_frames"] * hop, 1)  # 30 s have 1292 frames, which span 30.0008 s
    return card.get("clip_seconds") or LAB_SECONDS


def _kind(card: Mapping[str, Any], on_trunk: bool, window: float | None) -> Kind:
    if card["task"] == TAGS:
        return PATCH_SECONDS, PATCHES
    array = TIMES if on_trunk else LOGMEL if card["feature"] == LOGMEL else BEAT if card["beat"] else FULL
    return window or clip_seconds(card), array


def _on_trunk(card: Mapping[str, Any]) -> bool:
    """Whether the opened model will have a `head`."""
    return card.get("backbone") == TRUNK and card["feature"] == LOGMEL and card["frames"] is None


def _arrays(kind: Kind) -> Kind:
    """The kind of the arrays that a model or its trunk takes."""
    return (PATCH_SECONDS, PATCHES) if kind[1] == TIMES else kind


def _features(kinds: Iterable[Kind]) -> set[Kind]:
    return {one for kind in kinds for one in (kind, _arrays(kind))}


def _window_means(patches: np.ndarray, times: Iterable[tuple[float, float]]) -> np.ndarray:
    """(patches, values) -> (windows, values): the mean of patches with their centre in the window, or the nearest."""
    middles = (np.arange(len(patches)) + 0.5) * PATCH_SECONDS
    means = []
    for begin, end in times:
        held = np.flatnonzero((begin <= middles) & (middles < end))
        nearest = np.abs(middles - (begin + end) / 2).argmin()
        means.append(patches[held if held.size else [nearest]].mean(axis=0))
    return np.stack(means)


def _require_one_length(kinds: Iterable[Kind]) -> None:
    if len(lengths := {seconds for seconds, array in kinds if array != PATCHES}) > 1:
        found = " and ".join(f"{seconds:g} s" for seconds in sorted(lengths))
        raise UserError(f"Expected models that were trained on clips of one length, got {found}: give a window")


def _parts(
    song: Song, kinds: Sequence[Kind], sample_rate: float | None, with_mel: bool = False
) -> Iterator[SongFeatures]:
    """Yields the features of a song. with_mel: whether they are for a timeline, which an array does not have."""
    if isinstance(song, str | os.PathLike):
        return _with_warnings(file_features(Path(song), _features(kinds), with_mel))
    if not isinstance(song, np.ndarray):
        raise UserError(f"Expected a song's file or a NumPy array, got {type(song).__name__}")
    if song.ndim == 2 and not with_mel:
        return _with_warnings([_array_features(song, kinds)])
    if sample_rate is None and any(array in (LOGMEL, PATCHES, TIMES) for _, array in kinds):
        raise UserError("Expected the `sample_rate` of the waveform in Hz, which models of logmel need, got none")
    rate = SAMPLE_RATE if sample_rate is None else sample_rate
    return _with_warnings(waveform_features(song, rate, _features(kinds), with_mel))


def _with_warnings(parts: Iterable[SongFeatures]) -> Iterator[SongFeatures]:
    for part in parts:
        yield part
    for doubt in part.doubts:
        warnings.warn(doubt, stacklevel=2)


def _array_features(array: np.ndarray, kinds: Sequence[Kind]) -> SongFeatures:
    """The features of an array: one clip."""
    names = sorted({LOGMEL if name in (PATCHES, TIMES) else name for _, name in kinds})
    if len(names) > 1:
        kinds_of = {BEAT: "beat-synchronised arrays", FULL: "full-rate arrays", LOGMEL: "logmel arrays"}
        one, another = (kinds_of[name] for name in names[:2])
        raise UserError(f"Expected a song or waveform, got an array: one model takes {one}, another {another}")
    _require_array(array, LOGMEL_BINS if names == [LOGMEL] else FUSED_BINS)
    array = array.astype(np.float32)
    begins = range(0, max(array.shape[1] - PATCH_FRAMES, 0) + 1, PATCH_FRAMES)
    patches = [array[:, begin : begin + PATCH_FRAMES] for begin in begins]
    windows = {kind: patches if kind[1] == PATCHES else [array] for kind in _features(kinds)}
    silent = bool(np.ptp(array[:MEL_BINS]) == 0)
    doubts = ("the array is silent",) if silent else ()
    return SongFeatures(silent=silent, windows=windows, times={kind: [(0, math.inf)] for kind in kinds}, doubts=doubts)


def _require_array(array: np.ndarray, bins: int) -> None:
    if bins == LOGMEL_BINS and array.shape[0] == FUSED_BINS:
        raise UserError(
            f"Expected logmel ({LOGMEL_BINS}, frames), got a fused array {array.shape}, which would give wrong tags: "
            "give the song, or extract logmel"
        )
    if array.shape[0] != bins or array.shape[1] < 1 or array.dtype.kind != "f":
        raise UserError(
            f"Expected a waveform (samples,), mono, or an array ({bins}, frames), both of floats, "
            f"got {array.shape} {array.dtype}"
        )
    if not (np.abs(array).max() < np.finfo(np.float32).max and array.min() > PAD_VALUE):  # also False for NaN
        raise UserError(
            f"Expected finite numbers above {PAD_VALUE:g}, which means padding, got other values in the array"
        )
    if bins == LOGMEL_BINS and array.min() < 0:
        raise UserError(f"Expected logmel, which is at least 0, got {array.min():g} in the array")


def _in_batches(ask: "Ask", arrays: Sequence[np.ndarray], feature: str) -> dict[str, np.ndarray]:
    """The model's outputs for arrays (bins, frames), one row for each. Arrays of similar length share a batch."""
    rows = FEATURE_ROWS.get(feature, slice(None))
    order = sorted(range(len(arrays)), key=lambda i: arrays[i].shape[1])
    outputs = [ask(batch) for batch in _batches([arrays[i][rows].T for i in order])]
    back = np.argsort(order)
    return {name: np.concatenate([output[name] for output in outputs])[back] for name in outputs[0]}


def _batches(clips: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Clips (frames, bins), the shortest first -> padded batches (batch, frames, bins) of up to BATCH_FRAMES frames.

    A longer clip is a batch by itself.
    """
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

"""Predicts many songs: a row for each song in the log, a table, and pictures of timelines."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from mtmusic.audio.extraction import find_songs, song_ids
from mtmusic.cards import CARD_FILE, OWN_BACKBONE, read_card
from mtmusic.errors import UserError
from mtmusic.files import refuse_taken, write_csv, write_json
from mtmusic.serving.predictor import GENRE, SONG, TAGS, TEMPO, WARNING, Answer, Predictor, SongAnswer, Timeline, begin
from mtmusic.serving.provenance import describe
from mtmusic.serving.table import text

if TYPE_CHECKING:
    from mtmusic.evaluation.plots import Figure

logger = logging.getLogger(__name__)

LATEST = "latest"
"""Stands for the newest finished run in RUNS."""

RUNS = Path("saved_models")

JSON_VERSION = 1
"""Version of the JSON file. Increase it if the meaning of its content changes."""

SHOWN_NAME = 48
SHOWN_GROUPS = ("genre", "mood")
LEAST_SCORE = 0.1
"""Tags with lower scores are not shown."""

TAG_WIDTH = 15
TAG_LINES = 6
"""Number of tags whose scores are drawn along the song: those with the highest means."""

PROGRESS_AFTER_SECONDS = 2


@dataclass(frozen=True)
class PredictOptions:
    """The options of `predict_songs`.

    models: runs or their names, or LATEST. By default the pretrained models.
    csv, json: files to write all answers to. timelines: a folder for pictures.
    top: number of genres, or of tags of a group, in a row.
    jobs: number of worker processes, -1 for one per core.
    """

    songs: tuple[Path, ...]
    models: tuple[Path | str, ...] = ()
    csv: Path | None = None
    json: Path | None = None
    timelines: Path | None = None
    top: int = 3
    window: float | None = None
    jobs: int = -1
    overwrite: bool = False


def predict_songs(options: PredictOptions) -> int:
    """Logs a row for each song when it is predicted, and writes the files. Returns the number of songs that failed.

    Failed songs are logged as warnings and left out. Raises UserError for options that cannot be used, and if an output
    file exists without `overwrite`.
    """
    paths = find_songs(options.songs)
    pictures = _pictures(options.timelines, paths)
    refuse_taken((options.csv, options.json, *pictures.values()), options.overwrite)
    models = [latest_run() if str(model) == LATEST else model for model in options.models]
    given: dict[str, Any] = {"window": options.window, "jobs": options.jobs, "timelines": bool(pictures)}
    with begin(models, paths, **given) as begun:
        predictor = Predictor(*models)
        songs = predictor.predict_folder(paths, **given, begun=begun)
        return _log_and_write(options, models, paths, pictures, predictor, songs)


def _log_and_write(
    options: PredictOptions,
    models: Sequence[Path | str],
    paths: Sequence[Path],
    pictures: Mapping[Path, Path],
    predictor: Predictor,
    songs: Iterator[SongAnswer],
) -> int:
    if tuple(models) != options.models or not models:
        logger.info(f"Models: {' and '.join(map(str, predictor.runs))}")
    if predictor.warning:
        logger.warning("warning: %s", predictor.warning)
    shown = {path: _shown(path) for path in paths}
    width = max(map(len, shown.values()))
    answers: list[tuple[Path, Answer]] = []
    failed = 0
    with tqdm(total=len(paths), desc="Predicting", unit="song", delay=PROGRESS_AFTER_SECONDS, disable=None) as progress:
        for song in songs:
            if song.answer and not answers:
                logger.info(_header(song.answer, width, options.top))
            if song.answer:
                logger.info(_row(shown[song.path].ljust(width), song.answer, options.top, predictor.tag_groups))
                answers.append((song.path, with_doubts(song)))
            failed += _log_trouble(song)
            if song.timeline and pictures:
                from mtmusic.evaluation import plots

                picture = timeline_picture(song.timeline, song.path.name, predictor.tag_groups)
                plots.save_figure(picture, pictures[song.path])
            progress.update()
    _write(options, answers, predictor)
    for name, place in (("Table", options.csv), ("JSON", options.json), ("Pictures", options.timelines)):
        if place:
            logger.info(f"{name}: {place}")
    return failed


def _pictures(folder: Path | None, paths: Sequence[Path]) -> dict[Path, Path]:
    return {path: folder / f"{name}.png" for path, name in song_ids(paths, {}).items()} if folder else {}


def _shown(path: Path) -> str:
    """The path relative to the working folder, as valid text. A long path is cut at its start."""
    name = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    name = text(name)
    return name if len(name) <= SHOWN_NAME else f"...{name[3 - SHOWN_NAME :]}"


def with_doubts(song: SongAnswer) -> Answer:
    """Adds the warnings about the song to those of the models."""
    warnings = [*filter(None, [song.answer.get(WARNING)]), *song.doubts]
    return song.answer | ({WARNING: "; ".join(warnings)} if warnings else {})


def _log_trouble(song: SongAnswer) -> bool:
    """Logs the failure or the warnings of a song. Returns whether it failed."""
    for line in (f"failed: {song.failure}",) if song.failure else (f"warning: {doubt}" for doubt in song.doubts):
        logger.warning(text(line))
    return bool(song.failure)


def _header(answer: Answer, width: int, top: int) -> str:
    cells = [name.ljust(_genre_width(answer) * min(top, len(answer["genre"]))) for name in answer if name == GENRE]
    cells += [f"{group} tags".ljust(TAG_WIDTH * top) for group in SHOWN_GROUPS if TAGS in answer]
    return "  ".join([SONG.ljust(width), *cells, *(task.rjust(5) for task in _tasks(answer))]).rstrip()


def _row(name: str, answer: Answer, top: int, groups: Mapping[str, str]) -> str:
    genres = sorted(answer.get(GENRE, {}).items(), key=lambda item: -item[1])[:top]
    cells = ["".join(f"{genre} {share:.2f}".ljust(_genre_width(answer)) for genre, share in genres)] if genres else []
    for group in SHOWN_GROUPS if TAGS in answer else ():
        tags = [f"{tag} {score:.2f}" for tag, score in top_tags(answer[TAGS], groups, group, top)]
        cells.append((", ".join(tags) or "no confident tag").ljust(TAG_WIDTH * top))
    values = [
        (f"{answer[task]:.3f}" if task != TEMPO else f"{answer[task]:.1f}").rjust(len(task)) for task in _tasks(answer)
    ]
    return "  ".join([name, *cells, *values]).rstrip()


def top_tags(tags: Mapping[str, float], groups: Mapping[str, str], group: str, top: int) -> list[tuple[str, float]]:
    """Returns the group's tags with the highest scores, without those below LEAST_SCORE."""
    found = sorted(((tag, score) for tag, score in tags.items() if groups[tag] == group), key=lambda item: -item[1])
    return [(tag, score) for tag, score in found[:top] if score >= LEAST_SCORE]


def _genre_width(answer: Answer) -> int:
    return max(map(len, answer[GENRE])) + len(" 0.00, ")


def _tasks(answer: Answer) -> list[str]:
    return [name for name in answer if name not in (GENRE, TAGS, WARNING)]


def _write(options: PredictOptions, answers: Sequence[tuple[Path, Answer]], predictor: Predictor) -> None:
    if options.csv:
        rows = [{SONG: str(path), **_cells(answer, predictor.tag_groups)} for path, answer in answers]
        header = list(dict.fromkeys(name for row in rows for name in row)) or [SONG]
        write_csv(options.csv, header, [[row.get(name, "") for name in header] for row in rows])
    if options.json:
        models = [{name: model[name] for name in ("model", "run", "sha256")} for model in describe(predictor)]
        songs = [{SONG: str(path), **answer} for path, answer in answers]
        write_json(options.json, {"schema_version": JSON_VERSION, "models": models, "songs": songs})


def _cells(answer: Answer, tags: Iterable[str]) -> dict[str, str]:
    """Like `flat`, as text for a table. The tags of a song without tags are empty."""
    empty = {f"{TAGS}.{tag}": "" for tag in tags} if TAGS in answer else {}
    return empty | {name: f"{value:.6f}" if isinstance(value, float) else value for name, value in flat(answer).items()}


def flat(answer: Answer) -> dict[str, Any]:
    """Returns values by column: genre (the most probable class), genre.<class>, tags.<tag>, <task>, and warning."""
    values: dict[str, Any] = {}
    for name, value in answer.items():
        if name == GENRE:
            values[name] = max(value, key=value.get)
        values |= (
            {f"{name}.{label}": number for label, number in value.items()} if isinstance(value, dict) else {name: value}
        )
    return values


def latest_run() -> Path:
    """Returns the finished run in RUNS that was created last, by its card. Raises UserError if there is none.

    Cards of older versions have no date. They come before the others, in the order of their files' times.
    """
    cards = [card for card in RUNS.glob(f"*/{CARD_FILE}") if _is_finished(card.parent)]
    if not cards:
        raise UserError(f"Expected a finished run in {RUNS} to predict with, found none: train a model, or name one")
    return max(cards, key=lambda card: (_created(card), card.stat().st_mtime)).parent


def _is_finished(run: Path) -> bool:
    """Whether a run is finished: it has metrics, or its card says that `save_run` wrote it, which writes no metrics."""
    if (run / "metrics.json").is_file():
        return True
    with suppress(UserError):
        return read_card(run).get("backbone") == OWN_BACKBONE
    return False


def _created(card: Path) -> str:
    """The date of the run in UTC, from its card, or empty. Errors of a card are raised when its run is opened."""
    try:
        return str(read_card(card.parent).get("created", ""))
    except UserError:
        return ""


def timeline_picture(timeline: Timeline, title: str, groups: Mapping[str, str], narrow: bool = False) -> "Figure":
    """Draws the spectrogram, and below it genre, the song's top tags of SHOWN_GROUPS, and affect.

    groups: group of each tag. narrow: whether the picture is for a phone.
    """
    from mtmusic.evaluation import plots

    panels: dict[str, plots.Panel] = {}
    if timeline.tags:
        scores = {tag: np.array([step[tag] for step in timeline.tags]) for tag in timeline.tags[0]}
        shown = [tag for tag in scores if groups[tag] in SHOWN_GROUPS]
        top = sorted(shown, key=lambda tag: -scores[tag].mean())[:TAG_LINES]
        panels["tags (score)"] = timeline.tag_times, {tag: scores[tag] for tag in top}
    rows = timeline.answers
    if rows and GENRE in rows[0]:
        genres = {genre: np.array([row[GENRE][genre] for row in rows]) for genre in rows[0][GENRE]}
        panels["genre (probability)"] = timeline.times, genres
    if rows and (tasks := _tasks(rows[0])):
        panels["affect (0 to 1)"] = timeline.times, {task: np.array([row[task] for row in rows]) for task in tasks}
    return plots.timeline(timeline.mel, panels, title, timeline.stride, narrow)

"""Many songs -> a row each in the log, a table, pictures of timelines."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mtmusic.audio.extraction import find_songs, song_ids
from mtmusic.evaluation import plots
from mtmusic.files import refuse_taken, write_csv, write_json
from mtmusic.serving.predictor import SONG, WARNING, Answer, Predictor, SongAnswer, Timeline

logger = logging.getLogger(__name__)

SHOWN_NAME = 48
PROGRESS_AFTER_SECONDS = 2


@dataclass(frozen=True)
class PredictOptions:
    """csv, json: files of all answers. timelines: a folder of pictures. top: genres a row. jobs: processes, -1: all."""

    songs: tuple[Path, ...]
    models: tuple[Path, ...]
    csv: Path | None = None
    json: Path | None = None
    timelines: Path | None = None
    top: int = 3
    window: float | None = None
    jobs: int = -1
    overwrite: bool = False


def predict_songs(options: PredictOptions) -> int:
    """Logs a row a song as its answer comes, writes what was asked for, and returns how many songs failed.

    Failed songs are logged as warnings and left out. Raises UserError where it cannot run, and where a file to be
    written is there already without `overwrite`.
    """
    paths = find_songs(options.songs)
    pictures = _pictures(options.timelines, paths)
    refuse_taken((options.csv, options.json, *pictures.values()), options.overwrite)
    predictor = Predictor(*options.models)
    if predictor.warning:
        logger.warning("warning: %s", predictor.warning)
    shown = {path: _shown(path) for path in paths}
    width = max(map(len, shown.values()))
    answers: list[tuple[Path, Answer]] = []
    failed = 0
    songs = predictor.predict_folder(paths, window=options.window, jobs=options.jobs, timelines=bool(pictures))
    with tqdm(total=len(paths), desc="Predicting", unit="song", delay=PROGRESS_AFTER_SECONDS, disable=None) as progress:
        for song in songs:
            if song.answer and not answers:
                logger.info(_header(song.answer, width, options.top))
            if song.answer:
                logger.info(_row(shown[song.path].ljust(width), song.answer, options.top))
                answers.append((song.path, _with_doubts(song)))
            failed += _log_trouble(song)
            if song.timeline and pictures:
                plots.save_figure(timeline_picture(song.timeline, song.path.name), pictures[song.path])
            progress.update()
    _write(options, answers)
    for name, place in (("Table", options.csv), ("JSON", options.json), ("Pictures", options.timelines)):
        if place:
            logger.info(f"{name}: {place}")
    return failed


def _pictures(folder: Path | None, paths: Sequence[Path]) -> dict[Path, Path]:
    return {path: folder / f"{name}.png" for path, name in song_ids(paths, {}).items()} if folder else {}


def _shown(path: Path) -> str:
    """The path from here, its end where it is long; file names may be any bytes."""
    name = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    name = os.fsencode(name).decode(errors="replace")
    return name if len(name) <= SHOWN_NAME else f"...{name[3 - SHOWN_NAME :]}"


def _with_doubts(song: SongAnswer) -> Answer:
    """What may be wrong with the song joins what the models warn of."""
    warnings = [*filter(None, [song.answer.get(WARNING)]), *song.doubts]
    return song.answer | ({WARNING: "; ".join(warnings)} if warnings else {})


def _log_trouble(song: SongAnswer) -> bool:
    """Whether the song failed."""
    for line in (f"failed: {song.failure}",) if song.failure else (f"warning: {doubt}" for doubt in song.doubts):
        logger.warning(os.fsencode(line).decode(errors="replace"))
    return bool(song.failure)


def _header(answer: Answer, width: int, top: int) -> str:
    cells = [name.ljust(_genre_width(answer) * min(top, len(answer["genre"]))) for name in answer if name == "genre"]
    return "  ".join([SONG.ljust(width), *cells, *(task.rjust(5) for task in _tasks(answer))]).rstrip()


def _row(name: str, answer: Answer, top: int) -> str:
    genres = sorted(answer.get("genre", {}).items(), key=lambda item: -item[1])[:top]
    cells = [f"{genre} {share:.2f}".ljust(_genre_width(answer)) for genre, share in genres]
    values = [f"{answer[task]:.3f}".rjust(len(task)) for task in _tasks(answer)]
    return "  ".join([name, *(["".join(cells)] if cells else []), *values]).rstrip()


def _genre_width(answer: Answer) -> int:
    return max(map(len, answer["genre"])) + len(" 0.00, ")


def _tasks(answer: Answer) -> list[str]:
    return [name for name in answer if name not in ("genre", WARNING)]


def _write(options: PredictOptions, answers: Sequence[tuple[Path, Answer]]) -> None:
    if options.csv:
        rows = [{SONG: str(path), **_flat(answer)} for path, answer in answers]
        header = list(dict.fromkeys(name for row in rows for name in row)) or [SONG]
        write_csv(options.csv, header, [[row.get(name, "") for name in header] for row in rows])
    if options.json:
        write_json(options.json, [{SONG: str(path), **answer} for path, answer in answers])


def _flat(answer: Answer) -> dict[str, str]:
    """Cells by column: genre (the likeliest), genre.<class> a class, <task> a task, warning."""
    cells = {}
    for name, value in answer.items():
        if name == "genre":
            cells[name] = max(value, key=value.get)
            cells |= {f"{name}.{genre}": f"{share:.6f}" for genre, share in value.items()}
        else:
            cells[name] = value if name == WARNING else f"{value:.6f}"
    return cells


def timeline_picture(timeline: Timeline, title: str) -> plots.Figure:
    """The spectrogram above, genre and affect below."""
    rows = timeline.answers
    panels: dict[str, Mapping[str, np.ndarray]] = {}
    if "genre" in rows[0]:
        genres = rows[0]["genre"]
        panels["genre (probability)"] = {genre: np.array([row["genre"][genre] for row in rows]) for genre in genres}
    if tasks := _tasks(rows[0]):
        panels["affect (0 to 1)"] = {task: np.array([row[task] for row in rows]) for task in tasks}
    return plots.timeline(timeline.mel, timeline.times, panels, title)

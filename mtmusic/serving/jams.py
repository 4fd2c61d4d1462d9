"""Answers as JAMS files, the annotation format of music research: one a song, whole or absent.

Format: Humphrey, Salamon, Nieto, Forsyth, Bittner and Bello, "JAMS: a JSON annotated music specification" (ISMIR 2014).
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtmusic import __version__
from mtmusic.audio.extraction import song_ids
from mtmusic.errors import UserError
from mtmusic.files import locked, require_writable, write_json
from mtmusic.serving.predictor import GENRE, TAGS, TEMPO, WARNING, SongAnswer
from mtmusic.serving.provenance import name_and_hash
from mtmusic.serving.songs import with_doubts
from mtmusic.serving.table import text

logger = logging.getLogger(__name__)

SUFFIX = ".jams"
JAMS_VERSION = "0.3.5"
"""Of the format, whose files say it."""

OWN = "mtmusic"
"""The part of a file's sandbox that is ours."""

MOOD = ("valence", "arousal")


def jams_of(song: SongAnswer, model: str, sha256: str) -> dict[str, Any]:
    """A song's answer in the format.

    Tags and genre are of the namespace tag_open, with score or probability as confidence. Valence and arousal are a
    mood_thayer, each from -1 to 1 with the middle at 0, as the format's own examples have it. Other tasks are a blob,
    {task: 0 to 1}. All of them span the song.
    """
    answer = with_doubts(song)
    warning = answer.pop(WARNING, "")
    annotations = [
        _annotation("tag_open", name, [*answer.pop(name).items()], song.seconds)
        for name in (GENRE, TAGS)
        if answer.get(name)
    ]
    if all(name in answer for name in MOOD):
        value = [2 * answer.pop(name) - 1 for name in MOOD]
        annotations.append(_annotation("mood_thayer", " ".join(MOOD), [(value, None)], song.seconds))
    if TEMPO in answer:  # a single estimate has all the weight
        annotations.append(_annotation(TEMPO, TEMPO, [(answer.pop(TEMPO), 1.0)], song.seconds))
    if tasks := {name: value for name, value in answer.items() if name != TAGS}:
        annotations.append(_annotation("blob", " ".join(tasks), [(tasks, None)], song.seconds))
    for annotation in annotations:
        annotation["annotation_metadata"]["annotator"] = {"model": model, "sha256": sha256}
    return {
        "file_metadata": {"title": text(song.path.stem), "duration": song.seconds, "jams_version": JAMS_VERSION},
        "annotations": annotations,
        "sandbox": {OWN: {"song": text(song.path), "model_sha256": sha256, "warning": text(warning)}},
    }


def _annotation(namespace: str, answer: str, values: Sequence[tuple[Any, Any]], seconds: float) -> dict[str, Any]:
    """values: each with its confidence. answer: what of the answer it is."""
    return {
        "namespace": namespace,
        "annotation_metadata": {"annotation_tools": f"mtmusic {__version__}", "data_source": "program"},
        "data": [
            {"time": 0.0, "duration": seconds, "value": value, "confidence": confidence} for value, confidence in values
        ],
        "sandbox": {"answer": answer},
        "time": 0.0,
        "duration": seconds,
    }


class _Annotations:
    """A folder of files, `song_ids` their names. known: the songs that have one."""

    def __init__(self, folder: Path, model: str, sha256: str, known: dict[Path, str]) -> None:
        self.folder, self.model, self.sha256, self.known = folder, model, sha256, known
        self.names: dict[Path, str] = {}

    def missing(self, paths: Sequence[Path]) -> list[Path]:
        names = {Path(text(path)): path for path in paths}
        ids = song_ids([*names], self.known)
        self.names = {path: ids[name] for name, path in names.items() if name not in self.known}
        logger.info(f"known: {len(paths) - len(self.names)}, new: {len(self.names)}")
        return [*self.names]

    def add(self, song: SongAnswer) -> None:
        name = self.names.pop(song.path)
        if not song.failure:
            write_json(self.folder / f"{name}{SUFFIX}", jams_of(song, self.model, self.sha256))


@contextmanager
def open_annotations(
    folder: Path, described: Sequence[Mapping[str, Any]], overwrite: bool = False
) -> Iterator[_Annotations]:
    """A folder to add files to. overwrite: no song of it is known.

    Raises UserError where another run writes it, where it cannot be written, and where a file is of another model.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"Expected `out` to be a folder for annotation files, got the file {folder}")
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model, sha256 = name_and_hash(described)
    with locked(folder):
        for unfinished in folder.glob(f".*{SUFFIX}"):
            unfinished.unlink()
        known: dict[Path, str] = {}
        for file in sorted(folder.glob(f"[!.]*{SUFFIX}")):
            own = _own(file)
            if own and not overwrite and own.get("model_sha256") != sha256:
                told = f"Expected files of the model {model} ({sha256[:8]}), got a file of another model: {file}"
                raise UserError(f"{told}: give another `out`, or `overwrite`")
            if not (own and overwrite):  # another program's file keeps its name
                known[Path(own["song"]) if own else file] = file.stem
        yield _Annotations(folder, model, sha256, known)


def _own(file: Path) -> dict[str, Any]:
    """What we wrote of the song and the model; nothing in another program's file."""
    try:
        return json.loads(file.read_bytes())["sandbox"][OWN]
    except (ValueError, LookupError, TypeError):
        return {}

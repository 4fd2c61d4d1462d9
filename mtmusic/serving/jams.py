"""Writes answers as JAMS files, the annotation format of music research: a file for each song, whole or not at all.

Format: Humphrey, Salamon, Nieto, Forsyth, Bittner and Bello, "JAMS: a JSON annotated music specification" (ISMIR 2014).
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtmusic import __version__
from mtmusic.audio.extraction import song_ids
from mtmusic.errors import UserError
from mtmusic.files import locked, require_writable, unfinished_files, write_json
from mtmusic.serving.predictor import GENRE, TAGS, TEMPO, WARNING, SongAnswer
from mtmusic.serving.provenance import name_and_hash
from mtmusic.serving.songs import with_doubts
from mtmusic.serving.table import Known, song_name, text

SUFFIX = ".jams"
JAMS_VERSION = "0.3.5"
"""The version of the format, which is in each file."""

OWN = "mtmusic"
"""The key of mtmusic's data in a file's sandbox."""

MOOD = ("valence", "arousal")


def jams_of(song: SongAnswer, own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a song's answer in the format. own: data for the sandbox, with "model" and "model_sha256".

    Tags and genre have the namespace tag_open, with score or probability as confidence. Valence and arousal are one
    mood_thayer, each from -1 to 1, as in the examples of the format. Other tasks are a blob, {task: 0 to 1}. All
    annotations span the song.
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
    if TEMPO in answer:  # the confidence of a single estimate is 1
        annotations.append(_annotation(TEMPO, TEMPO, [(answer.pop(TEMPO), 1.0)], song.seconds))
    if tasks := {name: value for name, value in answer.items() if name != TAGS}:
        annotations.append(_annotation("blob", " ".join(tasks), [(tasks, None)], song.seconds))
    for annotation in annotations:
        annotation["annotation_metadata"]["annotator"] = {"model": own["model"], "sha256": own["model_sha256"]}
    return {
        "file_metadata": {"title": text(song.path.stem), "duration": song.seconds, "jams_version": JAMS_VERSION},
        "annotations": annotations,
        "sandbox": {OWN: {"song": song_name(song.path), **own, "warning": text(warning)}},
    }


def _annotation(namespace: str, answer: str, values: Sequence[tuple[Any, Any]], seconds: float) -> dict[str, Any]:
    """Makes an annotation. answer: names of the answer's parts. values: values with their confidences."""
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
    """A folder of annotation files.

    names: name of each song's file. settings: data for the sandbox of every file. known: existing files, by song.
    """

    def __init__(
        self, folder: Path, names: Mapping[Path, str], settings: Mapping[str, Any], known: dict[str, Known]
    ) -> None:
        self.folder, self.names, self.settings, self.known = folder, names, settings, known

    def drop(self, songs: Collection[str]) -> None:
        for song in songs:
            (self.folder / self.known.pop(song).part).unlink()

    def add(self, song: SongAnswer, size: int, mtime_ns: int) -> None:
        if not song.failure:
            own = {"size": size, "mtime_ns": mtime_ns, **self.settings}
            write_json(self.folder / f"{self.names[song.path]}{SUFFIX}", jams_of(song, own))


@contextmanager
def open_annotations(
    folder: Path,
    paths: Sequence[Path],
    described: Sequence[Mapping[str, Any]],
    window: float | None,
    overwrite: bool = False,
) -> Iterator[_Annotations]:
    """Opens or makes a folder to add files of these songs. Files of other programs are not replaced.

    overwrite: whether to delete the files that mtmusic wrote. Raises UserError if another run writes the folder, if it
    cannot be written to, or if a file has another model or window.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"Expected `out` to be a folder for annotation files, got the file {folder}")
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model, sha256 = name_and_hash(described)
    settings = {"model": model, "model_sha256": sha256, "window": window}
    with locked(folder):
        for unfinished in unfinished_files(folder, f"*{SUFFIX}"):
            unfinished.unlink()
        files = {file: _own(file) for file in sorted(folder.glob(f"[!.]*{SUFFIX}"))}
        for file in [file for file, own in files.items() if own and overwrite]:
            file.unlink()
            del files[file]
        for file, own in files.items():
            if own:
                _require_same(own, settings, file)
        known = {
            own["song"]: Known(own.get("size", 0), own.get("mtime_ns", 0), False, file.name)
            for file, own in files.items()
            if own
        }
        songs = {song_name(path): path for path in paths}
        yield _Annotations(folder, song_ids(paths, _names(files, known, songs)), settings, known)


def _names(files: Iterable[Path], known: Mapping[str, Known], songs: Mapping[str, Path]) -> dict[Path, str]:
    """The names in use, by song for these songs, and by file for other files."""
    owners = {one.part: songs[song] for song, one in known.items() if song in songs}
    return {owners.get(file.name, file): file.stem for file in files}


def _require_same(own: Mapping[str, Any], settings: Mapping[str, Any], file: Path) -> None:
    told = "Expected annotations with {}, got others in {}: give another `out`, or `overwrite`"
    if own.get("model_sha256") != settings["model_sha256"]:
        raise UserError(told.format(f"the model {settings['model']} ({settings['model_sha256'][:8]})", file))
    if own.get("window") != settings["window"]:
        raise UserError(told.format("the same `window`", file))


def _own(file: Path) -> dict[str, Any]:
    """Reads mtmusic's data in a file's sandbox. Empty for files of other programs and for folders."""
    try:
        own = json.loads(file.read_bytes())["sandbox"][OWN]
        return own if isinstance(own["song"], str) else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}

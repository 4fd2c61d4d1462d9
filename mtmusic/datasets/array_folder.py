"""Shared by extraction and FMA: the extraction of all songs, and the files next to the arrays."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mtmusic import __version__
from mtmusic.audio.extraction import Excerpt, Outcome, Song, extract_songs
from mtmusic.constants import (
    HOP_LENGTH,
    LOGMEL_BINS,
    LOGMEL_FFT_LENGTH,
    LOGMEL_HOP_LENGTH,
    LOGMEL_SAMPLE_RATE,
    SAMPLE_RATE,
)
from mtmusic.data.labels import folder_feature, label_path, read_features_json
from mtmusic.data.spectrograms import array_path, write_array
from mtmusic.errors import UserError
from mtmusic.files import locked, require_writable, write_json

logger = logging.getLogger(__name__)

ANY_NAME = "surrogateescape"
"""Error handler that keeps the bytes of file names that are not valid UTF-8."""

SPLITS = ("train", "validation", "test")
RATES = {"full": (False,), "beat": (True,), "both": (False, True)}


def extract_all(
    songs: Sequence[Song], excerpt: Excerpt, jobs: int = -1, scheduler: str | None = None
) -> tuple[Outcome, ...]:
    """Writes the songs' arrays with a progress bar, and logs warnings. Returns the failed songs, sorted by path."""
    failed = []
    outcomes = extract_songs(songs, excerpt, write_array, jobs, scheduler)
    with tqdm(total=len(songs), desc="Extracting", unit="song") as progress:
        for outcome in outcomes:
            for doubt in outcome.doubts:
                logger.warning("warning: %s", doubt)
            if outcome.failure:
                failed.append(outcome)
                progress.set_postfix(failed=len(failed), refresh=False)
            progress.update()
    return tuple(sorted(failed, key=lambda outcome: outcome.path))


@contextmanager
def lock_folders(folders: Sequence[Path]) -> Iterator[None]:
    """Makes the folders, and locks them against a second run as `files.locked` does.

    If the block fails, new folders without an array are removed again.
    Raises UserError if another run has locked a folder, or if a folder cannot be written to.
    """
    with ExitStack() as stack:
        for folder in folders:
            require_writable(folder)
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
            if is_new:
                stack.push(partial(_remove_without_arrays, folder))
        yield


def _remove_without_arrays(folder: Path, failure: type[BaseException] | None, *_: object) -> None:
    if failure and not any(folder.rglob("[!.]*.npy*")):
        shutil.rmtree(folder, ignore_errors=True)


def has_array(folder: Path, clip_id: str, split: str, move: bool = True) -> bool:
    """Whether the clip's array exists. If an earlier run with other labels put it into another split, it is moved."""
    found = next(filter(None, (array_path(folder / name, clip_id) for name in SPLITS)), None)
    if found and move and found.parent.name != split:
        (folder / split).mkdir(exist_ok=True)
        found.replace(folder / split / found.name)
    return found is not None


def features_json(beat: bool, excerpt: Excerpt, feature: str = "fused") -> dict[str, Any]:
    """Returns the content of features.json without the versions. feature: "fused" or "logmel"."""
    if feature == "logmel":
        made = {"sample_rate": LOGMEL_SAMPLE_RATE, "n_fft": LOGMEL_FFT_LENGTH, "hop_length": LOGMEL_HOP_LENGTH}
        return {"feature": feature, **made, "bands": LOGMEL_BINS, "beat": beat, **asdict(excerpt)}
    return {"feature": feature, "sample_rate": SAMPLE_RATE, "hop_length": HOP_LENGTH, "beat": beat, **asdict(excerpt)}


def require_ours(folder: Path, content: Mapping[str, Any]) -> None:
    """Raises UserError if the folder holds other files, or arrays with other settings than `content`."""
    before = read_features_json(folder)
    if not before and folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"Expected a new folder, or one that this command made, got {folder}, which holds other things")
    if before and (kind := folder_feature(folder)) != content["feature"]:
        raise UserError(f"{folder} holds {kind} arrays, now {content['feature']}: give another folder")
    differing = [f"{name} {before[name]}, now {now}" for name, now in content.items() if before.get(name, now) != now]
    if differing:
        raise UserError(f"{folder} holds arrays made with {'; '.join(differing)}: give another folder")


def open_folder(folder: Path, content: Mapping[str, Any], labelled: bool = True) -> None:
    """Writes features.json, and removes files of earlier runs: labels, groups, and unfinished arrays.

    Raises UserError as `require_ours`.
    """
    require_ours(folder, content)
    labels = [*(label_path(folder, split) for split in SPLITS), folder / "groups.csv"] if labelled else []
    for path in (*labels, *folder.glob("*/.*.npy*")):
        path.unlink(missing_ok=True)
    versions = {"mtmusic": __version__} | {name: version(name) for name in ("soundfile", "soxr", "numpy", "scipy")}
    write_json(folder / "features.json", {**content, "versions": versions})

"""What every job that makes arrays of songs does alike: the pass over the songs, and the files beside the arrays."""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mtmusic import __version__
from mtmusic.audio.extraction import Excerpt, Outcome, Song, extract_songs
from mtmusic.constants import HOP_LENGTH, SAMPLE_RATE
from mtmusic.data.labels import read_features_json
from mtmusic.data.spectrograms import write_array
from mtmusic.errors import UserError
from mtmusic.files import whole_file, write_json

ANY_NAME = "surrogateescape"
"""How text holds names of files, which may be any bytes."""

RATES = {"full": (False,), "beat": (True,), "both": (False, True)}


def extract_all(
    songs: Sequence[Song], excerpt: Excerpt, jobs: int = -1, scheduler: str | None = None
) -> tuple[Outcome, ...]:
    """Writes the songs' arrays with a progress bar, says doubts as they come, and returns what failed, by path."""
    failed = []
    with tqdm(total=len(songs), desc="Extracting", unit="song") as progress:
        for outcome in extract_songs(songs, excerpt, write_array, jobs, scheduler):
            for doubt in outcome.doubts:
                progress.write(f"warning: {doubt}", file=sys.stderr)
            if outcome.failure:
                failed.append(outcome)
                progress.set_postfix(failed=len(failed), refresh=False)
            progress.update()
    return tuple(sorted(failed, key=lambda outcome: outcome.path))


def made_how(beat: bool, excerpt: Excerpt) -> dict[str, Any]:
    """What features.json says of the arrays, but for the versions."""
    return {"sample_rate": SAMPLE_RATE, "hop_length": HOP_LENGTH, "beat": beat, **asdict(excerpt)}


def require_ours(folder: Path, content: Mapping[str, Any]) -> None:
    """Raises UserError where the folder holds other things, or arrays that were made otherwise than `content`."""
    before = read_features_json(folder)
    if not before and folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"Expected a folder that is new, or made by this script, got {folder}: it holds other things")
    differing = [f"{name} {before[name]}, now {now}" for name, now in content.items() if before.get(name, now) != now]
    if differing:
        raise UserError(f"{folder} holds arrays made with {'; '.join(differing)}: give another folder")


def write_features_json(folder: Path, content: Mapping[str, Any]) -> None:
    versions = {"mtmusic": __version__} | {name: version(name) for name in ("librosa", "soundfile", "numpy")}
    write_json(folder / "features.json", {**content, "versions": versions})


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8", errors=ANY_NAME) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)

"""A data folder to checked splits, and what they hold, for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtmusic.data.checks import CheckedSplit, checked_genre_split, fingerprint, require_good
from mtmusic.data.labels import Clips, GenreClasses, is_beat_synchronised, is_synthetic, label_path, scan_genre_labels
from mtmusic.data.splits import hold_out, subset
from mtmusic.errors import UserError
from mtmusic.jobs.demo import demo_corpus

DEMO_FOLDER = "fma_genre_spectrograms_beat"
LIKELY_BEAT_FRAMES = 200
"""Under five seconds at full rate: clips so short are likely to be beat-synchronised."""

RATES = {True: "beat-synchronised", False: "full-rate"}


@dataclass(frozen=True)
class GenreData:
    """A genre folder's splits, checked: train, validation and test, or those that were asked for."""

    folder: Path
    beat: bool
    demo: bool
    fingerprint: str
    splits: dict[str, Clips]
    raw_counts: dict[str, int]
    merged_counts: dict[str, int]
    frames: np.ndarray
    left_out: tuple[str, ...]


def load_genre_data(
    folder: Path | None,
    classes: GenreClasses = "lab",
    beat: bool | None = None,
    validation: float = 0.2,
    size: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> GenreData:
    """Reads and checks every label row and array of a genre folder (None: the demo corpus).

    Holds out a share `validation` of train where the folder has no validation split of its own. size: so many clips
    of train, stratified. beat: whether the clips are beat-synchronised; None tells it from the folder.
    Raises UserError that lists what is wrong.
    """
    folder = folder if folder is not None else demo_corpus() / DEMO_FOLDER
    splits = ["train", "test"]
    if label_path(folder, "validation").is_file():
        splits.append("validation")
    checked: dict[str, CheckedSplit] = {}
    known: tuple[str, ...] = ()
    for split in splits:
        checked[split] = checked_genre_split(folder, split, classes, known)
        known = checked[split].clips.classes
    data = _genre_data(folder, beat, checked, skip_bad)
    clips = data.splits
    present = [name for name, count in clips["train"].counts().items() if count]
    if len(present) < 2:
        raise UserError(
            f"Expected two classes or more, got {', '.join(present)} alone in {label_path(folder, 'train')}"
        )
    if len(present) < len(known):
        raise UserError(f"No clip of {', '.join(sorted({*known} - {*present}))} in {folder / 'train'} can be used")
    if size is not None:
        clips["train"] = subset(clips["train"], size, seed)
    if "validation" not in clips:
        clips["train"], clips["validation"] = hold_out(clips["train"], validation, seed)
    return replace(data, splits={split: clips[split] for split in ("train", "validation", "test")})


def load_genre_split(
    folder: Path,
    split: str,
    known: Sequence[str],
    classes: GenreClasses = "lab",
    beat: bool | None = None,
    skip_bad: bool = False,
) -> GenreData:
    """One split alone, its classes those that a model knows. Raises UserError as `load_genre_data`."""
    return _genre_data(folder, beat, {split: checked_genre_split(folder, split, classes, known)}, skip_bad)


def _is_beat_synchronised(folder: Path, beat: bool | None, frames: np.ndarray) -> bool:
    """As told, else as the folder tells, else full rate. Raises UserError where the clips are too short for that."""
    told = beat if beat is not None else is_beat_synchronised(folder)
    if told is None and np.median(frames) < LIKELY_BEAT_FRAMES:
        raise UserError(
            f"Expected a folder that tells its frame rate, got clips of {np.median(frames):.0f} frames in {folder}: "
            "give --beat or --no-beat"
        )
    return bool(told)


def _genre_data(folder: Path, beat: bool | None, checked: dict[str, CheckedSplit], skip_bad: bool) -> GenreData:
    left_out = require_good(folder, checked, skip_bad)
    first = next(iter(checked))
    frames = np.concatenate([part.frames for part in checked.values()])
    return GenreData(
        folder=folder,
        beat=_is_beat_synchronised(folder, beat, frames),
        demo=is_synthetic(folder),
        fingerprint=fingerprint(list(checked.values())),
        splits={split: part.clips for split, part in checked.items()},
        raw_counts=scan_genre_labels(folder, first, "all")[0].counts(),
        merged_counts=checked[first].clips.counts(),
        frames=frames,
        left_out=left_out,
    )


def print_data(data: GenreData) -> None:
    """The data's counts, by class and split, for the terminal."""
    if data.demo:
        print("Data: the demo corpus of synthesised music. What it teaches says nothing about real songs; give --data.")
    print(f"Folder: {data.folder} ({RATES[data.beat]})")
    print(f"Frames: {data.frames.min()} to {data.frames.max()}, median {np.median(data.frames):.0f}")
    for line in data.left_out:
        print(f"Left out: {line}")
    classes = next(iter(data.splits.values())).classes
    width = max(len(name) for name in (*classes, "class"))
    print(f"{'class':<{width}}" + "".join(f"{split:>12}" for split in data.splits))
    for name in classes:
        print(f"{name:<{width}}" + "".join(f"{clips.counts()[name]:>12}" for clips in data.splits.values()))
    print(f"{'all':<{width}}" + "".join(f"{len(clips):>12}" for clips in data.splits.values()) + "\n")

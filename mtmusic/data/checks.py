"""What is wrong with a folder, in NumPy: every label row and every array, before any training."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mtmusic.data.labels import Clips, label_path, scan_affect_labels, scan_genre_labels
from mtmusic.data.spectrograms import read_array
from mtmusic.errors import UserError

READERS = 8  # threads; reading and decompressing hold no lock
PROGRESS_AFTER_SECONDS = 2


@dataclass(frozen=True)
class CheckedSplit:
    """A split whose rows and arrays are all good: its clips, each clip's frames and content hash, what was left out."""

    clips: Clips
    frames: np.ndarray
    digests: tuple[str, ...]
    left_out: tuple[str, ...]


def checked_genre_split(
    folder: Path | str, split: str, classes: str = "lab", known: Sequence[str] = (), skip_bad: bool = False
) -> CheckedSplit:
    """`read_genre_labels`, with every array read once.

    Raises UserError that lists what is wrong, or, with skip_bad, leaves those clips out and tells so in `left_out`.
    A label file that cannot be used at all, and a split with no good clip, are errors either way.
    """
    return _checked(folder, split, *scan_genre_labels(folder, split, classes, known), skip_bad)


def checked_affect_split(folder: Path | str, split: str, skip_bad: bool = False) -> CheckedSplit:
    """As `checked_genre_split`, for an affect folder."""
    return _checked(folder, split, *scan_affect_labels(folder, split), skip_bad)


def read_facts(paths: Sequence[Path]) -> list[tuple[int, str] | UserError]:
    """Of each array: (frames, hash of its content as float32), or the error that reading it raised."""
    with ThreadPoolExecutor(READERS) as readers:
        facts = tqdm(
            readers.map(_facts, paths), "Checking arrays", len(paths), delay=PROGRESS_AFTER_SECONDS, unit="clip"
        )
        return list(facts)


def fingerprint(splits: Sequence[CheckedSplit]) -> str:
    """One hash over ids, labels and contents: equal for the same clips whatever their order or number format."""
    lines = sorted(
        f"{clip_id} {np.asarray(target).tolist()} {digest}"
        for split in splits
        for clip_id, target, digest in zip(split.clips.ids, split.clips.targets, split.digests, strict=True)
    )
    names = [split.clips.classes + split.clips.tasks for split in splits]
    return hashlib.blake2b(repr((names, lines)).encode(), digest_size=16).hexdigest()


def _checked(folder: Path | str, split: str, clips: Clips, problems: list[str], skip_bad: bool) -> CheckedSplit:
    facts = read_facts(clips.paths)
    problems = problems + [str(fact) for fact in facts if isinstance(fact, UserError)]
    good = [i for i, fact in enumerate(facts) if not isinstance(fact, UserError)]
    path = label_path(folder, split)
    if problems and not skip_bad:
        raise UserError.listing(f"Cannot use {path} (--skip-bad goes on without these)", problems)
    if not good:
        raise UserError(f"Expected clips in {path}, got none that can be used")
    kept = [fact for fact in facts if not isinstance(fact, UserError)]
    frames = np.array([frames for frames, _ in kept])
    return CheckedSplit(clips.take(good), frames, tuple(digest for _, digest in kept), tuple(problems))


def _facts(path: Path) -> tuple[int, str] | UserError:
    try:
        array = read_array(path)
    except UserError as error:
        return error
    return array.shape[1], hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()

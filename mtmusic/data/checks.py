"""What is wrong with a folder, in NumPy: every label row and every array, before any training."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mtmusic.data.labels import Clips, GenreClasses, label_path, scan_affect_labels, scan_genre_labels
from mtmusic.data.spectrograms import read_array
from mtmusic.errors import UserError

READERS = 8  # threads; reading and decompressing hold no lock
PROGRESS_AFTER_SECONDS = 2


@dataclass(frozen=True)
class CheckedSplit:
    """A split's good clips, each clip's frames and content hash, and a line for each row or array that is not good."""

    clips: Clips
    frames: np.ndarray
    digests: tuple[str, ...]
    problems: tuple[str, ...]


def checked_genre_split(
    folder: Path | str, split: str, classes: GenreClasses = "lab", known: Sequence[str] = ()
) -> CheckedSplit:
    """`read_genre_labels`, with every array read once. Raises UserError for a label file that cannot be used at all."""
    return _checked(*scan_genre_labels(folder, split, classes, known))


def checked_affect_split(folder: Path | str, split: str) -> CheckedSplit:
    """As `checked_genre_split`, for an affect folder."""
    return _checked(*scan_affect_labels(folder, split))


def require_good(folder: Path | str, splits: Mapping[str, CheckedSplit], skip_bad: bool = False) -> tuple[str, ...]:
    """All splits' problems, to be told. Raises UserError that lists them unless skip_bad, and for an empty split."""
    problems = tuple(problem for part in splits.values() for problem in part.problems)
    if problems and not skip_bad:
        raise UserError.listing(f"Cannot use all of {folder} (--skip-bad goes on without these)", problems)
    for split, part in splits.items():
        if not len(part.clips):
            raise UserError(f"Expected clips in {label_path(folder, split)}, got none that can be used")
    return problems


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


def _checked(clips: Clips, problems: list[str]) -> CheckedSplit:
    facts = read_facts(clips.paths)
    good = [i for i, fact in enumerate(facts) if not isinstance(fact, UserError)]
    kept = [fact for fact in facts if not isinstance(fact, UserError)]
    return CheckedSplit(
        clips.take(good),
        np.array([frames for frames, _ in kept], dtype=int),
        tuple(digest for _, digest in kept),
        (*problems, *(str(fact) for fact in facts if isinstance(fact, UserError))),
    )


def _facts(path: Path) -> tuple[int, str] | UserError:
    try:
        array = read_array(path)
    except UserError as error:
        return error
    return array.shape[1], hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()

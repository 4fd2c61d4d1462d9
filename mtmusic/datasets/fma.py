"""Makes a genre data folder and an affect data folder from FMA's audio and metadata tables.

`plan_fma` reads only tables, file names and checksums. `write_fma` writes the arrays, and then their label files.
"""

import hashlib
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mtmusic.audio.extraction import Excerpt, Outcome, Song
from mtmusic.data.labels import Clips, write_affect_labels, write_genre_labels
from mtmusic.data.spectrograms import SUFFIXES
from mtmusic.datasets.array_folder import (
    RATES,
    extract_all,
    features_json,
    has_array,
    lock_folders,
    open_folder,
    require_ours,
)
from mtmusic.datasets.fma_tables import (
    UNDECODABLE,
    affect_clips,
    genre_clips,
    of_size,
    read_checksums,
    read_echonest,
    read_tracks,
    song_path,
)
from mtmusic.errors import UserError
from mtmusic.files import write_csv

READERS = 8  # threads; hashing releases the GIL
DIGITS = "[0-9]"
EXCERPT = Excerpt()


@dataclass(frozen=True)
class FmaPlan:
    """The planned content of the folders.

    splits: for "genre" and "affect", the clips of each split. Their paths are songs.
    left_out: for "genre" and "affect", the number of clips that were left out for each reason. A clip counts once, for
    its first reason.
    wrong_sums: songs whose SHA-1 sum differs from FMA's.
    """

    splits: Mapping[str, Mapping[str, Clips]]
    left_out: dict[str, dict[str, int]]
    wrong_sums: tuple[Path, ...]


@dataclass(frozen=True)
class FmaFolder:
    """A data folder to write, with the clips of each split. It has at least one split."""

    path: Path
    beat: bool
    splits: dict[str, Clips]


def plan_fma(audio: Path, metadata: Path, size: str = "small", seed: int = 0) -> FmaPlan:
    """Reads FMA's tables, finds the songs below `audio`, and compares their SHA-1 sums. Writes nothing.

    The affect clips are split by the whole tables, so the split does not depend on the size or on missing songs.
    Raises UserError for tables that are not FMA's, and if there is no song of the size.
    """
    audio = audio.absolute()  # workers of a cluster may have another working folder
    tracks, echonest = read_tracks(metadata), read_echonest(metadata)
    songs, chosen = _song_ids(audio), of_size(tracks, size)
    if not songs & chosen:
        expected = f"the {len(chosen)} songs of size {size} as 000/000002.mp3"
        raise UserError(f"Expected {expected} below {audio}, got none of them")
    wrong = _wrong_sums(audio, sorted((songs & chosen) - UNDECODABLE))
    absent = (songs | set(echonest)) - set(tracks)
    no_artist = {i for i, track in tracks.items() if not track.artist}
    no_genre = {i for i, track in tracks.items() if not track.genre}
    no_label = {i for i, labels in echonest.items() if np.isnan(labels).all()}
    in_tables = {"not in tracks.csv, so the artist is not known": absent, "no artist in tracks.csv": no_artist}
    in_songs = {
        "known not to decode": UNDECODABLE,
        f"no audio in {audio}": (chosen | set(echonest)) - songs,
        "wrong sha1 sum": wrong,
    }
    genre, no_genre_clip = _sorted_out(chosen | (songs & absent), in_tables | {"no genre_top": no_genre} | in_songs)
    affect, no_affect_clip = _sorted_out(
        set(echonest) & (chosen | absent), in_tables | {"no label": no_label} | in_songs
    )
    labelled = {i: labels for i, labels in echonest.items() if i not in absent | no_artist | no_label}
    try:
        affect_splits = _only(affect, affect_clips(labelled, tracks, audio, seed))
    except UserError as error:  # clips that are too few for an affect folder may be enough for a genre folder
        affect_splits = {}
        no_affect_clip[str(error)] = len(affect)
    return FmaPlan(
        splits={"genre": genre_clips(genre, tracks, audio), "affect": affect_splits},
        left_out={"genre": no_genre_clip, "affect": no_affect_clip},
        wrong_sums=tuple(song_path(audio, i) for i in sorted(wrong)),
    )


def write_fma(
    plan: FmaPlan, out: Path, rate: str = "full", jobs: int = -1, scheduler: str | None = None
) -> tuple[Outcome, ...]:
    """Writes the plan's data folders below `out`. Returns the failed songs, which failures.csv also lists.

    A song is extracted once, and its arrays are written to every folder. Arrays of an earlier call are kept.
    rate: "full" for genre/ and affect/, "beat" for genre_beat/ and affect_beat/, or "both" for all four.
    jobs, scheduler: see `extract_songs`.
    Raises UserError if a folder holds other files. Then nothing is written.
    """
    folders = fma_folders(plan, out.absolute(), rate)
    for folder in folders:
        require_ours(folder.path, features_json(folder.beat, EXCERPT))
    with lock_folders([out]):
        for folder in folders:
            open_folder(folder.path, features_json(folder.beat, EXCERPT))
        failed = extract_all(_songs_to_do(folders), EXCERPT, jobs, scheduler)
        rows = [(str(outcome.path), outcome.failure) for outcome in failed]
        write_csv(out / "failures.csv", ("path", "reason"), rows)
        for folder in folders:
            _write_labels(folder, {outcome.path for outcome in failed})
    return failed


def fma_folders(plan: FmaPlan, out: Path, rate: str) -> list[FmaFolder]:
    """Returns the data folders of the plan below `out`, without those that have no clips."""
    return [
        FmaFolder(out / (f"{kind}_beat" if beat else kind), beat, parts)
        for beat in RATES[rate]
        for kind, splits in plan.splits.items()
        if (parts := {split: clips for split, clips in splits.items() if len(clips)})
    ]


def _songs_to_do(folders: Sequence[FmaFolder]) -> list[Song]:
    """Returns the songs with missing arrays, and the files of these arrays."""
    lacking: dict[Path, dict[bool, list[Path]]] = {}
    for folder in folders:
        for split, clips in folder.splits.items():
            for clip_id, song in zip(clips.ids, clips.paths, strict=True):
                if not has_array(folder.path, clip_id, split):
                    array = folder.path / split / f"{clip_id}{SUFFIXES['fused'][0]}"
                    lacking.setdefault(song, {False: [], True: []})[folder.beat].append(array)
    return [Song(song, full=tuple(arrays[False]), beat=tuple(arrays[True])) for song, arrays in lacking.items()]


def _write_labels(folder: FmaFolder, failed: Set[Path]) -> None:
    """Writes the label files and groups.csv of the clips whose songs did not fail."""
    groups: list[tuple[str, str]] = []
    for split, planned in folder.splits.items():
        clips = planned.take([place for place, song in enumerate(planned.paths) if song not in failed])
        if not len(clips):
            continue
        if clips.classes:
            write_genre_labels(folder.path, split, clips.ids, [clips.classes[target] for target in clips.targets])
        else:
            write_affect_labels(folder.path, split, clips.ids, clips.tasks, clips.targets)
        groups += zip(clips.ids, clips.groups if clips.groups is not None else (), strict=True)
    write_csv(folder.path / "groups.csv", ("id", "group"), groups)


def plan_table(plan: FmaPlan) -> str:
    """A text with each folder's number of clips by split and class or task, and with the clips that were left out."""
    lines = []
    for folder, splits in plan.splits.items():
        lines += _counts(folder, splits)
        lines += [f"{count} left out: {reason}" for reason, count in plan.left_out[folder].items() if count] + [""]
    return "\n".join([*lines, *(f"Left out, wrong sha1 sum (download it again): {path}" for path in plan.wrong_sums)])


def genre_folders(plan: FmaPlan, out: Path, rate: str) -> list[Path]:
    """Returns the plan's genre folders."""
    return [folder.path for folder in fma_folders(plan, out, rate) if next(iter(folder.splits.values())).classes]


def _counts(folder: str, splits: Mapping[str, Clips]) -> list[str]:
    if not any(len(clips) for clips in splits.values()):
        return [f"{folder}: no clips"]
    counts = {split: clips.counts() for split, clips in splits.items()}
    rows: dict[str, list[Any]] = {folder: list(splits)}
    rows |= {name: [count[name] for count in counts.values()] for name in counts["train"]}
    rows["clips"] = [len(clips) for clips in splits.values()]
    rows["artists"] = [len(set(clips.groups)) for clips in splits.values() if clips.groups is not None]
    width = max(len(name) for name in rows)
    return [f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in rows.items()]


def _song_ids(audio: Path) -> set[int]:
    """Finds the songs below `audio` in FMA's folder layout."""
    if not audio.is_dir():
        raise UserError(f"Expected `audio` to be the folder in one of FMA's archives, got no folder: {audio}")
    songs = audio.glob(f"{DIGITS * 3}/{DIGITS * 6}.mp3")
    return {int(path.stem) for path in songs if path.stem.startswith(path.parent.name)}


def _wrong_sums(audio: Path, track_ids: Sequence[int]) -> set[int]:
    """Finds songs whose SHA-1 sum differs from FMA's file `checksums`. Finds none if that file is missing."""
    sums = read_checksums(audio)
    paths = [song_path(audio, i) for i in track_ids if song_path(audio, i) in sums]
    with ThreadPoolExecutor(READERS) as readers:
        found = list(tqdm(readers.map(_sha1, paths), "Comparing sha1 sums", len(paths), delay=2, unit="song"))
    return {int(path.stem) for path, digest in zip(paths, found, strict=True) if digest != sums[path]}


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


def _sorted_out(track_ids: Set[int], reasons: Mapping[str, Set[int]]) -> tuple[Set[int], dict[str, int]]:
    """Removes the ids of each reason in turn. Returns the remaining ids, and how many ids each reason removed."""
    counts = {}
    for reason, ids in reasons.items():
        counts[reason] = len(track_ids & ids)
        track_ids = track_ids - ids
    return track_ids, counts


def _only(track_ids: Set[int], splits: Mapping[str, Clips]) -> dict[str, Clips]:
    return {
        split: clips.take([place for place, clip_id in enumerate(clips.ids) if int(clip_id) in track_ids])
        for split, clips in splits.items()
    }

"""Makes data folders from songs: first ids, labels and split, then the arrays, at last the label files.

If a run was stopped, the same command continues. An array is complete or missing, and existing arrays are not computed
again.
"""

import csv
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mtmusic.audio.extraction import Excerpt, Outcome, Song, find_songs, song_ids
from mtmusic.data.labels import array_ids, near_twins, write_affect_labels, write_genre_labels
from mtmusic.data.spectrograms import SUFFIXES
from mtmusic.datasets.array_folder import (
    ANY_NAME,
    RATES,
    extract_all,
    features_json,
    has_array,
    lock_folders,
    open_folder,
)
from mtmusic.datasets.song_labels import (
    SongLabels,
    describe_unknown,
    labels_from_folders,
    labels_from_table,
    splits_of,
)
from mtmusic.errors import UserError
from mtmusic.files import write_csv

logger = logging.getLogger(__name__)

SPLITS = ("train", "test")
SONGS, FAILURES, GROUPS = "songs.csv", "failures.csv", "groups.csv"


@dataclass(frozen=True)
class ExtractOptions:
    """The options of an extraction.

    feature: "fused" or "logmel".
    rate: one of RATES. Logmel has only "full".
    genres_from_folders, labels: the source of the labels. At most one of them may be given.
    jobs: number of worker processes, -1 for one per core.
    """

    songs: tuple[Path, ...]
    out: Path
    feature: str = "fused"
    rate: str = "full"
    excerpt: Excerpt = field(default_factory=Excerpt)
    gzip: bool = False
    genres_from_folders: bool = False
    labels: Path | None = None
    test_share: float = 0.2
    seed: int = 0
    jobs: int = -1
    scheduler: str | None = None


@dataclass(frozen=True)
class DataFolder:
    """A data folder to write. kind: kind of labels, "genre", "affect" or None. splits: split of each song, by id."""

    path: Path
    feature: str
    beat: bool
    kind: str | None
    splits: Mapping[str, str]


@dataclass(frozen=True)
class Extraction:
    """The result of an extraction.

    found: number of songs, with and without labels.
    splits: split of each song that has arrays, by id.
    unknown: paths or ids in the table that name no song.
    trainable: genre folders that a model can be trained on.
    """

    folders: tuple[DataFolder, ...]
    found: int
    splits: Mapping[str, str]
    failed: tuple[Outcome, ...]
    unknown: tuple[str, ...] = ()
    trainable: tuple[Path, ...] = ()


def extract_features(options: ExtractOptions) -> Extraction:
    """Writes the data folders.

    `<out>` has the labels, genres or tasks. If there are both, the tasks go to `<out>_affect`. With the rate "both" the
    beat-synchronised arrays go to `<out>_beat` and `<out>_affect_beat`. Songs without a label are left out. If no song
    has a label, every array goes to test/. Raises UserError if the options or the labels cannot be used.
    """
    if options.feature not in SUFFIXES:
        raise UserError(f'Expected the feature "fused" or "logmel", got "{options.feature}"')
    if options.feature == "logmel" and options.rate != "full":
        raise UserError(f'Logmel arrays are never beat-synchronised: leave out `rate="{options.rate}"`')
    paths = find_songs(options.songs)
    options = replace(options, out=Path(os.path.abspath(options.out)))  # noqa: PTH100  workers of a cluster have other folders
    with lock_folders([options.out]):
        known = _read_songs_csv(options.out / SONGS)
        ids = song_ids(paths, known)
        labels, splits = _labels_and_splits(options, ids)
        folders = _data_folders(options, labels, splits)
        with lock_folders([folder.path for folder in folders if folder.path != options.out]):
            for folder in folders:
                _open_folder(folder, options.excerpt, known | ids)
            _warn_of_earlier_songs(folders)
            songs = [_song(path, ids[path], folders, options.gzip) for path in paths]
            lacking = [song for song in songs if song.full or song.beat or song.logmel]
            failed = extract_all(lacking, options.excerpt, options.jobs, options.scheduler)
            bad = {ids[outcome.path] for outcome in failed}
            for folder in folders:
                _close_folder(folder, labels, bad, failed)
    there = {i: split for i, split in splits.items() if i not in bad}
    extraction = Extraction(folders, len(paths), there, failed, labels.unknown)
    _log_counts(extraction)
    return replace(extraction, trainable=_trainable(extraction, labels))


def _labels_and_splits(options: ExtractOptions, ids: Mapping[Path, str]) -> tuple[SongLabels, dict[str, str]]:
    """Returns the labels, and the split of each song to extract."""
    if options.genres_from_folders:
        labels = labels_from_folders(ids)
    elif options.labels is not None:
        labels = labels_from_table(options.labels, ids, options.songs)
    else:
        return SongLabels(), dict.fromkeys(ids.values(), "test")
    if labels.unknown:
        logger.warning(f"warning: {describe_unknown(labels, ids)}, in {options.labels}")
    for one, other in near_twins(labels.genres.values()):
        logger.warning(f"warning: the genres {one!r} and {other!r} differ only in case or spaces: use one spelling")
    paths = {song_id: path for path, song_id in ids.items()}
    return labels, splits_of(labels, paths, options.test_share, options.seed)


def _data_folders(options: ExtractOptions, labels: SongLabels, splits: Mapping[str, str]) -> tuple[DataFolder, ...]:
    kinds: dict[str | None, Mapping[str, object]] = {"genre": labels.genres, "affect": labels.values}
    kinds = {kind: labelled for kind, labelled in kinds.items() if labelled} or {None: splits}
    folders = []
    for kind, labelled in kinds.items():
        name = options.out.name + ("_affect" if kind == "affect" and labels.genres else "")
        own = {song_id: split for song_id, split in splits.items() if song_id in labelled}
        for beat in RATES[options.rate]:
            ending = "_beat" if beat and options.rate == "both" else ""
            folders.append(DataFolder(options.out.with_name(name + ending), options.feature, beat, kind, own))
    return tuple(folders)


def _open_folder(folder: DataFolder, excerpt: Excerpt, ids: Mapping[Path, str]) -> None:
    open_folder(folder.path, features_json(folder.beat, excerpt, folder.feature), labelled=folder.kind is not None)
    write_csv(folder.path / SONGS, ("id", "path"), sorted((song_id, str(path)) for path, song_id in ids.items()))


def _warn_of_earlier_songs(folders: Sequence[DataFolder]) -> None:
    """Warns of songs of an earlier run that now have no label, or that change their split."""
    for folder in folders:
        there = {split: array_ids(folder.path, split) for split in SPLITS if (folder.path / split).is_dir()}
        moved = sum(folder.splits.get(i, split) != split for split, ids in there.items() for i in ids)
        if moved:
            logger.warning(
                f"warning: {moved} songs of {folder.path} move between train and test, since the split is drawn again: "
                "models that were trained earlier may have been trained on test songs"
            )
        if folder.kind and (lost := sum(i not in folder.splits for ids in there.values() for i in ids)):
            logger.warning(
                f"warning: {lost} earlier songs of {folder.path} now have no label: give all songs in one command"
            )


def _song(path: Path, song_id: str, folders: Sequence[DataFolder], gzip: bool) -> Song:
    """Returns the song with the files of its missing arrays."""
    lacking: dict[str, list[Path]] = {"full": [], "beat": [], "logmel": []}
    for folder in folders:
        if song_id in folder.splits and not has_array(folder.path, song_id, folder.splits[song_id], bool(folder.kind)):
            array = folder.path / folder.splits[song_id] / f"{song_id}{SUFFIXES[folder.feature][gzip]}"
            lacking["logmel" if folder.feature == "logmel" else "beat" if folder.beat else "full"].append(array)
    return Song(path, **{kind: tuple(arrays) for kind, arrays in lacking.items()})


def _close_folder(folder: DataFolder, labels: SongLabels, bad: Set[str], failed: Sequence[Outcome]) -> None:
    """Writes the label files of the existing arrays, and failures.csv if songs failed."""
    good = sorted(folder.splits.keys() - bad)
    for split in SPLITS:
        ids = [song_id for song_id in good if folder.splits[song_id] == split]
        if folder.kind == "genre":
            write_genre_labels(
                folder.path, split, ids, [labels.genres[i] for i in ids], "{id}" + SUFFIXES[folder.feature][0]
            )
        elif folder.kind == "affect":
            values = np.array([labels.values[i] for i in ids])
            write_affect_labels(folder.path, split, ids, labels.tasks, values)
    if folder.kind and labels.groups:
        grouped = [(song_id, labels.groups[song_id]) for song_id in good if song_id in labels.groups]
        write_csv(folder.path / GROUPS, ("id", "group"), grouped)
    if failed:
        rows = [(str(outcome.path), outcome.failure) for outcome in failed]
        write_csv(folder.path / FAILURES, ("path", "reason"), rows)
    else:
        (folder.path / FAILURES).unlink(missing_ok=True)


def _read_songs_csv(path: Path) -> dict[Path, str]:
    """Reads the ids of an earlier run, which are kept."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8", errors=ANY_NAME) as file:
        header, *rows = [*csv.reader(file)] or [[]]
    if header != ["id", "path"] or any(len(row) != 2 for row in rows):
        raise UserError(f"Expected the columns id,path, got others in {path}: give another folder")
    return {Path(song): song_id for song_id, song in rows}


def _log_counts(extraction: Extraction) -> None:
    counts = Counter(extraction.splits.values())
    without_label = extraction.found - len(extraction.splits) - len(extraction.failed)
    if any(folder.kind for folder in extraction.folders):
        parts = f"train {counts['train']}, test {counts['test']}, without a label {without_label}"
    else:
        parts = f"{counts['test']} arrays, in test/, without labels"
    logger.info(f"Songs: {extraction.found}; {parts}")
    if extraction.failed:
        logger.info(f"Failed: {len(extraction.failed)}, listed in {extraction.folders[0].path / FAILURES}")
    for folder in extraction.folders:
        kind = f", {folder.kind} labels" if folder.kind else ""
        frames = "logmel" if folder.feature == "logmel" else "beat-synchronised" if folder.beat else "full rate"
        logger.info(f"Folder: {folder.path} ({frames}{kind})")


def _trainable(extraction: Extraction, labels: SongLabels) -> tuple[Path, ...]:
    """Returns the genre folders, or none if failures left a genre without a training song."""
    folders = tuple(folder.path for folder in extraction.folders if folder.kind == "genre")
    genres: dict[str, set[str]] = {split: set() for split in SPLITS}
    for song_id in extraction.splits.keys() & labels.genres.keys():
        genres[extraction.splits[song_id]].add(labels.genres[song_id])
    if not (genres["test"] - genres["train"] or len(genres["train"]) < 2):
        return folders
    for folder in folders:
        lost = ", ".join(sorted(genres["test"] - genres["train"])) or "all but one genre"
        logger.warning(f"warning: {lost} has no song in {folder / 'train'}: add songs, or give another `seed`")
    return ()

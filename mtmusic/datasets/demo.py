"""The demo corpus: synthesised music in the lab's four folders. It is made in the cache at its first use."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from mtmusic import __version__
from mtmusic.audio.features import full_and_beat_spectrograms
from mtmusic.audio.synthesis import STYLES, synthesise
from mtmusic.constants import HOP_LENGTH, SAMPLE_RATE
from mtmusic.data.labels import write_affect_labels, write_genre_labels
from mtmusic.data.spectrograms import write_array
from mtmusic.files import cache_folder, whole_folder, write_json

CLIPS_A_GENRE = 30
AFFECT_CLIPS = 120
TEST_SHARE = 3  # every third round of genres is for the test
SECONDS = 12.0
TASKS = ("valence", "energy", "danceability")
RAW_GENRES = {"Rock": ("Rock", "Psych-Rock"), "Metal": ("Metal", "Punk"), "Electronic": ("Electronic", "Chiptune")}
"""Raw genres of some classes. The lab merges them into the class."""

GENRE_FOLDERS = {False: "fma_genre_spectrograms", True: "fma_genre_spectrograms_beat"}
AFFECT_FOLDERS = {False: "multitask_dataset", True: "multitask_dataset_beat"}


def demo_corpus(seed: int = 0) -> Path:
    """Returns the folder of the corpus of this seed and version in the cache. Makes the corpus if it is missing."""
    folder = demo_corpus_folder(seed)
    if not folder.is_dir():
        make_demo_corpus(folder, seed)
    return folder


def demo_corpus_folder(seed: int = 0) -> Path:
    return cache_folder() / f"demo-{__version__}-{seed}"


def make_demo_corpus(
    folder: Path, seed: int = 0, clips_a_genre: int = CLIPS_A_GENRE, affect: int = AFFECT_CLIPS
) -> None:
    """Writes the lab's four folders below `folder`, whole or not at all. Replaces an earlier corpus.

    Genre clips and affect clips are different songs. Ids start at 1 in both, because the lab's ids overlap too.
    """
    songs = [(GENRE_FOLDERS, i + 1, genre) for i, genre in enumerate(sorted(STYLES) * clips_a_genre)]
    songs += [(AFFECT_FOLDERS, i + 1, sorted(STYLES)[i % len(STYLES)]) for i in range(affect)]
    seeds = np.random.SeedSequence(seed).generate_state(len(songs))
    with whole_folder(folder) as root:
        tasks = (
            delayed(_make_clip)(root, folders, i, genre, int(song_seed))
            for (folders, i, genre), song_seed in zip(songs, seeds, strict=True)
        )
        made = Parallel(n_jobs=-1, return_as="generator")(tasks)
        labels = list(tqdm(made, "Making the demo corpus", len(songs), unit="song"))
        _write_genre_folders(root, [(i, genre) for folders, i, genre in songs if folders is GENRE_FOLDERS])
        _write_affect_folders(root, labels[len(songs) - affect :])


def _split(clip_id: int, genres: int) -> str:
    """The split of a clip. Clips come in rounds with one clip of each genre, and every third round is for the test."""
    return "test" if (clip_id - 1) // genres % TEST_SHARE == TEST_SHARE - 1 else "train"


def _make_clip(root: Path, folders: dict[bool, str], clip_id: int, genre: str, seed: int) -> dict[str, float]:
    """Writes the clip's full-rate and beat-synchronised arrays, and returns its affect labels."""
    waveform, labels = synthesise(genre, seed, SECONDS)
    for beat, array in zip((False, True), full_and_beat_spectrograms(waveform), strict=True):
        folder = root / folders[beat] / _split(clip_id, len(STYLES))
        write_array(folder / f"{clip_id}.fused.full.npy", array)
    return labels


def _write_genre_folders(root: Path, clips: Sequence[tuple[int, str]]) -> None:
    """Writes label files that are grouped by class, with the lab's three formats of an array's name."""
    names = {
        (False, "train"): "{id}.fused.full.npy.gz",
        (False, "test"): "{id}.full.fused.npy.gz",
        (True, "train"): "{id}.beatsync.fused.npy.gz",
        (True, "test"): "{id}.beatsync.fused.npy.gz",
    }
    for (beat, split), name in names.items():
        rows = sorted((genre, i) for i, genre in clips if _split(i, len(STYLES)) == split)
        raw = [RAW_GENRES.get(genre, (genre,)) for genre, _ in rows]
        genres = [choices[i // len(STYLES) % len(choices)] for choices, (_, i) in zip(raw, rows, strict=True)]
        write_genre_labels(root / GENRE_FOLDERS[beat], split, [str(i) for _, i in rows], genres, name)
        _write_features_json(root / GENRE_FOLDERS[beat], beat)


def _write_affect_folders(root: Path, labels: Sequence[dict[str, float]]) -> None:
    """Writes label files without labels of the test split, as in the lab's data."""
    train = [i for i in range(len(labels)) if _split(i + 1, len(STYLES)) == "train"]
    values = np.array([[labels[i][task] for task in TASKS] for i in train])
    for beat, folder in AFFECT_FOLDERS.items():
        write_affect_labels(root / folder, "train", [str(i + 1) for i in train], TASKS, values)
        _write_features_json(root / folder, beat)


def _write_features_json(folder: Path, beat: bool) -> None:
    content = {"sample_rate": SAMPLE_RATE, "hop_length": HOP_LENGTH, "duration": SECONDS, "beat": beat}
    versions = {"mtmusic": __version__} | {name: version(name) for name in ("soxr", "numpy", "scipy")}
    write_json(folder / "features.json", content | {"synthetic": True, "versions": versions})

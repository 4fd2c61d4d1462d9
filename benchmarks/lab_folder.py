"""Synthetic clips with the lab's lengths and classes, for benchmarks that need a folder of clips."""

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

LAB_CLIPS = 2305
LAB_FRAMES = {"mean": 60.0, "sd": 15.0, "shortest": 14, "longest": 129}
"""Frames of the lab's beat-synchronised training clips."""

LAB_COUNTS = {
    "Blues": 160, "Classical": 160, "Electronic": 320, "Folk": 320, "Hip-Hop": 160,
    "Jazz": 160, "Metal": 313, "Pop": 160, "Rock": 415, "Trip-Hop": 137,
}  # fmt: skip


def lab_lengths(count: int, scale: int = 1) -> list[int]:
    """Returns the frames of `count` clips, the shortest first: the quantiles of the lab's distribution.

    The first and the last are the lab's shortest and longest. scale: divides the lengths, which are at least one frame.
    """
    normal = NormalDist(LAB_FRAMES["mean"], LAB_FRAMES["sd"])
    frames = [round(normal.inv_cdf((number + 0.5) / count)) for number in range(count)]
    frames = [min(max(length, int(LAB_FRAMES["shortest"])), int(LAB_FRAMES["longest"])) for length in frames]
    frames[0], frames[-1] = int(LAB_FRAMES["shortest"]), int(LAB_FRAMES["longest"])
    return [max(1, length // scale) for length in frames]


def write_clips(folder: Path, lengths: Sequence[int], rng: Any, dtype: str = "float64") -> Any:
    """Writes a clip of each length. Returns them as Clips with the lab's classes and class shares, in random order."""
    import numpy as np

    from mtmusic.constants import CHROMA_BINS, MEL_BINS, MEL_FLOOR_DB
    from mtmusic.data.labels import Clips
    from mtmusic.data.spectrograms import write_array

    ids = tuple(str(number) for number in range(len(lengths)))
    paths = tuple(folder / f"{clip_id}.fused.full.npy" for clip_id in ids)
    folder.mkdir(parents=True, exist_ok=True)
    for path, frames in zip(paths, rng.permutation(lengths), strict=True):
        mel = rng.uniform(MEL_FLOOR_DB, 0, (MEL_BINS, frames))
        chroma = rng.uniform(0, 1, (CHROMA_BINS, frames))
        write_array(path, np.concatenate([mel, chroma]).astype(dtype))
    classes = np.repeat(np.arange(len(LAB_COUNTS)), list(LAB_COUNTS.values()))
    targets = classes[np.linspace(0, len(classes) - 1, len(ids)).astype(int)]
    return Clips(ids, paths, rng.permutation(targets), classes=tuple(LAB_COUNTS))

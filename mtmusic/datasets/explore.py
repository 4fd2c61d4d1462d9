"""The lab's steps 0 to 4 on a genre folder: pictures and counts."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mtmusic.constants import FEATURE_ROWS, PAD_VALUE
from mtmusic.data.folder import GenreData, LoadOptions, data_table, load_genre_data
from mtmusic.data.labels import Clips, label_path, two_of_different_classes
from mtmusic.data.pipeline import make_dataset
from mtmusic.data.spectrograms import array_kind, array_path, read_array
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.files import refuse_other_things, whole_folder, write_json
from mtmusic.models.backbones import FRAMES

logger = logging.getLogger(__name__)

SHOWN_BATCHES = 12
SUMMARY = "summary.json"


def explore_genre_data(options: LoadOptions, out: Path, batch_size: int = 32) -> dict[str, Any]:
    """Writes pictures and summary.json to `out`, and returns the content of summary.json. Replaces an earlier `out`.

    Raises UserError for a folder that cannot be used, and if `out` holds other files.
    """
    refuse_other_things(out, SUMMARY)
    if batch_size < 1:
        raise UserError(f"Expected `batch_size` of 1 or more, got {batch_size}")
    data = load_genre_data(options)
    clips = data.splits["train"]
    with whole_folder(out) as work:
        _draw_clips(work, clips, data)
        lengths, padded = batch_lengths(clips, batch_size, options.seed)
        plots.save_figure(plots.batch_padding(lengths[:SHOWN_BATCHES], padded[:SHOWN_BATCHES]), work / "batches.png")
        summary = _summary(data, clips, lengths, padded)
        write_json(work / SUMMARY, summary)
    logger.info(data_table(data))
    logger.info(_summary_text(summary))
    logger.info(f"Pictures: {out}")
    return summary


def batch_lengths(clips: Clips, batch_size: int, seed: int) -> tuple[list[np.ndarray], list[int]]:
    """Returns for each batch of an epoch the clips' numbers of frames, and the padded number of frames."""
    feature = "logmel" if array_kind(clips.paths[0]) == "logmel" else "chroma"
    batches = make_dataset(clips, feature, batch_size, shuffle=True, seed=seed).as_numpy_iterator()
    present = [np.any(spectrogram != PAD_VALUE, axis=-1) for spectrogram, _ in batches]
    return [mask.sum(axis=1) for mask in present], [mask.shape[1] for mask in present]


def folder_contents(folder: Path) -> dict[str, Any]:
    """Counts the arrays and label rows of each split of a data folder, and lists the other files."""
    splits = {}
    for split in ("train", "validation", "test"):
        labels, arrays = label_path(folder, split), [*(folder / split).glob("*.npy*")]
        if labels.is_file() or arrays:
            rows = labels.read_text(encoding="utf-8-sig").splitlines()[1:] if labels.is_file() else []
            splits[split] = {"arrays": len(arrays), "labels": sum(bool(row.strip()) for row in rows)}
    return {"splits": splits, "files": sorted(path.name for path in folder.iterdir() if path.is_file())}


def mean_mel_profiles(clips: Clips) -> dict[str, np.ndarray]:
    """Returns for each class the mean of mel over frames, then over clips: (128,) in dB, or (96,) for logmel."""
    rows = FEATURE_ROWS["mel"]  # takes all 96 rows of logmel too
    means = np.array([read_array(path)[rows].mean(axis=1) for path in clips.paths])
    return {name: means[clips.targets == i].mean(axis=0) for i, name in enumerate(clips.classes)}


def _draw_clips(work: Path, clips: Clips, data: GenreData) -> None:
    pair = two_of_different_classes(clips)
    titles = [f"{clips.classes[clips.targets[i]]} (clip {clips.ids[i]})" for i in pair]
    figures = {
        "two_clips": plots.spectrograms([read_array(clips.paths[i]) for i in pair], titles, data.beat),
        "mean_profiles": plots.mean_profiles(mean_mel_profiles(clips)),
        "class_histograms": plots.class_histograms(
            data.raw_counts, data.merged_counts, "Clips before and after merging"
        ),
        "lengths": plots.value_histograms({"frames a clip": data.frames}),
    }
    if data.feature == "fused" and (other := twin_folder(data.folder)) is not None:
        arrays = [array_path(other / "train", clips.ids[i]) for i in pair]
        if None not in arrays:
            other_clips = [read_array(path) for path in arrays if path is not None]
            figures["two_clips_" + _rate(not data.beat)] = plots.spectrograms(other_clips, titles, not data.beat)
    for name, figure in figures.items():
        plots.save_figure(figure, work / f"{name}.png")


def twin_folder(folder: Path) -> Path | None:
    """Returns the folder of the same clips at the other frame rate, X for X_beat or X_beat for X, if it exists."""
    folder = folder.resolve()
    name = folder.name.removesuffix("_beat") if folder.name.endswith("_beat") else f"{folder.name}_beat"
    twin = folder.with_name(name)
    return twin if twin.is_dir() else None


def _rate(beat: bool) -> str:
    return "beat" if beat else "full"


def _summary(data: GenreData, clips: Clips, lengths: list[np.ndarray], padded: list[int]) -> dict[str, Any]:
    frames = sum(int(length.sum()) for length in lengths)
    held = sum(longest * len(length) for longest, length in zip(padded, lengths, strict=True))
    first = read_array(clips.paths[0])
    rows_of = {"logmel": slice(None)} if data.feature == "logmel" else FEATURE_ROWS
    flat = FRAMES[data.beat]
    return {
        "devices": [device.name for device in tf.config.list_physical_devices()],
        "folder": str(data.folder),
        "contents": folder_contents(data.folder),
        "feature": data.feature,
        "frame_rate": _rate(data.beat),
        "clips": {split: part.counts() for split, part in data.splits.items()},
        "raw_classes": data.raw_counts,
        "array_shape": list(first.shape),
        "feature_shapes": {name: list(first[rows].shape) for name, rows in rows_of.items()},
        "frames": {
            "min": int(data.frames.min()),
            "median": float(np.median(data.frames)),
            "max": int(data.frames.max()),
        },
        "batches": len(lengths),
        "padding_share": 1 - frames / held,
        "flat_cnn_frames": flat,
        "flat_cnn_padding_share": 1 - float(np.minimum(data.frames, flat).mean()) / flat,
        "left_out": [*map(str, data.left_out)],
    }


def _summary_text(summary: dict[str, Any]) -> str:
    shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in summary["feature_shapes"].items())
    return "\n".join(
        [
            f"Devices: {', '.join(summary['devices'])}",
            f"First clip: {tuple(summary['array_shape'])}, as (bins, frames): {shapes}",
            *(
                f"{split}/: {counts['arrays']} arrays, {counts['labels']} rows of labels"
                for split, counts in summary["contents"]["splits"].items()
            ),
            f"Other files: {', '.join(summary['contents']['files']) or 'none'}",
            f"Batches: {summary['batches']} of train, {summary['padding_share']:.1%} of their frames are padding",
            f"The flat CNN pads every clip to {summary['flat_cnn_frames']} frames: "
            f"{summary['flat_cnn_padding_share']:.1%} of the frames are padding",
        ]
    )

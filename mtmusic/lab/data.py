"""The lab's steps 0 to 4: the data folder, its clips, and the batches that a network gets."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.constants import FEATURE_BINS
from mtmusic.data.folder import RATES, GenreData, load_genre_data
from mtmusic.data.labels import two_of_different_classes
from mtmusic.data.spectrograms import array_path, read_array
from mtmusic.datasets.explore import batch_lengths, explore_genre_data, mean_mel_profiles
from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.lab import Part, Picture, Table
from mtmusic.lab.plan import GENRE, GENRE_BEAT, Done, Lab, genre_options, history, metrics_of
from mtmusic.training.genre import train_genre

BATCH_SIZE = 32
SHOWN_BATCHES = 6
BINS_APART = 4
"""Neighbouring mel bins are alike: a difference is the mean of this many."""
CLOSE = 0.3
"""Times that differ by less than this share, over a few epochs, are told as close."""


def first_look(lab: Lab) -> Done:
    """Steps 0 and 1: devices, the folder, two clips, and the mean mel profile by genre."""
    out = lab.step(1) / "exploration"
    summary = _explore(lab, out)
    difference = profile_difference(mean_mel_profiles(_genre_data(lab, True).splits["train"]))
    splits = summary["contents"]["splits"].items()
    files = ", ".join(summary["contents"]["files"])
    sentences = [
        f"TensorFlow sees {', '.join(summary['devices'])}. The folder holds "
        + "; ".join(
            f"{counts['arrays']} arrays and {counts['labels']} rows of labels in {name}" for name, counts in splits
        )
        + f"; beside them {files}.",
        "The mean profiles lie furthest apart between {from_hertz:.0f} and {to_hertz:.0f} Hz: there {loud} has "
        "{loud_db:.1f} dB on average and {soft} {soft_db:.1f} dB, below each clip's own maximum. Over all bins the "
        "classes differ by {spread:.1f} dB (sd of their means); above 2000 Hz {bright} is the loudest and {dark} the "
        "softest.".format(**difference),
    ]
    counts = [(name, *row) for name, row in _by_class(summary["clips"]).items()]
    pictures = [
        lab.picture(
            out / "two_clips.png",
            "Two clips of different genres, beat-synchronised: mel spectrogram above, chromagram below.",
            "Two mel spectrograms side by side, frequency by beat, the louder the brighter; a chromagram under each.",
        ),
        lab.picture(
            out / "mean_profiles.png",
            "Mean mel profile by genre: over frames, then over clips.",
            f"A line a genre over frequency; they lie furthest apart between "
            f"{difference['from_hertz']:.0f} and {difference['to_hertz']:.0f} Hz.",
        ),
    ]
    table = Table("Clips by class and split, validation held out of train", ("class", *summary["clips"]), counts)
    return Done(Part(sentences, [table], pictures, [_explore_command(lab, out)]), summary | {"profiles": difference})


def mel_rates(lab: Lab) -> Done:
    """Step 2."""
    return _frame_rates(lab, 2, "mel", "mel spectrograms")


def chroma_rates(lab: Lab) -> Done:
    """Step 3: also beside step 2, whose clips have ten times as many bins."""
    done = _frame_rates(lab, 3, "chroma", "chromagrams")
    beside = _beside_mel(lab, done.numbers)
    return replace(done, part=replace(done.part, sentences=[*done.part.sentences, beside]))


def pipeline(lab: Lab) -> Done:
    """Step 4: the batches, and the classes before and after merging."""
    out = lab.step(4) / "exploration"
    summary = _explore(lab, out)
    data = _genre_data(lab, True)
    lengths, padded = batch_lengths(data.splits["train"], BATCH_SIZE, lab.seeds[0])
    flat = lab.scale.frames or summary["flat_cnn_frames"]
    flat_padding = 1 - float(np.minimum(data.frames, flat).mean()) / flat
    rows = [
        (f"batch {number}", f"({len(length)}, {frames}, {FEATURE_BINS['mel']})", f"{length.min()} to {length.max()}",
         f"{1 - length.sum() / (len(length) * frames):.1%}")
        for number, (length, frames) in enumerate(zip(lengths[:SHOWN_BATCHES], padded, strict=False), 1)
    ]  # fmt: skip
    sentences = [
        f"An epoch of all clips is {summary['batches']} batches of {BATCH_SIZE}, the last one of what is left; each is "
        f"padded to its own longest clip, and {summary['padding_share']:.1%} of their frames are padding. The flat CNN "
        f"of step 7 takes {flat} frames of every clip: {flat_padding:.1%} padding.",
        f"{len(data.raw_counts)} raw genres become {len(data.merged_counts)} classes: "
        f"{sum(data.raw_counts.values())} clips of train before, {sum(data.merged_counts.values())} after.",
    ]
    table = Table("The first batches of mel, as (clips, frames, bins)", ("", "shape", "frames", "padding"), rows)
    pictures = [
        lab.picture(
            out / "class_histograms.png",
            "Clips by raw genre, and by class after similar genres were merged.",
            f"Two bar charts: {len(data.raw_counts)} raw genres at the left, {len(data.merged_counts)} classes at the "
            "right, with the number of clips at each bar.",
        ),
        lab.picture(
            out / "lengths.png",
            "Frames of the clips, all splits.",
            f"A histogram of lengths from {data.frames.min()} to {data.frames.max()} frames.",
        ),
        lab.picture(
            out / "batches.png",
            "Batches: frames of clips, and what padding adds.",
            f"A bar a batch, in two colours; {summary['padding_share']:.1%} of the frames are padding.",
        ),
    ]
    numbers = {name: summary[name] for name in ("batches", "padding_share", "raw_classes")}
    numbers |= {"flat_cnn_frames": flat, "flat_cnn_padding_share": flat_padding, "classes": data.merged_counts}
    return Done(Part(sentences, [table], pictures, [_explore_command(lab, out)]), numbers)


def profile_difference(profiles: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Where the classes' mean profiles (128,) in dB lie furthest apart, and which is loud and soft there.

    bright, dark: the loudest and the softest above 2000 Hz. spread: sd over classes, mean over bins, in dB.
    """
    names, hertz = list(profiles), plots.mel_peaks()[1:-1]
    smooth = np.array(
        [np.convolve(profile, np.ones(BINS_APART) / BINS_APART, "valid") for profile in profiles.values()]
    )
    place = int(np.argmax(np.ptp(smooth, axis=0)))
    loud, soft = int(smooth[:, place].argmax()), int(smooth[:, place].argmin())
    high = [float(profile[hertz > 2000].mean()) for profile in profiles.values()]
    return {
        "from_hertz": float(hertz[place]),
        "to_hertz": float(hertz[place + BINS_APART - 1]),
        "loud": names[loud],
        "loud_db": float(smooth[loud, place]),
        "soft": names[soft],
        "soft_db": float(smooth[soft, place]),
        "bright": names[int(np.argmax(high))],
        "dark": names[int(np.argmin(high))],
        "spread": float(smooth.std(axis=0).mean()),
    }


def _frame_rates(lab: Lab, number: int, feature: str, named: str) -> Done:
    """Full rate against beat-synchronised: how large a clip is, and what an epoch of an LSTM takes."""
    rows, numbers, commands, losses = [], {}, [], {}
    for beat in (False, True):
        data, rate = _genre_data(lab, beat), "beat" if beat else "full"
        options = genre_options(
            lab, lab.step(number) / f"lstm_{rate}", lab.seeds[0], "lstm", feature, beat, epochs=lab.scale.timing_epochs
        )
        seconds = train_genre(options)["seconds_per_epoch"]
        frames, bins = float(np.median(data.frames)), FEATURE_BINS[feature]
        rows.append((RATES[beat], f"({bins}, {frames:.0f})", f"{data.frames.min()} to {data.frames.max()}",
                     f"{bins * frames:.0f}", f"{seconds:.2f}"))  # fmt: skip
        numbers[rate] = {"frames": frames, "bins": bins, "seconds_per_epoch": seconds}
        losses[RATES[beat]] = history(lab.step(number) / f"lstm_{rate}")["loss"]
        commands.append(options.command)
    numbers["losses"] = losses
    full, beats = numbers["full"], numbers["beat"]
    shorter, faster = full["frames"] / beats["frames"], full["seconds_per_epoch"] / beats["seconds_per_epoch"]
    sentences = [
        f"A median clip is {full['frames']:.0f} frames at full rate and {beats['frames']:.0f} beat-synchronised, of "
        f"{full['bins']} bins each: {shorter:.0f} times as much to read.",
        f"An LSTM reads one frame after the other and carries its memory through all of them. On the same clips, in "
        f"batches of one size, its epoch takes {full['seconds_per_epoch']:.2f} s at full rate and "
        f"{beats['seconds_per_epoch']:.2f} s beat-synchronised, {faster:.1f} times as long, and its gradient has "
        f"{full['frames']:.0f} steps to go back.",
    ]
    caption = f"{named} and the LSTM's epoch, batches of {options.recipe.batch_size} clips"
    header = ("", "median clip (bins, frames)", "frames", "numbers a clip", "seconds an epoch")
    return Done(
        Part(
            sentences, [Table(caption, header, rows)],
            _two_clips(lab, number, feature, named), commands,
        ),
        numbers,
    )  # fmt: skip


def _beside_mel(lab: Lab, numbers: Mapping[str, Any]) -> str:
    times = {rate: metrics_of(lab.step(2) / f"lstm_{rate}")["seconds_per_epoch"] for rate in ("full", "beat")}
    ratios = [numbers[rate]["seconds_per_epoch"] / seconds for rate, seconds in times.items()]
    close = all(abs(np.log(ratio)) < np.log(1 + CLOSE) for ratio in ratios)
    verdict = "the frames cost the time, and the bins hardly matter" if close else "here the bins matter too"
    return (
        f"With {FEATURE_BINS['chroma']} bins in place of {FEATURE_BINS['mel']} an epoch takes {ratios[0]:.2f} times "
        f"step 2's at full rate and {ratios[1]:.2f} times beat-synchronised: {verdict}."
    )


def _two_clips(lab: Lab, number: int, feature: str, named: str) -> list[Picture]:
    """The same two clips at both rates."""
    clips = _genre_data(lab, True).splits["train"]
    pair = two_of_different_classes(clips)
    titles = [f"{clips.classes[clips.targets[i]]} (clip {clips.ids[i]})" for i in pair]
    pictures = []
    for beat in (False, True):
        arrays = [array_path(lab.folders[GENRE_BEAT if beat else GENRE] / "train", clips.ids[i]) for i in pair]
        known = [(read_array(path), title) for path, title in zip(arrays, titles, strict=True) if path is not None]
        if not known:  # the other folder lacks both
            continue
        path = lab.step(number) / f"{feature}_{'beat' if beat else 'full'}.png"
        shown, named_clips = zip(*known, strict=True)
        plots.save_figure(plots.spectrograms(shown, named_clips, beat, (feature,)), path)
        alt = f"{' and '.join(titles)}: {named}, time along x in {'beats' if beat else 'seconds'}."
        pictures.append(lab.picture(path, f"Two clips as {RATES[beat]} {named}.", alt))
    return pictures


def _genre_data(lab: Lab, beat: bool) -> GenreData:
    return load_genre_data(lab.folders[GENRE_BEAT if beat else GENRE], lab.classes, seed=lab.seeds[0])


def _explore(lab: Lab, out: Path) -> dict[str, Any]:
    return explore_genre_data(lab.folders[GENRE_BEAT], out, lab.classes, batch_size=BATCH_SIZE, seed=lab.seeds[0])


def _explore_command(lab: Lab, out: Path) -> str:
    words = ["--data", lab.folders[GENRE_BEAT], "--classes", lab.classes, "--seed", lab.seeds[0], "--out", out]
    return shlex.join(["python", "scripts/explore_data.py", *map(str, words)])


def _by_class(clips: Mapping[str, Mapping[str, int]]) -> dict[str, list[int]]:
    """Clips of each class, one number a split."""
    return {name: [counts[name] for counts in clips.values()] for name in next(iter(clips.values()))}

"""The lab's steps 0 to 4: the data folder, its clips, and the batches for the networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtmusic.constants import FEATURE_BINS
from mtmusic.data.folder import RATES, load_genre_data
from mtmusic.data.labels import two_of_different_classes
from mtmusic.data.spectrograms import array_path, read_array
from mtmusic.datasets.explore import batch_lengths, explore_genre_data, mean_mel_profiles
from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.lab import Table
from mtmusic.lab import plan
from mtmusic.lab.plan import Done, Lab
from mtmusic.training.genre import GenreTask
from mtmusic.training.train import train

BATCH_SIZE = 32
SHOWN_BATCHES = 6
BANDWIDTH = 4
"""Profiles are compared by means over this many mel bins, because neighbouring bins are similar."""
CLOSE = 0.3
"""Times count as equal if they differ by less than this share."""
NAMES = {"mel": "mel spectrograms", "chroma": "chromagrams"}


def first_look(lab: Lab) -> Done:
    """Steps 0 and 1: devices, the folder, two clips, and the mean mel profile by genre."""
    summary, command = _explore(lab, lab.step(1) / "exploration")
    train_clips = load_genre_data(lab.load_options(plan.GENRE_BEAT)).splits["train"]
    counts = summary["clips"]
    rows = [(name, *(of_split[name] for of_split in counts.values())) for name in counts["train"]]
    table = Table("Clips by class and split. The validation clips are held out of train", ("class", *counts), rows)
    profiles = profile_difference(mean_mel_profiles(train_clips))
    return plan.write_up(lab, 1, summary | {"profiles": profiles}, [table], [command])


def pipeline(lab: Lab) -> Done:
    """Step 4: the batches, and the classes before and after merging."""
    summary, command = _explore(lab, lab.step(4) / "exploration")
    data = load_genre_data(lab.load_options(plan.GENRE_BEAT))
    lengths, padded = batch_lengths(data.splits["train"], BATCH_SIZE, lab.seed)
    flat = lab.scale.frames or summary["flat_cnn_frames"]
    rows = [
        (f"batch {number}", f"({len(length)}, {frames}, {FEATURE_BINS['mel']})", f"{length.min()} to {length.max()}",
         f"{1 - length.sum() / (len(length) * frames):.1%}")
        for number, (length, frames) in enumerate(zip(lengths[:SHOWN_BATCHES], padded, strict=False), 1)
    ]  # fmt: skip
    table = Table(
        "The first batches of mel, with shapes (clips, frames, bins)", ("", "shape", "frames", "padding"), rows
    )
    numbers = {name: summary[name] for name in ("batches", "padding_share", "raw_classes")} | {
        "flat_cnn_frames": flat,
        "flat_cnn_padding_share": 1 - float(np.minimum(data.frames, flat).mean()) / flat,
        "classes": data.merged_counts,
    }
    return plan.write_up(lab, 4, numbers, [table], [command], batch_size=BATCH_SIZE, frames=data.frames)


def profile_difference(profiles: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Finds the bins where the classes' mean profiles (128,) in dB differ most, and the loudest and softest class.

    The result also has bright and dark, the loudest and the softest class above 2000 Hz, and spread, the standard
    deviation over classes in dB, averaged over bins.
    """
    names, hertz = list(profiles), plots.mel_peaks()[1:-1]
    smooth = np.array([np.convolve(profile, np.ones(BANDWIDTH) / BANDWIDTH, "valid") for profile in profiles.values()])
    place = int(np.argmax(np.ptp(smooth, axis=0)))
    loud, soft = int(smooth[:, place].argmax()), int(smooth[:, place].argmin())
    high = [float(profile[hertz > 2000].mean()) for profile in profiles.values()]
    return {
        "from_hertz": float(hertz[place]),
        "to_hertz": float(hertz[place + BANDWIDTH - 1]),
        "loud": names[loud],
        "loud_db": float(smooth[loud, place]),
        "soft": names[soft],
        "soft_db": float(smooth[soft, place]),
        "bright": names[int(np.argmax(high))],
        "dark": names[int(np.argmin(high))],
        "spread": float(smooth.std(axis=0).mean()),
    }


def frame_rates(step: int, feature: str, lab: Lab) -> Done:
    """Steps 2 and 3: compares the size of a clip and the time of an LSTM's epoch at full rate and beat-synchronised.

    Step 3 is compared with step 2, whose clips have ten times as many bins.
    """
    rows, numbers, commands, losses = [], {}, [], {}
    for beat in (False, True):
        rate, bins = "beat" if beat else "full", FEATURE_BINS[feature]
        lengths = load_genre_data(lab.load_options(plan.GENRE_BEAT if beat else plan.GENRE)).frames
        run, epochs = lab.step(step) / f"lstm_{rate}", lab.scale.timing_epochs
        options = plan.genre_options(lab, run, lab.seed, "lstm", beat, feature=feature, epochs=epochs)
        seconds = train(options, GenreTask())["seconds_per_epoch"]
        frames = float(np.median(lengths))
        rows.append((RATES[beat], f"({bins}, {frames:.0f})", f"{lengths.min()} to {lengths.max()}",
                     f"{bins * frames:.0f}", f"{seconds:.2f}"))  # fmt: skip
        numbers[rate] = {"frames": frames, "bins": bins, "seconds_per_epoch": seconds}
        losses[RATES[beat]] = plan.history(run)["loss"]
        commands.append(options.command)
    caption = f"{NAMES[feature].capitalize()}, and the LSTM's time, in batches of {options.recipe.batch_size} clips"
    header = ("", "median clip (bins, frames)", "frames", "values per clip", "seconds per epoch")
    mel = [plan.metrics_of(lab.step(2) / f"lstm_{rate}")["seconds_per_epoch"] for rate in numbers]
    ratios = [row["seconds_per_epoch"] / seconds for row, seconds in zip(numbers.values(), mel, strict=True)]
    return plan.write_up(
        lab,
        step,
        numbers | {"losses": losses},
        [Table(caption, header, rows)],
        commands,
        **_two_clips(lab, step, feature),
        ratios=ratios,
        close=all(abs(np.log(ratio)) < np.log(1 + CLOSE) for ratio in ratios),
        mel_bins=FEATURE_BINS["mel"],
    )


def _two_clips(lab: Lab, step: int, feature: str) -> dict[str, Any]:
    """Draws the same two clips at both rates."""
    clips = load_genre_data(lab.load_options(plan.GENRE_BEAT)).splits["train"]
    pair = two_of_different_classes(clips)
    titles = [f"{clips.classes[clips.targets[i]]} (clip {clips.ids[i]})" for i in pair]
    pictures = []
    for beat in (False, True):
        arrays = [
            array_path(lab.folders[plan.GENRE_BEAT if beat else plan.GENRE] / "train", clips.ids[i]) for i in pair
        ]
        known = [(read_array(path), title) for path, title in zip(arrays, titles, strict=True) if path is not None]
        if not known:  # the other folder has neither of the clips
            continue
        path = lab.step(step) / f"{feature}_{'beat' if beat else 'full'}.png"
        shown, named = zip(*known, strict=True)
        plots.save_figure(plots.spectrograms(shown, named, beat, (feature,)), path)
        pictures.append((lab.relative(path), RATES[beat]))
    return {"named": NAMES[feature], "titles": titles, "pictures": pictures}


def _explore(lab: Lab, out: Path) -> tuple[dict[str, Any], str]:
    """Explores the genre folder. Returns the summary, and the command that reproduces it."""
    options = lab.load_options(plan.GENRE_BEAT)
    words = lab.command("explore-data", data=options.folder, classes=lab.classes, seed=lab.seed, out=out)
    return explore_genre_data(options, out, batch_size=BATCH_SIZE), words

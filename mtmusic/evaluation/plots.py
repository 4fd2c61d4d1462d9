"""Functions that make a Matplotlib Figure from arrays. They do not use pyplot and its global list of figures.

The colours suit colour-blind readers: the colour cycle is petroff10 (Petroff 2021, arXiv:2107.02270), and the colour
maps are perceptually uniform.
"""

import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from sklearn.metrics import average_precision_score, precision_recall_curve

from mtmusic.constants import (
    CHROMA_BINS,
    FEATURE_ROWS,
    HOP_LENGTH,
    LOGMEL_BINS,
    LOGMEL_HOP_LENGTH,
    LOGMEL_SAMPLE_RATE,
    MEL_BINS,
    MEL_FLOOR_DB,
    SAMPLE_RATE,
)
from mtmusic.files import whole_file
from mtmusic.mel import KNEE_HERTZ, mel_frequencies

DPI = 110
NARROW, NARROW_LETTERS = 5.0, 42
"""For pictures on a phone: the width in inches, and the number of letters in a line of a legend."""

COLOURS = [entry["color"] for entry in style.library["petroff10"]["axes.prop_cycle"]]
BLUE, ORANGE, RED, GREY = COLOURS[:4]

SHOWN_CHANNELS = 8
SHOWN_FRAMES = 2000
"""The most frames that a picture of this width can show."""

Panel = tuple[np.ndarray, Mapping[str, np.ndarray]]
"""A panel of a timeline: the begin and end of consecutive windows in seconds, `(windows, 2)`, and for each name the
values `(windows,)` in [0, 1], which are drawn as steps."""

DECILES = 10
COLOUR_LABELS = {
    "mel": "mel (dB relative to the clip's maximum)",
    "chroma": "chroma",
    "logmel": "mel (log10(1 + 10000 power))",
}
SPECTROGRAM_INCHES = {"mel": 4.1, "chroma": 1.9, "logmel": 4.1}
LOUDEST_LOGMEL = 7
"""About the maximum of logmel for a full-scale tone. For music it is 6.75."""

MEL_BANKS = {"mel": (MEL_BINS, SAMPLE_RATE / 2), "logmel": (LOGMEL_BINS, LOGMEL_SAMPLE_RATE / 2)}
"""Number of bins, and the highest frequency in Hz."""
FREQUENCY_TICKS_HZ = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)
MEL_TICKS_HZ = (0, 512, 1024, 2048, 4096, 8192)
PITCH_TICKS = {0: "C", 2: "D", 4: "E", 5: "F", 7: "G", 9: "A", 11: "B"}
"""Labels of rows of the chromagram."""


def spectrograms(
    arrays: Sequence[np.ndarray],
    titles: Sequence[str],
    beat: bool,
    features: Sequence[str] = ("mel", "chroma"),
    narrow: bool = False,
) -> Figure:
    """Draws fused arrays `(140, frames)` side by side, with mel above chroma, on the same axes and colour scales.

    Logmel arrays `(96, frames)` are drawn whole, whatever `features` says. The time axis is as long as the longest
    clip, in seconds, or in beats for beat-synchronised arrays.
    features: "mel", "chroma" or both. narrow: whether the picture is for a phone.
    """
    if is_logmel := len(arrays[0]) == LOGMEL_BINS:
        features = ("logmel",)
    heights = [SPECTROGRAM_INCHES[feature] for feature in features]
    figure = _figure(NARROW if narrow else max(9, 2 + 4.5 * len(arrays)), sum(heights))
    axes = figure.subplots(len(features), len(arrays), sharex=True, sharey="row", squeeze=False, height_ratios=heights)
    for row, feature in enumerate(features):
        for column, array in enumerate(arrays):
            mesh = _show(axes[row, column], array if is_logmel else array[FEATURE_ROWS[feature]], feature, beat)
        figure.colorbar(mesh, ax=axes[row], label=COLOUR_LABELS[feature], pad=0.01)
    for column, title in enumerate(titles):
        axes[0, column].set_title(_plain(title))
    for axis in axes.flat:
        axis.label_outer()
    axes[0, 0].set_xlim(0, max(_edges(array.shape[1], beat, features[0])[-1] for array in arrays))
    return figure


def _show(axes: Axes, rows: np.ndarray, feature: str, beat: bool, stride: int = 1) -> QuadMesh:
    """Draws one feature. The edge between two mel bins is halfway between their peaks."""
    low, high = {"mel": (MEL_FLOOR_DB, 0), "chroma": (0, 1), "logmel": (0, LOUDEST_LOGMEL)}[feature]
    if is_mel := feature in MEL_BANKS:
        peaks = mel_peaks(feature)
        edges = (peaks[1:] + peaks[:-1]) / 2
    else:
        edges = np.arange(CHROMA_BINS + 1) - 0.5
    times = _edges(rows.shape[1], beat, feature, stride)
    mesh = axes.pcolormesh(times, edges, rows, cmap="magma", vmin=low, vmax=high, rasterized=True)
    axes.set(xlabel="time (beats)" if beat else "time (s)", ylabel="mel frequency (Hz)" if is_mel else "pitch class")
    if is_mel:  # the mel scale: linear up to 1 kHz, then logarithmic
        axes.set_yscale("symlog", linthresh=KNEE_HERTZ, base=2)
        axes.set_yticks(MEL_TICKS_HZ, map(str, MEL_TICKS_HZ))
        axes.set_ylim(0, MEL_BANKS[feature][1])
    else:
        axes.set_yticks(list(PITCH_TICKS), PITCH_TICKS.values())
    return mesh


def _edges(frames: int, beat: bool, feature: str, stride: int = 1) -> np.ndarray:
    """The edges of the frames in beats or seconds, `(frames + 1,)`. stride: step between the frames that are drawn."""
    seconds = LOGMEL_HOP_LENGTH / LOGMEL_SAMPLE_RATE if feature == "logmel" else HOP_LENGTH / SAMPLE_RATE
    return np.arange(frames + 1) * stride * (1 if beat else seconds)


def mel_peaks(feature: str = "mel") -> np.ndarray:
    """Returns the peak frequencies of the mel bins in Hz, between the bank's two outer corners: `(130,)` or `(98,)`."""
    bins, highest = MEL_BANKS[feature]
    return mel_frequencies(bins + 2, highest)


def mean_profiles(profiles: Mapping[str, np.ndarray]) -> Figure:
    """Draws the mean mel profile of each class, `(128,)` in dB or `(96,)` for logmel."""
    figure, axes = _axes(10, 5.5)
    feature = "logmel" if len(next(iter(profiles.values()))) == LOGMEL_BINS else "mel"
    for index, (name, profile) in enumerate(profiles.items()):
        axes.plot(mel_peaks(feature)[1:-1], profile, label=_plain(name), **_style(index))
    axes.set_xscale("log")
    axes.set_xticks(FREQUENCY_TICKS_HZ, [f"{hertz:,}".replace(",", " ") for hertz in FREQUENCY_TICKS_HZ])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(
        title="Mean mel profile by class",
        xlabel="frequency (Hz)",
        ylabel=f"mean {COLOUR_LABELS[feature]}",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return figure


def class_histograms(before: Mapping[str, int], after: Mapping[str, int], title: str) -> Figure:
    """Draws the number of clips by class, before merging (left) and after it (right)."""
    figure = _figure(11, max(3.0, 0.28 * max(len(before), len(after)) + 1.2))
    for axes, counts, name, colour in zip(
        figure.subplots(1, 2), (before, after), ("before merging", "after merging"), (GREY, BLUE), strict=True
    ):
        bars = axes.barh([_plain(label) for label in counts], list(counts.values()), color=colour)
        axes.bar_label(bars, padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.02)
        axes.xaxis.set_major_locator(_whole_numbers(5))
        axes.set(title=f"{name}: {len(counts)} classes, {sum(counts.values())} clips", xlabel="clips")
    figure.suptitle(_plain(title))
    return figure


def value_histograms(values: Mapping[str, np.ndarray]) -> Figure:
    """Draws a histogram of each name's values `(clips,)`, without NaN. The name labels the x axis."""
    figure, panels = _panels(len(values), 3.9, 3.3)
    for axes, (name, array) in zip(panels, values.items(), strict=True):
        known = np.asarray(array, dtype=float)
        known = known[~np.isnan(known)]
        axes.set(title=f"{known.size} clips", xlabel=_plain(name), ylabel="clips")
        axes.yaxis.set_major_locator(_whole_numbers(5))
        if known.size:
            axes.hist(known, bins=_bin_edges(known), color=BLUE)
            axes.axvline(known.mean(), color=RED, linestyle="--")
            axes.set_title(f"{known.size} clips, mean {known.mean():.3g} (dashed)")
    return figure


def distributions(columns: Mapping[str, Mapping[str, Sequence]], units: Mapping[str, str]) -> Figure:
    """Draws a panel for each column: the distributions of its values in all splits, as shares of the split's clips.

    columns: values of the clips by column and split: numbers, of which NaN is left out, or names.
    units: unit of each column.
    """
    figure, panels = _panels(len(columns), 3.9, 3.1)
    splits = list(dict.fromkeys(split for by_split in columns.values() for split in by_split))
    colours = dict(zip(splits, COLOURS, strict=False))
    for axes, (name, by_split) in zip(panels, columns.items(), strict=True):
        if any(isinstance(value, str) for values in by_split.values() for value in values):
            _bars_by_split(axes, by_split, colours)
        else:
            _histograms_by_split(axes, by_split, colours)
            axes.set(xlabel=_plain(units[name]), ylabel="share of the clips")
        axes.set_title(_plain(name))
    handles = [Patch(color=colours[split], alpha=0.6, label=split) for split in splits]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(splits))
    return figure


def _histograms_by_split(axes: Axes, by_split: Mapping[str, Sequence], colours: Mapping[str, str]) -> None:
    known = {split: np.asarray(values, float) for split, values in by_split.items()}
    known = {split: np.round(values[np.isfinite(values)], 3) for split, values in known.items()}
    edges = _bin_edges(np.concatenate([*known.values()]))
    for split, values in known.items():
        shares = np.full(values.size, 1 / max(1, values.size))
        axes.hist(values, edges, weights=shares, histtype="stepfilled", alpha=0.3, color=colours[split])
        axes.hist(values, edges, weights=shares, histtype="step", color=colours[split])


def _bars_by_split(axes: Axes, by_split: Mapping[str, Sequence], colours: Mapping[str, str]) -> None:
    names = sorted({value for values in by_split.values() for value in values})
    height = 0.8 / len(by_split)
    for index, (split, values) in enumerate(by_split.items()):
        shares = [list(values).count(name) / max(1, len(values)) for name in names]
        axes.barh(np.arange(len(names)) + index * height, shares, height, color=colours[split], alpha=0.6)
    axes.set_yticks(np.arange(len(names)) + (0.8 - height) / 2, [_plain(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("share of the clips")


def _bin_edges(values: np.ndarray) -> list[float]:
    """Edges of about 30 bins. For whole numbers the width is a whole number, so that each bin covers as many values."""
    if (values % 1).any():
        return np.histogram_bin_edges(values, bins=30).tolist()
    width = math.ceil((np.ptp(values) + 1) / 30)
    return np.arange(values.min() - 0.5, values.max() + width, width).tolist()


def learning_curves(history: Mapping[str, Sequence[float]], best_epoch: int) -> Figure:
    """Draws a panel for each metric of validation, with the metric of train if there is one. Epochs count from 1.

    Without a validation split there is a panel for each metric. The loss is left out if it is a multiple of a metric.
    """
    metrics = [name.removeprefix("val_") for name in history if name.startswith("val_")] or list(history)
    if any(_is_multiple(history, "loss", metric) for metric in metrics if metric != "loss"):
        metrics.remove("loss")
    limits = 0.5, max(len(values) for values in history.values()) + 0.5
    figure, panels = _panels(len(metrics), 4.2, 3.3)
    for axes, metric in zip(panels, metrics, strict=True):
        if metric in history:
            _curve(axes, history[metric], "train", BLUE)
        if f"val_{metric}" in history:
            _curve(axes, history[f"val_{metric}"], "validation", ORANGE)
        axes.axvline(best_epoch, color=GREY, linestyle="--", zorder=0, label=f"best epoch: {best_epoch}")
        axes.xaxis.set_major_locator(_whole_numbers(8))
        axes.set(title=_plain(metric.replace("_", " ")), xlabel="epoch", xlim=limits)
        _grid_and_legend(axes, fontsize="small")
    return figure


def _is_multiple(history: Mapping[str, Sequence[float]], one: str, other: str) -> bool:
    """Whether two logs have the same curves, for train and for validation, apart from the scale."""
    pairs = [(f"{split}{one}", f"{split}{other}") for split in ("", "val_")]
    if any(name not in history for pair in pairs for name in pair):
        return False
    first, second = (np.concatenate([history[name] for name in names]) for names in zip(*pairs, strict=True))
    if not (first.any() and second.any()):
        return False
    return np.allclose(first / np.abs(first).max(), second / np.abs(second).max(), rtol=0.01)


def _curve(axes: Axes, values: Sequence[float], label: str, colour: str) -> None:
    """Draws a curve with markers, so that a single epoch is visible."""
    axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, color=colour, label=label)


def curves(panels: Mapping[str, Mapping[str, Sequence[float]]], ylabel: str, threshold: float | None = None) -> Figure:
    """Draws named lines by epoch in each panel. With a threshold, which is drawn too, the scale is logarithmic."""
    figure, axes_of = _panels(len(panels), 4.6, 3.6)
    for axes, (title, lines) in zip(axes_of, panels.items(), strict=True):
        for index, (name, values) in enumerate(lines.items()):
            _curve(axes, values, _plain(name), COLOURS[index % len(COLOURS)])
        if threshold is not None:
            axes.axhline(threshold, color=GREY, linestyle="--", label=f"threshold {threshold:g}")
            axes.set_yscale("log", nonpositive="clip")
        axes.xaxis.set_major_locator(_whole_numbers(8))
        axes.set(title=_plain(title), xlabel="epoch", ylabel=ylabel)
        _grid_and_legend(axes, fontsize="small")
    return figure


def values_by_number(lines: Mapping[str, Mapping[int, tuple[float, float, float]]], xlabel: str, ylabel: str) -> Figure:
    """Draws named lines of (value, low, high) by a whole number. The lines are shifted, so that no points overlap."""
    figure, axes = _axes(8, 4.5)
    for index, (name, points) in enumerate(lines.items()):
        places = np.array(list(points)) + 0.06 * index
        values, low, high = np.array(list(points.values())).T
        reach = np.maximum([values - low, high - values], 0)
        axes.errorbar(places, values, reach, label=_plain(name), color=COLOURS[index], marker="o", capsize=3)
    axes.xaxis.set_major_locator(_whole_numbers(10))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _grid_and_legend(axes)
    return figure


def scores_by_share(
    panels: Mapping[str, Mapping[str, Mapping[int, tuple[float, float, float]]]], clips: Mapping[int, float]
) -> Figure:
    """Draws a panel for each score, with named lines of (value, low, high) by the share of the training clips.

    The share is on a log scale. clips: number of training clips of each share in percent.
    """
    figure, axes_of = _panels(len(panels), 4.6, 3.8)
    names = [*dict.fromkeys(name for lines in panels.values() for name in lines)]
    for axes, (title, lines) in zip(axes_of, panels.items(), strict=True):
        for name, points in lines.items():
            index = names.index(name)
            places = np.array(list(points)) * 1.02 ** (index - (len(names) - 1) / 2)
            values, low, high = np.array(list(points.values())).T
            reach = np.maximum([values - low, high - values], 0)
            axes.errorbar(places, values, reach, label=_plain(name), marker="o", capsize=3, **_style(index))
        axes.set_xscale("log")
        axes.set_xticks(list(clips), [f"{share} %\n{count:.0f}" for share, count in clips.items()])
        axes.minorticks_off()
        axes.set(title=_plain(title), xlabel="training clips", ylabel="score")
        _grid_and_legend(axes, fontsize="small")
    return figure


def lines_by_size(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], ylabel: str) -> Figure:
    """Draws named lines of (size, value) in each panel. Both axes are logarithmic: a power law is a straight line."""
    figure, axes_of = _panels(len(panels), 4.6, 3.6)
    names = [*dict.fromkeys(name for lines in panels.values() for name in lines)]
    for axes, (title, lines) in zip(axes_of, panels.items(), strict=True):
        for name, points in lines.items():
            axes.loglog(*zip(*points, strict=True), label=_plain(name), color=COLOURS[names.index(name)], marker="o")
        sizes = [size for size, _ in next(iter(lines.values()))]
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set(title=_plain(title), xlabel=title.rpartition(" ")[2], ylabel=ylabel)
        _grid_and_legend(axes, fontsize="small")
    return figure


def precision_recall_curves(
    true: np.ndarray, scores: np.ndarray, classes: Sequence[str], shown: Sequence[str]
) -> Figure:
    """Draws precision by recall of each shown class against all others, for all thresholds on its score.

    The dashed line is the class's share of the clips, which is the precision by chance.
    true: class indices `(clips,)`. scores: `(clips, classes)`.
    """
    figure, axes = _axes(7, 4.5)
    for index, name in enumerate(shown):
        column = classes.index(name)
        hits = true == column
        precision, recall, _ = precision_recall_curve(hits, scores[:, column])
        label = f"{_plain(name)}: average precision {average_precision_score(hits, scores[:, column]):.3f}"
        axes.step(recall, precision, where="post", color=COLOURS[index], label=label)
        axes.axhline(hits.mean(), color=COLOURS[index], linestyle="--", linewidth=1)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02), title="Precision by recall")
    _grid_and_legend(axes)
    return figure


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draws counts `(classes, classes)` with true classes as rows. The colour is the share of the true class."""
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = max(5.0, 0.45 * len(classes) + 2.5)
    figure, axes = _axes(size + 1, size)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(matrix.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour)
    names = [_plain(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true", title=f"Confusion of {matrix.sum()} clips")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def activations(layers: Sequence[tuple[str, np.ndarray]], spectrogram: np.ndarray) -> Figure:
    """Draws the input `(frames, bins)`, then a row with the first 8 channels of each layer `(frames, bins, channels)`.

    A layer of `(frames, units)` is one image. Time is on the x axis, and low bins are at the bottom. A row has one
    colour scale, from its 1st to its 99th percentile.
    """
    rows = [("input", spectrogram), *layers]
    figure = _figure(12, 0.78 * len(rows) + 0.9)
    for axes, (name, array) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True):
        _show_channels(axes, array)
        label = f"{_plain(name)}\n{' x '.join(map(str, array.shape))}"
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")
    axes.set_xlabel("Each image shows time from left to right, with low bins at the bottom.")
    figure.suptitle(f"Activations: up to {SHOWN_CHANNELS} channels of each layer")
    return figure


def _show_channels(axes: Axes, array: np.ndarray) -> None:
    """Draws the channels side by side in one Axes, which is faster than an Axes for each."""
    images = np.atleast_3d(array)[..., :SHOWN_CHANNELS]
    low, high = np.nanpercentile(images, (1, 99))
    for index in range(images.shape[2]):
        axes.imshow(
            images[..., index].T,
            extent=(index, index + 0.96, 0, 1),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=low,
            vmax=high,
            interpolation="nearest",
        )
    axes.set(xlim=(0, images.shape[2] - 0.04), ylim=(0, 1), xticks=[], yticks=[], frame_on=False)


def scatter(true: np.ndarray, predicted: np.ndarray, tasks: Sequence[str], rho: Mapping[str, float]) -> Figure:
    """Draws predicted against true targets in [0, 1], `(clips, tasks)` each. rho: Spearman's rho of each task."""
    figure, panels = _panels(len(tasks), 3.8, 4.0)
    for column, (axes, task) in enumerate(zip(panels, tasks, strict=True)):
        _diagonal(axes, "true", "predicted")
        axes.scatter(true[:, column], predicted[:, column], s=12, alpha=0.5, color=BLUE, linewidths=0)
        axes.set_title(f"{_plain(task)}\nSpearman's rho = {rho[task]:.3f}")
    return figure


def calibration(true: np.ndarray, predicted: np.ndarray, tasks: Sequence[str]) -> Figure:
    """Sorts clips by their predictions into ten groups of equal size, and draws mean targets against mean predictions.

    Both arrays are `(clips, tasks)`. NaN targets are left out. The bars are two standard errors of the mean target.
    """
    figure, panels = _panels(len(tasks), 3.8, 4.0)
    for column, (axes, task) in enumerate(zip(panels, tasks, strict=True)):
        known = np.flatnonzero(~np.isnan(true[:, column]))
        order = known[np.argsort(predicted[known, column], kind="stable")]
        groups = [group for group in np.array_split(order, DECILES) if group.size]
        means = [predicted[group, column].mean() for group in groups]
        targets = [true[group, column].mean() for group in groups]
        errors = [
            2 * true[group, column].std(ddof=1) / math.sqrt(group.size) if group.size > 1 else 0 for group in groups
        ]
        _diagonal(axes, "mean predicted", "mean true")
        axes.errorbar(means, targets, errors, color=BLUE, marker="o", markersize=4, elinewidth=1)
        axes.set_title(f"{_plain(task)}\n{len(groups)} groups of clips")
    return figure


def _diagonal(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Sets both axes to 0 to 1, and draws the line of equal values."""
    axes.plot((0, 1), (0, 1), color=GREY, linestyle="--", linewidth=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)


def residuals(true: np.ndarray, predicted: np.ndarray, tasks: Sequence[str]) -> Figure:
    """Draws predicted minus true values by predicted values, `(clips, tasks)` each. NaN targets are left out."""
    figure, panels = _panels(len(tasks), 3.8, 3.3)
    for column, (axes, task) in enumerate(zip(panels, tasks, strict=True)):
        known = ~np.isnan(true[:, column])
        surplus = predicted[known, column] - true[known, column]
        axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
        axes.scatter(predicted[known, column], surplus, s=12, alpha=0.5, color=BLUE, linewidths=0)
        reach = 1.1 * max(np.abs(surplus).max(), 0.01)
        axes.set(xlim=(-0.02, 1.02), ylim=(-reach, reach), xlabel="predicted", ylabel="predicted minus true")
        axes.set_title(f"{_plain(task)}\nmean {surplus.mean():.3f}, sd {surplus.std():.3f}")
        axes.grid(alpha=0.3)
    return figure


def intervals(rows: Sequence[tuple[str, Mapping[str, tuple[float, float, float]]]], xlabel: str) -> Figure:
    """Draws a panel for each quantity, with a point and its interval for each named row. A line is drawn at 0.

    rows: for each name (value, low, high) by quantity. A row need not have all quantities.
    """
    quantities = list(dict.fromkeys(quantity for _, values in rows for quantity in values))
    figure = _figure(max(6.0, 3.2 * len(quantities) + 2), 0.45 * len(rows) + 1.6)
    panels = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    for axes, quantity in zip(panels, quantities, strict=True):
        for place, (_, values) in enumerate(rows):
            if quantity in values:
                value, low, high = values[quantity]
                axes.hlines(place, low, high, color=BLUE, linewidth=2)
                axes.plot(value, place, marker="o", color=BLUE)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_yticks(range(len(rows)), [_plain(name) for name, _ in rows])
        axes.set(title=_plain(quantity), xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
        axes.grid(alpha=0.3, axis="x")
    return figure


def batch_padding(lengths: Sequence[np.ndarray], padded: Sequence[int]) -> Figure:
    """Draws batches as bars: the frames of their clips, and the padding.

    lengths: for each batch the frames of its clips `(clips,)`. padded: frames to which each batch is padded.
    """
    real = np.array([np.minimum(batch, frames).sum() for batch, frames in zip(lengths, padded, strict=True)])
    total = np.array([len(batch) * frames for batch, frames in zip(lengths, padded, strict=True)])
    batches = np.arange(1, len(real) + 1)
    figure, axes = _axes(10, 4)
    axes.bar(batches, real, color=BLUE, label="frames of clips")
    axes.bar(batches, total - real, bottom=real, color=ORANGE, label="padding")
    axes.xaxis.set_major_locator(_whole_numbers(12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda frames, _: f"{frames:,.0f}".replace(",", " ")))
    share = 1 - real.sum() / total.sum()
    axes.set(
        title=f"{len(real)} batches: {share:.1%} padding", xlabel="batch", ylabel="frames", xlim=(0.4, len(real) + 0.6)
    )
    figure.legend(loc="outside right upper")
    return figure


def timeline(mel: np.ndarray, panels: Mapping[str, Panel], title: str, stride: int = 1, narrow: bool = False) -> Figure:
    """Draws a song's mel `(128, frames)` or logmel `(96, frames)`, and below it a panel for each quantity.

    stride: `mel` holds every `stride`th frame of the song.
    narrow: whether the picture is for a phone. Then the legends are above the panels.
    """
    legend: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.02)}
    width, height = 11.0, 3 + 2.4 * len(panels)
    if narrow:
        longest = max((len(name) for _, lines in panels.values() for name in lines), default=1)
        columns = min(3, NARROW_LETTERS // longest) or 1
        legend = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns}
        width, height = NARROW, height + sum(0.25 * math.ceil(len(lines) / columns) for _, lines in panels.values())
    figure = _figure(width, height)
    first, *others = figure.subplots(1 + len(panels), sharex=True, squeeze=False)[:, 0]
    more = math.ceil(mel.shape[1] / SHOWN_FRAMES)
    feature, label = ("logmel", "log10(1 + 10000 power)") if len(mel) == LOGMEL_BINS else ("mel", "dB")
    mesh = _show(first, mel[:, ::more], feature, beat=False, stride=more * stride)
    figure.colorbar(mesh, cax=first.inset_axes((1.015, 0, 0.015, 1)), label=label)
    first.set(title=_plain(title), xlim=(0, _edges(mel.shape[1], False, feature, stride)[-1]))
    for axes, (quantity, (times, lines)) in zip(others, panels.items(), strict=True):
        for index, (name, values) in enumerate(lines.items()):
            edges = [times[0, 0], *times[:, 1]]
            axes.stairs(values, edges, baseline=None, label=_plain(name), **_style(index), linewidth=2)
        axes.set(ylabel=_plain(quantity), ylim=(-0.02, 1.02), xlabel="time (s)")
        _grid_and_legend(axes, fontsize="small", **legend)
    for axes in (first, *others):
        axes.label_outer()
    return figure


def loss_curve(losses: Sequence[float], title: str, threshold: float | None = None) -> Figure:
    """Draws the loss by epoch on a log scale, with the threshold that it has to reach."""
    figure, axes = _axes(7, 4)
    _curve(axes, losses, "loss", BLUE)
    if threshold is not None:
        axes.axhline(threshold, color=RED, linestyle="--", label=f"threshold {threshold:g}")
    axes.set_yscale("log", nonpositive="clip")
    axes.xaxis.set_major_locator(_whole_numbers(10))
    axes.set(title=_plain(title), xlabel="epoch", ylabel="loss (log scale)")
    _grid_and_legend(axes)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG with 110 dots per inch, whole or not at all."""
    with whole_file(path) as beside:
        beside.write_bytes(png(figure))


def png(figure: Figure) -> bytes:
    """Returns the PNG that `save_figure` writes. Glyphs that the font lacks are drawn as boxes, without warnings."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()


def _figure(width: float, height: float) -> Figure:
    """Makes a figure of this width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    return figure, figure.subplots()


def _panels(count: int, width: float, height: float) -> tuple[Figure, Iterable[Axes]]:
    """Makes `count` panels of this size in inches, at most three per row."""
    columns = min(count, 3)
    rows = math.ceil(count / 3)
    figure = _figure(max(5.0, width * columns), height * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


def _grid_and_legend(axes: Axes, **legend: Any) -> None:
    axes.grid(alpha=0.3)
    axes.legend(**legend)


def _style(index: int) -> dict[str, Any]:
    """The style of a line. Ten lines have different colours, the next ten are dashed, and the third ten dotted."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": ("-", "--", ":")[index // len(COLOURS) % 3]}


def _whole_numbers(ticks: int) -> MaxNLocator:
    """A locator for whole numbers, with at most this many ticks, and one tick for a single epoch."""
    return MaxNLocator(ticks, integer=True, min_n_ticks=1, steps=(1, 2, 5, 10))


def _plain(name: str) -> str:
    """Escapes dollar signs, which would start a formula."""
    return name.replace("$", r"\$")

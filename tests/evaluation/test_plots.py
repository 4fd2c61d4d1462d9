"""The pictures' axes, read back; what they look like is for the eye."""

import math
from pathlib import Path

import matplotlib._pylab_helpers
import numpy as np
import pytest
from librosa import fft_frequencies, filters
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mtmusic.constants import FFT_LENGTH, MEL_BINS, SAMPLE_RATE
from mtmusic.evaluation import plots

PNG = b"\x89PNG\r\n\x1a\n"
LONG = "An Uncommonly Long Genre Name"


def fused(frames: int) -> np.ndarray:
    rng = np.random.default_rng(frames)
    return np.concatenate([rng.uniform(-80, 0, (128, frames)), rng.random((12, frames))])


def labels(ticks: list) -> list[str]:
    return [tick.get_text() for tick in ticks]


def heights(axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches]


def test_full_rate_time_is_in_seconds():
    figure = plots.spectrograms([fused(1291), fused(200)], ["long", "short"], beat=False)
    mel, mel_short, chroma, chroma_short = figure.axes[:4]
    for axes in (mel, mel_short, chroma, chroma_short):
        assert axes.get_xlim() == pytest.approx((0, 29.98), abs=0.005)
    assert chroma.get_xlabel() == "time (s)"
    assert mel.get_ylabel() == "mel frequency (Hz)"
    assert mel.get_ylim() == (0, 11025)
    assert [mel.get_title(), mel_short.get_title()] == ["long", "short"]


def test_beats_are_counted():
    figure = plots.spectrograms([fused(14), fused(60)], ["a", "b"], beat=True)
    chroma, chroma_longer = figure.axes[2:4]
    assert chroma.get_xlim() == chroma_longer.get_xlim() == (0, 60)
    assert chroma.get_xlabel() == "time (beats)"
    edges = chroma.collections[0].get_coordinates()
    assert edges.shape == (13, 15, 2)
    assert edges[0, -1, 0] == 14


def test_one_clip_stands_alone():
    figure = plots.spectrograms([fused(50)], ["a"], beat=False)
    mel, chroma = figure.axes[:2]
    assert (mel.get_title(), mel.collections[0].get_array().shape) == ("a", (128, 50))
    assert (chroma.get_xlabel(), chroma.collections[0].get_array().shape) == ("time (s)", (12, 50))


def test_a_png_in_memory_is_the_one_that_is_saved(tmp_path):
    figure = plots.loss_curve([1.0, 0.5], "loss")
    plots.save_figure(figure, tmp_path / "a.png")
    assert plots.png(figure) == (tmp_path / "a.png").read_bytes()


def test_spectrograms_share_one_scale_and_hold_the_rows():
    arrays = [fused(14), fused(20)]
    figure = plots.spectrograms(arrays, ["a", "b"], beat=True)
    mel, mel_b, chroma, chroma_b = (axes.collections[0] for axes in figure.axes[:4])
    np.testing.assert_array_equal(mel.get_array(), arrays[0][:128])
    np.testing.assert_array_equal(chroma_b.get_array(), arrays[1][128:])
    assert mel.get_clim() == mel_b.get_clim() == (-80, 0)
    assert chroma.get_clim() == chroma_b.get_clim() == (0, 1)
    assert "dB" in figure.axes[4].get_ylabel()
    figure.canvas.draw()
    assert labels(figure.axes[2].get_yticklabels())[:7] == ["C", "D", "E", "F", "G", "A", "B"]


def test_mean_profiles_stand_at_the_peaks_of_the_filter_bank():
    profiles = {f"class {index}": np.linspace(-10, -60 - index, MEL_BINS) for index in range(11)}
    axes = plots.mean_profiles(profiles).axes[0]
    assert axes.get_xlabel() == "frequency (Hz)"
    bank = filters.mel(sr=SAMPLE_RATE, n_fft=8 * FFT_LENGTH, n_mels=MEL_BINS)
    peaks = fft_frequencies(sr=SAMPLE_RATE, n_fft=8 * FFT_LENGTH)[bank.argmax(axis=1)]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), peaks, atol=SAMPLE_RATE / 8 / FFT_LENGTH)
    np.testing.assert_array_equal(axes.lines[3].get_ydata(), profiles["class 3"])
    looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 11


def test_class_histograms_before_and_after():
    figure = plots.class_histograms({"Rock": 160, "Post-Rock": 95, LONG: 3}, {"Rock": 255}, "train")
    before, after = figure.axes
    assert [bar.get_width() for bar in before.patches] == [160, 95, 3]
    assert labels(before.get_yticklabels()) == ["Rock", "Post-Rock", LONG]
    assert [bar.get_width() for bar in after.patches] == [255]
    assert after.get_title() == "after merging: 1 classes, 255 clips"
    assert figure.get_suptitle() == "train"


def test_value_histograms_leave_nan_out():
    values = {"valence": np.array([0.0, 0.01, 1.0, np.nan]), "energy": np.array([np.nan])}
    valence, energy = plots.value_histograms(values).axes
    assert heights(valence)[0] == 2
    assert sum(heights(valence)) == 3
    assert valence.get_xlabel() == "valence"
    assert valence.get_title().startswith("3 clips, mean 0.337")
    assert energy.get_title() == "0 clips"


def test_every_bin_of_lengths_holds_as_many_lengths():
    axes = plots.value_histograms({"frames": np.arange(14, 130)}).axes[0]
    assert set(heights(axes)) == {4.0}


def test_learning_curves_pair_train_with_validation():
    history = {
        "loss": [3.0, 2.0, 1.0],
        "val_loss": [3.5, 2.5, 2.6],
        "learning_rate": [1e-3] * 3,
        "val_spearman": [0.1, 0.3, 0.2],
    }
    loss, score = plots.learning_curves(history, best_epoch=2).axes
    train, validation, best = loss.lines
    assert list(train.get_xdata()) == [1, 2, 3]
    assert list(train.get_ydata()) == history["loss"]
    assert list(validation.get_ydata()) == history["val_loss"]
    assert list(best.get_xdata()) == [2, 2]
    assert [loss.get_title(), score.get_title()] == ["loss", "spearman"]
    assert labels(score.get_legend().get_texts()) == ["validation", "best epoch: 2"]


@pytest.mark.parametrize(
    ("scale", "last", "shown"),
    [(1, 0, ["normalized mse"]), (3, 0, ["normalized mse"]), (1, 0.5, ["loss", "normalized mse"])],
    ids=["one task", "three tasks", "weighted"],
)
def test_a_loss_that_is_a_multiple_of_another_metric_has_no_panel(scale, last, shown):
    error, of_validation = np.array([3.0, 2.0, 1.0]), np.array([3.5, 2.5, 2.6])
    history = {"loss": scale * error, "val_loss": scale * of_validation + [0, 0, last]}
    history |= {"normalized_mse": error, "val_normalized_mse": of_validation}
    assert [axes.get_title() for axes in plots.learning_curves(history, 2).axes] == shown


def test_a_loss_next_to_an_accuracy_of_nothing_has_its_panel():
    zeros = {"accuracy": [0.0, 0.0], "val_accuracy": [0.0, 0.0]}
    assert len(plots.learning_curves({"loss": [2.0, 1.0], "val_loss": [2.0, 1.0], **zeros}, 1).axes) == 2


def test_learning_curves_of_one_epoch():
    figure = plots.learning_curves({"loss": [2.0], "val_loss": [2.1]}, best_epoch=1)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert axes.lines[0].get_marker() == "o"
    assert list(axes.get_xticks()) == [0, 1, 2]  # whole epochs; 0 and 2 lie outside
    assert axes.get_xlim() == (0.5, 1.5)


def test_learning_curves_without_validation():
    axes = plots.learning_curves({"loss": [2.0, 1.0]}, best_epoch=2).axes
    assert len(axes) == 1
    assert list(axes[0].lines[0].get_ydata()) == [2, 1]


def test_confusion_matrix_counts_and_shares():
    figure = plots.confusion_matrix(np.array([[3, 1, 0], [0, 0, 0], [0, 2, 6]]), ["Rock", "Folk", LONG])
    axes = figure.axes[0]
    assert labels(axes.texts) == ["3", "1", "0", "0", "0", "0", "0", "2", "6"]
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares, [[0.75, 0.25, 0], [0, 0, 0], [0, 0.25, 0.75]])
    assert labels(axes.get_yticklabels()) == labels(axes.get_xticklabels()) == ["Rock", "Folk", LONG]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_activations_one_row_a_layer():
    rng = np.random.default_rng(0)
    spectrogram, conv, lstm = rng.random((20, 8)), rng.random((10, 4, 12)), rng.random((20, 6))
    figure = plots.activations([("conv_1", conv), ("lstm", lstm)], spectrogram)
    assert [len(axes.images) for axes in figure.axes] == [1, 8, 1]
    assert [axes.get_ylabel() for axes in figure.axes] == ["input\n20 x 8", "conv_1\n10 x 4 x 12", "lstm\n20 x 6"]
    third = figure.axes[1].images[2]
    np.testing.assert_array_equal(third.get_array(), conv[:, :, 2].T)
    assert third.origin == "lower"


def test_scatter_one_panel_a_task():
    true, predicted = np.array([[0.1, np.nan], [0.9, 0.4]]), np.array([[0.2, 0.3], [0.8, 0.5]])
    figure = plots.scatter(true, predicted, ["valence", "energy"], {"valence": 1.0, "energy": 0.0})
    valence, energy = figure.axes
    np.testing.assert_allclose(valence.collections[0].get_offsets(), [[0.1, 0.2], [0.9, 0.8]])
    assert valence.get_title() == "valence\nSpearman's rho = 1.000"
    assert energy.get_xlabel() == "true"


def test_batch_padding_adds_up():
    figure = plots.batch_padding([np.array([10, 30]), np.array([50])], [30, 40])
    bars = heights(figure.axes[0])
    assert bars == [40, 40, 20, 0]  # frames of clips, the second clip cut to 40; then padding
    assert figure.axes[0].get_title() == "2 batches: 20.0% padding"


def test_loss_curve_is_logarithmic():
    axes = plots.loss_curve([1.0, 0.1, 0.0], "Overfitting 2 batches", threshold=0.05).axes[0]
    assert axes.get_yscale() == "log"
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3]
    assert set(axes.lines[1].get_ydata()) == {0.05}
    assert axes.get_title() == "Overfitting 2 batches"


EVERY_KIND = {
    "full": lambda: plots.spectrograms([fused(1291), fused(30)], [LONG, "A$AP $1"], beat=False),
    "profiles": lambda: plots.mean_profiles({"A$AP $^": np.linspace(-1, -70, 128)}),
    "classes": lambda: plots.class_histograms({"$x_$": 1}, {"a": 1}, "$5 and $^6"),
    "values": lambda: plots.value_histograms({"valence": np.array([0.5])}),
    "curves": lambda: plots.learning_curves({"loss": [math.nan], "val_loss": [math.inf]}, 1),
    "confusion": lambda: plots.confusion_matrix(np.eye(2, dtype=int), ["$^$", LONG]),
    "activations": lambda: plots.activations([("dead", np.zeros((4, 2, 3)))], np.zeros((8, 4))),
    "scatter": lambda: plots.scatter(np.full((2, 1), np.nan), np.zeros((2, 1)), ["valence"], {"valence": 0.0}),
    "padding": lambda: plots.batch_padding([np.array([5])], [5]),
    "loss": lambda: plots.loss_curve([1.0], "one epoch"),
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_saves_as_png_and_leaves_no_figure_open(kind: str, tmp_path: Path):
    figure = EVERY_KIND[kind]()
    assert type(figure) is Figure
    plots.save_figure(figure, tmp_path / "figures" / f"{kind}.png")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == [f"{kind}.png"]
    assert (tmp_path / "figures" / f"{kind}.png").read_bytes().startswith(PNG)
    assert not matplotlib._pylab_helpers.Gcf.figs


def test_calibration_groups_clips_by_their_prediction():
    predicted = np.linspace(0.05, 0.95, 40)[::-1].reshape(-1, 1)
    true = predicted / 2
    true[0, 0] = np.nan
    (axes,) = plots.calibration(true, predicted, ["energy"]).axes
    points = axes.lines[1]
    assert len(points.get_xdata()) == 10
    x, y = (np.array(values, dtype=float) for values in (points.get_xdata(), points.get_ydata()))
    np.testing.assert_allclose(y, x / 2)
    assert axes.get_title() == "energy\n10 groups of clips"
    (axes,) = plots.calibration(true[:4], predicted[:4], ["energy"]).axes
    assert axes.get_title() == "energy\n3 groups of clips"


def test_residuals_are_predicted_less_true():
    true, predicted = np.array([[0.5, 0.2], [np.nan, 0.4]]), np.array([[0.75, 0.2], [0.1, 0.3]])
    first, second = plots.residuals(true, predicted, ["a$", "b"]).axes
    np.testing.assert_allclose(first.collections[0].get_offsets(), [[0.75, 0.25]])
    np.testing.assert_allclose(second.collections[0].get_offsets(), [[0.2, 0], [0.3, -0.1]], atol=1e-12)
    assert second.get_title() == "b\nmean -0.050, sd 0.050"
    assert (first.get_xlabel(), first.get_ylabel()) == ("predicted", "predicted minus true")


def test_intervals_have_a_row_a_run_and_a_panel_a_quantity():
    rows = [("one", {"valence": (0.5, 0.4, 0.6), "mean": (0.4, 0.3, 0.5)}), ("other", {"valence": (0.2, 0.1, 0.3)})]
    valence, mean = plots.intervals(rows, "rho").axes
    assert [panel.get_title() for panel in (valence, mean)] == ["valence", "mean"]
    assert labels(valence.get_yticklabels()) == ["one", "other"]
    assert len(valence.collections) == 2
    assert len(mean.collections) == 1
    np.testing.assert_allclose(valence.collections[1].get_segments()[0], [[0.1, 1], [0.3, 1]])


def test_timeline_draws_each_windows_answer_from_its_begin_to_its_end():
    times = np.array([[0.0, 2.0], [2.0, 4.0], [4.0, 5.0]])
    tags = (times[:2] / 2, {"sad": np.array([0.2, 0.3])})
    panels = {"genre": (times, {"Rock": np.array([0.1, 0.7, 0.4]), "Jazz": np.array([0.9, 0.3, 0.6])}), "tags": tags}
    mel = np.random.default_rng(0).uniform(-80, 0, (128, 5001))
    figure = plots.timeline(mel, panels, "song", stride=2)
    spectrogram, genre, tags = figure.axes[:3]
    assert tags.patches[0].get_data().edges.tolist() == [0, 1, 2]
    rock, jazz = genre.patches
    assert rock.get_data().values.tolist() == [0.1, 0.7, 0.4]
    assert jazz.get_data().edges.tolist() == [0, 2, 4, 5]
    assert [text.get_text() for text in genre.get_legend().get_texts()] == ["Rock", "Jazz"]
    (mesh,) = (item for item in spectrogram.collections if item.get_array() is not None)
    assert mesh.get_array().shape == (128, 1667)  # every third frame
    assert mesh.get_coordinates()[0, -1, 0] == pytest.approx(2 * 5001 * 512 / 22_050)
    assert spectrogram.get_xlim()[1] == pytest.approx(2 * 5001 * 512 / 22_050)
    figure.canvas.draw()


@pytest.mark.parametrize("lines", [2, 7])
def test_a_narrow_timeline_has_its_legends_inside_and_above_their_panels(lines):
    values = {f"joyful activation {number}": np.array([0.1]) for number in range(lines)}
    figure = plots.timeline(np.zeros((128, 60)), {"affect": (np.array([[0.0, 1.4]]), values)}, "", narrow=True)
    figure.canvas.draw()
    axes = figure.axes[1]
    legend, whole = axes.get_legend().get_window_extent(), figure.bbox
    assert legend.y0 >= axes.get_window_extent().y1 - 1
    assert legend.x0 >= 0
    assert legend.x1 <= whole.width
    assert axes.get_window_extent().height > 1.2 * figure.dpi
    assert figure.get_figwidth() == 5


def test_a_timeline_of_logmel_has_its_own_frames_bands_and_scale():
    figure = plots.timeline(np.full((96, 1250), 3.0), {}, "song", stride=2)
    spectrogram = figure.axes[0]
    (mesh,) = (item for item in spectrogram.collections if item.get_array() is not None)
    assert (mesh.get_array().shape, mesh.get_clim()) == ((96, 1250), (0, 7))
    assert spectrogram.get_xlim()[1] == pytest.approx(2 * 1250 * 256 / 16_000)
    assert spectrogram.child_axes[0].get_ylabel() == "log10(1 + 10000 power)"


def test_one_feature_alone_is_shown():
    figure = plots.spectrograms([fused(20), fused(30)], ["a", "b"], beat=True, features=("chroma",))
    first, second, colours = figure.axes
    assert (first.get_ylabel(), first.get_xlabel(), colours.get_ylabel()) == ("pitch class", "time (beats)", "chroma")
    assert first.get_xlim() == second.get_xlim() == (0, 30)


def test_curves_are_named_lines_by_epoch_and_a_threshold_makes_the_scale_logarithmic():
    figure = plots.curves({"check": {"a_b": [3.0, 2.0], "c": [1.0]}}, "loss", threshold=0.01)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["a_b", "c", "threshold 0.01"]
    assert axes.lines[0].get_xydata().tolist() == [[1, 3], [2, 2]]
    assert axes.get_yscale() == "log"
    assert plots.curves({"one": {"a": [0.1]}, "two": {"a": [0.2]}}, "rho").axes[1].get_yscale() == "linear"


def test_values_by_number_have_their_intervals():
    figure = plots.values_by_number(
        {"tuned": {0: (0.5, 0.4, 0.7)}, "frozen": {0: (0.5, 0.4, 0.7), 2: (0.3, 0, 0.4)}}, "n", "rho"
    )
    (axes,) = figure.axes
    (bars,) = axes.containers[0].lines[2]
    assert bars.get_segments()[0].tolist() == [[0, 0.4], [0, pytest.approx(0.7)]]
    assert axes.containers[1].lines[0].get_xdata().tolist() == pytest.approx([0.06, 2.06])


def test_scores_by_share_have_a_panel_a_score_and_a_line_a_recipe():
    points = {12: (0.3, 0.2, 0.45), 100: (0.5, 0.4, 0.6)}
    figure = plots.scores_by_share(
        {"rho": {"one": points, "b$": points}, "rho_x": {"b$": points}}, {12: 30.4, 100: 240.0}
    )
    both, alone = figure.axes
    assert [axes.get_title() for axes in (both, alone)] == ["rho", "rho_x"]
    assert labels(both.get_xticklabels()) == ["12 %\n30", "100 %\n240"]
    assert both.get_xscale() == "log"
    one, other = both.containers
    (bars,) = one.lines[2]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [pytest.approx([0.2, 0.45]), [0.4, 0.6]]
    ratio = other.lines[0].get_xdata() / one.lines[0].get_xdata()
    assert ratio.tolist() == pytest.approx([1.02, 1.02])  # next to each other at every share
    assert one.lines[0].get_color() != other.lines[0].get_color() == alone.containers[0].lines[0].get_color()


def test_precision_by_recall_is_that_of_each_class_against_all_others():
    true = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])  # class 0 is found without a mistake
    figure = plots.precision_recall_curves(true, scores, ["a", "b"], ["a"])
    (axes,) = figure.axes
    curve, chance = axes.lines
    assert curve.get_label() == "a: average precision 1.000"
    assert curve.get_ydata()[:-1].tolist() == [0.5, 2 / 3, 1, 1]
    assert chance.get_ydata() == [0.5, 0.5]


def logmel(frames: int) -> np.ndarray:
    return np.random.default_rng(frames).uniform(0, 6, (96, frames))


def test_logmel_is_drawn_in_its_own_units_and_frequencies():
    arrays = [logmel(1876), logmel(625)]
    figure = plots.spectrograms(arrays, ["a", "b"], beat=False)
    first, second, colours = figure.axes
    assert first.get_xlim() == second.get_xlim() == pytest.approx((0, 30.016))
    assert first.get_ylim() == (0, 8000)
    assert (first.get_ylabel(), first.get_xlabel()) == ("mel frequency (Hz)", "time (s)")
    np.testing.assert_array_equal(second.collections[0].get_array(), arrays[1])
    assert first.collections[0].get_clim() == (0, 7)
    assert colours.get_ylabel() == "mel (log10(1 + 10000 power))"
    assert second.collections[0].get_coordinates()[0, -1, 0] == pytest.approx(10)


def test_mean_profiles_of_logmel_end_at_its_highest_band():
    figure = plots.mean_profiles({"Jazz": logmel(3)[:, 0]})
    hertz = figure.axes[0].lines[0].get_xdata()
    banks = filters.mel(sr=16_000, n_fft=2**16, n_mels=96)
    np.testing.assert_allclose(hertz, fft_frequencies(sr=16_000, n_fft=2**16)[banks.argmax(axis=1)], atol=0.25)
    assert "log10" in figure.axes[0].get_ylabel()

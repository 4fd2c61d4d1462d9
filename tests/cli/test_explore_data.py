import json

import numpy as np

from mtmusic.data.labels import read_genre_labels
from mtmusic.data.spectrograms import read_array
from mtmusic.datasets.explore import batch_lengths, mean_mel_profiles
from tests.folders import write_tiny_genre_folder


def test_pictures_and_counts_are_written(script, genre_folder, tmp_path, capsys):
    write_tiny_genre_folder(tmp_path / "tiny")  # the full-rate twin
    out = tmp_path / "seen"
    assert script("explore_data").main(["--data", str(genre_folder), "--out", str(out), "--batch-size", "8"]) == 0
    assert {path.name for path in out.iterdir()} == {
        "two_clips.png", "two_clips_full.png", "mean_profiles.png", "class_histograms.png", "lengths.png",
        "batches.png", "summary.json",
    }  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    assert summary["array_shape"][0] == 140
    assert {name: shape[0] for name, shape in summary["feature_shapes"].items()} == {
        "mel": 128, "chroma": 12, "fused": 140,
    }  # fmt: skip
    assert sum(sum(counts.values()) for counts in summary["clips"].values()) == 33
    assert 0 < summary["padding_share"] < 0.5 < summary["flat_cnn_padding_share"] < 1
    assert summary["contents"]["splits"] == {
        "train": {"arrays": 24, "labels": 24}, "test": {"arrays": 9, "labels": 9},
    }  # fmt: skip
    assert summary["contents"]["files"] == ["test_labels.txt", "train_labels.txt"]
    assert "Devices: " in capsys.readouterr().out
    assert script("explore_data").main(["--data", str(genre_folder), "--out", str(out)]) == 0  # its own is replaced


def test_a_folder_with_other_things_is_not_touched(script, genre_folder, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert script("explore_data").main(["--data", str(genre_folder), "--out", str(tmp_path / "mine")]) == 2
    assert "holds other things" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    out = str(tmp_path / "seen")
    assert script("explore_data").main(["--data", str(genre_folder), "--out", out, "--batch-size", "0"]) == 2
    assert "--batch-size" in capsys.readouterr().err


def test_batch_lengths_count_every_clip_once(genre_folder):
    clips = read_genre_labels(genre_folder)
    lengths, padded = batch_lengths(clips, 7, seed=0)
    true_lengths = [read_array(path).shape[1] for path in clips.paths]
    assert sorted(np.concatenate(lengths).tolist()) == sorted(true_lengths)
    assert padded == [int(length.max()) for length in lengths]


def test_mean_profiles_are_means_over_frames_then_clips(genre_folder):
    clips = read_genre_labels(genre_folder)
    jazz = [read_array(path)[:128].mean(axis=1) for path, t in zip(clips.paths, clips.targets, strict=True) if t == 1]
    np.testing.assert_allclose(mean_mel_profiles(clips)["Jazz"], np.mean(jazz, axis=0), rtol=1e-5)


def test_a_logmel_folder_is_drawn_too(script, tmp_path):
    folder, out = write_tiny_genre_folder(tmp_path / "logmel", feature="logmel"), tmp_path / "seen"
    assert script("explore_data").main(["--data", str(folder), "--out", str(out), "--batch-size", "8"]) == 0
    assert {"two_clips.png", "mean_profiles.png", "lengths.png"} <= {path.name for path in out.iterdir()}
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["feature"], summary["array_shape"][0]) == ("logmel", 96)
    assert summary["feature_shapes"] == {"logmel": summary["array_shape"]}
    clips = read_genre_labels(folder)
    assert mean_mel_profiles(clips)["Jazz"].shape == (96,)

"""The benchmarks in their quick form, the peer replaced by a stub: what they write is read, how fast it was is not."""

import importlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import keras
import librosa
import numpy as np
import pytest
import soundfile
import tensorflow as tf

from mtmusic.audio.synthesis import synthesise
from mtmusic.constants import SAMPLE_RATE
from mtmusic.data.folder import LoadOptions, load_genre_data
from mtmusic.data.labels import Clips
from mtmusic.models import backbones
from mtmusic.models.transfer import freeze, load_backbone
from mtmusic.serving.predictor import Predictor
from mtmusic.training import recipes
from tests.folders import write_tiny_genre_folder
from tests.runs import tiny_card, write_tiny_run

PROJECT = Path(__file__).parent.parent.parent

PEER = """import argparse, json
flags = argparse.ArgumentParser()
flags.add_argument("model")
for name in ("--batch", "--frames", "--repeats"):
    flags.add_argument(name, type=int)
for name in ("--varied", "--channels-last", "--bfloat16", "--unpacked"):
    flags.add_argument(name, action="store_true")
print(json.dumps({**vars(flags.parse_args()), "step_seconds": 2.0, "forward_seconds": 0.5, "torch": "0", "threads": 1}))
"""
BROKEN = [None, "raise SystemExit('no torch')", "print('no JSON')", "print('{}')", "print('[1]')"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def in_this_process(benchmark, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """training_step without processes of its own, on a machine that has bfloat16, whatever this one has."""
    module = benchmark("training_step")
    monkeypatch.setattr(module, "MATRIX", 64)
    monkeypatch.setattr(module, "in_child", lambda call, case: call(case))
    monkeypatch.setattr("mtmusic.models.precision.supported", lambda precision: precision)
    for layer in module.PLAIN.values():
        monkeypatch.setattr(f"mtmusic.models.backbones.{layer}", getattr(backbones, layer))
    return module


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab's networks with few units and filters, whose graphs are traced in less time."""
    cnn, lstm = replace(recipes.LAB_CNN, blocks=((4, 3), (4, 3))), replace(recipes.LAB_LSTM, units=4)
    for name, recipe in (("cnn", cnn), ("lstm", lstm)):
        monkeypatch.setattr(recipes, f"LAB_{name.upper()}", recipe)
        monkeypatch.setitem(recipes.RECIPES, name, recipe)
    monkeypatch.setattr("mtmusic.models.cpu.lstm.UNROLLED", 1)


def test_training_step_against_a_stub(benchmark, tmp_path):
    (tmp_path / "lab_torch.py").write_text(PEER)
    out = tmp_path / "out.json"
    arguments = ["--peer", str(tmp_path), "--quick", "--only", "lstm-1292", "--rounds", "1", "--json", str(out)]
    assert benchmark("training_step").main(arguments) == 0
    content = json.loads(out.read_text())
    rows = {(row["pass"], row["peer_runs"]): row for row in content["rows"]}
    assert set(rows) == {(a, b) for a in ("step", "forward") for b in ("as the lab", "unpacked", "Keras's LSTM")}
    step = rows["step", "unpacked"]
    assert step["peer_seconds"] == 2
    assert step["ratio"] == step["ratio_min"] == step["ratio_max"] == 2 / step["ours_seconds"] > 0
    peer = content["measurements"][1]["peer"][0]
    assert (peer["model"], peer["batch"], peer["frames"], peer["repeats"]) == ("lstm", 2, 32, 1)
    assert (peer["varied"], peer["unpacked"], peer["channels_last"]) == (True, True, False)


def test_ratio_is_the_median_of_the_pairs(benchmark):
    ours = [{"step_seconds": a, "forward_seconds": 1} for a in (1, 6, 3)]
    peer = [{"step_seconds": b, "forward_seconds": 1} for b in (2, 2, 3)]
    measured = {"case": "cnn", "peer_runs": "as the lab", "ours": ours, "peer": peer}
    step, forward = benchmark("training_step").rows_of(measured)
    assert (step["ratio"], step["ratio_min"], step["ratio_max"]) == (1, pytest.approx(1 / 3), 2)
    assert (step["ours_seconds"], step["peer_seconds"], forward["ratio"]) == (3, 2, 1)


def test_the_cnn_beside_keras_layers_and_the_machines_limit(in_this_process, tmp_path):
    (tmp_path / "lab_torch.py").write_text(PEER)
    module = in_this_process
    out = tmp_path / "out.json"
    arguments = ["--peer", str(tmp_path), "--quick", "--only", "cnn-bfloat16", "--rounds", "1", "--json", str(out)]
    assert module.main(arguments) == 0
    content = json.loads(out.read_text())
    assert {row["peer_runs"] for row in content["rows"]} == {"as the lab", "channels-last, bfloat16", *module.NORM}
    limit = content["limits"][0]
    assert limit["limit_seconds"] == limit["gflop"] / limit["gflop_per_second"] > 0
    assert limit["ours_seconds"] == content["rows"][0]["ours_seconds"]


LAYERS = {
    "Keras's Conv2D": ("cnn", "block2_conv"),
    "Keras's BatchNormalization": ("cnn", "block2_norm"),
    "Keras's LSTM": ("lstm-128-bfloat16", "block1_lstm"),
}


@pytest.mark.parametrize("plain", ["", *LAYERS])
def test_beside_keras_s_own_layer_one_layer_is_another(in_this_process, plain):
    for name, (case, layer_name) in LAYERS.items():
        model = in_this_process.build(replace(in_this_process.CASES[case], batch=2, frames=16, plain=plain))
        layer = model.get_layer("backbone").get_layer(layer_name)
        ours, keras_s = in_this_process.PLAIN[name], name.removeprefix("Keras's ")
        assert type(layer).__name__ == (keras_s if name == plain else ours)
        assert layer.compute_dtype == in_this_process.CASES[case].precision


@pytest.mark.parametrize(("case", "frames"), [("cnn", 16), ("cnn-masked", None), ("lstm-128", None)])
def test_the_frames_of_a_measured_step_are_known_as_a_training_knows_them(in_this_process, case, frames):
    model = in_this_process.build(replace(in_this_process.CASES[case], batch=2, frames=16))
    shape = (None, *model.input_shape[1:])
    batches = in_this_process._repeated(np.zeros((2, 16, 128), "float32"), np.zeros(2, int), shape)
    assert batches.element_spec[0].shape == (None, frames, 128)
    assert next(iter(batches))[0].shape == (2, 16, 128)


def test_what_was_measured_is_kept_where_a_later_case_fails(in_this_process, tmp_path, monkeypatch):
    (tmp_path / "lab_torch.py").write_text(PEER)
    calls = iter([{"step_seconds": 1, "forward_seconds": 1, "gflop_per_second": 1}] * 3)
    monkeypatch.setattr(in_this_process, "in_child", lambda *_: next(calls))
    out = tmp_path / "out.json"
    with pytest.raises(StopIteration):
        in_this_process.main(["--peer", str(tmp_path), "--quick", "--rounds", "1", "--json", str(out)])
    assert {row["case"] for row in json.loads(out.read_text())["rows"]} == {"cnn"}


def test_without_bfloat16_no_row_bears_its_name(in_this_process, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mtmusic.models.precision.supported", lambda _: "float32")
    assert in_this_process.main(["--only", "cnn-masked-bfloat16", "--quick"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("cnn-masked-bfloat16 is left out")


def test_the_peer_is_not_timed_beside_a_gpu(in_this_process, tmp_path, monkeypatch, capsys):
    (tmp_path / "lab_torch.py").write_text(PEER)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    assert in_this_process.main(["--peer", str(tmp_path), "--quick", "--only", "cnn"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Expected no GPU")
    assert "CUDA_VISIBLE_DEVICES=" in error
    assert len(error.splitlines()) == 1
    monkeypatch.setattr(in_this_process, "_compare", lambda *_: [])
    assert in_this_process.main(["--peer", str(tmp_path / "absent"), "--quick", "--only", "cnn-masked"]) == 0


def test_step_sizes_draws_a_line_a_way(benchmark, tmp_path, monkeypatch, capsys):
    (tmp_path / "lab_torch.py").write_text(PEER)
    module = benchmark("step_sizes")
    monkeypatch.setattr("mtmusic.models.precision.supported", lambda precision: precision)
    monkeypatch.setattr(
        module.training_step, "in_child", lambda _, case: {"step_seconds": case.batch * case.frames / 10}
    )
    out = tmp_path / "out.png"
    arguments = ["--peer", str(tmp_path), "--quick", "--out", str(out), "--json", str(tmp_path / "out.json")]
    assert module.main(arguments) == 0
    panels = json.loads((tmp_path / "out.json").read_text())
    assert list(panels) == [
        "CNN, batch 2, by frames", "CNN, 16 frames, by batch", "LSTM, batch 2, by frames", "LSTM, 16 frames, by batch"
    ]  # fmt: skip
    assert panels["CNN, batch 2, by frames"]["mtmusic, bfloat16"] == [[16, 3.2], [32, 6.4]]
    assert panels["LSTM, 16 frames, by batch"]["PyTorch, unpacked"] == [[1, 2], [2, 2]]
    assert out.stat().st_size > 1000


def test_layer_profile_sums_each_layers_operations_by_way(benchmark):
    module = benchmark("layer_profile")
    events = [
        ("genre_classifier_1/backbone_1/block1_conv_1/BiasAdd:_MklNativeFusedConv2D", 0.004),
        ("gradient_tape/genre_classifier_1/backbone_1/block1_conv_1/convolution/Conv2DBackpropFilter:Mkl", 0.006),
        ("gradient_tape/genre_classifier_1/genre_1/MatMul:MatMul", 0.002),
        ("adam/Square:Square", 0.001),
        ("EagerExecute", 1.0),
        ("ExecutorState::Process", 1.0),
    ]
    assert module.by_layer(events, 2) == {
        "block1_conv": {"forward": 2, "backward": 3},
        "genre": {"forward": 0, "backward": 1},
        module.OTHER: {"forward": 0.5, "backward": 0},
    }


def test_layer_profile_of_a_small_step(benchmark, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--batch", "2", "--frames", "16", "--steps", "1", "--json", str(out)]
    assert benchmark("layer_profile").main(arguments) == 0
    rows = json.loads(out.read_text())["milliseconds"]
    assert {f"block{n}_{kind}" for n in range(1, 5) for kind in ("conv", "norm", "pool")} | {"genre"} <= set(rows)
    assert all(rows[f"block{n}_conv"][way] > 0 for n in range(1, 5) for way in ("forward", "backward"))
    assert "A step takes" in capsys.readouterr().out


def test_the_work_of_a_step_is_that_of_its_convolutions(benchmark):
    block1 = 2 * 2 * 128 * 128 * 25 * 1 * 128
    block2, block3, block4 = (3 * 2 * n * n * 25 * a * b for n, a, b in ((64, 128, 64), (32, 64, 32), (16, 32, 8)))
    expected = 32 * (block1 + block2 + block3 + block4) / 1e9
    assert benchmark("training_step").step_gflop(32, 128) == pytest.approx(expected)


@pytest.mark.parametrize("peer", BROKEN)
def test_training_step_without_a_peer(benchmark, tmp_path, capsys, monkeypatch, peer):
    module = benchmark("training_step")
    monkeypatch.setattr(module, "in_child", lambda *_: {})
    if peer is not None:
        (tmp_path / "lab_torch.py").write_text(peer)
    assert module.main(["--peer", str(tmp_path), "--quick", "--only", "cnn"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert lines[-1].startswith("error: ")


def test_epoch_against_a_stub(benchmark, small_networks, tmp_path, capsys):
    (tmp_path / "lab_torch.py").write_text(PEER)
    out = tmp_path / "out.json"
    arguments = ["--peer", str(tmp_path), "--quick", "--rounds", "1", "--json", str(out)]
    assert benchmark("epoch").main(arguments) == 0
    content = json.loads(out.read_text())
    assert [(row["network"], row["against"]) for row in content["rows"]] == [
        ("lstm", "ours, padded"),
        ("lstm", "Keras's LSTM, by length"),
        ("lstm", "Keras's LSTM, padded"),
        ("lstm", "the peer, packed"),
        ("lstm", "the peer, unpacked"),
        ("cnn", "ours, padded"),
    ]
    assert all(row["clips"] == 24 and row["ratio"] == row["ratio_min"] > 0 for row in content["rows"])
    assert content["seconds"]["lstm"]["the peer, packed"] == [2.0 * 24 / 3]
    told = capsys.readouterr().out
    assert [told.count(f"of an epoch of {way}") for way in ("ours, padded", "Keras's LSTM, padded")] == [2, 1]
    assert benchmark("epoch").main(["--only", "cnn", "--clips", "3"]) == 2


@pytest.mark.parametrize("peer", BROKEN[:3])
def test_epoch_without_a_peer(benchmark, tmp_path, capsys, peer):
    if peer is not None:
        (tmp_path / "lab_torch.py").write_text(peer)
    assert benchmark("epoch").main(["--peer", str(tmp_path), "--quick", "--only", "lstm"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_the_peers_epoch_has_our_batches(benchmark, monkeypatch):
    module, words = benchmark("epoch"), []
    monkeypatch.setattr(module, "run_torch", lambda *told: words.extend(told) or {"step_seconds": 2.0})
    assert module._peer_epoch(50, 16, 129, ["--unpacked"], []) == 2.0 * 4
    assert words[words.index("--batch") + 1] == 16


def test_all_epochs_have_one_iterator(benchmark, monkeypatch, tmp_path):
    clips = benchmark("lab_folder").write_clips(tmp_path, [20] * 10, np.random.default_rng(0))
    started, start = [], tf.data.Dataset.__iter__
    monkeypatch.setattr(tf.data.Dataset, "__iter__", lambda dataset: started.append(1) or start(dataset))
    epoch = benchmark("epoch")._epoch("lstm", clips, 4, None)
    for _ in range(3):
        epoch()
    assert len(started) == 1


def test_what_an_epoch_saves_is_the_median_of_the_pairs(benchmark):
    seconds = {"by length": [1.0, 6.0, 3.0], "ours, padded": [2.0, 2.0, 3.0]}
    (row,) = benchmark("epoch").rows_of("lstm", 2305, seconds)
    assert (row["ratio"], row["ratio_min"], row["ratio_max"]) == (1, 0.5, 3)
    assert (row["ours_seconds"], row["other_seconds"]) == (3, 2)


def test_lab_folder(benchmark, tmp_path):
    lengths = np.array(benchmark("lab_folder").lab_lengths(2305))
    assert (len(lengths), lengths.min(), lengths.max()) == (2305, 14, 129)
    assert lengths.mean() == pytest.approx(60, abs=0.2)
    assert lengths.std() == pytest.approx(15, abs=0.2)
    clips = benchmark("lab_folder").write_clips(tmp_path, [3, 5] * 20, np.random.default_rng(0))
    assert sum(np.load(path).shape[1] for path in clips.paths) == 160
    assert all(count >= 2 for count in clips.counts().values())
    assert max(clips.counts(), key=clips.counts().get) == "Rock"


def test_pipeline(benchmark, small_networks, tmp_path):
    out = tmp_path / "out.json"
    assert benchmark("pipeline").main(["--quick", "--rounds", "1", "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    rows = content["rows"]
    assert [row["folder"] for row in rows] == ["beat"] * 4 + ["full rate"] * 4
    assert all(row["clips_per_second"] > 0 and row["ratio"] > 0 for row in rows)
    assert rows[0]["way"] == "NumPy loop"
    assert rows[0]["ratio"] == 1
    assert all(row["seconds"] > 0 and row["from_disk"] >= 0 for row in content["cold"])
    assert len(content["wait"]) == 4
    assert all(0 < row["wait"] < 1 and row["epoch_seconds"] > 0 for row in content["wait"])


def test_pipeline_refuses_a_seed_below_0(benchmark, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark("pipeline").main(["--seed", "-1"])
    assert "argument --seed: expected 0 to 4294967295, got -1" in capsys.readouterr().err.splitlines()[-1]


def test_startup(benchmark, tmp_path):
    out = tmp_path / "out.json"
    rows = []
    for only in ("help", "first-step"):
        flags = ["--quick", "--only", only, "--backbone", "lstm", "--json", str(out)]
        assert benchmark("startup").main(flags) == 0
        rows += json.loads(out.read_text())["rows"]
    helps = [row["command"] for row in rows if row["kind"] == "help"]
    assert {"train_genre.py", "predict.py"} < set(helps)
    assert [row["command"] for row in rows if row["kind"] == "first step"] == [
        "train_genre.py --backbone lstm, empty cache",
        "train_genre.py --backbone lstm, warm cache",
    ]
    assert all(row["seconds"] > 0 and row["processor_seconds"] > 0 for row in rows)


def test_startup_of_a_prediction(benchmark, trunk, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert benchmark("startup").main(["--only", "predict", "--quick", "--json", str(out)]) == 0
    first, *rows = json.loads(out.read_text())["rows"]
    assert (first["command"], first["ratios"]) == ('python -c "import tensorflow"', [1.0])
    assert [row["command"] for row in rows] == [
        f"mtmusic predict, {name}" for name in ("cnn, beats", "lstm, full rate", "musicnn")
    ]
    for row in rows:
        assert row["ratios"] == [pytest.approx(row["seconds"] / first["seconds"])]
    assert "goal 1.3" in capsys.readouterr().out


def test_startup_tells_what_stopped_the_script(benchmark, tmp_path, capsys):
    assert benchmark("startup").main(["--only", "first-step", "--quick", "--data", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err


def test_memory(benchmark, tmp_path, capsys):
    out = tmp_path / "out.json"
    plot = tmp_path / "memory.png"
    arguments = ["--clips", "8", "--frames", "64", "--cap-mib", "0.1", "--json", str(out), "--plot", str(plot)]
    assert benchmark("memory").main(arguments) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    content = json.loads(out.read_text())
    assert [row["clips"] for row in content["rows"]] == [8]
    frames = (64, 64, 63, 62, 61, 60, 60, 59)
    assert content["rows"][0]["folder_mib"] == sum(frames) * 128 * 4 / 2**20
    assert content["rows"][0]["peak_mib"] > 0


def test_in_the_folders_of_memory_the_checks_find_nothing(benchmark, tmp_path):
    benchmark("memory").write_folder(tmp_path, 30, 300)
    data = load_genre_data(LoadOptions(tmp_path, beat=False, checks="strict"))
    assert (len(data.splits["train"]), data.frames.min(), data.frames.max()) == (30, 271, 300)


def test_memory_says_what_else_stopped_the_training(benchmark, capsys):
    assert benchmark("memory").main(["--clips", "8", "--frames", "64", "--cap-mib", "0.1", "--batch-size", "0"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: Expected --batch-size of 1 or more, got 0"


def test_memory_beyond_the_limit(benchmark, capsys):
    arguments = ["--clips", "8", "--frames", "64", "--cap-mib", "0.1", "--limit-mib", "1"]
    assert benchmark("memory").main(arguments) == 2
    assert "--limit-mib 1" in capsys.readouterr().err.splitlines()[-1]


def test_growth_of_the_peak(benchmark):
    rows = [{"folder_mib": 10.0, "peak_mib": 100.0}, {"folder_mib": 30.0, "peak_mib": 110.0}]
    assert benchmark("memory").growth(rows) == 0.5
    assert benchmark("memory").growth(rows[:1]) is None


def test_memory_refuses_folders_under_the_cap(benchmark, capsys):
    assert benchmark("memory").main(["--clips", "8", "--frames", "64", "--cap-mib", "1"]) == 2
    assert capsys.readouterr().err.splitlines()[0].startswith("error: Expected folders larger than --cap-mib 1")


def test_extraction_against_a_stub(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTMUSIC_REAL_DATA", str(tmp_path / "absent"))
    (tmp_path / "lab_extractor.py").write_text(
        "from mtmusic.audio.features import fused_spectrogram\n"
        "extract = lambda waveform, rate, beat: fused_spectrogram(waveform, beat) + 1\n"
    )
    out = tmp_path / "out.json"
    assert benchmark("extraction").main(["--peer", str(tmp_path), "--quick", "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    assert [row["rate"] for row in content["rows"]] == ["full", "beat"]
    assert all(row["mel_difference_db"] == pytest.approx(1, abs=1e-4) for row in content["rows"])
    assert [(row["rate"], row["workers"]) for row in content["scaling"]] == [
        ("full", 1), ("full", 2), ("beat", 1), ("beat", 2),
    ]  # fmt: skip
    assert all(row["songs_per_second"] > 0 for row in content["scaling"])
    assert benchmark("extraction").main(["--peer", str(tmp_path / "absent"), "--quick"]) == 2
    assert "lab_extractor.py" in capsys.readouterr().err


def test_serving(benchmark, trunk, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert benchmark("serving").main(["--quick", "--only", "musicnn", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["musicnn"]
    row = rows["musicnn"]
    rate, share, ready, (few, many) = (row.pop(name) for name in ("songs_per_second", "share", "ready", "peak_mb"))
    assert all(value > 0 for value in row.values())
    cpu = sum(row[f"{stage}_processor_seconds"] for stage in ("decode", "features", "model"))
    assert share[0] == pytest.approx(rate[0] * cpu / len(os.sched_getaffinity(0)))
    assert 0 < ready[0] <= 1
    assert 100 < few < 3 * many
    assert "musicnn: " in capsys.readouterr().out


def write_songs(folder: Path) -> list[Path]:
    """Two songs at 44.1 kHz."""
    folder.mkdir()
    for genre, seconds in (("Jazz", 5.0), ("Metal", 5.5)):
        waveform = librosa.resample(synthesise(genre, 0, seconds)[0], orig_sr=SAMPLE_RATE, target_sr=44_100)
        soundfile.write(folder / f"{genre}.wav", waveform, 44_100)
    return sorted(folder.iterdir())


@pytest.fixture
def mood(trunk) -> Path:
    """mood_musicnn with a head of random weights on the trunk."""
    folder = Path("saved_models") / "mood_musicnn"
    card = tiny_card(("valence", "arousal"), "affect", feature="logmel", beat=False, clip_frames=1875)
    backbone = load_backbone("musicnn")
    freeze(backbone, "all")
    write_tiny_run(folder, card, backbone, sharpness=3)
    split = {"per_task": {task: {"mse_constant": 0.04, "clips": 3} for task in card["targets"]}}
    (folder / "metrics.json").write_text(json.dumps({"validation": split, "test": split}))
    return folder


def test_robustness_compares_answers_with_those_of_the_unchanged_song(benchmark, mood, tmp_path, capsys):
    songs = write_songs(tmp_path / "songs")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["--data", str(tmp_path / "songs"), "--songs", "2", "--json", str(out), "--plot", str(plot)]
    assert benchmark("robustness").main(arguments) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    content = json.loads(out.read_text())
    assert content["songs"] == [song.name for song in songs]
    assert content["label_sd"] == pytest.approx({"valence": 0.2, "arousal": 0.2})
    rows = {row["change"]: row for row in content["rows"]}
    assert [row["songs"] for row in rows.values()] == [2] * (len(rows) - 1) + [1]
    alike, another = rows["stereo, both channels alike"], rows["another song"]
    assert (alike["top_tag_changed"], alike["score"], alike["cosine"]) == pytest.approx((0, 0, 1), abs=1e-5)
    assert another["cosine"] < 1 - 1e-3
    silent, quiet = rows["stereo, one channel silent"], rows["-6 dB"]
    assert silent["score"] == pytest.approx(quiet["score"], rel=0.05)

    waveform, rate = soundfile.read(songs[0])
    predictor = Predictor()
    before, after = predictor.predict(songs[0]), predictor.predict(waveform * 10 ** (-12 / 20), sample_rate=rate)
    (measured,) = [one for one in content["measured"] if (one["song"], one["change"]) == (songs[0].name, "-12 dB")]
    changed = {tag: abs(after["tags"][tag] - score) for tag, score in before["tags"].items()}
    assert measured["score"] == pytest.approx(max(changed.values()), abs=1e-5)
    assert measured["score"] > 1e-4
    assert measured["arousal"] == pytest.approx((after["arousal"] - before["arousal"]) / 0.2, abs=1e-4)
    assert "white noise" in capsys.readouterr().out


def test_robustness_counts_top_tags_and_label_deviations(benchmark):
    one, other = (
        {"tags": np.array(tags), "mood": np.array([mood, 0.5]), "embedding": np.array(embedding)}
        for tags, mood, embedding in (([0.2, 0.9], 0.5, [1.0, 0.0]), ([0.5, 0.4], 0.6, [1.0, 1.0]))
    )
    module, tasks, sd = benchmark("robustness"), ("valence", "arousal"), {"valence": 0.2, "arousal": 0.1}
    moved, still = module.difference(one, other, tasks, sd), module.difference(other, other, tasks, sd)
    wanted = {"top_tag_changed": True, "score": 0.5, "valence": -0.5, "arousal": 0, "cosine": 0.5**0.5}
    assert moved == pytest.approx(wanted)
    (row,) = module.summarise([{"change": "a", **moved}, {"change": "a", **still}], tasks)
    assert (row["songs"], row["top_tag_changed"], row["score"], row["score_max"]) == (2, 0.5, 0.25, 0.5)
    assert (row["valence"], row["valence_size"]) == pytest.approx((-0.25, 0.25))


def test_robustness_writes_what_it_names(benchmark, tmp_path):
    module = benchmark("robustness")
    samples = np.sin(np.arange(10 * 44_100) / 20).astype("float32") / 2
    for kbits in (64, 128, 320):
        path = module.write(samples, tmp_path / "song", kbits)
        assert path.stat().st_size == pytest.approx(kbits * 1000 / 8 * 10, rel=0.05)
    path = module.write(module.gain(samples, 44_100, 6), tmp_path / "song", None)
    np.testing.assert_array_equal(soundfile.read(path, dtype="float32")[0], samples * np.float32(10 ** (6 / 20)))
    ramp = np.arange(100)
    assert [module.excerpt(ramp, 10, 3, place)[0] for place in (0, 0.5, 1)] == [0, 35, 70]
    assert len(module.excerpt(ramp, 10, 30, 1)) == 100
    np.testing.assert_array_equal(module.late(np.ones(1000), 44_100), np.arange(1000) >= 661)


def test_the_sounds_of_robustness_are_of_one_level(benchmark):
    sounds = benchmark("robustness").make_sounds(np.random.default_rng(0))
    silence = sounds.pop("silence")
    assert not silence.any()
    assert all(np.sqrt(np.mean(sound**2)) == pytest.approx(0.1, rel=1e-4) for sound in sounds.values())
    pink, white = (np.abs(np.fft.rfft(sounds[f"{name} noise"])) ** 2 for name in ("pink", "white"))
    octaves = [(power[10_000:20_000].sum() / power[20_000:40_000].sum()) for power in (pink, white)]
    assert octaves == pytest.approx([1, 0.5], rel=0.05)


MUSICNN = """import numpy as np
def extractor(path, model, input_length):
    print(model, input_length)
    return np.full((3, 1), 0.5), ["rock"], {}
"""


def test_pretrained_against_a_stub(benchmark, trunk, tmp_path, capsys):
    songs = write_songs(tmp_path / "songs")
    wheel, out = tmp_path / "musicnn.whl", tmp_path / "out.json"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("musicnn/extractor.py", MUSICNN)
    arguments = ["--peer-wheel", str(wheel), "--data", str(tmp_path / "songs"), "--rounds", "1", "--json", str(out)]
    assert benchmark("pretrained").main(arguments) == 0
    content = json.loads(out.read_text())
    row, (measured,) = content["row"], content["rounds"]
    assert content["songs"] == 2
    assert row["ratio"] == row["ratio_min"] == row["ratio_max"] > 0
    assert row["ratio"] == pytest.approx(row["songs_per_second"] / row["peer_songs_per_second"])
    own = Predictor("musicnn").predict(songs[1])["tags"]
    assert measured["ours"]["tags"][1] == pytest.approx(own, abs=1e-5)
    assert row["difference"] == pytest.approx(max(abs(tags["rock"] - 0.5) for tags in measured["ours"]["tags"]))
    assert all(0 < least <= median <= most for median, least, most in content["clips"].values())
    assert "Times as fast" in capsys.readouterr().out


def test_pretrained_counts_the_peers_first_song_apart(benchmark):
    ours = {"import_seconds": 1, "first_seconds": 5, "later_seconds": 2, "tags": [{"rock": 0.5}]}
    peer = {"import_seconds": 2, "first_seconds": 4, "later_seconds": 6, "tags": [{"rock": 0.25}]}
    row = benchmark("pretrained").compare([{"ours": ours, "peer": peer}], 4)
    assert (row["songs_per_second"], row["peer_songs_per_second"], row["ratio"]) == (2, 0.5, 4)
    assert (row["process_ratio"], row["difference"]) == (2, 0.25)
    alone = benchmark("pretrained").compare([{"ours": ours}], 4)
    assert alone["songs_per_second"] == 2
    assert "ratio" not in alone


@pytest.mark.parametrize("wheel", [b"no zip", None])
def test_pretrained_without_the_peers_wheel(benchmark, trunk, tmp_path, capsys, wheel):
    write_songs(tmp_path / "songs")
    if wheel:
        (tmp_path / "musicnn.whl").write_bytes(wheel)
    arguments = ["--peer-wheel", str(tmp_path / "musicnn.whl"), "--data", str(tmp_path / "songs")]
    assert benchmark("pretrained").main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: Expected musicnn's wheel, got")


@pytest.mark.parametrize("name", ["robustness", "pretrained"])
def test_the_pretrained_benchmarks_without_the_weights(benchmark, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert benchmark(name).main(["--songs", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: Expected --songs of")
    assert benchmark(name).main([]) == 2
    assert "mtmusic get-pretrained" in capsys.readouterr().err


def test_nearest_neighbours_of_another_artist(benchmark, trunk, tmp_path, capsys):
    folder, out = write_tiny_genre_folder(tmp_path / "data", feature="logmel"), tmp_path / "out.json"
    ids = [path.name.split(".")[0] for path in sorted(folder.glob("*/*.npy"))]
    (folder / "groups.csv").write_text("\n".join(["id,group", *(f"{name},{int(name) % 7}" for name in ids)]) + "\n")
    assert benchmark("similar").main(["--data", str(folder), "--neighbours", "1", "3", "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    rows = {(row["described by"], row["k"]): row for row in content["rows"]}
    names = ("musicnn, 753 time means", "pooled bins", "chance")
    assert [*rows] == [(name, k) for name in names for k in (1, 3)]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values())
    assert rows["pooled bins", 1]["value"] > 0.6  # a class's clips are of one loudness
    assert rows["chance", 1]["value"] == pytest.approx(1 / 3, abs=0.1)
    shown = capsys.readouterr().out
    assert f"{len(ids)} clips of" in shown
    assert f"{rows['pooled bins', 3]['value']:.3f}" in shown


def test_shares_of_neighbours_are_those_of_a_loop(benchmark):
    rng = np.random.default_rng(0)
    rows, genres = rng.normal(2, [1, 5, 0.1], (30, 3)), rng.integers(3, size=30)
    artists = np.array([f"artist {number}" for number in rng.integers(8, size=30)])
    clips = Clips(tuple(map(str, range(30))), (Path(),) * 30, genres, ("a", "b", "c"), groups=artists)
    shares = benchmark("similar")._shares(clips, {"numbers": rows}, [1, 4])
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    for i in range(30):
        others = [j for j in range(30) if artists[j] != artists[i]]
        lengths = {j: np.linalg.norm(standard[i]) * np.linalg.norm(standard[j]) for j in others}
        others.sort(key=lambda j: -(standard[i] @ standard[j]) / lengths[j])
        for k in (1, 4):
            assert shares["numbers"][k][i] == np.mean([genres[j] == genres[i] for j in others[:k]])
        assert shares["chance"][1][i] == np.mean([genres[j] == genres[i] for j in others])


def test_exports_are_compared_with_their_model(benchmark, trunk, tmp_path, capsys):
    for module in ("ai_edge_litert", "tf2onnx", "onnxruntime"):
        pytest.importorskip(module, reason="the extra `export` is not installed")
    out = tmp_path / "out.json"
    assert benchmark("exports").main(["--quick", "--json", str(out)]) == 0
    told = capsys.readouterr()
    assert "mood_musicnn is left out: Expected the trunk" in told.err  # the tests' own trunk is another
    rows = json.loads(out.read_text())["rows"]
    assert len(told.out.splitlines()) == len(rows) + 2
    names = ("cnn", "masked cnn", "masked cnn, three tasks", "lstm")
    assert {(row["model"], row["format"]) for row in rows} == {
        (name, kind) for name in names for kind in ("savedmodel", "litert", "onnx")
    }
    assert all(row["difference"] <= 1e-4 and row["milliseconds"] > 0 for row in rows)
    assert {row["ratio"] for row in rows if row["format"] == "savedmodel"} == {1.0}


def test_versions_compares_a_model_with_its_answers_of_before(benchmark, monkeypatch, tmp_path, capsys):
    versions, out = benchmark("versions"), tmp_path / "out.json"
    monkeypatch.setattr(versions, "RUNS", {"LSTM": versions.RUNS["LSTM"]})
    write_tiny_genre_folder(tmp_path / "corpus" / "fma_genre_spectrograms")
    assert versions.main(["train", str(tmp_path)]) == 0
    assert versions.main(["open", str(tmp_path)]) == 0
    assert f"LSTM           {tf.__version__}, {keras.__version__}, " in capsys.readouterr().out
    with np.load(tmp_path / "lstm" / "examples.npz") as examples:
        changed = dict(examples) | {"prediction": examples["prediction"] + 0.25}
    np.savez(tmp_path / "lstm" / "examples.npz", **changed)
    assert versions.main(["open", str(tmp_path), "--json", str(out)]) == 0
    largest = max(1, np.abs(changed["prediction"]).max())
    (row,) = json.loads(out.read_text())["rows"]
    assert row["difference"] == pytest.approx(0.25 / largest, abs=1e-5)

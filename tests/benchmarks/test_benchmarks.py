"""The benchmarks in their quick form, the peer replaced by a stub: what they write is read, how fast it was is not."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

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


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    return importlib.import_module


def test_training_step_against_a_stub(benchmark, tmp_path):
    (tmp_path / "lab_torch.py").write_text(PEER)
    out = tmp_path / "out.json"
    arguments = ["--peer", str(tmp_path), "--quick", "--only", "lstm-1292", "--rounds", "1", "--json", str(out)]
    assert benchmark("training_step").main(arguments) == 0
    content = json.loads(out.read_text())
    rows = {(row["pass"], row["peer_runs"]): row for row in content["rows"]}
    assert set(rows) == {(a, b) for a in ("step", "forward") for b in ("as the lab", "unpacked")}
    step = rows["step", "unpacked"]
    assert step["peer_seconds"] == 2
    assert step["ratio"] == step["ratio_min"] == step["ratio_max"] == step["ours_seconds"] / 2 > 0
    peer = content["measurements"][1]["peer"][0]
    assert (peer["model"], peer["batch"], peer["frames"], peer["repeats"]) == ("lstm", 2, 32, 1)
    assert (peer["varied"], peer["unpacked"], peer["channels_last"]) == (True, True, False)


def test_ratio_is_the_median_of_the_pairs(benchmark):
    ours = [{"step_seconds": a, "forward_seconds": 1} for a in (1, 6, 3)]
    peer = [{"step_seconds": b, "forward_seconds": 1} for b in (2, 2, 3)]
    measured = {"case": "cnn", "peer_runs": "as the lab", "ours": ours, "peer": peer}
    step, forward = benchmark("training_step").rows_of(measured)
    assert (step["ratio"], step["ratio_min"], step["ratio_max"]) == (1, 0.5, 3)
    assert (step["ours_seconds"], step["peer_seconds"], forward["ratio"]) == (3, 2, 1)


@pytest.mark.parametrize("peer", [None, "raise SystemExit('no torch')", "print('no JSON')"])
def test_training_step_without_a_peer(benchmark, tmp_path, capsys, monkeypatch, peer):
    module = benchmark("training_step")
    monkeypatch.setattr(module, "in_child", lambda *_: {})
    if peer is not None:
        (tmp_path / "lab_torch.py").write_text(peer)
    assert module.main(["--peer", str(tmp_path), "--quick", "--only", "cnn"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert lines[-1].startswith("error: ")


def test_pipeline(benchmark, tmp_path):
    out = tmp_path / "out.json"
    assert benchmark("pipeline").main(["--quick", "--rounds", "1", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["folder"] for row in rows] == ["beat"] * 4 + ["full rate"] * 4
    assert all(row["clips_per_second"] > 0 and row["ratio"] > 0 for row in rows)
    assert rows[0]["way"] == "NumPy loop"
    assert rows[0]["ratio"] == 1


def test_memory(benchmark, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--clips", "8", "--frames", "64", "--cap-mib", "0.1", "--json", str(out)]
    assert benchmark("memory").main(arguments) == 0
    content = json.loads(out.read_text())
    assert [row["clips"] for row in content["rows"]] == [8]
    assert content["rows"][0]["folder_mib"] == 8 * 64 * 128 * 4 / 2**20
    assert content["rows"][0]["peak_mib"] > 0


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


def test_serving(benchmark, tmp_path):
    out = tmp_path / "out.json"
    assert benchmark("serving").main(["--quick", "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    assert list(content["rows"]) == ["cnn, beats", "lstm, full rate"]
    for row in content["rows"].values():
        assert all(value > 0 for value in row.values())
        assert max(row["saved_model_mb"], row["keras_mb"]) < 10
    assert content["starts"]["import mtmusic"] < content["starts"]["predict.py, one short song"]

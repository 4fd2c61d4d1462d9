"""The command that embeds a library: what its flags reach."""

import pytest
import soundfile

from mtmusic.audio.synthesis import synthesise
from tests.runs import tiny_card, write_tiny_run

parquet = pytest.importorskip("pyarrow.parquet")


def test_the_flags_reach_the_table(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny_run(tmp_path / "run", tiny_card(beat=False))
    soundfile.write("a.wav", synthesise("Rock", 0, 6.0)[0], 22_050)
    arguments = ["a.wav", "--model", "run", "--out", "e.parquet", "--window", "2", "--jobs", "1"]
    assert script("embed").main(arguments) == 0
    assert capsys.readouterr().out.startswith("known: 0, new: 1, changed: 0\nTable: e.parquet (songs: 1, failed: 0, ")
    assert [len(row) for row in parquet.read_table("e.parquet").column("embedding").to_pylist()] == [4]
    for changed, told in (
        (["--window", "3"], "as in e.parquet, got windows of 3 s"),
        (["--jobs", "0"], "--jobs of 1 or more"),
    ):
        assert script("embed").main([*arguments, *changed]) == 2
        assert told in capsys.readouterr().err
    assert script("embed").main([*arguments[:-4], "--overwrite", "--retry-failed"]) == 0


def test_musicnn_embeds_by_default(script):
    assert str(script("embed").parser().parse_args(["a.wav", "--out", "e.parquet"]).model) == "musicnn"

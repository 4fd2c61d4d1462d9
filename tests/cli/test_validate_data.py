"""validate_data.py as a user runs it: what it prints and writes, and its exit code."""

import json
import sys

import pytest

from tests import faults
from tests.folders import needs_tfdv


@needs_tfdv
def test_a_clean_folder_ends_with_0(script, genre_folder, tmp_path, capsys):
    assert script("validate_data").main([str(genre_folder), "--json", str(tmp_path / "data.json")]) == 0
    assert capsys.readouterr().out == (
        f"{genre_folder}: 24 train, 9 test clips, beat-synchronised; genre\n"
        f"Nothing found\nFindings: {tmp_path / 'data.json'}\n"
    )
    assert json.loads((tmp_path / "data.json").read_text())["findings"] == []


@pytest.mark.parametrize(("flags", "kind"), [((), "warning"), (("--strict",), "error")])
def test_a_warning_ends_with_1(script, genre_folder, tmp_path, capsys, flags, kind):
    faults.ARRAY_FAULTS["constant chroma"](genre_folder)
    page = tmp_path / "page" / "data.html"
    assert script("validate_data").main([str(genre_folder), "--html", str(page), *flags]) == 1
    assert capsys.readouterr().out.splitlines()[1].split() == [
        kind, "constant", "chroma", "3", "train/1,", "train/11,", "train/21",
    ]  # fmt: skip
    assert f"--html {page}" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["absent"], "no such folder"),
        pytest.param(["{folder}", "--schema", "{folder}/train_labels.txt"], "Expected a schema", marks=needs_tfdv),
        pytest.param(["{folder}", "--schema", "absent.pbtxt"], "absent.pbtxt", marks=needs_tfdv),
        (["{folder}", "--classes", "absent.json"], "absent.json"),
    ],
)
def test_what_cannot_run_ends_with_2(script, genre_folder, capsys, arguments, expected):
    assert script("validate_data").main([argument.format(folder=genre_folder) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_without_tfdv_only_schemas_end_with_2(script, genre_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_data_validation", None)
    assert script("validate_data").main([str(genre_folder), "--html", str(tmp_path / "data.html")]) == 0
    printed = capsys.readouterr()
    assert [line.partition(" ")[0] for line in printed.out.splitlines()[1:]] == ["Nothing", "skipped", "Page:"]
    assert printed.err == ""
    for flag in ("--schema", "--infer-schema"):
        assert script("validate_data").main([str(genre_folder), flag, str(tmp_path / "schema.pbtxt")]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith(f"error: {flag} needs TensorFlow Data Validation")
        assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert not (tmp_path / "schema.pbtxt").exists()


@needs_tfdv
def test_a_schema_is_inferred_and_used(script, affect_folder, tmp_path):
    path = tmp_path / "schema.pbtxt"
    assert script("validate_data").main([str(affect_folder), "--infer-schema", str(path)]) == 0
    assert 'name: "valence"' in path.read_text()
    assert script("validate_data").main([str(affect_folder), "--schema", str(path)]) == 0


def test_a_file_that_is_there_is_not_overwritten_unasked(script, genre_folder, tmp_path, capsys):
    main, labels = script("validate_data").main, genre_folder / "train_labels.txt"
    before = labels.read_text()
    for flag in ("--html", "--json", "--infer-schema"):
        assert main([str(genre_folder), flag, str(labels)]) == 2
        assert f"{labels} exists already: --overwrite replaces it" in capsys.readouterr().err
        assert main([str(genre_folder), flag, str(tmp_path), "--overwrite"]) == 2
        assert "Expected a file to write" in capsys.readouterr().err
    assert main([str(genre_folder), "--html", str(tmp_path / "x"), "--json", str(tmp_path / "x")]) == 2
    assert "Expected a different file for each" in capsys.readouterr().err
    assert labels.read_text() == before
    (tmp_path / "data.json").touch()
    assert main([str(genre_folder), "--json", str(tmp_path / "data.json"), "--overwrite"]) == 0
    assert json.loads((tmp_path / "data.json").read_text())["findings"] == []

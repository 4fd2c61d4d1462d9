"""The script on tiny models and synthesised songs: rows, tables, pictures, and what it refuses."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from mtmusic.audio.synthesis import synthesise
from mtmusic.cli.predict import _models_and_songs, parser
from mtmusic.evaluation import plots
from mtmusic.serving.predictor import Predictor
from mtmusic.serving.provenance import sha256_of
from tests.folders import PROJECT
from tests.runs import CLASSES, tiny_card, write_random_trunk, write_tiny_run


@pytest.fixture
def predict(script, monkeypatch, tmp_path) -> Callable[..., int]:
    module = script("predict")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_tiny_run(folder / "genre", tiny_card(beat=False), sharpness=8)
    write_tiny_run(folder / "affect", tiny_card(("valence", "joy of it"), "affect", beat=False), seed=1)
    write_tiny_run(folder / "demo", tiny_card(("power",), "power", beat=False, data={"demo": True}))
    return folder


@pytest.fixture
def music(tmp_path) -> Path:
    folder = tmp_path / "music"
    for name, seconds in (("a.wav", 6.0), ("Rock/b.flac", 7.0)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, synthesise("Rock", 0, seconds)[0], 22_050)
    return folder


def test_a_row_a_song_a_table_and_json(predict, runs, music, capsys):
    (music / "bad.mp3").write_bytes(b"no audio")
    (music / "cover.jpg").touch()
    files = ("--csv", "out/answers.csv", "--json", "answers.json")
    assert predict("music", "--model", runs / "genre", runs / "affect", *files, "--top", 2, "--jobs", 1) == 1
    captured = capsys.readouterr()
    header, *rows, table, listed = captured.out.splitlines()
    assert (table, listed) == ("Table: out/answers.csv", "JSON: answers.json")
    assert header.split() == ["song", "genre", "valence", "joy", "of", "it"]
    assert [row.split()[0] for row in rows] == ["music/Rock/b.flac", "music/a.wav"]
    (told,) = (line for line in captured.err.splitlines() if "bad.mp3" in line)
    assert told.startswith("failed: Expected audio")

    predictor = Predictor(runs / "genre", runs / "affect")
    table = list(csv.DictReader(Path("out/answers.csv").read_text().splitlines()))
    file = json.loads(Path("answers.json").read_text())
    assert (file["schema_version"], [model["model"] for model in file["models"]]) == (1, ["genre", "affect"])
    assert [model["sha256"] for model in file["models"]] == [sha256_of(runs / name) for name in ("genre", "affect")]
    content = file["songs"]
    assert list(table[0]) == ["song", "genre", *(f"genre.{name}" for name in CLASSES), "valence", "joy of it"]
    for row, cells, entry in zip(rows, table, content, strict=True):
        answer = predictor.predict(cells["song"])
        assert Path(cells["song"]).is_absolute()
        assert entry == {"song": cells["song"], **entry}
        assert entry["genre"] == pytest.approx(answer["genre"], abs=1e-5)
        assert cells["genre"] == max(answer["genre"], key=answer["genre"].get)
        assert [float(cells[f"genre.{name}"]) for name in CLASSES] == pytest.approx(
            list(answer["genre"].values()), abs=1e-5
        )
        assert float(cells["joy of it"]) == pytest.approx(entry["joy of it"], abs=1e-6)
        likeliest = sorted(answer["genre"].items(), key=lambda item: -item[1])[:2]
        shown = row.split()[1:]
        assert shown[:4:2] == [name for name, _ in likeliest]
        assert [float(cell) for cell in shown[1:4:2]] == pytest.approx([share for _, share in likeliest], abs=0.006)
        assert [float(cell) for cell in shown[4:]] == pytest.approx([entry["valence"], entry["joy of it"]], abs=6e-4)


def test_all_is_fine_with_one_model_of_affect(predict, runs, music, capsys):
    assert predict(music / "a.wav", "--model", runs / "affect") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["song", "valence", "joy", "of", "it"]
    assert len(row.split()) == 3


def test_timelines_are_pictures(predict, runs, music, monkeypatch):
    drawn = []
    original = plots.timeline
    monkeypatch.setattr(plots, "timeline", lambda *given: drawn.append(given) or original(*given))
    arguments = (music, "--model", runs / "genre", runs / "affect", "--timeline", "pictures", "--window", 2)
    assert predict(*arguments, "--jobs", 1) == 0
    assert sorted(path.name for path in Path("pictures").iterdir()) == ["a.png", "b.png"]
    assert imread(Path("pictures/a.png")).std() > 0.05
    mel, panels, title, stride, _ = drawn[1]
    assert (mel.shape, title, stride) == ((128, 1 + 6 * 22_050 // 512), "a.wav", 1)
    assert list(panels) == ["genre (probability)", "affect (0 to 1)"]
    assert all(times.tolist() == [[0, 2], [2, 4], [4, 6]] for times, _ in panels.values())
    np.testing.assert_allclose(sum(panels["genre (probability)"][1].values()), 1, atol=1e-5)
    assert list(panels["affect (0 to 1)"][1]) == ["valence", "joy of it"]


@pytest.fixture
def pretrained(tmp_path, predict) -> Path:
    """The runs that answer without --model, with random weights."""
    write_random_trunk(tmp_path / "saved_models" / "musicnn")
    card = tiny_card(("valence", "arousal"), "affect", feature="logmel", beat=False, clip_frames=125)
    write_tiny_run(tmp_path / "saved_models" / "mood_musicnn", card)
    return tmp_path / "saved_models"


def test_without_model_the_pretrained_ones_answer(predict, pretrained, music, capsys, monkeypatch):
    drawn = []
    original = plots.timeline
    monkeypatch.setattr(plots, "timeline", lambda *given: drawn.append(given) or original(*given))
    soundfile.write(music / "hush.wav", np.zeros(6 * 22_050), 22_050)
    files = ("--csv", "answers.csv", "--json", "answers.json", "--timeline", "pictures")
    assert predict("music", *files, "--top", 2, "--jobs", 1) == 0
    captured = capsys.readouterr()
    models, header, *rows = captured.out.splitlines()[:-3]
    assert models == "Models: musicnn and mood_musicnn"
    assert header.split() == ["song", "genre", "tags", "mood", "tags", "valence", "arousal"]
    assert captured.err.splitlines() == [f"warning: {Path('music/hush.wav').resolve()} is silent"]

    content = json.loads(Path("answers.json").read_text())["songs"]
    table = list(csv.DictReader(Path("answers.csv").read_text().splitlines()))
    predictor = Predictor()
    tags = list(predictor.tag_groups)
    assert list(table[0]) == ["song", *(f"tags.{tag}" for tag in tags), "valence", "arousal", "warning"]
    for row, cells, entry in zip(rows[:2], table, content, strict=False):
        answer = predictor.predict(entry["song"])
        assert entry["tags"] == pytest.approx(answer["tags"], abs=1e-5)
        assert [float(cells[f"tags.{tag}"]) for tag in tags] == pytest.approx(list(answer["tags"].values()), abs=1e-5)
        for group in ("genre", "mood"):
            named = sorted((tag for tag in tags if predictor.tag_groups[tag] == group), key=entry["tags"].get)[-2:]
            shown = [f"{tag} {entry['tags'][tag]:.2f}" for tag in named[::-1] if entry["tags"][tag] >= 0.1]
            assert ", ".join(shown) in row
    assert [content[2]["tags"], table[2]["tags.rock"]] == [{}, ""]
    assert "the song is silent, so it has no tags" in content[2]["warning"]
    assert rows[2].count("no confident tag") == 2

    _, panels, title, *_ = drawn[1]
    assert (title, list(panels)) == ("a.wav", ["tags (score)", "affect (0 to 1)"])
    times, lines = panels["tags (score)"]
    assert times == pytest.approx(np.array([[0, 2.992], [2.992, 5.984]]))
    shown = [tag for tag in tags if predictor.tag_groups[tag] in ("genre", "mood")]
    assert list(lines) == sorted(shown, key=lambda tag: -content[1]["tags"][tag])[:6]
    assert panels["affect (0 to 1)"][0].tolist() == [[0, 2], [2, 4], [4, 6]]


def test_the_latest_run_answers_and_is_named(predict, runs, music, capsys):
    assert predict(music, "--model", "latest") == 2
    assert (
        capsys.readouterr().err
        == "error: Expected a finished run in saved_models to predict with, found none: train a model, or name one\n"
    )
    for name, age, finished in (("old", 30, True), ("affect", 20, True), ("unfinished", 10, False)):
        run = Path("saved_models") / name
        shutil.copytree(runs / "affect", run)
        os.utime(run / "card.json", (time.time() - age,) * 2)
        if finished:
            (run / "metrics.json").write_text("{}")
    assert predict(music / "a.wav", "--model", "latest") == 0
    models, header, _ = capsys.readouterr().out.splitlines()
    assert models == "Models: saved_models/affect"
    assert header.split() == ["song", "valence", "joy", "of", "it"]


def test_the_latest_run_is_the_last_created_whatever_the_files_times(predict, runs, music, capsys):
    for name, created, age in (
        ("first", "2026-01-31T23:59:59+00:00", 0),
        ("second", "2026-02-01T00:00:00+00:00", 20),
        ("older_version", None, 5),
        ("broken", "{", 5),
    ):
        run = Path(shutil.copytree(runs / "affect", Path("saved_models") / name))
        (run / "metrics.json").write_text("{}")
        card = json.loads((run / "card.json").read_text()) | ({"created": created} if created else {})
        (run / "card.json").write_text("{" if created == "{" else json.dumps(card))
        os.utime(run / "card.json", (time.time() - age,) * 2)
    assert predict(music / "a.wav", "--model", "latest") == 0
    assert capsys.readouterr().out.splitlines()[0] == "Models: saved_models/second"


def test_a_demo_model_is_told_of_once_and_in_the_files(predict, runs, music, capsys):
    arguments = (music, "--model", runs / "demo", "--csv", "a.csv", "--json", "a.json", "--jobs", 1)
    assert predict(*arguments) == 0
    assert capsys.readouterr().err.count("demo corpus") == 1
    rows = list(csv.DictReader(Path("a.csv").read_text().splitlines()))
    assert all("demo corpus" in row["warning"] for row in (*rows, *json.loads(Path("a.json").read_text())["songs"]))


def test_files_are_replaced_only_when_told_so(predict, runs, music, capsys):
    Path("pictures").mkdir()
    arguments = [music / "a.wav", "--model", runs / "affect"]
    for flag, name, value in (("--csv", "a.csv", "a.csv"), ("--json", "a.json", "a.json"),
                              ("--timeline", "pictures/a.png", "pictures")):  # fmt: skip
        Path(name).write_text("dear")
        assert predict(*arguments, flag, value) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"error: {name} exists already: --overwrite replaces it"
        assert Path(name).read_text() == "dear"
        assert predict(*arguments, flag, value, "--overwrite") == 0
        assert Path(name).read_bytes() != b"dear"
        capsys.readouterr()


def test_a_name_that_is_no_text(predict, runs, music):
    (music / "a.wav").rename(os.fsdecode(os.fsencode(music) + b"/\xff.wav"))
    assert predict(music, "--model", runs / "affect", "--csv", "a.csv", "--json", "a.json", "--jobs", 1) == 0
    assert b"/\xff.wav," in Path("a.csv").read_bytes()
    assert json.loads(Path("a.json").read_text())["songs"][1]["song"].endswith("/\udcff.wav")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("absent.mp3", "--model", "{affect}"), "got no such file: absent.mp3"),
        (("empty", "--model", "{affect}"), "found none in empty"),
        (("music", "--model", "absent"), "Expected a run's folder or its model.keras, found no absent/model.keras"),
        (("music",), "found none: `mtmusic get-pretrained` fetches it"),
        (("music", "--model", "{affect}", "{affect}"), "predict different things"),
        (("music", "--model", "{affect}", "--top", "0"), "Expected --top of 1 or more, got 0"),
        (("music", "--model", "{affect}", "--jobs", "-2"), "Expected --jobs of 1 or more, got -2"),
        (("music", "--model", "{affect}", "--window", "0.2"), "Expected --window of 1 second or more, got 0.2"),
        (("music", "--out", "a.csv"), "be a table, NAME.parquet, got a.csv; --format jams writes a folder of"),
        (("music", "--out", "a.parquet", "--csv", "a.csv"), "Expected --out or --csv, got both"),
        (("music", "--retry-failed"), "Expected --retry-failed only with --out, got no --out: give both, or neither"),
        (("music", "--scheduler", "tcp://127.0.0.1:9"), "Expected --scheduler only with --out, got no --out"),
    ],
)
def test_refuses_in_one_line(predict, runs, music, capsys, arguments, told):
    Path("empty").mkdir()
    assert predict(*(argument.format(affect=runs / "affect") for argument in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_only_bad_songs(predict, runs, music, capsys):
    (music / "bad.mp3").write_bytes(b"no audio")
    assert predict(music / "bad.mp3", "--model", runs / "affect", "--csv", "a.csv") == 1
    assert Path("a.csv").read_text() == "song\n"


def test_help_imports_only_the_standard_library():
    code = "import sys, predict\ntry: predict.main(['--help'])\nexcept SystemExit: pass\nprint('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT / "scripts",
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert "--timeline FOLDER" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.real
def test_real_recordings_are_answered(predict, runs, real_data, capsys):
    assert predict(real_data / "audio", "--model", runs / "genre", runs / "affect", "--window", 60) == 0
    passed_by, *rows = capsys.readouterr().out.splitlines()
    assert (passed_by, len(rows)) == ("Not songs: 5 files (.txt)", 6)


def test_what_may_be_wrong_with_a_song_stands_in_the_table(predict, runs, music):
    soundfile.write(music / "short.wav", synthesise("Rock", 0, 2.0)[0], 22_050)
    files = ("--csv", "answers.csv", "--json", "answers.json", "--jobs", 1)
    assert predict("music", "--model", runs / "genre", *files) == 0
    with Path("answers.csv").open(newline="") as file:
        told = {Path(row["song"]).name: row["warning"] for row in csv.DictReader(file)}
    short = (music / "short.wav").resolve()
    assert told == {"b.flac": "", "a.wav": "", "short.wav": f"{short} is short: 2.0 s"}
    assert [answer.get("warning", "") for answer in json.loads(Path("answers.json").read_text())["songs"]] == [
        *told.values()
    ]


@pytest.mark.parametrize("files", ["--csv x --json x", "--csv music --overwrite", "--csv a/x.csv"])
def test_a_place_that_cannot_be_written_is_told_before_a_song_is_heard(predict, runs, music, capsys, files):
    Path("a").touch()
    assert predict("music", "--model", runs / "genre", *files.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(("error: Expected a", "error: Cannot write to a: Not a directory"))
    assert Path("a").read_bytes() == b""


@pytest.mark.parametrize("order", [["SONG", "--model", "RUN"], ["--model", "RUN", "SONG"]])
def test_songs_stand_before_or_after_the_model(tmp_path, order):
    run, song = tmp_path / "genre_run", tmp_path / "song.wav"
    run.mkdir()
    (run / "model.keras").touch()
    song.touch()
    arguments = parser().parse_args([{"SONG": str(song), "RUN": str(run)}.get(word, word) for word in order])
    assert _models_and_songs(arguments.models, arguments.songs) == ([run], [song])


def test_what_follows_model_first_is_a_model_whatever_it_is(predict, tmp_path, capsys):
    (tmp_path / "run.partial").mkdir()
    soundfile.write(tmp_path / "song.wav", np.zeros(100), 22_050)
    assert predict("--model", "run.partial", "song.wav") == 2
    assert "found no run.partial/model.keras" in capsys.readouterr().err


def test_without_songs_there_is_nothing_to_predict(predict, capsys):
    assert predict("--model", "latest") == 2
    assert "Expected songs to predict" in capsys.readouterr().err


def test_a_library_is_answered_into_a_table(predict, runs, music, capsys):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    (music / "bad.mp3").write_bytes(b"no audio")
    arguments = ("music", "--model", runs / "affect", "--out", "answers.parquet", "--jobs", 1)
    assert predict(*arguments) == 1
    captured = capsys.readouterr()
    counts, table = captured.out.splitlines()
    assert counts == "known: 0, new: 3, changed: 0"
    assert table.startswith("Table: answers.parquet (songs: 3, failed: 1, ")
    assert captured.err.startswith("failed: Expected audio")
    assert predict(*arguments) == 0
    assert "known: 3, new: 0, changed: 0" in capsys.readouterr().out
    table = pandas.read_parquet("answers.parquet").sort_values("song")
    assert table["status"].tolist() == ["ok", "ok", "failed"]
    assert predict(*arguments, "--window", 3) == 2
    assert "give another --out, or --overwrite" in capsys.readouterr().err

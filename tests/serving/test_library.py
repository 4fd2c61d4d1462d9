"""A library of songs into a table or JAMS files: what is in it, what is done again, on one machine and on a cluster."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mtmusic.audio import extraction, windows
from mtmusic.audio.extraction import KILLED
from mtmusic.audio.synthesis import synthesise
from mtmusic.errors import UserError
from mtmusic.files import locked
from mtmusic.models.savedmodel import export_savedmodel
from mtmusic.serving import library
from mtmusic.serving.library import LibraryOptions, _AnswerTable, answer_library
from mtmusic.serving.predictor import Predictor, SongAnswer
from mtmusic.serving.provenance import name_and_hash, sha256_of
from tests.faults import slow_answer, whole_song_unless_b
from tests.runs import CLASSES, tiny_card, tiny_examples, write_tiny_run

pandas = pytest.importorskip("pandas")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    card = tiny_card(beat=False)
    model = write_tiny_run(folder / "genre", card, sharpness=8)
    export_savedmodel(model, card, tiny_examples(model), folder / "exported")
    write_tiny_run(folder / "affect", tiny_card(("valence", "arousal", "joy"), "affect", clip_seconds=2.0), seed=1)
    return folder


@pytest.fixture
def music(tmp_path) -> Path:
    folder = tmp_path / "music"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        write_song(folder / name)
    (folder / "bad.mp3").write_bytes(b"no audio")
    return folder


def write_song(path: Path, seconds: float = 2.0) -> None:
    soundfile.write(path, synthesise("Rock", sum(path.name.encode()), seconds)[0], 22_050)


@pytest.fixture
def options(runs, music, tmp_path) -> LibraryOptions:
    return LibraryOptions((music,), tmp_path / "out.parquet", (runs / "genre", runs / "affect"), jobs=1, part_rows=1)


def read(options: LibraryOptions) -> dict[str, dict]:
    """Rows by their files' names, sorted."""
    rows = parquet.read_table(options.out).to_pylist()
    by_name = {Path(row["song"]).name: row for row in rows}
    assert len(by_name) == len(rows)
    return dict(sorted(by_name.items()))


def column(options: LibraryOptions, name: str) -> list:
    return [row[name] for row in read(options).values()]


def counts(caplog) -> list[str]:
    found = [message for message in caplog.messages if message.startswith("known: ")]
    caplog.clear()
    return found


def test_a_table_of_answers(options, runs, music):
    assert answer_library(options) == 1
    table = read(options)
    answers = ["genre", *(f"genre.{name}" for name in CLASSES), "valence", "arousal", "joy", "tempo"]
    known = ["song", "size", "mtime_ns", "seconds", "status", "reason", "warning", "model", "model_sha256"]
    assert [*table["a.wav"]] == known + answers
    predictor = Predictor(runs / "genre", runs / "affect")
    for name in ("a.wav", "b.wav"):
        row, song = table[name], predictor.answer(music / name)
        assert row["genre"] == max(song["genre"], key=song["genre"].get)
        assert [row[f"genre.{one}"] for one in CLASSES] == pytest.approx([*song["genre"].values()], abs=1e-5)
        values = [song[one] for one in ("valence", "arousal", "joy", "tempo")]
        assert [row[one] for one in ("valence", "arousal", "joy", "tempo")] == pytest.approx(values, abs=1e-4)
        assert (row["seconds"], row["status"], row["reason"]) == (pytest.approx(2.0), "ok", None)
        assert row["warning"] == f"{music / name} is short: 2.0 s"
        assert (row["size"], row["mtime_ns"]) == ((music / name).stat().st_size, (music / name).stat().st_mtime_ns)
    failed = table["bad.mp3"]
    assert (failed["status"], failed["reason"][:15], failed["warning"]) == ("failed", "Expected audio,", None)
    assert {failed[name] for name in [*answers, "seconds"]} == {None}
    description = json.loads(parquet.read_schema(next(options.out.iterdir())).metadata[b"mtmusic"])
    models = description["models"]
    assert [(model["model"], model["sha256"]) for model in models] == [
        (name, sha256_of(runs / name)) for name in ("genre", "affect")
    ]
    assert models[0]["card"]["classes"] == [*CLASSES]
    assert description["units"]["tempo"] == "beats per minute"
    assert {(row["model"], row["model_sha256"]) for row in table.values()} == {name_and_hash(models)}
    assert failed["model"] == "genre + affect"
    assert pandas.read_parquet(options.out)["song"].tolist() == [row["song"] for row in table.values()]


def test_the_same_again_does_what_is_missing(options, music, caplog, monkeypatch):
    caplog.set_level("INFO")
    assert answer_library(options) == 1
    assert counts(caplog) == ["known: 0, new: 3, changed: 0"]
    before = read(options)
    write_song(music / "c.wav")
    write_song(music / "b.wav", 3.0)
    assert answer_library(options) == 0
    assert counts(caplog) == ["known: 2, new: 1, changed: 1"]
    table = read(options)
    assert [*table] == ["a.wav", "b.wav", "bad.mp3", "c.wav"]
    assert column(options, "seconds") == [2, 3, None, 2]
    assert table["a.wav"] == before["a.wav"]

    monkeypatch.setattr(Predictor, "predict_folder", lambda *_, **__: pytest.fail("nothing is to be answered"))
    assert answer_library(options) == 0
    assert "nothing to do" in caplog.messages[-1]
    assert counts(caplog) == ["known: 4, new: 0, changed: 0"]


def test_failed_songs_are_tried_again_when_they_change_or_one_says_so(options, music, caplog):
    caplog.set_level("INFO")
    assert answer_library(options) == 1
    caplog.clear()
    assert answer_library(options) == 0
    assert caplog.messages[:2] == [
        "known: 3, new: 0, changed: 0", "failed before: 1, which stay failed: `retry_failed` tries them again"
    ]  # fmt: skip
    caplog.clear()
    assert answer_library(replace(options, retry_failed=True)) == 1
    assert caplog.messages[:2] == ["known: 2, new: 0, changed: 0", "failed before: 1, which are tried again"]
    assert len(read(options)) == 3
    caplog.clear()
    write_song(music / "bad.mp3".replace("mp3", "wav"))
    (music / "bad.wav").replace(music / "bad.mp3")
    assert answer_library(options) == 0
    assert counts(caplog) == ["known: 2, new: 0, changed: 1"]
    assert column(options, "status") == ["ok"] * 3


@pytest.mark.parametrize("songs", [("b.wav",), ("a.wav", "b.wav")])
def test_a_song_that_kills_its_worker_is_a_row(options, music, monkeypatch, songs):
    monkeypatch.setattr(windows, "_whole_song", whole_song_unless_b)
    assert answer_library(replace(options, songs=tuple(music / name for name in songs), jobs=2)) == 1
    assert {name: row["reason"] for name, row in read(options).items()} == {"b.wav": KILLED} | dict.fromkeys(songs[:-1])


def stopped_after(songs: int) -> Iterator[SongAnswer]:
    original = Predictor.predict_folder

    def predict_folder(*given, **named):
        for number, song in enumerate(original(*given, **named)):
            if number == songs:
                raise KeyboardInterrupt
            yield song

    return predict_folder


def test_what_is_answered_is_written_where_it_is_stopped(options, monkeypatch, caplog):
    caplog.set_level("INFO")
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict_folder", stopped_after(2))
        with pytest.raises(KeyboardInterrupt):
            answer_library(replace(options, part_rows=1000))
    assert len(read(options)) == 2
    caplog.clear()
    answer_library(options)
    assert counts(caplog) == ["known: 2, new: 1, changed: 0"]
    assert len(read(options)) == 3


def test_a_table_of_embeddings(options, runs, music):
    for name in ("genre", "exported"):
        one = replace(options, models=(runs / name,), embed=True, overwrite=True)
        assert answer_library(one) == 1
        table = read(one)
        assert [*table["a.wav"]][-2:] == ["model_sha256", "embedding"]
        with pytest.warns(UserWarning, match="short"):
            wanted = Predictor(runs / name).embed(music / "a.wav")
        np.testing.assert_allclose(table["a.wav"]["embedding"], wanted, atol=1e-5)
        assert np.isnan(table["bad.mp3"]["embedding"]).all()


def test_what_cannot_be_added_is_refused(options, runs, tmp_path):
    answer_library(options)
    content = {path.name: path.read_bytes() for path in options.out.iterdir()}
    affect = (runs / "affect",)
    for other, told in (
        ({"models": affect}, "Expected the model genre .* got the model affect"),
        ({"models": affect, "embed": True}, "Expected answers, as in .*, got embeddings"),
        ({"window": 3.0}, "windows of 3 s: give another `out`, or `overwrite`"),
        ({"out": tmp_path / "out.csv"}, r"Expected `out` to be a table, NAME\.parquet, got .*csv; `format=jams`"),
        ({"format": "jams"}, r"a folder for annotation files, got the name of a table: .*out\.parquet"),
        ({"window": 0.5}, "Expected `window` of 1 second or more, got 0.5"),
        ({"songs": (tmp_path / "none",)}, "got no such file"),
    ):
        with pytest.raises(UserError, match=told):
            answer_library(replace(options, **other))
    with locked(options.out), pytest.raises(UserError, match="Another run is writing"):
        answer_library(options)
    assert content == {path.name: path.read_bytes() for path in options.out.iterdir()}


def test_without_pyarrow_no_song_is_read(options, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        answer_library(replace(options, models=("absent",)))


def test_a_name_that_is_no_text(options, music):
    (music / "a.wav").rename(os.fsdecode(os.fsencode(music) + b"/\xff.wav"))
    write_song(music / "\\xff.wav")
    answer_library(options)
    assert [*read(options)] == ["%FF.wav", "\\xff.wav", "b.wav", "bad.mp3"]
    answer_library(options)
    assert len(read(options)) == 4


# --- JAMS


@pytest.fixture
def annotations(options, tmp_path) -> LibraryOptions:
    return replace(options, out=tmp_path / "jams", format="jams")


def test_annotation_files(annotations, runs, music):
    assert answer_library(annotations) == 1
    assert sorted(path.name for path in annotations.out.iterdir()) == ["a.jams", "b.jams"]
    content = json.loads((annotations.out / "a.jams").read_text())
    song = Predictor(runs / "genre", runs / "affect").answer(music / "a.wav")
    assert content["file_metadata"] == {"title": "a", "duration": pytest.approx(2.0), "jams_version": "0.3.5"}
    model = [{"model": name, "sha256": sha256_of(runs / name)} for name in ("genre", "affect")]
    assert content["sandbox"]["mtmusic"] == {
        "song": str(music / "a.wav"),
        "size": (music / "a.wav").stat().st_size,
        "mtime_ns": (music / "a.wav").stat().st_mtime_ns,
        **dict(zip(("model", "model_sha256"), name_and_hash(model), strict=True)),
        "window": None,
        "warning": f"{music / 'a.wav'} is short: 2.0 s",
    }
    by_namespace = {annotation["namespace"]: annotation for annotation in content["annotations"]}
    assert [*by_namespace] == ["tag_open", "mood_thayer", "tempo", "blob"]
    for annotation in content["annotations"]:
        assert {"annotation_metadata", "data", "namespace", "time", "duration", "sandbox"} == {*annotation}
        for observation in annotation["data"]:
            assert {"time", "duration", "value", "confidence"} == {*observation}
            assert (observation["time"], observation["duration"]) == (0, pytest.approx(2.0))
    data = {name: annotation["data"] for name, annotation in by_namespace.items()}
    assert {one["value"]: one["confidence"] for one in data["tag_open"]} == pytest.approx(song["genre"], abs=1e-5)
    mood = [2 * song[name] - 1 for name in ("valence", "arousal")]
    assert data["mood_thayer"][0]["value"] == pytest.approx(mood, abs=1e-5)
    assert (data["tempo"][0]["value"], data["tempo"][0]["confidence"]) == (pytest.approx(song["tempo"]), 1.0)
    assert data["blob"][0]["value"] == {"joy": pytest.approx(song["joy"], abs=1e-5)}


def test_annotation_files_by_the_formats_own_package(annotations):
    jams = pytest.importorskip("jams")
    answer_library(annotations)
    for path in annotations.out.iterdir():
        assert jams.load(str(path), validate=True, strict=True).validate(strict=True)


def test_annotation_files_are_not_made_again(annotations, runs, music, caplog):
    caplog.set_level("INFO")
    answer_library(annotations)
    other = annotations.out / "c.jams"
    other.write_text("{}")
    before = {path.name: path.stat().st_mtime_ns for path in annotations.out.iterdir()}
    (music / "below").mkdir()
    for name in ("c.wav", "below/a.wav"):
        write_song(music / name)
    caplog.clear()
    answer_library(annotations)
    assert counts(caplog) == ["known: 2, new: 3, changed: 0"]
    assert {name: (annotations.out / name).stat().st_mtime_ns for name in before} == before
    assert sorted(path.name[:2] for path in annotations.out.iterdir()) == ["a-", "a.", "b.", "c-", "c."]
    assert other.read_text() == "{}"


def test_the_file_of_a_changed_song_is_made_again_or_goes(annotations, music, caplog):
    caplog.set_level("INFO")
    answer_library(annotations)
    counts(caplog)
    write_song(music / "a.wav", 3.0)
    (music / "b.wav").write_bytes(b"no audio")
    assert answer_library(annotations) == 2
    assert counts(caplog) == ["known: 0, new: 1, changed: 2"]
    (file,) = annotations.out.iterdir()
    assert (file.name, json.loads(file.read_text())["file_metadata"]["duration"]) == ("a.jams", pytest.approx(3.0))


@pytest.mark.parametrize("changed", ["model", "window"])
def test_files_of_another_model_or_window_are_refused_or_replaced(annotations, runs, music, changed):
    answer_library(annotations)
    foreign = annotations.out / "c.jams"
    foreign.write_text("{}")
    hidden, unfinished = annotations.out / ".mine.jams", annotations.out / f".{'0a' * 6}.a.jams"
    for file in (hidden, unfinished):
        file.write_text("dear")
    (music / "a.wav").unlink()  # nothing replaces its file
    other = replace(annotations, **{"model": {"models": (runs / "affect",)}, "window": {"window": 3.0}}[changed])
    with pytest.raises(
        UserError, match=rf"Expected annotations with the .*{changed}.*a\.jams: give another `out`, or `ov"
    ):
        answer_library(other)
    for again in (replace(other, overwrite=True), other):
        assert answer_library(again) == 1
        assert {file.name for file in annotations.out.iterdir()} == {".mine.jams", "b.jams", "c.jams"}
    assert foreign.read_text() == "{}"


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"sandbox": 1}', '{"sandbox": {"mtmusic": "x"}}', None])
def test_files_that_are_not_ours_keep_their_names(annotations, content):
    foreign = annotations.out / "a.jams"
    annotations.out.mkdir()
    foreign.mkdir() if content is None else foreign.write_text(content)
    for overwrite in (False, True):
        assert answer_library(replace(annotations, overwrite=overwrite)) == 1
        assert content is None or foreign.read_text() == content
        assert sorted(file.name[:2] for file in annotations.out.iterdir()) == ["a-", "a.", "b."]


# --- a cluster


@pytest.mark.parametrize("embed", [False, True])
def test_the_workers_of_a_cluster_answer_alike(options, runs, embed):
    distributed = pytest.importorskip("distributed")
    options = replace(options, models=(runs / "genre",), embed=embed)
    answer_library(options)
    wanted = read(options)
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "processes": False}
    with distributed.LocalCluster(**settings) as cluster:
        on_cluster = replace(options, out=options.out.with_name("b.parquet"), scheduler=cluster.scheduler_address)
        assert answer_library(on_cluster) == 1
    for name, row in read(on_cluster).items():
        told = {key: pytest.approx(value, abs=1e-5, nan_ok=True) if isinstance(value, float | list) else value
                for key, value in wanted[name].items()}  # fmt: skip
        assert row == told


def test_a_killed_worker_of_a_cluster_loses_no_song(options, runs, music, monkeypatch):
    """One of two, with songs on it: they go to the other, or to the worker that replaces it."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(library, "answer_song", slow_answer)
    for number in range(20):
        (music / f"{number}.wav").touch()
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        added, killed = _AnswerTable.add, client.run(os.getpid)

        def add_and_kill(self: _AnswerTable, *given: object) -> None:
            added(self, *given)
            if killed:
                os.kill(killed.popitem()[1], signal.SIGKILL)
                killed.clear()

        monkeypatch.setattr(_AnswerTable, "add", add_and_kill)
        on_cluster = replace(options, models=(runs / "genre",), scheduler=cluster.scheduler_address)
        assert answer_library(on_cluster) == 0
    assert not killed
    assert column(on_cluster, "status") == ["ok"] * 23


def test_a_cluster_without_workers_is_refused_before_the_table_is_opened(options, runs, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(extraction, "CONNECT_SECONDS", 1)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", processes=False) as cluster,
        pytest.raises(UserError, match="No workers at"),
    ):
        answer_library(replace(options, scheduler=cluster.scheduler_address, overwrite=True))
    assert not options.out.exists()


def test_workers_with_other_models_are_refused_before_the_table_is_opened(options, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(library, "_runs", lambda described: ((described[0]["run"], "0" * 64),))
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "processes": False}
    with (
        distributed.LocalCluster(**settings) as cluster,
        pytest.raises(UserError, match="Expected the same model on every machine of the cluster"),
    ):
        answer_library(replace(options, scheduler=cluster.scheduler_address, overwrite=True))
    assert not options.out.exists()


def test_a_worker_that_joins_with_another_model_is_refused(music, runs):
    from mtmusic.serving.library import answer_song

    with pytest.raises(UserError, match="Expected the same model on every machine of the cluster"):
        answer_song(music / "a.wav", ((str(runs / "genre"), "0" * 64),), None, False)

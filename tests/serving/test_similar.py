"""Songs that sound alike, against scikit-learn, and the command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

import mtmusic
from mtmusic.audio.synthesis import synthesise
from mtmusic.errors import UserError
from mtmusic.serving import similar as similar_module
from mtmusic.serving.library import COLUMNS, LibraryOptions, answer_library
from mtmusic.serving.predictor import Predictor
from mtmusic.serving.provenance import sha256_of
from mtmusic.serving.table import open_table, schema_of
from tests.runs import tiny_card, write_tiny_run

pytest.importorskip("pyarrow")

SONGS, VALUES = 40, 6


@pytest.fixture
def rows() -> np.ndarray:
    """The last value varies by rounding alone."""
    rows = np.random.default_rng(0).normal(3, [1, 10, 0.1, 1, 5, 0], (SONGS, VALUES))
    rows[:, -1] += np.random.default_rng(1).normal(0, 1e-8, SONGS)
    return rows.astype(np.float32)


@pytest.fixture
def table(tmp_path, rows, monkeypatch) -> Path:
    """Of 40 songs in parts and batches of seven, one in ten of which failed."""
    monkeypatch.setattr(similar_module, "BATCH_ROWS", 7)
    with open_table(tmp_path / "e.parquet", embeddings_schema(), part_rows=20) as table:
        for number, row in enumerate(rows):
            failed = {"status": "failed", "embedding": np.full(VALUES, np.nan)} if number % 10 == 5 else {}
            table.add(cells(f"/{number}.mp3", row, number + 0.4) | failed)
    return tmp_path / "e.parquet"


def embeddings_schema():
    models = [{"model": "m", "run": "/m", "sha256": "0" * 64, "card": {}}]
    return schema_of(COLUMNS, {"kind": "embeddings", "models": models, "window": None}, VALUES)


def cells(song: str, embedding: np.ndarray, seconds: float = 1.0) -> dict:
    return {"song": song, "size": 1, "mtime_ns": 1, "seconds": seconds, "status": "ok", "embedding": embedding}


@pytest.mark.parametrize("song", [0, 13, 39])
def test_the_cosines_are_those_of_scikit_learn(table, rows, song):
    fine = [number for number in range(SONGS) if number % 10 != 5]
    standard = StandardScaler().fit_transform(rows[fine, :-1].astype(np.float64))
    scores = cosine_similarity(standard)[fine.index(song)]
    order = [place for place in np.argsort(-scores) if fine[place] != song][:4]
    found = mtmusic.similar(f"/{song}.mp3", table, top=4)
    assert [one.song for one in found] == [f"/{fine[place]}.mp3" for place in order]
    assert [one.score for one in found] == pytest.approx(scores[order], abs=1e-6)
    assert [one.seconds for one in found] == [fine[place] + 0.4 for place in order]
    everything = mtmusic.similar(f"/{song}.mp3", table, top=100)
    assert [one[:1] for one in everything[:4]] == [one[:1] for one in found]
    assert len(everything) == len(fine) - 1


def test_the_command_prints_rows_and_writes_a_playlist(table, script, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = mtmusic.similar("/3.mp3", table, top=2)
    arguments = ["/3.mp3", "--embeddings", str(table), "--top", "2", "--m3u", "list.m3u"]
    assert script("similar").main(arguments) == 0
    rows = [f"{one.score:6.3f}  {one.song}" for one in found]
    assert capsys.readouterr().out.splitlines() == [*rows, "Playlist: list.m3u"]
    lines = [f"#EXTINF:{round(one.seconds)},{Path(one.song).stem}\n{one.song}" for one in found]
    assert Path("list.m3u").read_text() == "\n".join(["#EXTM3U", *lines]) + "\n"
    assert script("similar").main(arguments) == 2
    assert capsys.readouterr().err == "error: list.m3u exists already: --overwrite replaces it\n"


def test_names_that_no_line_holds(tmp_path, script, capsys):
    """Printed as escapes, in a playlist as URIs."""
    songs = ["/a/one.mp3", "/a/Two\nlines \x1b[31m.mp3", "file:///a/%FF.mp3"]
    with open_table(tmp_path / "e.parquet", embeddings_schema()) as table:
        for number, song in enumerate(songs):
            table.add(cells(song, np.arange(VALUES) * number))
    arguments = ["/a/one.mp3", "--embeddings", str(tmp_path / "e.parquet"), "--m3u", str(tmp_path / "l.m3u")]
    assert script("similar").main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()[:-1]
    assert sorted(line.split("  ")[1] for line in printed) == ["/a/Two\\nlines \\x1b[31m.mp3", "file:///a/%FF.mp3"]
    written = (tmp_path / "l.m3u").read_text().splitlines()
    assert sorted(written[2::2]) == ["file:///a/%FF.mp3", "file:///a/Two%0Alines%20%1B%5B31m.mp3"]
    assert len(written) == 5


def test_embeddings_that_are_not_finite_are_left_out_and_counted(table, rows, caplog):
    wanted = mtmusic.similar("/3.mp3", table, top=40)
    with open_table(table, embeddings_schema()) as more:
        for number, value in enumerate((np.nan, np.inf)):
            more.add(cells(f"/broken {number}.mp3", np.full(VALUES, value, np.float32)))
    assert mtmusic.similar("/3.mp3", table, top=40) == wanted
    assert caplog.messages == [f"warning: left out 2 songs with embeddings that are not finite: {table}"]


def test_two_songs_score_minus_one_and_equal_ones_nothing(tmp_path):
    for name, other, score in (("two", 1.0, -1.0), ("equal", 0.0, 0.0)):
        with open_table(tmp_path / f"{name}.parquet", embeddings_schema()) as table:
            for number in range(2):
                table.add(cells(f"/{number}.mp3", np.full(VALUES, other * number, np.float32)))
        assert [one.score for one in mtmusic.similar("/0.mp3", tmp_path / f"{name}.parquet")] == [pytest.approx(score)]


def test_a_damaged_part_is_named(table, script, capsys):
    (part := table / "part-000001.parquet").write_bytes(b"PAR1 no")
    assert script("similar").main(["/3.mp3", "--embeddings", str(table)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: Expected a part of a table of songs, got a file that cannot be read: {part}: ")
    assert error.count("\n") == 1


def test_a_song_of_the_table_needs_no_tensorflow(table):
    code = "import sys, mtmusic; mtmusic.similar('/3.mp3', sys.argv[1]); print('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, str(table)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_another_file_is_embedded_by_the_tables_model(tmp_path, script, capsys, caplog):
    write_tiny_run(tmp_path / "run", tiny_card(beat=False), sharpness=8)
    (tmp_path / "music").mkdir()
    for style in ("Rock", "Jazz", "Folk", "Metal"):
        soundfile.write(tmp_path / "music" / f"{style}.wav", synthesise(style, 0, 5.0)[0], 22_050)
    place = (tmp_path / "music" / "Jazz.wav").rename(tmp_path / "other.wav")
    out = tmp_path / "e.parquet"
    options = LibraryOptions((tmp_path / "music",), out, (tmp_path / "run",), embed=True, jobs=1)
    answer_library(options)
    embeddings = [
        Predictor(tmp_path / "run").embed(tmp_path / "music" / f"{style}.wav") for style in ("Folk", "Metal", "Rock")
    ]
    other = Predictor(tmp_path / "run").embed(place)
    scaler = StandardScaler().fit(np.array(embeddings, np.float64))
    wanted = cosine_similarity(scaler.transform(embeddings), scaler.transform([other]))[:, 0]
    found = {Path(one.song).stem: one.score for one in mtmusic.similar(place, out)}
    assert found == pytest.approx(dict(zip(("Folk", "Metal", "Rock"), wanted, strict=True)), abs=1e-3)

    caplog.clear()
    soundfile.write(tmp_path / "silent.wav", np.zeros(110_250), 22_050)
    mtmusic.similar(tmp_path / "silent.wav", out)
    assert caplog.messages == [f"warning: {tmp_path / 'silent.wav'} is silent"]

    (tmp_path / "run").rename(tmp_path / "moved")
    assert script("similar").main([str(place), "--embeddings", str(out)]) == 2
    told = (
        f"error: Expected the model of {out}, run ({sha256_of(tmp_path / 'moved')[:8]}), found none at {tmp_path}/run: "
    )
    assert capsys.readouterr().err == f"{told}give its path as --model\n"
    assert len(mtmusic.similar(place, out, top=2, model=tmp_path / "moved")) == 2
    write_tiny_run(tmp_path / "run", tiny_card(beat=False), seed=1)
    with pytest.raises(
        UserError, match=r"Expected the model of .*, run .*, got another model: .*run: give its path as `model`"
    ):
        mtmusic.similar(place, out)
    with pytest.raises(UserError, match=r"absent\.wav"):
        mtmusic.similar(tmp_path / "absent.wav", out, model=tmp_path / "moved")


def test_what_is_no_table_of_embeddings_is_refused(tmp_path, table):
    with pytest.raises(UserError, match="Expected a table that `mtmusic embed` wrote, found none in"):
        mtmusic.similar("a.mp3", tmp_path / "none.parquet")
    with pytest.raises(UserError, match="Expected `top` of 1 or more, got 0"):
        mtmusic.similar("/1.mp3", table, top=0)
    description = {"kind": "answers", "models": [], "window": None}
    with open_table(tmp_path / "a.parquet", schema_of(COLUMNS, description)):
        pass
    with pytest.raises(UserError, match="Expected a table of embeddings, got a table of answers"):
        mtmusic.similar("a.mp3", tmp_path / "a.parquet")

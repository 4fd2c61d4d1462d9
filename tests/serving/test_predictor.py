import json
import shutil
import tracemalloc
import types
import warnings
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

import mtmusic
from mtmusic.audio import features, windows
from mtmusic.audio.extraction import InOrder, find_songs
from mtmusic.audio.features import fused_spectrogram, logmel_spectrogram, mel_db, mel_power, stft
from mtmusic.audio.loading import load_waveform
from mtmusic.audio.synthesis import synthesise
from mtmusic.errors import UserError
from mtmusic.models import savedmodel
from mtmusic.models.heads import genre_classifier, head_alone, multitask_regressor
from mtmusic.models.musicnn import embedding
from mtmusic.models.savedmodel import export_savedmodel
from mtmusic.models.saving import answers, load, save
from mtmusic.models.transfer import freeze, load_backbone
from mtmusic.serving import predictor as predictor_module
from mtmusic.serving.predictor import Predictor, begin, clip_seconds
from tests.runs import CLASSES, logmel_examples, tiny_card, tiny_examples, write_random_trunk, write_tiny_run

TASKS = ("valence", "joyful activation")
RATE = 22_050


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """genre takes full-rate mel in windows of 1 s, affect beats of all features in windows of 2 s."""
    folder = tmp_path_factory.mktemp("runs")
    card = tiny_card(beat=False, clip_frames=43)
    model = write_tiny_run(folder / "genre", card, sharpness=8)
    export_savedmodel(model, card, tiny_examples(model), folder / "exported")
    affect = tiny_card(TASKS, "affect", feature="fused", clip_seconds=2.0)
    write_tiny_run(folder / "affect", affect, seed=1, sharpness=8)
    write_tiny_run(folder / "chroma", tiny_card(("calmness",), "calmness", feature="chroma", frames=30, clip_seconds=2))
    write_tiny_run(folder / "demo", tiny_card(("power",), "power", data={"demo": True}))
    return folder


@pytest.fixture(scope="module")
def genre(runs) -> Predictor:
    return Predictor(runs / "genre")


@pytest.fixture(scope="module")
def both(runs) -> Predictor:
    return Predictor(runs / "genre", str(runs / "affect"))


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    """Five seconds and a bit."""
    return np.concatenate([synthesise(name, 2, 2.1)[0] for name in ("Jazz", "Metal")] + [synthesise("Folk", 2, 1.0)[0]])


@pytest.fixture
def songs(tmp_path, waveform) -> Path:
    folder = tmp_path / "songs"
    (folder / "below").mkdir(parents=True)
    for name, song in (("a.wav", waveform), ("below/b.flac", waveform[: 2 * RATE]), ("c.wav", waveform[:RATE])):
        soundfile.write(folder / name, song, RATE)
    (folder / "notes.txt").write_text("no song")
    return folder


def parts(waveform: np.ndarray, seconds: float) -> list[np.ndarray]:
    """A NumPy loop that knows of windows."""
    length = int(seconds * RATE)
    whole = [waveform[i : i + length] for i in range(0, len(waveform) - length + 1, length)]
    rest = len(waveform) - length * len(whole)
    return [*whole, waveform[-length:]] if rest >= RATE else whole or [waveform]


def by_keras(run: Path, arrays: list[np.ndarray], rows: slice) -> dict[str, np.ndarray]:
    """Each array alone, then the mean."""
    model, card = load(run)
    said = [answers(model, card, array[rows].T[np.newaxis]) for array in arrays]
    return {name: np.mean([one[name][0] for one in said], axis=0) for name in said[0]}


def test_an_answer_is_the_mean_of_each_models_windows(both, runs, waveform):
    answer = both.predict(waveform)
    assert list(answer) == ["genre", *TASKS, "tempo"] == list(both.names)
    full = by_keras(runs / "genre", [fused_spectrogram(part) for part in parts(waveform, 1.0)], slice(128))
    assert len(parts(waveform, 1.0)) == 5
    assert list(answer["genre"]) == list(CLASSES)
    np.testing.assert_allclose(list(answer["genre"].values()), full["genre"], atol=1e-5)
    assert sum(answer["genre"].values()) == pytest.approx(1)
    beat = by_keras(runs / "affect", [fused_spectrogram(part, True) for part in parts(waveform, 2.0)], slice(140))
    assert [answer[task] for task in TASKS] == pytest.approx([beat[task][0] for task in TASKS], abs=1e-5)
    assert json.loads(json.dumps(answer)) == answer


def test_a_window_of_another_length(genre, runs, waveform):
    wanted = by_keras(runs / "genre", [fused_spectrogram(waveform)], slice(128))["genre"]
    np.testing.assert_allclose(list(genre.predict(waveform, window=60)["genre"].values()), wanted, atol=1e-5)
    assert genre.predict(waveform)["genre"] != genre.predict(waveform, window=60)["genre"]


def test_chroma_is_taken_and_clips_are_cut_as_the_card_says(runs, waveform):
    arrays = [fused_spectrogram(part, True)[:, :30] for part in parts(waveform, 2.0)]
    wanted = by_keras(runs / "chroma", arrays, slice(128, 140))["calmness"][0]
    assert Predictor(runs / "chroma").predict(waveform)["calmness"] == pytest.approx(wanted, abs=1e-5)


def test_file_waveform_array_and_list(genre, songs, waveform):
    short = waveform[:RATE]
    soundfile.write(songs / "float.wav", short, RATE, subtype="FLOAT")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        by_file = genre.predict(str(songs / "float.wav"))
    assert [str(warning.message) for warning in told] == [f"{songs / 'float.wav'} is short: 1.0 s"]
    with pytest.warns(UserWarning, match=r"the waveform is short: (1\.0|0\.5) s"):
        one, two, three = genre.predict([short, fused_spectrogram(short), short[::2]], sample_rate=RATE)
    for answer in (one, two):
        assert answer["genre"] == pytest.approx(by_file["genre"], abs=1e-6)
    assert three["genre"] != one["genre"]


def test_a_waveform_of_another_rate_is_resampled(genre, waveform):
    twice = np.tile(waveform, 2)
    half = librosa.resample(twice, orig_sr=44_100, target_sr=RATE)
    answer = genre.predict(twice.astype("float64"), sample_rate=44_100)["genre"]
    assert answer == pytest.approx(genre.predict(half)["genre"], abs=1e-5)
    assert answer != genre.predict(twice)["genre"]


@pytest.mark.parametrize("samples", [1, 100, 3000, 25_000])
def test_short_and_silent_waveforms_are_answered_with_a_warning(both, samples):
    noise = np.random.default_rng(0).normal(0, 0.1, samples).astype("float32")
    short = f"the waveform is short: {samples / RATE:.1f} s"
    for waveform, doubts in ((np.zeros(samples), ["the waveform is silent", short]), (noise, [short])):
        with pytest.warns(UserWarning, match="the waveform") as told:
            answer = both.predict(waveform)
        assert [str(warning.message) for warning in told] == doubts
        assert sum(answer["genre"].values()) == pytest.approx(1)
        assert 0 <= answer["valence"] <= 1


@pytest.mark.parametrize(
    ("song", "told"),
    [
        (np.zeros((2, 44_100), "float32"), r"or an array \(140, frames\), both of floats, got \(2, 44100\) float32"),
        (np.zeros((140, 0), "float32"), r"got \(140, 0\)"),
        (np.zeros((140, 3), "int64"), "got .* int64"),
        (np.full((140, 3), np.nan), "Expected finite numbers above -1024"),
        (np.full((140, 3), -1024.0), "Expected finite numbers above -1024"),
        (np.zeros((1, 2, 3)), r"Expected a waveform \(samples,\) of floats, or of int16, .*got \(1, 2, 3\)"),
        (np.zeros(5, "int64"), r"Expected a waveform \(samples,\) of floats, .*got \(5,\) int64"),
        (np.array([0.1, np.nan]), "Expected finite samples, got 1 NaN or infinite in the waveform"),
        (np.zeros(0), "Expected audio, got none in the waveform"),
        (np.full(9, 1e7), "got far larger values in the waveform"),
        ("absent.mp3", "Expected a song's file, got no such file: absent.mp3"),
        (Path(), "Expected a song's file, got a folder"),
        (Path(__file__), "[nN]o decoder reads"),
        (7, "Expected a song's file or a NumPy array, got int"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_is_no_song_is_said_in_one_line(genre, song, told):
    with pytest.raises(UserError, match=told) as raised:
        genre.predict(song)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rate", [0, -1, np.nan, np.inf])
def test_a_rate_that_is_none(genre, rate):
    with pytest.raises(UserError, match="Expected a sample rate of 1000 to 1000000 Hz"):
        genre.predict(np.zeros(5), sample_rate=rate)


@pytest.mark.parametrize("window", [0, 0.5, -1, np.nan, np.inf])
def test_a_window_that_is_none(genre, window):
    for ask in (genre.predict, genre.timeline, genre.embed):
        with pytest.raises(UserError, match="Expected `window` of 1 second or more"):
            ask(np.zeros(5), window=window)
    with pytest.raises(UserError, match="Expected `window` of 1 second or more"):
        genre.predict_folder(".", window=window)


def test_an_array_does_not_do_for_models_of_both_rates(both):
    with pytest.raises(UserError, match="one model takes beat-synchronised arrays, another full-rate arrays"):
        both.predict(np.zeros((140, 20)))


def test_a_timeline_has_an_answer_a_window_and_their_mean_is_the_songs(genre, waveform):
    timeline = genre.timeline(waveform)
    assert timeline.times.tolist() == [[i, i + 1] for i in range(5)]
    assert len(timeline.answers) == 5
    for name, share in genre.predict(waveform)["genre"].items():
        assert share == pytest.approx(np.mean([answer["genre"][name] for answer in timeline.answers]), abs=1e-6)
    with pytest.warns(UserWarning, match="is short"):
        second = genre.predict(waveform[RATE : 2 * RATE])["genre"]
    assert timeline.answers[1]["genre"] == pytest.approx(second, abs=1e-5)
    assert np.array_equal(timeline.mel, mel_db(mel_power(stft(waveform))))


def test_a_timeline_needs_one_length_of_windows(both, waveform):
    with pytest.raises(UserError, match="got 1 s and 2 s: give a window"):
        both.timeline(waveform)
    assert both.timeline(waveform, window=2).times[:, 1].tolist() == [2, 4, len(waveform) / RATE]
    with pytest.raises(UserError, match=r"Expected a waveform \(samples,\)"):
        both.timeline(np.zeros((140, 9)), window=2)


def test_an_embedding_is_the_backbones_mean(genre, both, runs, waveform):
    backbone = load(runs / "genre")[0].get_layer("backbone")
    arrays = [fused_spectrogram(part)[np.newaxis, :128].swapaxes(1, 2) for part in parts(waveform, 1.0)]
    wanted = np.mean([backbone.predict(array, verbose=0)[0] for array in arrays], axis=0)
    np.testing.assert_allclose(genre.embed(waveform), wanted, atol=1e-5)
    with pytest.raises(UserError, match="Expected one model to embed with, got 2"):
        both.embed(waveform)


def test_an_exported_model_answers_as_its_run(genre, runs, waveform):
    assert Predictor(runs / "exported").predict(waveform)["genre"] == pytest.approx(
        genre.predict(waveform)["genre"], abs=1e-6
    )


def test_a_folder_is_answered_song_by_song(both, songs, monkeypatch):
    monkeypatch.setattr(predictor_module, "SONGS_AT_ONCE", 2)
    (songs / "bad.mp3").write_bytes(b"no audio")
    answered = list(both.predict_folder(songs, jobs=1))
    names = [song.path.relative_to(songs).as_posix() for song in answered]
    assert names == ["a.wav", "bad.mp3", "below/b.flac", "c.wav"]
    assert (answered[1].answer, answered[1].failure[:15]) == ({}, "Expected audio,")
    assert [song.doubts for song in answered] == [
        (), (), (f"{songs}/below/b.flac is short: 2.0 s",), (f"{songs}/c.wav is short: 1.0 s",)
    ]  # fmt: skip
    for song in (answered[0], answered[2], answered[3]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = both.predict(song.path)
        assert song.answer["genre"] == pytest.approx(alone["genre"], abs=1e-5)
        assert song.answer["valence"] == pytest.approx(alone["valence"], abs=1e-5)
        assert song.timeline is None
    listed = list(both.predict_folder([songs / "c.wav", str(songs / "below")], window=2, jobs=1, timelines=True))
    assert [song.path.name for song in listed] == ["b.flac", "c.wav"]
    assert listed[1].timeline.times.tolist() == [[0, 1]]


@pytest.mark.parametrize("model", ["genre", "affect"])
def test_a_folder_is_embedded_song_by_song(runs, songs, model):
    predictor = Predictor(runs / model)
    (songs / "bad.mp3").write_bytes(b"no audio")
    embedded = {song.path.name: song for song in predictor.predict_folder(songs, jobs=1, embed=True)}
    assert embedded.pop("bad.mp3").failure
    for song in embedded.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = predictor.embed(song.path)
        assert list(song.answer) == ["embedding"]
        np.testing.assert_allclose(song["embedding"], wanted, atol=1e-5)
    assert [round(embedded[name].seconds, 1) for name in ("a.wav", "b.flac", "c.wav")] == [5.2, 2.0, 1.0]


def test_several_models_do_not_embed_a_folder(both, songs):
    with pytest.raises(UserError, match="Expected one model to embed with, got 2"):
        both.predict_folder(songs, embed=True)


def test_the_tempo_is_the_median_of_librosas(both, genre, waveform):
    """Of the windows of two seconds that the model of beats takes."""
    tempos = []
    for part in parts(waveform, 2.0):
        harmonic_free = librosa.effects.hpss(part)[1]
        tempos.append(librosa.beat.beat_track(y=harmonic_free, sr=RATE)[0].item())
    assert both.predict(waveform)["tempo"] == pytest.approx(np.median(tempos))
    assert "tempo" not in genre.predict(waveform)
    with pytest.warns(UserWarning, match="silent"):
        assert "tempo" not in both.predict(np.zeros(6 * RATE))


def test_a_folder_without_songs_is_told_at_once(genre, tmp_path):
    for place, told in ((tmp_path, "found none in"), (tmp_path / "absent", "got no such file")):
        with pytest.raises(UserError, match=told):
            genre.predict_folder(place)


def test_a_folder_with_only_bad_songs(genre, tmp_path):
    (tmp_path / "bad.mp3").write_bytes(b"no audio")
    (song,) = genre.predict_folder(tmp_path)
    assert song.failure


def test_memory_holds_a_few_songs_of_a_folder(genre, tmp_path, monkeypatch):
    """However many there are: those that are answered together, and those that are made ahead."""
    monkeypatch.setattr(predictor_module, "SONGS_AT_ONCE", 2)
    monkeypatch.setattr(windows, "SONGS_AHEAD", 3)
    begun = []
    monkeypatch.setattr(InOrder, "_submitted", lambda self, path: begun.append(path) or done(self.work(path)))
    for number in range(12):
        (tmp_path / f"{number}.wav").write_bytes(b"no audio")
    songs = genre.predict_folder(tmp_path, jobs=2)
    assert isinstance(songs, types.GeneratorType)
    assert not begun
    for answered, _ in enumerate(songs, 1):
        assert len(begun) < answered + 4 + 3
    assert begun == sorted(tmp_path.iterdir())


def done(result):
    future = Future()
    future.set_result(result)
    return future


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_folder_has_the_same_answers_however_it_is_read(both, runs, songs, monkeypatch, ahead):
    (songs / "bad.mp3").write_bytes(b"no audio")
    wanted = list(both.predict_folder(songs, jobs=1))
    monkeypatch.setattr(windows, "SONGS_AHEAD", ahead)
    ours = (runs / "genre", runs / "affect")
    with begin(ours, find_songs([songs]), jobs=2) as begun:
        answered = list(both.predict_folder(songs, jobs=2, begun=begun))
        assert not begun.songs.begun  # what was begun was taken
    assert [(song.path, song.failure, song.doubts) for song in answered] == [
        (song.path, song.failure, song.doubts) for song in wanted
    ]
    for one, other in zip(answered, wanted, strict=True):
        assert one.answer.get("genre") == pytest.approx(other.answer.get("genre"), abs=1e-5)


def test_what_was_begun_for_other_windows_is_not_taken(both, runs, songs):
    wanted = [song.answer for song in both.predict_folder(songs, jobs=1)]
    with begin([runs / "genre"], find_songs([songs]), jobs=1) as begun:
        answers = [song.answer for song in both.predict_folder(songs, jobs=1, begun=begun)]
        assert next(begun.songs)[0] == songs / "a.wav"
    assert answers == wanted


@pytest.mark.parametrize(("run", "window"), [("absent", None), ("genre", 0.1)])
def test_nothing_is_begun_where_the_predictor_will_refuse(runs, songs, run, window):
    with begin([runs / run], find_songs([songs]), window=window, jobs=1) as begun:
        assert begun is None


def test_a_song_is_decoded_once_and_its_features_made_once(runs, songs, monkeypatch):
    calls = []
    for name in ("fused_spectrogram", "full_and_beat_spectrograms"):
        original = getattr(features, name)
        monkeypatch.setattr(
            features, name, lambda *given, name=name, original=original: calls.append(name) or original(*given)
        )
    load = windows.stream_waveform
    monkeypatch.setattr(windows, "stream_waveform", lambda *one, **named: calls.append("load") or load(*one, **named))
    models = Predictor(runs / "genre", runs / "affect", runs / "chroma")
    models.predict(songs / "a.wav", window=10)
    assert calls == ["load", "full_and_beat_spectrograms"]


def test_models_that_answer_the_same_are_refused(runs):
    with pytest.raises(UserError, match="predict different things, got genre twice in"):
        Predictor(runs / "genre", runs / "exported")


def test_a_task_may_not_take_the_place_of_the_warning(tmp_path):
    write_tiny_run(tmp_path, tiny_card(("warning",), "warning"))
    with pytest.raises(UserError, match="got warning twice"):
        Predictor(tmp_path)


def test_answers_of_a_demo_model_say_so(runs, genre, waveform):
    demo = Predictor(runs / "demo", runs / "genre")
    assert "demo corpus" in demo.predict(waveform)["warning"]
    assert all("demo corpus" in answer["warning"] for answer in demo.timeline(waveform, window=2).answers)
    assert "warning" not in genre.predict(waveform)
    assert (demo.names, genre.warning) == (("power", "genre", "tempo"), None)


@pytest.mark.parametrize("kind", ["no run", "no card", "another's card", "SavedModel without a card"])
def test_models_that_cannot_be_opened_are_said_in_one_line(runs, tmp_path, kind):
    place = tmp_path / "run"
    if kind != "no run":
        shutil.copytree(runs / ("exported" if kind.startswith("Saved") else "genre"), place)
    if kind == "no card":
        (place / "card.json").unlink()
    elif kind == "another's card":
        (place / "card.json").write_text(json.dumps(tiny_card(("one", "two"))))
    elif kind.startswith("Saved"):
        shutil.rmtree(place / "assets")
    with pytest.raises(UserError, match="Expected ") as raised:
        Predictor(place)
    assert str(place) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("card", "seconds"),
    [
        ({"beat": False, "clip_frames": 1292}, 30.0),
        ({"beat": False, "clip_frames": 431, "clip_seconds": None}, 10.0),
        ({"beat": False, "clip_frames": 431, "clip_seconds": 30.0}, 10.0),
        ({"beat": True, "clip_frames": 58}, 30.0),
        ({"beat": True, "clip_frames": 58, "clip_seconds": 12.0}, 12.0),
        ({"beat": False}, 30.0),
        ({"beat": False, "clip_frames": 1876, "feature": "logmel"}, 30.0),
    ],
)
def test_the_window_is_as_long_as_the_models_clips(card, seconds):
    assert clip_seconds(card) == seconds


def test_batches_hold_few_frames_and_give_rows_in_order(genre):
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-80, 0, (140, frames)).astype("float32") for frames in (900, 3, 5000, 1500, 3, 2000)]
    shapes = []

    def sums(batch: np.ndarray) -> dict[str, np.ndarray]:
        shapes.append(batch.shape)
        return {"sum": np.where(batch > -1024, batch, 0).sum(axis=(1, 2), dtype=np.float64)[:, np.newaxis]}

    outputs = predictor_module._in_batches(sums, arrays, "mel")["sum"][:, 0]
    np.testing.assert_allclose(outputs, [array[:128].sum(dtype=np.float64) for array in arrays])
    assert shapes == [(3, 900, 128), (2, 2000, 128), (1, 5000, 128)]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A trunk of random weights, and a model of valence and arousal that takes windows of 4 s of logmel."""
    folder = tmp_path_factory.mktemp("pretrained")
    write_random_trunk(folder / "musicnn")
    card = tiny_card(("valence", "arousal"), "affect", feature="logmel", beat=False, clip_frames=250)
    write_tiny_run(folder / "mood_musicnn", card, sharpness=8)
    return folder


@pytest.fixture
def named(pretrained, tmp_path, monkeypatch) -> Predictor:
    """What answers where no run is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved_models").symlink_to(pretrained)
    return Predictor()


@pytest.fixture
def recording(tmp_path) -> Path:
    """14 s and a bit at 44.1 kHz."""
    waveform = np.concatenate([synthesise(name, 3, seconds)[0] for name, seconds in (("Jazz", 8.0), ("Metal", 6.3))])
    soundfile.write(tmp_path / "song.wav", librosa.resample(waveform, orig_sr=RATE, target_sr=44_100), 44_100)
    return tmp_path / "song.wav"


def test_without_runs_the_pretrained_ones_answer(named, pretrained, recording):
    answer = named.predict(recording)
    assert list(answer) == ["tags", "valence", "arousal"] == list(named.names)
    assert named.runs == ("musicnn", "mood_musicnn")
    model, card = load(pretrained / "musicnn")
    logmel = logmel_spectrogram(load_waveform(recording, sample_rate=16_000))
    wanted = answers(model, card, logmel.T[np.newaxis])["tags"][0]  # the model cuts patches of the whole song
    assert logmel.shape[1] == 894
    assert list(answer["tags"]) == list(named.tag_groups) == card["tags"]
    np.testing.assert_allclose(list(answer["tags"].values()), wanted, atol=1e-5)
    assert named.tag_groups["jazz"] == "genre"
    assert Predictor("musicnn").predict(recording) == {"tags": pytest.approx(answer["tags"], abs=1e-6)}

    waveform = load_waveform(recording, sample_rate=16_000)
    clips = [waveform[i : i + 64_000] for i in (0, 64_000, 128_000, len(waveform) - 64_000)]
    mood = by_keras(pretrained / "mood_musicnn", [logmel_spectrogram(clip) for clip in clips], slice(None))
    assert [answer["valence"], answer["arousal"]] == pytest.approx([mood["valence"][0], mood["arousal"][0]], abs=1e-5)


def test_tags_along_a_song_are_of_three_seconds_and_affect_of_windows(named, recording, pretrained):
    timeline = named.timeline(recording)
    assert timeline.tag_times == pytest.approx(np.array([[i, i + 1] for i in range(4)]) * 2.992)
    assert timeline.times[:, 0] == pytest.approx([0, 4, 8, 10.3], abs=1e-3)
    answer = named.predict(recording)
    for tag, score in answer["tags"].items():
        assert score == pytest.approx(np.mean([step[tag] for step in timeline.tags]), abs=1e-6)
    assert np.mean([one["valence"] for one in timeline.answers]) == pytest.approx(answer["valence"], abs=1e-6)
    assert [list(one) for one in timeline.answers] == [["valence", "arousal"]] * 4
    alone = Predictor("musicnn").timeline(recording, window=2)
    assert (len(alone.tags), len(alone.answers)) == (4, 0)
    both = named.answer(recording, timeline=True)
    assert (both["tags"], both.timeline.tags) == (answer["tags"], timeline.tags)


@pytest.fixture
def heads(named, pretrained) -> tuple[Path, Path]:
    """Heads on the trunk: affect from its penultimate features, genre from its means, both in windows of 6 s."""
    runs = pretrained / "affect_on_trunk", pretrained / "genre_on_trunk"
    if not runs[0].is_dir():
        logmel = {"feature": "logmel", "beat": False, "clip_frames": 375}
        for run, features in zip(runs, ("penultimate", "mean"), strict=True):
            backbone = load_backbone("musicnn", features)
            freeze(backbone, "all")
            affect = features == "penultimate"
            model = multitask_regressor(backbone, ["power"]) if affect else genre_classifier(backbone, CLASSES)
            card = tiny_card(("power",), "affect", **logmel) if affect else tiny_card(**logmel)
            save(model, run, card, logmel_examples())
    return runs


def test_models_on_one_trunk_compute_it_once_and_answer_as_each_alone(heads, recording):
    together = Predictor("musicnn", *heads)
    calls = []
    (trunk,) = together._trunks
    compute = together._trunks[trunk]
    together._trunks = {trunk: lambda batch: calls.append(len(batch)) or compute(batch)}
    together._models = [replace(model, serve=None, embed=None) for model in together._models]
    answer = together.predict(recording)
    assert sum(calls) == 4  # patches of the song
    alone = [Predictor(run).predict(recording) for run in ("musicnn", *heads)]
    for name, values in {name: values for one in alone for name, values in one.items()}.items():
        assert answer[name] == pytest.approx(values, abs=1e-6)

    logmel = logmel_spectrogram(load_waveform(recording, sample_rate=16_000)).T
    patches = np.stack([logmel[i : i + 187] for i in range(0, 4 * 187, 187)])
    for run, name in zip(heads, ("power", "genre"), strict=True):
        model, card = load(run)
        features = model.get_layer("backbone").predict(patches, verbose=0)
        windows_of = np.stack([features[:2].mean(0), features[2:].mean(0), features[3]])  # 0 to 6, 6 to 12, 8.3 to 14.3
        said = answers(head_alone(model), card, windows_of)[name].mean(axis=0)
        assert [*answer["genre"].values()] if name == "genre" else [answer["power"]] == pytest.approx(said, abs=1e-5)


def test_heads_on_a_trunk_have_timelines_arrays_embeddings_and_exports(heads, recording, tmp_path):
    predictor = Predictor("musicnn", heads[0])
    timeline = predictor.timeline(recording)
    assert timeline.times == pytest.approx(np.array([[0, 6], [6, 12], [8.3, 14.3]]), abs=1e-3)
    assert len(timeline.tags) == 4
    (tmp_path / "songs").mkdir()
    for name in "ab":
        (tmp_path / "songs" / f"{name}.wav").symlink_to(recording)
    for song in predictor.predict_folder(tmp_path / "songs", jobs=1):
        assert song["power"] == pytest.approx(np.mean([one["power"] for one in timeline.answers]), abs=1e-5)
    logmel = logmel_spectrogram(load_waveform(recording, sample_rate=16_000))
    model, card = load(heads[0])
    wanted = answers(model, card, logmel.T[np.newaxis])["power"][0, 0]
    assert predictor.predict(logmel)["power"] == pytest.approx(wanted, abs=1e-5)
    means = embedding(model).predict(logmel.T[np.newaxis], verbose=0)[0]
    np.testing.assert_allclose(Predictor(heads[0]).embed(recording), means, rtol=1e-3, atol=1e-4)
    export_savedmodel(model, card, logmel_examples(), tmp_path / "exported")
    exported = Predictor(tmp_path / "exported").timeline(recording)
    assert [one["power"] for one in exported.answers] == pytest.approx(
        [one["power"] for one in timeline.answers], abs=1e-6
    )


def test_a_window_has_the_patches_whose_middles_lie_in_it():
    patches = np.arange(4.0)[:, np.newaxis] ** 2
    times = [(0, 5.9), (5.9, 9), (0, 0.5), (5, 6), (11, 14), (0, np.inf)]
    means = predictor_module._window_means(patches, times)[:, 0]
    assert means.tolist() == [0.5, 4, 0, 1, 9, 3.5]


def test_a_timeline_decodes_a_song_once_and_shows_its_logmel(named, recording, monkeypatch):
    calls = []
    stream = windows.stream_waveform
    monkeypatch.setattr(windows, "stream_waveform", lambda *one, **more: calls.append(one[1]) or stream(*one, **more))
    timeline = named.answer(recording, timeline=True).timeline
    assert calls == [16_000]
    wanted = logmel_spectrogram(load_waveform(recording, sample_rate=16_000))
    np.testing.assert_allclose(timeline.mel, wanted, atol=1e-5)
    assert timeline.stride == 1


def test_the_songs_answer_without_a_predictor(named, recording, monkeypatch):
    predictor_module._pretrained.cache_clear()
    answer = mtmusic.predict(recording)
    assert answer.answer == named.predict(recording)
    assert answer["valence"] == answer.answer["valence"]
    assert (answer.doubts, answer.timeline) == ((), None)
    monkeypatch.setattr(savedmodel, "open_model", lambda run: pytest.fail("was loaded again"))
    assert mtmusic.predict(str(recording), timeline=True).timeline.tags
    predictor_module._pretrained.cache_clear()


def test_a_silent_song_has_no_tags(named, tmp_path):
    soundfile.write(tmp_path / "hush.wav", np.zeros(10 * RATE), RATE)
    with pytest.warns(UserWarning, match=r"hush.wav is silent"):
        answer = named.predict(tmp_path / "hush.wav")
    assert (answer["tags"], answer["warning"]) == ({}, "the song is silent, so it has no tags")
    hush = np.zeros(10 * RATE)
    with pytest.warns(UserWarning, match="the waveform is silent"):
        assert named.predict(hush, sample_rate=RATE)["tags"] == {}
    with pytest.warns(UserWarning, match="the waveform is silent"):
        assert named.timeline(hush, sample_rate=RATE).tags == ()
    with pytest.warns(UserWarning, match="the waveform is silent"):
        assert "warning" not in Predictor("mood_musicnn").predict(hush, sample_rate=RATE)
    with pytest.warns(UserWarning, match="the array is silent"):
        assert named.predict(logmel_spectrogram(hush.astype("float32")))["tags"] == {}


def test_a_silent_array_is_answered_with_a_warning(genre):
    with pytest.warns(UserWarning, match="the array is silent"):
        assert sum(genre.predict(fused_spectrogram(np.zeros(RATE, "float32")))["genre"].values()) == pytest.approx(1)


def test_models_of_logmel_need_the_rate_of_a_waveform_and_its_level(named, recording):
    waveform, rate = soundfile.read(recording, dtype="int16")
    with pytest.raises(UserError, match="Expected the `sample_rate` of the waveform in Hz"):
        named.predict(waveform / 2.0**15)
    answer = named.predict(recording)
    assert named.predict(waveform, sample_rate=rate)["tags"] == pytest.approx(answer["tags"], abs=1e-5)
    assert named.predict(waveform / 2.0**15, sample_rate=rate)["tags"] == pytest.approx(answer["tags"], abs=1e-5)
    assert named.predict(waveform / 2.0**18, sample_rate=rate)["tags"] != pytest.approx(answer["tags"], abs=1e-2)
    with pytest.raises(UserError, match="no peak above 4, got a peak of"):
        named.predict(waveform.astype(float), sample_rate=rate)


def test_an_array_of_logmel_is_one_clip(named, genre, recording, runs):
    logmel = logmel_spectrogram(load_waveform(recording, sample_rate=16_000))
    assert named.predict(logmel)["tags"] == pytest.approx(named.predict(recording)["tags"], abs=1e-5)
    with pytest.raises(UserError, match=r"Expected logmel \(96, frames\), got a fused array \(140, 20\), which"):
        named.predict(np.zeros((140, 20)))
    with pytest.raises(UserError, match="Expected logmel, which is at least 0, got -3"):
        named.predict(np.full((96, 20), -3.0))
    with pytest.raises(UserError, match="one model takes full-rate arrays, another logmel arrays"):
        Predictor("musicnn", runs / "genre").predict(np.zeros((96, 20)))


def test_an_embedding_is_the_mean_over_patches(pretrained, recording):
    model = embedding(load(pretrained / "musicnn")[0])
    logmel = logmel_spectrogram(load_waveform(recording, sample_rate=16_000))
    wanted = model.predict(logmel.T[np.newaxis], verbose=0)[0]
    np.testing.assert_allclose(Predictor(pretrained / "musicnn").embed(recording), wanted, rtol=1e-3, atol=1e-4)


def test_a_long_song_of_a_folder_is_answered_part_by_part(named, recording, tmp_path, monkeypatch):
    wanted = named.answer(recording, timeline=True)
    soundfile.write(tmp_path / "short.wav", synthesise("Rock", 0, 5.0)[0], RATE)
    monkeypatch.setattr(windows, "WHOLE_SECONDS", 10.0)
    monkeypatch.setattr(windows, "BLOCK_SECONDS", 3.0)
    (tmp_path / "bad.mp3").write_bytes(b"no audio")
    bad, short, long = named.predict_folder([tmp_path / name for name in ("short.wav", "song.wav", "bad.mp3")],
                                            jobs=1, timelines=True)  # fmt: skip
    assert bad.failure
    assert len(short.timeline.tags) == 1
    assert long["tags"] == pytest.approx(wanted["tags"], abs=1e-5)
    assert np.array_equal(long.timeline.times, wanted.timeline.times)
    np.testing.assert_allclose(long.timeline.mel, wanted.timeline.mel, atol=1e-2)


def test_an_exported_trunk_answers_as_its_run(pretrained, recording, tmp_path):
    model, card = load(pretrained / "musicnn")
    export_savedmodel(model, card, logmel_examples(), tmp_path / "exported")
    wanted = Predictor(pretrained / "musicnn").predict(recording)["tags"]
    exported = Predictor(tmp_path / "exported")
    assert exported.predict(recording)["tags"] == pytest.approx(wanted, abs=1e-6)
    assert exported.tag_groups["sad"] == "mood"


def test_memory_does_not_grow_with_the_song(genre, tmp_path, monkeypatch):
    for name, value in (("BLOCK_SECONDS", 5.0), ("MOST_MEL_FRAMES", 400), ("FRAMES_AT_ONCE", 187)):
        monkeypatch.setattr(windows, name, value)
    peaks = []
    for seconds in (10, 30, 90):  # the first makes what is kept for later songs
        soundfile.write(tmp_path / "song.wav", np.tile(synthesise("Rock", 0, 1.0)[0], seconds), RATE)
        tracemalloc.start()
        answer = genre.answer(tmp_path / "song.wav", timeline=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(answer.timeline.answers) == seconds
    assert peaks[2] < 1.1 * peaks[1]


def test_without_the_trunk_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTMUSIC_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="`mtmusic get-pretrained`") as raised:
        Predictor()
    assert "\n" not in str(raised.value)


@pytest.mark.real
def test_tags_are_musicnns_own(real_data):
    try:
        predictor = Predictor("musicnn")
    except UserError:
        pytest.skip("the weights are not here: `mtmusic get-pretrained` fetches them")
    songs = json.loads((real_data / "musicnn" / "reference.json").read_text())["songs"]
    assert len(songs) == 5
    for name, reference in songs.items():
        assert predictor.predict(real_data / "audio" / name)["tags"] == pytest.approx(reference["tags"], abs=1e-4)

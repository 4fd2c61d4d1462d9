import json
import subprocess
import sys
from pathlib import Path

import keras
import librosa
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.audio.features import fused_spectrogram, logmel_filters, logmel_spectrogram, mel_filters
from mtmusic.audio.synthesis import synthesise
from mtmusic.constants import PAD_VALUE
from mtmusic.errors import UserError
from mtmusic.models import savedmodel
from mtmusic.models.backbones import cnn_backbone, lstm_backbone
from mtmusic.models.heads import head_alone, multitask_regressor
from mtmusic.models.musicnn import embedding, musicnn_backbone
from mtmusic.models.savedmodel import Sound, export_savedmodel, open_model
from mtmusic.models.saving import answers, load, save
from mtmusic.models.transfer import freeze, load_backbone
from tests.runs import CLASSES, logmel_examples, tiny_card, tiny_examples, write_tiny_run

TASKS = ("joyful activation", "joyful_activation", "1st", "ενέργεια/β")


def clips(*frames: int, bins: int = 128, longest: int | None = None) -> np.ndarray:
    """A padded batch of clips of so many frames."""
    rng = np.random.default_rng(1)
    batch = np.full((len(frames), longest or max(frames), bins), PAD_VALUE, "float32")
    for clip, count in zip(batch, frames, strict=True):
        clip[:count] = rng.uniform(-80, 0, (count, bins))
    return batch


def exported(tmp_path: Path, card: dict, backbone: keras.Model | None = None, sound: Sound | None = None):
    """The model, and what lies in its SavedModel."""
    model = write_tiny_run(tmp_path / "run", card, backbone, sharpness=5)
    assert export_savedmodel(model, card, tiny_examples(model, card["frames"]), tmp_path / "out", sound) <= 1e-4
    return model, tf.saved_model.load(str(tmp_path / "out"))


def probabilities(model: keras.Model, batch: np.ndarray) -> np.ndarray:
    """Softmax by NumPy."""
    raised = np.exp(model.predict(batch, verbose=0))
    return raised / raised.sum(axis=1, keepdims=True)


PLAIN = """
import json, sys
sys.modules["mtmusic"] = sys.modules["keras"] = None
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
batch = tf.constant(np.load(sys.argv[2]))
found = {name: {key: value.numpy().tolist() for key, value in loaded.signatures[name](spectrogram=batch).items()}
         for name in ("serve", "serving_default", "embed")}
found["called"] = loaded.serve(batch)["genre"].numpy().tolist()
found["card"] = json.loads(tf.io.read_file(loaded.card.asset_path).numpy())
print(json.dumps(found))
"""


def test_it_loads_where_there_is_no_mtmusic(tmp_path):
    card = tiny_card(frames=16)
    model, _ = exported(tmp_path, card, cnn_backbone(frames=16))
    batch = clips(10, 16)
    np.save(tmp_path / "batch.npy", batch)
    command = [sys.executable, "-I", "-W", "ignore", "-c", PLAIN, str(tmp_path / "out"), str(tmp_path / "batch.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for answer in (found["serve"]["genre"], found["serving_default"]["genre"], found["called"]):
        np.testing.assert_allclose(answer, probabilities(model, batch), atol=1e-6)
    embedding = model.get_layer("backbone").predict(batch, verbose=0)
    np.testing.assert_allclose(found["embed"]["embedding"], embedding, atol=1e-5)
    assert found["card"] == json.loads((tmp_path / "out" / "assets" / "card.json").read_text())
    assert card.items() <= found["card"].items()
    assert found["card"]["signatures"] == ["serve", "embed"]
    assert (tmp_path / "out" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    "backbone",
    [lambda: lstm_backbone(units=4), lambda: lstm_backbone(units=4, bidirectional=True),
     lambda: cnn_backbone(pooling="masked")],
    ids=["lstm", "bidirectional", "masked cnn"],
)  # fmt: skip
def test_models_of_any_length_hear_no_padding(tmp_path, backbone):
    model, loaded = exported(tmp_path, tiny_card(), backbone())
    batch = clips(5, 33, 20)
    together = loaded.serve(tf.constant(batch))["genre"].numpy()
    np.testing.assert_allclose(together, probabilities(model, batch), atol=1e-5)
    alone = [loaded.serve(tf.constant(clip[np.newaxis, :n]))["genre"].numpy()[0]
             for clip, n in zip(batch, (5, 33, 20), strict=True)]  # fmt: skip
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("backbone", [lambda: lstm_backbone(units=4), lambda: cnn_backbone(frames=16)])
def test_clips_are_cut_and_padded_as_in_training(tmp_path, backbone):
    model, loaded = exported(tmp_path, tiny_card(frames=16), backbone())
    batch = clips(7, 40)
    got = loaded.serve(tf.constant(batch))["genre"].numpy()
    np.testing.assert_allclose(got, probabilities(model, batch[:, :16]), atol=1e-5)
    short = loaded.serve(tf.constant(batch[:1, :7]))["genre"].numpy()
    np.testing.assert_allclose(short, got[:1], atol=1e-5)
    later = batch.copy()
    later[1, 16:] = -3
    assert np.array_equal(loaded.serve(tf.constant(later))["genre"].numpy(), got)


def test_each_task_is_an_output_of_its_own_name(tmp_path):
    model, loaded = exported(tmp_path, tiny_card(TASKS, "affect", feature="fused"))
    batch = clips(9, 12, bins=140)
    got = loaded.signatures["serve"](spectrogram=tf.constant(batch))
    assert {name: tuple(answer.shape) for name, answer in got.items()} == dict.fromkeys(TASKS, (2, 1))
    wanted = model.predict(batch, verbose=0)
    np.testing.assert_allclose(np.hstack([got[task] for task in TASKS]), wanted, atol=1e-5)


def test_learned_weights_do_not_stand_in_the_way(tmp_path):
    card = tiny_card(("a", "b"), "affect")
    model = multitask_regressor(lstm_backbone(units=4), ["a", "b"], learned_weights=True)
    assert export_savedmodel(model, card, tiny_examples(model), tmp_path / "out") <= 1e-4


def sound() -> Sound:
    samples = synthesise("Jazz", 0, 2.0)[0]
    return Sound(mel_filters(), samples, fused_spectrogram(samples)[:128])


def test_samples_give_the_answers_of_their_mel(tmp_path):
    card = tiny_card(beat=False, frames=40)
    model, loaded = exported(tmp_path, card, sound=sound())
    songs = np.stack([synthesise(genre, 3, 1.5)[0] for genre in ("Metal", "Folk")] + [np.zeros(33_075, "float32")])
    got = loaded.signatures["waveform"](samples=tf.constant(songs))["genre"].numpy()
    mel = np.stack([fused_spectrogram(song)[:128].T[:40] for song in songs])
    np.testing.assert_allclose(got, probabilities(model, mel), atol=1e-4)
    assert np.ptp(got, axis=0).max() > 1e-2


def test_there_is_no_waveform_without_a_front_end(tmp_path):
    _, loaded = exported(tmp_path, tiny_card())
    assert sorted(loaded.signatures) == ["embed", "serve", "serving_default"]


@pytest.mark.parametrize(
    ("signature", "value", "told"),
    [
        ("serve", clips(3, 0), "Expected a frame that is not padding"),
        ("serve", np.zeros((1, 0, 128), "float32"), "Expected a frame that is not padding"),
        ("serve", np.full((1, 3, 128), np.nan, "float32"), "Expected finite numbers"),
        ("embed", clips(3, 0), "Expected a frame that is not padding"),
        ("waveform", np.zeros((1, 0), "float32"), "Expected samples, got none"),
        ("waveform", np.array([[0, np.inf]], "float32"), "Expected finite samples"),
    ],
)
def test_empty_and_infinite_clips_are_refused_in_the_graph(sounding, signature, value, told):
    name = "samples" if signature == "waveform" else "spectrogram"
    with pytest.raises(tf.errors.InvalidArgumentError, match=told):
        sounding.signatures[signature](**{name: tf.constant(value)})


@pytest.fixture(scope="module")
def sounding(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("sounding"), tiny_card(beat=False), sound=sound())[1]


def test_an_export_that_answers_otherwise_fails_and_leaves_what_was_there(tmp_path, monkeypatch):
    card = tiny_card()
    model, _ = exported(tmp_path, card)
    before = (tmp_path / "out" / "saved_model.pb").read_bytes()
    monkeypatch.setattr(savedmodel, "answers", lambda *_: {"genre": np.full((3, 3), np.nan)})
    for folder in ("out", "new"):
        with pytest.raises(UserError, match="of the model's, got a difference of nan"):
            export_savedmodel(model, card, tiny_examples(model), tmp_path / folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    assert (tmp_path / "out" / "saved_model.pb").read_bytes() == before


@pytest.mark.parametrize("got", [{"a": [0.0], "b": [np.nan]}, {"a": [np.nan], "b": [0.0]}])
def test_one_answer_that_is_no_number_counts(got):
    assert np.isnan(savedmodel.largest_difference({"a": np.zeros(1), "b": np.zeros(1)}, got))


def test_the_graph_of_an_lstm_needs_no_gpu(tmp_path):
    backbone = lstm_backbone(units=4, bidirectional=True)
    exported(tmp_path, tiny_card(), backbone)
    layer = backbone.get_layer("block1_lstm")
    assert layer.forward_layer.use_cudnn is layer.backward_layer.use_cudnn is False


@pytest.mark.parametrize("part", ["_write", "_largest_difference"])
def test_what_tensorflow_cannot_write_is_said_in_one_line(tmp_path, monkeypatch, part):
    def refuse(*given):
        raise tf.errors.FailedPreconditionError(None, None, "no space left")

    model = write_tiny_run(tmp_path / "run", tiny_card())
    monkeypatch.setattr(savedmodel, part, refuse)
    with pytest.raises(UserError, match=r"Cannot write .*/serving/genre/1: no space left"):
        export_savedmodel(model, tiny_card(), tiny_examples(model), tmp_path / "serving" / "genre" / "1")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["serve", "embed", "waveform"])
def test_a_signature_that_answers_otherwise_leaves_nothing(tmp_path, monkeypatch, name):
    original = savedmodel.signatures

    def altered(*given):
        functions = original(*given)
        (spec,) = functions[name].input_signature
        asked = functions[name].python_function
        argument = spec.name
        wrong = f"lambda {argument}: {{key: value + 0.01 for key, value in asked({argument}).items()}}"
        functions[name] = tf.function(eval(wrong, {"asked": asked}), [spec])  # the input is named after the argument
        return functions

    card = tiny_card(beat=False)
    model = write_tiny_run(tmp_path / "run", card)
    monkeypatch.setattr(savedmodel, "signatures", altered)
    with pytest.raises(
        UserError, match=r"Expected answers of the exported model within 0.0001 .* got a difference of 0.01"
    ):
        export_savedmodel(model, card, tiny_examples(model), tmp_path / "out" / "deep", sound())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_model_without_a_backbone_is_said_in_one_line(tmp_path):
    model = keras.Sequential([keras.Input((16, 128)), keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(UserError, match='Expected a model with a part named "backbone"'):
        export_savedmodel(model, tiny_card(frames=16), tiny_examples(model), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run, and its export."""
    folder = tmp_path_factory.mktemp("both")
    exported(folder, tiny_card())
    return folder / "run", folder / "out"


def test_a_run_and_its_export_are_opened_alike(both):
    batch = clips(6, 9)
    run, file, export = (open_model(path) for path in (both[0], both[0] / "model.keras", both[1]))
    reason = "the model's input is beat-synchronised mel, which TensorFlow alone cannot compute"
    told = {"signatures": ["serve", "embed"], "missing_signatures": {"waveform": reason}}
    assert run.card == file.card
    assert export.card == run.card | told
    for name in ("serve", "embed"):
        want, *others = (getattr(model, name)(batch) for model in (run, file, export))
        for got in others:
            assert sorted(got) == sorted(want)
            for output in want:
                np.testing.assert_allclose(got[output], want[output], atol=1e-6)
    assert run.serve(batch)["genre"].shape == (2, len(CLASSES))
    assert run.embed(batch)["embedding"].shape == (2, 4)


def test_training_says_that_it_needs_the_run(both):
    with pytest.raises(UserError, match="got a SavedModel, which can only predict") as raised:
        load(both[1])
    assert str(both[1]) in str(raised.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("no card", "Expected the model's card"),
        ("other classes", "Expected the card of a model"),
        ("other feature", "Expected the card of a model"),
        ("damaged", "Expected a SavedModel of mtmusic, got one that cannot be loaded"),
        ("no variables", "Expected a SavedModel of mtmusic, got one that cannot be loaded"),
        ("another's", "Expected a SavedModel of mtmusic, got one that cannot be loaded"),
        ("absent", "Expected a run's folder or its model.keras"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(both, tmp_path, change, told):
    out = tmp_path / "out"
    if change != "absent":
        tf.io.gfile.makedirs(str(out))
        for path in both[1].rglob("*"):
            if path.is_file():
                (out / path.relative_to(both[1])).parent.mkdir(exist_ok=True)
                (out / path.relative_to(both[1])).write_bytes(path.read_bytes())
    card = out / "assets" / "card.json"
    if change == "no card":
        card.unlink()
    elif change.startswith("other "):
        other = {"classes": ["a"]} if change == "other classes" else {"feature": "chroma"}
        card.write_text(json.dumps(tiny_card() | other))
    elif change == "damaged":
        (out / "saved_model.pb").write_bytes(b"no model")
    elif change == "no variables":
        (out / "variables" / "variables.index").unlink()
    elif change == "another's":
        tf.saved_model.save(tf.Module(), str(out))
    with pytest.raises(UserError, match=told) as raised:
        open_model(out)
    assert str(out) in str(raised.value)
    assert "\n" not in str(raised.value)


# --- models of logmel, on the pretrained trunk

AFFECT = tiny_card(("valence", "arousal"), "affect", feature="logmel", beat=False, sample_rate=16_000)

PLAIN_LOGMEL = """
import json, sys
sys.modules["mtmusic"] = sys.modules["keras"] = None
import numpy as np, tensorflow as tf
loaded, given = tf.saved_model.load(sys.argv[1]), np.load(sys.argv[2])
found = {"serve": loaded.signatures["serve"](spectrogram=tf.constant(given["spectrogram"])),
         "embed": loaded.signatures["embed"](spectrogram=tf.constant(given["spectrogram"])),
         "waveform": loaded.signatures["waveform"](samples=tf.constant(given["samples"]))}
print(json.dumps({name: {key: value.numpy().tolist() for key, value in answer.items()}
                  for name, answer in found.items()}))
"""


def logmel_sound() -> Sound:
    samples = np.random.default_rng(0).normal(0, 0.2, 52_000).astype("float32")
    return Sound(logmel_filters(), samples, logmel_spectrogram(samples))


def head_on_trunk(folder: Path) -> None:
    backbone = load_backbone("musicnn", "penultimate")
    freeze(backbone, "all")
    save(multitask_regressor(backbone, AFFECT["targets"]), folder, AFFECT, logmel_examples())


@pytest.mark.parametrize("kind", ["the trunk", "a head on it"])
def test_a_model_of_logmel_takes_samples_where_there_is_no_mtmusic(trunk, tmp_path, kind):
    if kind == "a head on it":
        head_on_trunk(tmp_path / "run")
    model, card = load("musicnn" if kind == "the trunk" else tmp_path / "run")
    sound = logmel_sound()
    assert export_savedmodel(model, card, logmel_examples(), tmp_path / "out", sound) <= 1e-4
    batch = np.full((2, 600, 96), PAD_VALUE, "float32")
    batch[0, :600], batch[1, :250] = logmel_examples(600)[0], logmel_examples(600)[1, :250]
    samples = np.stack([sound.samples, sound.samples[::-1] / 2])
    np.savez(tmp_path / "given.npz", spectrogram=batch, samples=samples)
    command = [sys.executable, "-I", "-W", "ignore", "-c", PLAIN_LOGMEL, str(tmp_path / "out"), "given.npz"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    spectrograms = np.stack([logmel_spectrogram(one).T for one in samples])
    for name, given in (("serve", batch), ("waveform", spectrograms)):
        wanted = answers(model, card, given)
        assert sorted(found[name]) == sorted(wanted) == (["tags"] if kind == "the trunk" else ["arousal", "valence"])
        for output, values in wanted.items():
            np.testing.assert_allclose(found[name][output], values, atol=1e-4)
    means = embedding(model).predict(batch, verbose=0)
    assert means.shape == (2, 753)
    np.testing.assert_allclose(found["embed"]["embedding"], means, atol=1e-4)


def test_a_run_of_tags_opens_by_name_and_as_an_export(trunk, tmp_path):
    model, card = load("musicnn")
    export_savedmodel(model, card, logmel_examples(), tmp_path / "out")
    run, export = open_model("musicnn"), open_model(tmp_path / "out")
    assert run.serve(logmel_examples())["tags"].shape == (3, 50)
    assert run.embed(logmel_examples())["embedding"].shape == (3, 753)
    for name in ("serve", "embed"):
        one, other = (getattr(opened, name)(logmel_examples()) for opened in (run, export))
        assert sorted(one) == sorted(other)  # a SavedModel's outputs come in no certain order
        for output in one:
            np.testing.assert_allclose(one[output], other[output], atol=1e-5)
    patches = logmel_examples(187)
    for opened in (run, export):
        features = opened.embed(patches)[opened.head.takes]
        assert features.shape == (3, 200)
        np.testing.assert_allclose(opened.head.ask(features)["tags"], run.serve(patches)["tags"], atol=1e-5)
    exported = json.loads((tmp_path / "out" / "assets" / "card.json").read_text())
    assert exported["signatures"] == ["serve", "embed", "head"]
    (tmp_path / "out" / "assets" / "card.json").write_text(json.dumps(card | {"tags": card["tags"][:3]}))
    with pytest.raises(UserError, match="Expected the card of a model"):
        open_model(tmp_path / "out")


def test_an_export_whose_head_answers_otherwise_leaves_nothing(trunk, tmp_path, monkeypatch):
    model, card = load("musicnn")
    alone = head_alone(model)
    wrong = keras.Model(alone.input, alone.output + 0.01)
    monkeypatch.setattr(savedmodel, "head_alone", lambda model: wrong)
    with pytest.raises(UserError, match="Expected answers of the exported model"):
        export_savedmodel(model, card, logmel_examples(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("feature", "frames", "has_head"), [("logmel", None, True), ("logmel", 400, False),
                                                             ("fused", None, False)])  # fmt: skip
def test_heads_are_of_logmel_of_any_length(tmp_path, feature, frames, has_head):
    model = multitask_regressor(musicnn_backbone(feature), AFFECT["targets"])
    functions = savedmodel.signatures(model, AFFECT | {"feature": feature, "frames": frames}, tmp_path)
    assert ("head" in functions) == has_head


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::DeprecationWarning:audioread")
def test_the_original_trunks_samples_give_the_tags_of_the_reference(real_data, tmp_path):
    path = real_data / "musicnn" / "reference.json"
    try:
        model, card = load("musicnn")
    except UserError as error:
        pytest.skip(str(error))
    if not path.is_file():
        pytest.skip(f"no {path}")
    export_savedmodel(model, card, logmel_examples(), tmp_path / "out", logmel_sound())
    served = tf.saved_model.load(str(tmp_path / "out")).signatures["waveform"]
    for name, song in json.loads(path.read_text())["songs"].items():
        samples, _ = librosa.load(real_data / "audio" / name, sr=16_000)
        got = served(samples=tf.constant(samples[np.newaxis]))["tags"].numpy()[0]
        np.testing.assert_allclose(got, [song["tags"][tag] for tag in card["tags"]], atol=1e-4)

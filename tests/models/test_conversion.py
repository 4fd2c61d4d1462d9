"""Files of LiteRT and ONNX, asked by their runtimes. Skipped where the extra `export` is not installed."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.constants import PAD_VALUE
from mtmusic.errors import UserError
from mtmusic.models import conversion
from mtmusic.models.backbones import cnn_backbone, lstm_backbone, statistics_backbone
from mtmusic.models.conversion import (
    FILES,
    NEEDED,
    export_converted,
    open_converted,
    require_convertible,
    require_packages,
)
from mtmusic.models.heads import genre_classifier, multitask_regressor, neck
from mtmusic.models.musicnn import musicnn_backbone
from mtmusic.models.precision import layers_compute_in
from mtmusic.models.saving import answers, load
from mtmusic.models.transfer import load_backbone, set_backbone_weights
from tests.runs import CLASSES, logmel_examples, tiny_card, tiny_examples, write_tiny_run

SMALL = ((8, 5), (4, 5))
TASKS = ("joyful activation", "joyful_activation", "1st", "ενέργεια/β")
LENGTHS = (30, 7, 12)


@pytest.fixture(params=FILES)
def kind(request) -> str:
    for module in NEEDED[request.param]:
        pytest.importorskip(module, reason="the extra `export` is not installed")
    return request.param


def clips(bins: int = 128, lengths: tuple[int, ...] = LENGTHS) -> np.ndarray:
    """A padded batch."""
    rng = np.random.default_rng(1)
    batch = np.full((len(lengths), max(lengths), bins), PAD_VALUE, "float32")
    for clip, count in zip(batch, lengths, strict=True):
        clip[:count] = rng.uniform(-80, 0, (count, bins))
    return batch


BUILDS = {
    "flat cnn": (tiny_card(frames=16), lambda: cnn_backbone(frames=16, blocks=((64, 5), (64, 5)))),
    "masked cnn, cut": (tiny_card(TASKS, "affect", frames=17), lambda: cnn_backbone(pooling="masked", blocks=SMALL)),
    "masked cnn": (tiny_card(feature="chroma"), lambda: cnn_backbone("chroma", None, "masked", SMALL)),
    "lstm, cut": (tiny_card(frames=15), lambda: lstm_backbone(units=8)),
    "lstm, both directions": (tiny_card(feature="chroma"), lambda: lstm_backbone("chroma", 4, bidirectional=True)),
    "statistics": (
        tiny_card(feature="fused"),
        lambda: statistics_backbone("fused", 0, parts=("changes", "roughness", "moments", "intervals")),
    ),
}


@pytest.mark.parametrize("name", BUILDS)
def test_the_runtime_gives_the_models_answers_under_the_same_names(tmp_path, kind, name):
    card, build = BUILDS[name]
    model = write_tiny_run(tmp_path / "run", card, build(), sharpness=5)
    batch = clips(model.input_shape[2])
    as_trained = batch[:, : card["frames"]]
    assert export_converted(model, card, as_trained, tmp_path / "out", kind) <= 1e-5
    wanted = answers(model, card, as_trained)
    ask = open_converted(tmp_path / "out" / FILES[kind])
    short = max(LENGTHS[1:])
    for given, rows in ((batch, slice(None)), (batch[1:, :short], slice(1, None)), (batch[1:2, :7], slice(1, 2))):
        got = ask(given)
        assert sorted(got) == sorted(wanted)
        for output, values in wanted.items():
            np.testing.assert_allclose(got[output], values[rows], atol=1e-5)
    assert max(np.ptp(values) for values in wanted.values()) > 1e-2


PLAIN = {
    "litert": """
from ai_edge_litert.interpreter import Interpreter
found = Interpreter("out/model.tflite").get_signature_runner()(spectrogram=batch)["genre"]
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession("out/model.onnx")
assert [(value.name, value.shape) for value in session.get_inputs()] == [("spectrogram", ["batch", "frames", 128])]
assert [(value.name, value.shape) for value in session.get_outputs()] == [("genre", ["batch", 3])]
(found,) = session.run(["genre"], {"spectrogram": batch})
""",
}


def test_it_runs_where_there_is_no_tensorflow(tmp_path, kind):
    card, build = BUILDS["flat cnn"]
    model = write_tiny_run(tmp_path / "run", card, build(), sharpness=5)
    export_converted(model, card, tiny_examples(model), tmp_path / "out", kind)
    batch = tiny_examples(model)
    np.save(tmp_path / "batch.npy", batch)
    code = f"""import sys, numpy as np
sys.modules["mtmusic"] = sys.modules["keras"] = sys.modules["tensorflow"] = None
batch = np.load("batch.npy")
{PLAIN[kind]}
np.save("found.npy", found)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    logits = model.predict(batch, verbose=0)
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), wanted, atol=1e-5)


def test_the_card_and_licences_lie_next_to_the_file(tmp_path, kind):
    card, build = BUILDS["flat cnn"]
    model = write_tiny_run(tmp_path / "run", card, build())
    (tmp_path / "text").write_text("as you like")
    export_converted(model, card, tiny_examples(model), tmp_path / "out", kind, {"LICENSE": tmp_path / "text"})
    assert json.loads((tmp_path / "out" / "card.json").read_text()) == card
    assert {path.name for path in (tmp_path / "out").iterdir()} == {FILES[kind], "card.json", "LICENSE"}
    assert (tmp_path / "out" / "LICENSE").read_text() == "as you like"


def test_the_trunk_is_converted(trunk, tmp_path, kind):
    model, card = load("musicnn")
    assert export_converted(model, card, logmel_examples(), tmp_path / "out", kind) <= 1e-4
    batch = np.full((2, 600, 96), PAD_VALUE, "float32")
    batch[0], batch[1, :100] = logmel_examples(600)[0], logmel_examples(100)[1]
    got = open_converted(tmp_path / "out" / FILES[kind])(batch)["tags"]
    np.testing.assert_allclose(got, model.predict(batch, verbose=0), atol=1e-4)


def test_a_kernel_on_the_trunk_takes_the_labs_arrays(trunk, tmp_path, kind):
    backbone = musicnn_backbone("fused", "mean")
    set_backbone_weights(backbone, load_backbone("musicnn", "mean"), "musicnn")
    model = multitask_regressor(backbone, ["valence"], neck=neck("kernel", centres=6))
    batch = clips(140, (300, 200))
    features = backbone(batch).numpy()
    model.get_layer("neck_kernel").adapt(features[:1] + np.random.default_rng(0).normal(0, 1, (6, 753)))
    card = tiny_card(("valence",), "affect", feature="fused", beat=False)
    assert export_converted(model, card, batch, tmp_path / "out", kind) <= 1e-4


def test_what_a_format_cannot_hold_is_refused_before_any_work(tmp_path):
    model = genre_classifier(statistics_backbone(centres=4), CLASSES)
    for kind, name in (("litert", "LiteRT"), ("onnx", "ONNX")):
        with pytest.raises(UserError, match=rf"^Expected operations that {name} supports, .* layer 'embedding': .*\Z"):
            require_convertible(model, kind)
    with layers_compute_in("bfloat16"):
        model = genre_classifier(cnn_backbone(frames=16, blocks=SMALL), CLASSES)
    with pytest.raises(UserError, match="Expected a model that computes in float32 for ONNX, got one in bfloat16"):
        require_convertible(model, "onnx")


@keras.saving.register_keras_serializable("tests")
class Eigenvalues(keras.layers.Layer):
    """An operation that neither format has."""

    def call(self, x):
        return tf.linalg.eigvalsh(x[:, :16, :16])


def test_a_layer_that_no_format_has_is_said_in_one_line_and_leaves_nothing(tmp_path, kind, capfd):
    spectrogram = keras.Input((16, 128))
    backbone = keras.Model(spectrogram, Eigenvalues()(spectrogram), name="backbone")
    model, card = genre_classifier(backbone, CLASSES), tiny_card(frames=16)
    with pytest.raises(UserError, match=r"^Cannot convert the model to (LiteRT|ONNX): .*SelfAdjointEigV2") as raised:
        export_converted(model, card, tiny_examples(model), tmp_path / "deep" / "out", kind)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_an_export_that_answers_otherwise_fails_and_leaves_what_was_there(tmp_path, kind, monkeypatch):
    card, build = BUILDS["masked cnn, cut"]
    model = write_tiny_run(tmp_path / "run", card, build())
    examples = tiny_examples(model, card["frames"])
    export_converted(model, card, examples, tmp_path / "out", kind)
    before = (tmp_path / "out" / FILES[kind]).read_bytes()
    spoilt = answers(model, card, examples)
    spoilt["1st"] = np.full((3, 1), np.nan)  # one output among others
    monkeypatch.setattr(conversion, "answers", lambda *_: spoilt)
    for folder in ("out", "deep/new"):
        with pytest.raises(UserError, match="of the model's, got a difference of nan"):
            export_converted(model, card, examples, tmp_path / folder, kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    assert (tmp_path / "out" / FILES[kind]).read_bytes() == before


@pytest.mark.parametrize(("kind", "module"), [(kind, module) for kind in NEEDED for module in NEEDED[kind]])
def test_missing_packages_are_named_with_the_command(monkeypatch, kind, module):
    for needed in NEEDED[kind]:
        monkeypatch.setitem(sys.modules, needed, type(sys)(needed))
    require_packages(kind)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"^An export to .* needs .*{module}.*: pip install tensorflow .*\Z"):
        require_packages(kind)

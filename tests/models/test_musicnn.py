"""The architecture, what it makes of clips, and, where the weights are there, the original's own answers."""

import json

import keras
import librosa
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.cards import find_run
from mtmusic.constants import PAD_VALUE
from mtmusic.errors import UserError
from mtmusic.models.musicnn import (
    FRONT_END,
    LabToLogmel,
    NormalizedMaximum,
    TrainedDropout,
    embedding,
    kind_of,
    load_checkpoint_weights,
    musicnn_backbone,
    tagger,
)
from mtmusic.models.saving import load
from mtmusic.models.transfer import freeze, set_backbone_weights
from tests.runs import logmel_examples, randomise


def backbone_of(features: str = "penultimate", feature: str = "logmel", stock: bool = False) -> keras.Model:
    """With the same random weights whatever the arguments."""
    source = musicnn_backbone()
    randomise(source)
    backbone = musicnn_backbone(feature, features, stock)
    set_backbone_weights(backbone, source, "here")
    return backbone


def padded(*clips: np.ndarray, before: int = 0, after: int = 0) -> np.ndarray:
    """(frames, 96) each -> a batch, padded behind, and by so many frames before and behind."""
    batch = np.full((len(clips), before + max(map(len, clips)) + after, 96), PAD_VALUE, "float32")
    for row, clip in zip(batch, clips, strict=True):
        row[before : before + len(clip)] = clip
    return batch


@pytest.mark.parametrize(
    ("features", "feature", "shape"),
    [
        ("penultimate", "logmel", (None, 200)), ("mean", "logmel", (None, 753)),
        ("patches", "logmel", (None, None, 200)), ("penultimate", "fused", (None, 200)), ("mean", "mel", (None, 753)),
    ],
)  # fmt: skip
def test_shapes(features, feature, shape):
    backbone = musicnn_backbone(feature, features)
    assert backbone.output_shape == shape
    assert backbone.input_shape == (None, None, {"logmel": 96, "fused": 140, "mel": 128}[feature])
    assert backbone.name == "backbone"
    assert kind_of(backbone) == {"feature": feature, "features": features}


def test_the_tagger_holds_the_numbers_of_the_original():
    model = tagger(musicnn_backbone(features="patches"), [f"tag{i}" for i in range(50)])
    assert model.count_params() == 792_079
    assert model.output_shape == (None, 50)
    assert kind_of(model) is None
    assert sum(filters for *_, filters in FRONT_END) == 561


def test_the_remainder_behind_the_last_whole_patch_is_not_used():
    backbone, (clip, *_) = backbone_of(), logmel_examples(187 * 2 + 150)
    changed = clip.copy()
    changed[187 * 2 :] = 0
    whole, other, cut = (backbone.predict(x[None], verbose=0) for x in (clip, changed, clip[: 187 * 2]))
    assert np.array_equal(whole, other)
    np.testing.assert_allclose(whole, cut, atol=1e-4)
    changed[187 * 2 - 1] = 4
    assert np.abs(backbone.predict(changed[None], verbose=0) - whole).max() > 1e-4


def test_a_clip_shorter_than_a_patch_is_repeated_until_it_fills_one():
    backbone, (clip, *_) = backbone_of(), logmel_examples(80)
    short = backbone.predict(clip[None], verbose=0)
    np.testing.assert_allclose(short, backbone.predict(np.tile(clip, (3, 1))[None, :187], verbose=0), atol=1e-4)
    np.testing.assert_allclose(short, backbone.predict(padded(clip, after=400), verbose=0), atol=1e-4)


@pytest.mark.parametrize("features", ["penultimate", "mean"])
def test_a_clip_in_a_padded_batch_is_what_it_is_alone(features):
    backbone = backbone_of(features)
    clips = [clip[:frames] for clip, frames in zip(logmel_examples(600), (600, 200, 90), strict=True)]
    alone = np.concatenate([backbone.predict(clip[None], verbose=0) for clip in clips])
    np.testing.assert_allclose(backbone.predict(padded(*clips, after=100), verbose=0), alone, atol=1e-4)
    np.testing.assert_allclose(backbone.predict(padded(*clips, before=33, after=60), verbose=0), alone, atol=1e-4)


def test_the_answer_is_the_mean_over_patches_and_absent_ones_are_padding():
    patches, whole = backbone_of("patches"), backbone_of()
    batch = padded(logmel_examples(400)[0], logmel_examples(190)[1])
    rows = patches.predict(batch, verbose=0)
    assert np.all(rows[1, 1] == PAD_VALUE)
    mean = np.stack([rows[0].mean(axis=0), rows[1, 0]])
    np.testing.assert_allclose(whole.predict(batch, verbose=0), mean, atol=1e-4)


def test_padding_counts_in_no_statistics_of_a_training_step():
    after = []
    for padding in (0, 500):
        backbone = backbone_of("mean")
        backbone(padded(*logmel_examples(200), after=padding), training=True)
        after.append(backbone.get_weights())
    for one, other in zip(*after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("features", ["penultimate", "mean", "patches"])
def test_the_embedding_is_the_time_means_of_any_model_on_it(features):
    spectrogram = keras.Input((None, 96))
    model = keras.Model(spectrogram, keras.layers.Dense(2)(backbone_of(features)(spectrogram)))
    batch = padded(logmel_examples(400)[0], logmel_examples(190)[1])
    wanted = backbone_of("mean").predict(batch, verbose=0)
    np.testing.assert_allclose(embedding(model).predict(batch, verbose=0), wanted, atol=1e-4)


def test_a_stock_build_gives_the_same_numbers():
    batch = padded(logmel_examples(400)[0], logmel_examples(190)[1])
    ours, stock = (backbone_of(stock=stock) for stock in (False, True))
    assert not [layer for layer in stock.layers if isinstance(layer, NormalizedMaximum)]
    np.testing.assert_allclose(ours.predict(batch, verbose=0), stock.predict(batch, verbose=0), atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
def test_the_maximum_of_the_normalised_is_that_of_keras(training, trainable):
    """Of filters whose normalisation falls, too."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 7, 6)).astype("float32")
    results = []
    for layer in (NormalizedMaximum(epsilon=1e-3), keras.layers.BatchNormalization(epsilon=1e-3)):
        layer.build(x.shape)
        layer.set_weights([np.linspace(-1, 1, 6), np.arange(6), np.linspace(-1, 0, 6), np.linspace(1, 2, 6)])
        layer.trainable = trainable
        y = np.array(layer(x, training=training))
        results.append([y if y.ndim == 3 else y.max(axis=2), *layer.get_weights()])
    for ours, keras_own in zip(*results, strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=1e-4)


def test_frozen_dropout_draws_nothing():
    layer, x = TrainedDropout(0.5), np.ones((2, 100), "float32")
    assert np.array(layer(x, training=True)).min() == 0
    layer.trainable = False
    assert np.array_equal(layer(x, training=True), x)


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_blocks_are_the_front_end_the_middle_and_the_dense_layer(which):
    backbone = musicnn_backbone()
    freeze(backbone, which)
    trained = {layer.name.split("_")[0] for layer in backbone.layers if layer.trainable_weights}
    assert trained == {f"block{n}" for n in range(which + 1, 4)}
    assert {layer.name.split("_")[0] for layer in backbone.layers if layer.weights} == {"block1", "block2", "block3"}


def test_it_is_trained_by_fit_and_survives_saving(tmp_path):
    spectrogram = keras.Input((None, 96))
    model = keras.Model(spectrogram, keras.layers.Dense(1)(backbone_of()(spectrogram)))
    model.compile("adam", "mse")
    before = model.get_weights()
    model.fit(logmel_examples(200), np.zeros(3), verbose=0)
    assert not any(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(model.predict(logmel_examples(), verbose=0), loaded.predict(logmel_examples(), verbose=0))


def logmel_of(fused: np.ndarray) -> np.ndarray:
    """(frames, 140) -> (frames, 96), band by band and frame by frame."""
    lab = librosa.mel_frequencies(130, fmin=0, fmax=11_025)[1:-1]
    wanted = librosa.mel_frequencies(98, fmin=0, fmax=8000)[1:-1]
    bands = np.stack([np.interp(wanted, lab, frame) for frame in fused[:, :128]])
    times = np.arange(len(fused)) * 512 / 22_050
    new_times = np.arange(0, times[-1] + 1e-9, 256 / 16_000)
    decibels = np.stack([np.interp(new_times, times, band) for band in bands.T], axis=1)
    return np.log10(1 + 10_000 * 10 ** ((decibels + 18.5) / 10))


def test_the_labs_arrays_are_interpolated_in_frequency_and_time():
    rng = np.random.default_rng(0)
    clips = [rng.uniform(-80, 0, (frames, 140)) for frames in (50, 131, 7, 1)]
    batch = np.full((4, 131, 140), PAD_VALUE, "float32")
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    got = np.array(LabToLogmel()(batch))
    for row, clip in zip(got, clips, strict=True):
        wanted = logmel_of(clip)
        np.testing.assert_allclose(row[: len(wanted)], wanted, atol=2e-4)
        assert np.all(row[len(wanted) :] == PAD_VALUE)


def test_chroma_is_not_used():
    fused = np.random.default_rng(0).uniform(-80, 0, (2, 300, 140)).astype("float32")
    other = fused.copy()
    other[..., 128:] = 0
    answers = [backbone_of(feature="fused").predict(x, verbose=0) for x in (fused, other)]
    assert np.array_equal(*answers)
    np.testing.assert_allclose(backbone_of(feature="mel").predict(fused[..., :128], verbose=0), answers[0], atol=1e-6)


def write_checkpoint(model: keras.Model, prefix: str, **changes: np.ndarray | None) -> None:
    """As the original's author wrote it: names in the order in which its layers were made."""
    backbone = model.get_layer("backbone")
    found = {}
    for kind in ("conv2d", "batch_normalization", "dense"):
        of_kind = {
            "conv2d": [
                layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D | keras.layers.Conv1D)
            ],
            "dense": [backbone.get_layer("block3_dense"), model.get_layer("tags")],
            "batch_normalization": [
                layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)
            ],
        }[kind]
        order = [name for name, *_ in FRONT_END]
        of_kind.sort(key=lambda layer: next((i for i, name in enumerate(order) if name in layer.name), 9))
        if kind == "batch_normalization":
            of_kind.sort(key=lambda layer: "input" not in layer.name)
        for number, layer in enumerate(of_kind):
            for weight in layer.weights:
                value = weight.numpy()
                value = value[:, :, None] if value.ndim == 3 else value
                found[f"{kind}_{number}/{weight.name}" if number else f"{kind}/{weight.name}"] = value
    found |= {"dense/kernel/Adam": np.zeros(3), "beta1_power": np.zeros(())} | changes
    found = {name: value for name, value in found.items() if value is not None}
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=[*found], shape_and_slices=[""] * len(found),
        tensors=[tf.constant(value, tf.float32) for value in found.values()],
    )  # fmt: skip


def test_a_checkpoint_fills_every_weight(tmp_path):
    source, model = (tagger(musicnn_backbone(features="patches"), ["a", "b"]) for _ in range(2))
    randomise(source.get_layer("backbone"))
    write_checkpoint(source, str(tmp_path / "ckpt"))
    load_checkpoint_weights(model, tmp_path / "ckpt")
    assert all(np.array_equal(a, b) for a, b in zip(source.get_weights(), model.get_weights(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [{"conv2d_3/bias": None}, {"conv2d_8/bias": np.zeros(3)}, {"dense/bias": np.zeros(3)}, None],
    ids=["a variable is missing", "one is left over", "another shape", "no checkpoint"],
)
def test_another_checkpoint_is_said_in_one_line(tmp_path, changes):
    model = tagger(musicnn_backbone(features="patches"), ["a", "b"])
    if changes is not None:
        write_checkpoint(model, str(tmp_path / "ckpt"), **changes)
    with pytest.raises(UserError, match="Expected musicnn's checkpoint, got another in") as raised:
        load_checkpoint_weights(model, tmp_path / "ckpt")
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def original():
    """The pretrained trunk and its card."""
    try:
        return load(find_run("musicnn"))
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::DeprecationWarning:audioread")
def test_it_gives_the_tags_of_the_original(original, real_data):
    model, card = original
    path = real_data / "musicnn" / "reference.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    songs = json.loads(path.read_text())["songs"]
    clips = []
    for name in songs:
        waveform, rate = librosa.load(real_data / "audio" / name, sr=16_000)
        power = librosa.feature.melspectrogram(y=waveform, sr=rate, n_fft=512, hop_length=256, n_mels=96)
        clips.append(np.log10(1 + 10_000 * power).T.astype("float32"))
    wanted = np.array([list(song["tags"].values()) for song in songs.values()])
    assert all(list(song["tags"]) == card["tags"] for song in songs.values())
    np.testing.assert_allclose([model.predict(clip[None], verbose=0)[0] for clip in clips], wanted, atol=1e-4)
    np.testing.assert_allclose(model.predict(padded(*clips), verbose=0), wanted, atol=1e-4)
    patches = model.get_layer("backbone").predict(padded(*clips), verbose=0)
    assert [int(np.sum(row[:, 0] != PAD_VALUE)) for row in patches] == [song["patches"] for song in songs.values()]

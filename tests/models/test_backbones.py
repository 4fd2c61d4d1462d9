import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.constants import FEATURE_BINS, PAD_VALUE
from mtmusic.errors import UserError
from mtmusic.models import nystroem
from mtmusic.models.backbones import cnn_backbone, lstm_backbone, statistics_backbone
from mtmusic.models.cpu.convolution import WinogradConv2D
from mtmusic.models.cpu.lstm import LastStateLSTM
from mtmusic.models.cpu.normalization import FusedBatchNormalization
from mtmusic.models.heads import genre_classifier
from mtmusic.models.nystroem import NystroemFeatures
from mtmusic.models.trainer import overfit_batches

LENGTHS = range(1, 41)


@pytest.mark.parametrize("backbone", [lstm_backbone, cnn_backbone, statistics_backbone])
def test_other_features_are_refused_with_those_that_are(backbone):
    with pytest.raises(UserError, match="Expected a feature among mel, chroma, fused, logmel, got 'x'"):
        backbone("x")


def clip(frames: int, bins: int = 128, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + frames).uniform(-80, 0, (frames, bins)).astype("float32")


def padded(clips: list[np.ndarray], frames: int) -> np.ndarray:
    batch = np.full((len(clips), frames, clips[0].shape[1]), PAD_VALUE, "float32")
    for row, one in zip(batch, clips, strict=True):
        row[: len(one)] = one
    return batch


def scrambled(model: keras.Model) -> keras.Model:
    """Weights, and BatchNorm's statistics too, that no initialiser would give."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        positive = "variance" in weight.path or "gamma" in weight.path
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) if positive else rng.normal(0, 0.1, weight.shape))
    return model


def answers(model: keras.Model, batch: np.ndarray) -> np.ndarray:
    return model.predict_on_batch(batch)


@pytest.fixture(scope="module", params=["lstm", "two bidirectional lstm layers", "masked cnn", "statistics"])
def any_length_model(request) -> keras.Model:
    backbone = {
        "lstm": lambda: lstm_backbone(units=16),
        "two bidirectional lstm layers": lambda: lstm_backbone(
            units=8, layers_count=2, bidirectional=True, dropout=0.3
        ),
        "masked cnn": lambda: cnn_backbone(pooling="masked"),
        "statistics": lambda: statistics_backbone("mel", centres=8),
    }[request.param]()
    model = scrambled(genre_classifier(backbone, list("abc")))
    for layer in backbone.layers:
        if isinstance(layer, NystroemFeatures):
            layer.deviation.assign(np.zeros(layer.deviation.shape))
    nystroem.adapt(backbone, known_clips(8))
    return model


def known_clips(count: int, bins: int = 128) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors((np.stack([clip(20, bins, seed) for seed in range(count)]), np.zeros(count)))


def test_a_clip_gives_the_same_logits_alone_and_in_a_padded_batch_at_every_length(any_length_model):
    clips = [clip(frames) for frames in LENGTHS]
    together = answers(any_length_model, padded(clips, 48))
    alone = np.concatenate([answers(any_length_model, one[None]) for one in clips])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    assert np.ptp(alone, axis=0).min() > 0.01  # the clips do differ


def test_longer_padding_changes_nothing(any_length_model):
    clips = [clip(5), clip(23)]
    short, long = answers(any_length_model, padded(clips, 23)), answers(any_length_model, padded(clips, 90))
    np.testing.assert_allclose(short, long, rtol=1e-5, atol=1e-5)


def test_a_silent_frame_inside_a_clip_counts(any_length_model):
    one = clip(20)
    silenced = one.copy()
    silenced[18] = -80.0
    difference = answers(any_length_model, one[None]) - answers(any_length_model, silenced[None])
    assert np.abs(difference).max() > 1e-4


def test_padding_stays_out_of_the_masked_cnns_statistics():
    clips, targets = [clip(5), clip(19), clip(32)], np.array([0, 1, 2])
    statistics = []
    for frames in (32, 80):
        keras.utils.set_random_seed(0)
        model = genre_classifier(cnn_backbone(pooling="masked"), list("abc"))
        # not Adam, which makes a gradient of nothing but rounding large
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.train_on_batch(padded(clips, frames), targets)
        statistics.append(model.get_weights())
    for short, long in zip(*statistics, strict=True):
        np.testing.assert_allclose(short, long, atol=5e-5)


QUICKER = {WinogradConv2D, FusedBatchNormalization, LastStateLSTM}
BUILDS = {
    "flat cnn": lambda stock: cnn_backbone(frames=48, dense=6, stock=stock),
    "masked cnn": lambda stock: cnn_backbone(pooling="masked", stock=stock),
    "lstm": lambda stock: lstm_backbone(units=64, layers_count=2, stock=stock),
    "statistics": lambda stock: statistics_backbone("mel", centres=0, stock=stock),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_stock_build_with_the_same_weights_gives_the_same_logits(build, training):
    ours, stock = (genre_classifier(build(stock), list("abc")) for stock in (False, True))
    stock.set_weights(scrambled(ours).get_weights())
    kinds = [[type(layer) for layer in model.get_layer("backbone").layers] for model in (ours, stock)]
    assert QUICKER & {*kinds[0]}
    assert kinds[1] == [kind.__base__ if kind in QUICKER else kind for kind in kinds[0]]
    batch = padded([clip(48), clip(5), clip(33)], 48)
    logits = [np.array(model(batch, training=training)) for model in (ours, stock)]
    np.testing.assert_allclose(*logits, atol=1e-4)
    assert np.ptp(logits[1]) > 0.1
    assert [weight.path for weight in ours.weights] == [weight.path for weight in stock.weights]


def test_masked_statistics_are_those_of_the_present_frames_alone():
    keras.utils.set_random_seed(0)
    backbone = cnn_backbone(pooling="masked")
    first = backbone.get_layer("block1_conv")
    one = clip(7)
    outputs = np.array(first(one[None, ..., None] / 40 + 1))[0]
    backbone(padded([one], 40), training=True)
    moving = keras.ops.convert_to_numpy(backbone.get_layer("block1_norm").moving_mean)
    np.testing.assert_allclose(moving, 0.1 * outputs.mean(axis=(0, 1)), rtol=1e-3, atol=1e-5)


def test_the_flat_cnn_answers_a_clip_the_same_in_every_batch():
    model = scrambled(genre_classifier(cnn_backbone(frames=32), list("abc")))
    clips = [clip(frames) for frames in (1, 9, 32)]
    together = answers(model, padded(clips, 32))
    alone = np.concatenate([answers(model, padded([one], 32)) for one in clips])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_the_flat_cnn_is_the_labs():
    backbone = cnn_backbone(frames=128)
    blocks = [layer for layer in backbone.layers if layer.name.startswith("block")]
    kinds = ["WinogradConv2D", "FusedBatchNormalization", "ReLU", "MaxPooling2D"]
    assert [type(layer).__name__ for layer in blocks] == kinds * 4
    assert [layer.filters for layer in blocks[::4]] == [128, 64, 32, 8]
    assert {layer.kernel_size for layer in blocks[::4]} == {(5, 5)}
    assert {layer.pool_size for layer in blocks[3::4]} == {(2, 2)}
    assert backbone.name == "backbone"
    assert backbone.output_shape == (None, 512)
    assert cnn_backbone(frames=100).output_shape == (None, 384)  # the seed report's affect clips


@pytest.mark.parametrize(("feature", "features"), [("mel", 64), ("chroma", 8), ("fused", 72)])
def test_every_feature_fits_both_poolings(feature, features):
    flat = cnn_backbone(feature, frames=16)
    assert {len(flat.get_layer(f"block{number}_conv").weights) for number in range(1, 5)} == {1}  # no bias
    assert flat.output_shape[1] == max(1, FEATURE_BINS[feature] // 16) * 8
    masked = cnn_backbone(feature, pooling="masked")
    assert masked.output_shape == (None, features)
    assert len(masked.weights) == len(flat.weights)


@pytest.mark.parametrize("frames", [15, 0, None])
def test_too_few_frames_for_the_poolings_are_refused(frames):
    with pytest.raises(UserError, match="16 frames or more"):
        cnn_backbone(frames=frames)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="flatten"):
        cnn_backbone(pooling="mean")


def test_the_bidirectional_lstm_equals_a_loop_in_numpy():
    backbone = scrambled(lstm_backbone("chroma", units=3, bidirectional=True))
    one = np.random.default_rng(0).uniform(0, 1, (7, 12)).astype("float32")
    forward, backward = np.split(np.array(backbone.get_weights(), dtype=object), 2)

    def last_state(frames: np.ndarray, weights: np.ndarray) -> np.ndarray:
        kernel, recurrent, bias = weights
        state, cell = np.zeros(3), np.zeros(3)
        for frame in frames:
            gates = frame @ kernel + state @ recurrent + bias
            i, f, o = (1 / (1 + np.exp(-gates[k * 3 : k * 3 + 3])) for k in (0, 1, 3))
            cell = f * cell + i * np.tanh(gates[6:9])
            state = o * np.tanh(cell)
        return state

    expected = np.concatenate([last_state(one * 2 - 1, forward), last_state(one[::-1] * 2 - 1, backward)])
    batch = padded([one, np.repeat(one, 2, axis=0)], 14)
    np.testing.assert_allclose(answers(backbone, batch)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "feature"), [*(("lstm", feature) for feature in FEATURE_BINS), ("cnn", "mel"), ("masked cnn", "chroma")]
)
def test_every_backbone_learns_three_batches_by_heart(kind, feature):
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    backbone = {
        "cnn": lambda: cnn_backbone(feature, frames=16),
        "masked cnn": lambda: cnn_backbone(feature, pooling="masked"),
        "lstm": lambda: lstm_backbone(feature, units=64),
    }[kind]()
    rng = np.random.default_rng(0)
    low, high = (0, 1) if feature == "chroma" else (-80, 0)
    clips = rng.uniform(low, high, (6, 16, FEATURE_BINS[feature])).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((clips, np.array([0, 1, 2, 0, 1, 2]))).batch(2)
    losses = overfit_batches(genre_classifier(backbone, list("abc"), learning_rate=3e-3), dataset)
    assert losses[-1] < 0.01 < losses[0]


@pytest.mark.parametrize(("feature", "features"), [("mel", 231 + 20 + 18), ("chroma", 24 + 32), ("fused", 325)])
def test_statistics_are_those_that_the_feature_has(feature, features):
    backbone = statistics_backbone(feature, centres=5)
    assert backbone.output_shape == (None, 5)
    assert backbone.get_layer("block1_kernel").input.shape == (None, features)
    with pytest.raises(ValueError, match="Expected parts of"):
        statistics_backbone("mel", parts=["moments"])


def test_a_kernel_learns_a_few_clips_by_heart():
    keras.utils.set_random_seed(0)
    model = genre_classifier(statistics_backbone("mel", centres=6), list("abc"), learning_rate=0.02)
    clips = np.stack([clip(20, seed=seed) for seed in range(6)])
    batches = tf.data.Dataset.from_tensor_slices((clips, np.arange(6) % 3)).batch(2)
    nystroem.adapt(model.get_layer("backbone"), batches)
    assert overfit_batches(model, batches)[-1] < 0.05

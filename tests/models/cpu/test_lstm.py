import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.models.backbones import lstm_backbone
from mtmusic.models.cpu.lstm import UNROLLED, LastStateLSTM
from mtmusic.models.heads import genre_classifier
from mtmusic.models.precision import layers_compute_in
from mtmusic.models.savedmodel import export_savedmodel
from tests.runs import tiny_card, tiny_examples, write_tiny_run

BINS, UNITS = 6, 5

LENGTHS = {"one clip": [7], "odd": [4, 11, 1, 11, 6], "even": [8, 3, 12, 5]}


def pair(kind: type = LastStateLSTM, **settings) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """Keras's layer and ours, with the same weights."""
    plain, ours = keras.layers.LSTM(UNITS, **settings), kind(UNITS, **settings)
    rng = np.random.default_rng(0)
    for layer in (plain, ours):
        layer.build((None, None, BINS))
    weights = [rng.normal(0, 0.7, weight.shape) for weight in plain.get_weights()]
    plain.set_weights(weights)
    ours.set_weights(weights)
    return plain, ours


def batch(lengths: list[int], frames: int = 13) -> tuple[tf.Tensor, tf.Tensor]:
    """Noise in absent frames too, and the mask."""
    x = np.random.default_rng(1).normal(0, 1, (len(lengths), frames, BINS))
    return tf.constant(x, tf.float32), tf.sequence_mask(lengths, frames)


def state_and_gradients(layer: keras.layers.Layer, x: tf.Tensor, mask: tf.Tensor | None, training: bool, graph: bool):
    upstream = tf.constant(np.random.default_rng(2).normal(0, 1, (x.shape[0], UNITS)), tf.float32)
    weights = [weight.value for weight in layer.weights]
    given = [x] if mask is None else [x, mask]

    def of(x, mask=mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            state = tf.cast(layer(x, mask=mask, training=training), tf.float32)
            loss = tf.reduce_sum(state * upstream)
        return [state, *tape.gradient(loss, [x, *weights])]

    if graph:
        of = tf.function(of, input_signature=[any_length(tensor) for tensor in given])
    return [np.array(value) for value in of(*given)]


def any_length(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec((None, None, *tensor.shape[2:]), tensor.dtype)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "all frames"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_states_and_gradients_are_those_of_keras(lengths, masked):
    plain, ours = pair()
    x, mask = batch(lengths)
    mask = mask if masked else None
    expected = state_and_gradients(plain, x, mask, True, True)
    for training in (True, False):
        for got, want in zip(state_and_gradients(ours, x, mask, training, True), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


MASKS = {
    "padded in front": np.arange(13) >= np.array([[3], [0], [12], [13], [5]]),
    "frames missing anywhere": np.random.default_rng(3).random((5, 13)) < 0.5,
    "no frame": np.zeros((5, 13), bool),
    "numbers": np.eye(5, 13, dtype="float32"),
}


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_frames_may_be_absent_anywhere(mask, graph):
    plain, ours = pair()
    x, mask = batch(LENGTHS["odd"])[0], tf.constant(mask)
    expected = state_and_gradients(plain, x, mask, True, graph)
    for training in (True, False):
        for got, want in zip(state_and_gradients(ours, x, mask, training, graph), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_what_is_no_number_in_one_clip_stays_there_and_in_an_absent_frame_nowhere():
    _, ours = pair()
    x, mask = (np.array(each) for each in batch(LENGTHS["odd"]))
    x[0, 0] = x[2, 5] = np.nan  # the third clip has one frame
    assert np.isnan(ours(x, mask=mask)).any(axis=1).tolist() == [True, False, False, False, False]


def test_a_mask_of_another_shape_is_keras_s():
    plain, ours = pair(Unasked)
    x, mask = batch(LENGTHS["odd"])
    assert np.array_equal(ours(x, mask=[mask]), plain(x, mask=[mask]))


def test_outside_of_a_graph_the_numbers_are_the_same():
    plain, ours = pair()
    x, mask = batch(LENGTHS["odd"])
    expected = state_and_gradients(plain, x, mask, True, False)
    for got, want in zip(state_and_gradients(ours, x, mask, True, False), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_clips_of_every_number_of_frames_are_read_to_their_end():
    plain, ours = pair()
    for frames in range(1, 2 * UNROLLED + 2):
        x, _ = batch([frames] * 3, frames)
        for training in (True, False):
            np.testing.assert_allclose(np.array(ours(x, training=training)), np.array(plain(x)), rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing_to_the_bit():
    _, ours = pair()
    x, mask = batch(LENGTHS["odd"])
    more = ((0, 0), (0, 30))
    padded, padded_mask = tf.pad(x, (*more, (0, 0)), constant_values=9.0), tf.pad(mask, more)
    short = state_and_gradients(ours, x, mask, True, True)
    long = state_and_gradients(ours, padded, padded_mask, True, True)
    assert not long[1][:, x.shape[1] :].any()
    long[1] = long[1][:, : x.shape[1]]
    assert all(np.array_equal(a, b) for a, b in zip(short, long, strict=True))


def test_no_clip_gives_no_state_and_no_gradient():
    _, ours = pair()
    x, mask = batch([])
    state, dx, *others = state_and_gradients(ours, x, mask, True, True)
    assert (state.shape, dx.shape) == ((0, UNITS), (0, 13, BINS))
    assert not any(gradient.any() for gradient in others)


def test_the_same_batch_gives_the_same_gradients_to_the_bit():
    _, ours = pair()
    x, mask = batch(LENGTHS["even"] * 4)
    first, second = (state_and_gradients(ours, x, mask, True, True) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_in_bfloat16_it_is_as_near_to_float32_as_keras():
    x, mask = batch(LENGTHS["odd"])
    expected = state_and_gradients(pair()[0], x, mask, True, True)
    with layers_compute_in("bfloat16"):
        plain, ours = pair()
    assert ours(x, mask=mask).dtype == "bfloat16"
    values = (state_and_gradients(layer, x, mask, True, True) for layer in (plain, ours))
    for want, keras_has, got in zip(expected, *values, strict=True):
        assert 0 < np.abs(got - want).max() < 2 * np.abs(keras_has - want).max() + 0.01


class Unasked(LastStateLSTM):
    """Fails where its options are looked at: the mask has decided."""

    def _takes_halves(self) -> bool:
        raise AssertionError


class Refusing(LastStateLSTM):
    """Fails where it would go its own way."""

    def _takes_halves(self) -> bool:
        assert not super()._takes_halves()
        return False


@pytest.mark.parametrize(
    "settings",
    [
        {"return_sequences": True},
        {"return_state": True},
        {"go_backwards": True},
        {"unroll": True},
        {"dropout": 0.5},
        {"recurrent_dropout": 0.5},
        {"use_bias": False},
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_with_other_options_keras_has_its_way(settings):
    plain, ours = pair(Refusing, **settings)
    x, mask = batch(LENGTHS["odd"])
    pairs = zip(*(keras.tree.flatten(layer(x, mask=mask)) for layer in (plain, ours)), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_a_first_state_and_a_kept_one_are_keras_s_too(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    plain, ours = pair()
    x, mask = batch(LENGTHS["odd"])
    state = [tf.ones((5, UNITS))] * 2
    assert np.array_equal(ours(x, initial_state=state, mask=mask), plain(x, initial_state=state, mask=mask))
    assert not LastStateLSTM(UNITS, stateful=True)._takes_halves()
    assert LastStateLSTM(UNITS)._takes_halves()


def test_where_a_gpu_is_visible_keras_has_its_way(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    assert not LastStateLSTM(UNITS)._takes_halves()


def models() -> list[keras.Model]:
    """A classifier whose last layer is Keras's, and ours, with the same weights."""
    keras.utils.set_random_seed(0)
    ours = genre_classifier(lstm_backbone("chroma", units=UNITS, layers_count=2), list("abc"), learning_rate=0.1)
    plain = keras.models.clone_model(ours.get_layer("backbone"), clone_function=as_keras)
    plain = genre_classifier(plain, list("abc"), learning_rate=0.1)
    plain.set_weights(ours.get_weights())
    return [plain, ours]


def as_keras(layer: keras.layers.Layer) -> keras.layers.Layer:
    kind = keras.layers.LSTM if isinstance(layer, LastStateLSTM) else type(layer)
    return kind.from_config(layer.get_config())


def test_the_last_layer_of_one_direction_is_ours_and_the_others_are_keras_s():
    plain, ours = ([type(layer) for layer in model.get_layer("backbone").layers] for model in models())
    assert ours.count(LastStateLSTM) == ours.count(keras.layers.LSTM) == 1
    assert (plain.count(LastStateLSTM), plain.count(keras.layers.LSTM)) == (0, 2)
    both = lstm_backbone("chroma", units=2, bidirectional=True).get_layer("block1_lstm")
    assert isinstance(both, keras.layers.Bidirectional)


def test_two_steps_of_fit_teach_what_keras_s_layer_learns():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1, (10, 9, 12)).astype("float32"), np.arange(10) % 3
    for clip in range(10):
        x[clip, 9 - clip % 8 :] = -100.0
    plain, ours = models()
    before = ours.get_weights()
    for model in (plain, ours):
        model.fit(x, y, batch_size=5, shuffle=False, verbose=0)
    for got, want, was in zip(ours.get_weights(), plain.get_weights(), before, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        assert not np.allclose(got, was, atol=1e-3)
    np.testing.assert_allclose(ours.predict(x, verbose=0), plain.predict(x, verbose=0), rtol=1e-5, atol=1e-5)


def test_a_saved_model_comes_back_as_it_was(tmp_path):
    model = genre_classifier(lstm_backbone("chroma", units=UNITS), list("abc"))
    x = np.random.default_rng(0).uniform(0, 1, (3, 9, 12)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    layer, back = (one.get_layer("backbone").get_layer("block1_lstm") for one in (model, loaded))
    assert type(back) is LastStateLSTM
    assert back.get_config() == layer.get_config()
    assert np.array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_exported_model_answers_as_its_keras_file(tmp_path, precision):
    with layers_compute_in(precision):
        backbone = lstm_backbone(units=16)
    model, card = write_tiny_run(tmp_path / "run", tiny_card(), backbone, sharpness=5), tiny_card()
    assert export_savedmodel(model, card, tiny_examples(model), tmp_path / "out") <= 1e-4

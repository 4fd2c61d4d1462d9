import keras
import numpy as np
import pytest

from mtmusic.errors import UserError
from mtmusic.models import backbones
from mtmusic.models.backbones import cnn_backbone, lstm_backbone, statistics_backbone
from mtmusic.models.heads import affect_regressor, genre_classifier, multitask_regressor
from mtmusic.models.musicnn import musicnn_backbone
from mtmusic.models.saving import save
from mtmusic.models.transfer import describe, freeze, load_backbone, set_backbone_weights, unfreeze
from tests.runs import logmel_examples, randomise

CARD = {"task": "genre", "classes": ["a", "b"], "feature": "mel", "beat": True, "frames": 16}


def batch() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).uniform(-80, 0, (4, 16, 128)).astype("float32"), np.array([0, 1, 0, 1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    model = genre_classifier(cnn_backbone(frames=16), ["a", "b"])
    model.train_on_batch(*batch())
    save(model, folder, CARD, batch()[0])
    return folder


def changed_layers(backbone: keras.Model, classes: int = 3) -> set[str]:
    """The layers whose weights, statistics included, a training step changes under a new head."""
    model = genre_classifier(backbone, [str(i) for i in range(classes)])
    before = {layer.name: layer.get_weights() for layer in backbone.layers}
    model.train_on_batch(*batch())
    return {
        layer.name
        for layer in backbone.layers
        if any(not np.array_equal(a, b) for a, b in zip(before[layer.name], layer.get_weights(), strict=True))
    }


def layers_of(*blocks: int) -> set[str]:
    return {f"block{number}_{kind}" for number in blocks for kind in ("conv", "norm")}


@pytest.mark.parametrize(
    ("which", "trained"), [("all", ()), ("none", (1, 2, 3, 4)), (0, (1, 2, 3, 4)), ("2", (3, 4)), (4, ())]
)
def test_what_is_frozen_is_bit_identical_after_training_and_the_rest_is_not(run, which, trained):
    backbone = load_backbone(run)
    freeze(backbone, which)
    assert changed_layers(backbone) == layers_of(*trained)


def test_freezing_an_lstm_counts_its_layers():
    backbone = lstm_backbone(units=4, layers_count=2, dropout=0.2)
    assert freeze(backbone, 1) == ["block1_lstm", "block1_dropout"]
    assert changed_layers(backbone) == {"block2_lstm"}


@pytest.mark.parametrize("which", ["some", 5, "-1", -1])
def test_other_values_are_refused(which):
    with pytest.raises(UserError, match=r"Expected `freeze` .* 0 to 4"):
        freeze(cnn_backbone(frames=16), which)


def own_backbone(name: str = "backbone") -> keras.Model:
    """A user's, whose layers have no names of blocks."""
    spectrogram = keras.Input((16, 128))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(4)(spectrogram))
    return keras.Model(spectrogram, keras.layers.GlobalAveragePooling1D()(x), name=name)


def test_all_of_a_backbone_without_blocks_can_be_frozen_and_no_part_of_it():
    backbone = own_backbone()
    assert freeze(backbone, "all") == [layer.name for layer in backbone.layers if layer.weights]
    assert len(freeze(backbone, "all")) == 2
    assert changed_layers(backbone) == set()
    with pytest.raises(UserError, match=r"0 to 0 .the backbone has no layers named block1_"):
        freeze(backbone, 1)


def test_the_loaded_backbone_is_the_saved_one(run):
    backbone = load_backbone(run)
    saved = keras.models.load_model(run / "model.keras").get_layer("backbone")
    assert all(np.array_equal(a, b) for a, b in zip(backbone.get_weights(), saved.get_weights(), strict=True))


def test_transfer_says_what_is_loaded_fresh_frozen_and_trainable(run):
    backbone = load_backbone(run)
    frozen = freeze(backbone, "all")
    model = genre_classifier(backbone, ["a", "b", "c"])
    told = describe(model, "the source", [layer.name for layer in backbone.layers if layer.weights], frozen)
    assert "backbone of the source, 266,528 parameters" in told
    assert "Fresh:     genre" in told
    assert "block4_pool" in told
    assert f"Trainable: {64 * 3 + 3} of" in told


def test_what_clips_set_is_told_apart_from_what_is_trained():
    model = genre_classifier(statistics_backbone(centres=3), ["a", "b"])
    said = describe(model, "genre_run", ["block1_kernel"], [])
    assert "Frozen:    nothing\nSet from the train clips, not trained: block1_kernel\nTrainable: 8 of" in said


def test_the_first_blocks_alone_are_transferred_and_the_rest_stays_fresh(run):
    source = load_backbone(run)
    backbone = cnn_backbone(frames=16)
    fresh = backbone.get_weights()
    loaded = set_backbone_weights(backbone, source, run, "2")
    assert set(loaded) == layers_of(1, 2)
    expected = source.get_weights()[:10] + fresh[10:]  # a block: kernel, and the four of its BatchNorm
    assert all(np.array_equal(a, b) for a, b in zip(backbone.get_weights(), expected, strict=True))
    told = describe(genre_classifier(backbone, ["a", "b"]), "the source", loaded, [])
    assert "Fresh:     block3_conv, block3_norm, block4_conv, block4_norm, genre" in told
    assert f"{sum(weight.size for weight in expected[:10]):,} of its 266,528 parameters" in told
    with pytest.raises(UserError, match=r"Expected `transfer` .* 0 to 4"):
        set_backbone_weights(backbone, source, run, 5)


@pytest.mark.parametrize("pooling", ["flatten", "masked"])
def test_a_source_whose_convolutions_have_biases_answers_the_same_without(monkeypatch, pooling):
    def with_bias(*arguments, use_bias, **others):
        return keras.layers.Conv2D(*arguments, **others)

    with monkeypatch.context() as patched:
        patched.setattr(backbones, "WinogradConv2D", with_bias)
        source = cnn_backbone(frames=16, pooling=pooling)
    rng = np.random.default_rng(0)
    source.set_weights([rng.uniform(0.5, 1, weight.shape) for weight in source.get_weights()])
    backbone = cnn_backbone(frames=16, pooling=pooling)
    assert len(backbone.weights) == len(source.weights) - 4
    set_backbone_weights(backbone, source, "older")
    expected = source.predict_on_batch(batch()[0])
    np.testing.assert_allclose(backbone.predict_on_batch(batch()[0]), expected, rtol=1e-5)
    assert np.ptp(expected) > 1


def test_a_model_without_a_backbone_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((16, 128)), keras.layers.Flatten(), keras.layers.Dense(2)])
    save(model, tmp_path, CARD, batch()[0])
    with pytest.raises(UserError, match="backbone"):
        load_backbone(tmp_path)


def test_unfreezing_trains_everything_at_a_tenth_of_the_rate_and_keeps_the_head(run):
    backbone = load_backbone(run)
    freeze(backbone, "all")
    model = affect_regressor(backbone, "valence", variances={"valence": 0.05}, learning_rate=0.01)
    targets = np.random.default_rng(1).random((4, 1)).astype("float32")
    model.fit(batch()[0], targets, verbose=0)
    head, error = model.get_layer("valence").get_weights(), model.evaluate(batch()[0], targets, verbose=0)
    unfreeze(model)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001)
    assert all(np.array_equal(a, b) for a, b in zip(head, model.get_layer("valence").get_weights(), strict=True))
    assert model.evaluate(batch()[0], targets, verbose=0) == pytest.approx(error)
    before = backbone.get_weights()
    model.fit(batch()[0], targets, verbose=0)
    assert not any(np.array_equal(a, b) for a, b in zip(before, backbone.get_weights(), strict=True))


def test_a_frozen_backbone_is_bit_identical_after_a_regression(run):
    backbone = load_backbone(run)
    freeze(backbone, "all")
    before = backbone.get_weights()
    model = multitask_regressor(backbone, ("a", "b"))
    model.fit(batch()[0], np.random.default_rng(1).random((4, 2)).astype("float32"), epochs=2, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, backbone.get_weights(), strict=True))


def test_weights_go_into_a_backbone_of_other_frames_where_they_do_not_depend_on_them(run):
    source = load_backbone(run)
    longer = cnn_backbone(frames=48)
    set_backbone_weights(longer, source, run)
    assert all(np.array_equal(a, b) for a, b in zip(longer.get_weights(), source.get_weights(), strict=True))
    inputs = keras.Input((16, 128))
    fixed = keras.Model(inputs, keras.layers.Dense(2, name="dense")(keras.layers.Flatten()(inputs)), name="backbone")
    inputs = keras.Input((32, 128))
    other = keras.Model(inputs, keras.layers.Dense(2, name="dense")(keras.layers.Flatten()(inputs)), name="backbone")
    with pytest.raises(UserError, match=r"Expected the frames of here, 16, got 32: .*; leave `frames` out"):
        set_backbone_weights(other, fixed, "here")
    with pytest.raises(UserError, match="another backbone next to here"):
        set_backbone_weights(other, source, "here")


# --- the pretrained trunk


@pytest.mark.parametrize(("features", "count"), [(None, 200), ("penultimate", 200), ("mean", 753)])
def test_the_trunk_is_an_ordinary_model_to_fit(trunk, features, count):
    backbone = load_backbone("musicnn", features)
    assert backbone.output_shape == (None, count)
    model = keras.Sequential([backbone, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    before = backbone.get_weights()
    model.fit(logmel_examples(200), np.zeros(3), verbose=0)
    assert not any(np.array_equal(a, b) for a, b in zip(before, backbone.get_weights(), strict=True))


def test_features_that_a_run_does_not_have_are_refused(run, trunk, tmp_path):
    for path, features in ((run, "mean"), ("musicnn", "patches")):
        with pytest.raises(UserError, match="Expected `features` mean or penultimate of a musicnn backbone"):
            load_backbone(path, features)
    card = CARD | {"feature": "logmel", "frames": None, "beat": False}
    save(genre_classifier(load_backbone("musicnn", "mean"), ["a", "b"]), tmp_path / "run", card, logmel_examples(200))
    assert load_backbone(tmp_path / "run").output_shape == (None, 753)
    with pytest.raises(UserError, match="another backbone"):
        load_backbone(tmp_path / "run", "penultimate")


@pytest.mark.parametrize("feature", ["logmel", "mel", "fused"])
@pytest.mark.parametrize("features", ["mean", "penultimate"])
def test_the_trunks_weights_serve_other_features_and_shorter_backbones(feature, features):
    source = musicnn_backbone(features="patches")
    randomise(source)
    backbone = musicnn_backbone(feature, features)
    loaded = set_backbone_weights(backbone, source, "here")
    assert set(loaded) == {layer.name for layer in backbone.layers if layer.weights}
    assert ("block3_dense" in loaded) == (features == "penultimate")
    for name in loaded:  # biases of convolutions too, which stand in front of ReLU, not of a normalisation
        pairs = zip(backbone.get_layer(name).get_weights(), source.get_layer(name).get_weights(), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    assert len(backbone.get_layer("block1_timbral38").get_weights()) == 2
    fresh = musicnn_backbone(feature, features)
    assert set(set_backbone_weights(fresh, source, "here", 1)) == {name for name in loaded if "block1" in name}


def test_a_backbone_without_the_dense_layer_gives_none(run):
    with pytest.raises(UserError, match="another backbone"):
        set_backbone_weights(musicnn_backbone(), musicnn_backbone(features="mean"), "here")
    with pytest.raises(UserError, match="another backbone"):
        set_backbone_weights(musicnn_backbone("mel"), load_backbone(run), run)
    with pytest.raises(UserError, match=r"Expected `freeze` .* 0 to 2"):
        freeze(musicnn_backbone(features="mean"), 3)


def test_a_backbone_that_was_frozen_as_a_whole_is_unfrozen_by_blocks():
    backbone = cnn_backbone(frames=16)
    backbone.trainable = False
    freeze(backbone, 2)
    assert changed_layers(backbone) == layers_of(3, 4)

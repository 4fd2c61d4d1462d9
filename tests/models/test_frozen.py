from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.constants import PAD_VALUE
from mtmusic.models import frozen
from mtmusic.models.backbones import cnn_backbone, lstm_backbone, statistics_backbone
from mtmusic.models.frozen import embedded, feature_batches, frozen_features, head_alone, is_fixed, split
from mtmusic.models.heads import affect_regressor, genre_classifier, multitask_regressor
from mtmusic.models.musicnn import musicnn_backbone
from mtmusic.models.transfer import freeze
from tests.runs import logmel_examples, randomise

TASKS = ("valence", "energy")


def frozen_cnn() -> keras.Model:
    keras.utils.set_random_seed(0)
    backbone = cnn_backbone("chroma", frames=16)
    freeze(backbone, "all")
    return backbone


HEADS = {
    "genre": lambda backbone: genre_classifier(backbone, list("abc")),
    "weighted": lambda backbone: genre_classifier(backbone, list("abc"), weight_decay=0.1, class_weights=[1, 2, 3]),
    "one task": lambda backbone: affect_regressor(backbone, "valence"),
    "fixed weights": lambda backbone: multitask_regressor(backbone, TASKS),
    "learned weights": lambda backbone: multitask_regressor(backbone, TASKS, learned_weights=True),
}


def batches(head: str) -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    clips = rng.uniform(0, 1, (10, 16, 12)).astype("float32")
    targets = rng.uniform(0, 1, (10, 1 if head == "one task" else 2)).astype("float32")
    targets = np.arange(10) % 3 if head in ("genre", "weighted") else targets
    return tf.data.Dataset.from_tensor_slices((clips, targets)).batch(4)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_alone_learns_what_it_learns_on_its_frozen_backbone(name, tmp_path):
    results = []
    for alone in (False, True):
        model, dataset = HEADS[name](frozen_cnn()), batches(name)
        fitted = model
        if alone:
            fitted, dataset = head_alone(model), embedded(model.get_layer("backbone"), dataset, 4)
        losses = fitted.fit(dataset, epochs=3, verbose=0, shuffle=False).history["loss"]
        results.append([losses, *model.get_weights()])
        model.save(tmp_path / "model.keras")
        assert keras.models.load_model(tmp_path / "model.keras").optimizer.iterations == 9
    for whole, part in zip(*results, strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-5)


def test_a_backbone_is_fixed_where_nothing_is_trained_and_nothing_drawn():
    assert is_fixed(frozen_cnn())
    assert is_fixed(statistics_backbone(centres=4))
    assert not is_fixed(cnn_backbone(frames=16))
    assert not is_fixed(statistics_backbone(centres=4, dropout=0.1))
    assert not is_fixed(statistics_backbone(centres=0))  # its normalisation learns
    lstm = lstm_backbone(units=4, dropout=0.1)
    freeze(lstm, "all")
    assert not is_fixed(lstm)
    half = cnn_backbone(frames=16)
    freeze(half, "2")
    assert not is_fixed(half)
    trunk = musicnn_backbone()
    assert not is_fixed(trunk)
    freeze(trunk, "all")
    assert is_fixed(trunk)  # its dropout draws nothing where it is frozen


def test_features_come_in_another_order_each_epoch_with_their_targets_by_seed():
    backbone = frozen_cnn()
    numbered = batches("genre").unbatch().enumerate().map(lambda number, clip: (clip[0], number)).batch(4)
    plain = {}
    for rows, numbers in embedded(backbone, numbered, 3):
        plain |= dict(zip(numbers.numpy().tolist(), rows.numpy(), strict=True))
    assert sorted(plain) == [*range(10)]
    orders = []
    for seed in (1, 1, 2):
        shuffled = embedded(backbone, numbered, 3, shuffle=True, seed=seed)
        for _ in range(2):
            order = []
            for rows, numbers in shuffled:
                order += numbers.numpy().tolist()
                for row, number in zip(rows, numbers, strict=True):
                    np.testing.assert_array_equal(row, plain[int(number)])
            orders.append(order)
    assert orders[:2] == orders[2:4]
    assert len({tuple(order) for order in orders}) == 4


# --- a musicnn backbone, whose frozen part's outputs are kept on disk

FRAMES = (187 * 3 + 50, 200, 90)
PATHS = tuple(Path(f"{name}.logmel.npy") for name in "abc")
DIGESTS = {path: f"digest-{path.stem[0]}" for path in PATHS}
CLIPS = {path: clip[:frames] for path, clip, frames in zip(PATHS, logmel_examples(700), FRAMES, strict=True)}
TARGETS = np.array([0, 1, 1])


def musicnn_classifier(which: str | int, features: str = "penultimate", feature: str = "logmel") -> keras.Model:
    keras.utils.set_random_seed(0)
    backbone = musicnn_backbone(feature, features)
    randomise(backbone)
    freeze(backbone, which)
    for layer in backbone.layers:
        if layer.name == "block3_dropout":
            layer.rate = 0.0  # what it draws for patches of another number differs
    return genre_classifier(backbone, ["a", "b"], learning_rate=1e-4)


def padded() -> np.ndarray:
    batch = np.full((3, max(FRAMES), 96), PAD_VALUE, "float32")
    for row, clip in zip(batch, CLIPS.values(), strict=True):
        row[: len(clip)] = clip
    return batch


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTMUSIC_CACHE", str(tmp_path))
    return tmp_path / "features"


@pytest.mark.parametrize(
    ("which", "features", "shape", "tolerance"),
    [("all", "penultimate", (3, 200), 1e-4), (2, "mean", (3, 753), 1e-4), (2, "penultimate", (3, 3, 1506), 1e-4)],
)  # fmt: skip
def test_the_rest_learns_on_kept_outputs_what_the_whole_learns(cache, which, features, shape, tolerance):
    model, whole = (musicnn_classifier(which, features) for _ in range(2))
    part, rest = split(model)
    files = frozen_features(part, PATHS, DIGESTS, CLIPS.__getitem__)
    assert [file.name for file in files] == [f"{digest}.npy" for digest in DIGESTS.values()]
    assert all(file.is_relative_to(cache) for file in files)
    dataset = feature_batches(files, TARGETS, 3)
    assert next(iter(dataset))[0].shape == shape
    np.testing.assert_allclose(rest.predict(dataset, verbose=0), whole.predict(padded(), verbose=0), atol=tolerance)
    ours = rest.fit(dataset, epochs=2, shuffle=False, verbose=0).history["loss"]
    assert model.optimizer.iterations == 2
    wanted = whole.fit(padded(), TARGETS, epochs=2, verbose=0).history["loss"]
    np.testing.assert_allclose(ours, wanted, rtol=10 * tolerance)  # block 1 is kept as float16
    got, wanted = (one.predict(padded(), verbose=0) for one in (model, whole))
    np.testing.assert_allclose(got, wanted, rtol=10 * tolerance, atol=10 * tolerance)


def test_what_is_kept_is_not_computed_again_and_what_is_damaged_is(cache, capsys):
    part, _ = split(musicnn_classifier("all"))
    read = []

    def counted(path: Path) -> np.ndarray:
        read.append(path)
        return CLIPS[path]

    files = frozen_features(part, PATHS, DIGESTS, counted)
    contents = [file.read_bytes() for file in files]
    assert "Features" in capsys.readouterr().err
    assert frozen_features(part, PATHS[::-1], DIGESTS, counted) == files[::-1]
    assert read == [*PATHS]
    assert capsys.readouterr().err == ""

    files[0].write_bytes(contents[0][:200])
    np.save(files[1], np.full(200, np.nan, "float32"))
    np.save(files[2], np.zeros(7, "float32"))
    frozen_features(part, PATHS, DIGESTS, counted)
    assert read == [*PATHS] * 2
    assert [file.read_bytes() for file in files] == contents
    assert sorted(path.name for path in files[0].parent.iterdir()) == sorted(file.name for file in files)


def test_other_weights_features_and_arrays_are_kept_elsewhere(cache):
    parts = [split(model)[0] for model in (musicnn_classifier("all"), musicnn_classifier("all", "mean"))]
    other = musicnn_classifier("all")
    layer = other.get_layer("backbone").get_layer("block1_temporal32")
    layer.set_weights([weight + 0.1 for weight in layer.get_weights()])
    parts.append(split(other)[0])
    parts += [split(musicnn_classifier(which))[0] for which in (1, 2)]
    folders = {frozen_features(part, PATHS[:1], DIGESTS, CLIPS.__getitem__)[0].parent for part in parts}
    assert len(folders) == len(parts)


def test_another_version_of_the_code_computes_anew(cache, monkeypatch):
    part, _ = split(musicnn_classifier("all"))
    (file,) = frozen_features(part, PATHS[:1], DIGESTS, CLIPS.__getitem__)
    monkeypatch.setattr(frozen, "FEATURES_VERSION", frozen.FEATURES_VERSION + 1)
    (newer,) = frozen_features(part, PATHS[:1], DIGESTS, CLIPS.__getitem__)
    assert newer.parent != file.parent
    assert newer.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("feature", ["logmel", "mel"])
@pytest.mark.parametrize(("which", "features"), [("all", "penultimate"), ("all", "mean"), (2, "penultimate")])
def test_a_long_clip_is_computed_in_parts(cache, monkeypatch, which, features, feature):
    monkeypatch.setattr(frozen, "PATCHES_AT_ONCE", 2)
    part, _ = split(musicnn_classifier(which, features, feature))
    low, high, bins = (0, 4, 96) if feature == "logmel" else (-80, 0, 128)
    clip = np.random.default_rng(0).uniform(low, high, (5 * 187 + 99, bins)).astype("float32")
    (file,) = frozen_features(part, PATHS[:1], DIGESTS, lambda path: clip)
    wanted = part.predict(clip[np.newaxis], verbose=0)[0]
    assert np.load(file).dtype == np.float32
    np.testing.assert_allclose(np.load(file), wanted, atol=1e-5, rtol=1e-5)


def test_nothing_is_kept_of_what_is_trained_nor_of_other_networks_nor_too_much(cache):
    assert split(musicnn_classifier("none")) is None
    assert split(genre_classifier(frozen_cnn(), ["a", "b"])) is None
    model = musicnn_classifier(1)
    assert split(model, frames=4000 * 1875) is not None
    assert split(model, frames=8000 * 1875) is None
    assert split(musicnn_classifier(2), frames=8000 * 1875) is not None


@pytest.mark.parametrize("memory", [0, 10**9])
def test_kept_features_come_in_another_order_each_epoch_with_their_targets_by_seed(cache, monkeypatch, memory):
    monkeypatch.setattr(frozen, "MEMORY_BYTES", memory)
    cache.mkdir()
    files = [cache / f"{i}.npy" for i in range(10)]
    for i, file in enumerate(files):
        np.save(file, np.full(4, i, "float32"))
    orders = []
    for seed in (1, 1, 2):
        dataset = feature_batches(files, np.arange(10), 4, shuffle=True, seed=seed)
        for _ in range(2):
            rows, numbers = (np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True))
            assert np.array_equal(rows, np.repeat(numbers[:, None], 4, axis=1))
            orders.append(tuple(numbers))
    assert orders[:2] == orders[2:4]
    assert len({*orders}) == 4
    assert sorted(orders[0]) == [*range(10)]

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtmusic.data.folder import LoadOptions
from mtmusic.data.labels import Clips
from mtmusic.data.spectrograms import write_array
from mtmusic.training import train as training
from mtmusic.training.genre import GenreTask
from mtmusic.training.recipes import PRETRAINED, RECIPES, Recipe, choose_recipe, fill_in, named_recipe


@pytest.fixture
def clips(tmp_path) -> Clips:
    """Three full-rate clips of one value each: as .npy.gz they take next to nothing on disk."""
    paths = tuple(tmp_path / f"{number}.fused.full.npy.gz" for number in range(3))
    for path, frames in zip(paths, (1000, 1200, 1292), strict=True):
        write_array(path, np.full((140, frames), -40, np.float16))
    assert all(path.stat().st_size < 5000 for path in paths)
    return Clips(("0", "1", "2"), paths, np.zeros(3, int), classes=("Blues",))


@pytest.mark.parametrize("feature", ["mel", "chroma", "fused"])
def test_what_clips_take_in_memory_is_told_from_their_headers(clips, feature):
    recipe = Recipe("lstm", feature, batch_size=1)
    taken = sum(spectrogram.nbytes for spectrogram, _ in training.batches_of(clips, recipe).as_numpy_iterator())
    assert training._bytes(clips, recipe) == taken
    cut = replace(recipe, frames=1100)
    taken = sum(spectrogram.nbytes for spectrogram, _ in training.batches_of(clips, cut).as_numpy_iterator())
    assert training._bytes(clips, cut) == taken


@pytest.mark.parametrize(("room", "cache"), [(0, "memory"), (-1, None)], ids=["enough", "a byte short"])
def test_clips_are_kept_in_memory_where_they_fit(clips, monkeypatch, room, cache):
    caches = []
    monkeypatch.setattr(training, "MEMORY_CACHE_BYTES", (1000 + 1200 + 1292) * 128 * 4 + room)
    monkeypatch.setattr(training, "make_dataset", lambda *_, **settings: caches.append(settings["cache"]))
    training.batches_of(clips, Recipe("lstm"))
    assert caches == [cache]


def test_a_recipe_with_a_trunk_starts_from_it_frozen_and_keeps_its_own_head(trunk, tmp_path):
    recipe = named_recipe("pretrained-mlp")
    options = training.with_trunk(training.TrainOptions(LoadOptions(tmp_path), recipe=recipe))
    assert (str(options.source), options.frozen, options.recipe) == ("musicnn", "all", recipe)
    assert training.resolve_recipe(options) == replace(recipe, feature="logmel")  # until the folder is known
    tuned = training.with_trunk(replace(options, freeze="2", recipe=named_recipe("pretrained")))
    assert (tuned.frozen, tuned.recipe.learning_rate) == ("2", PRETRAINED.learning_rate)  # features "mean" have two
    tuned = training.with_trunk(replace(options, freeze="1", recipe=named_recipe("pretrained")))
    assert (tuned.frozen, tuned.recipe.learning_rate) == ("1", training.TRUNK_LEARNING_RATE)
    assert (options.recipe.batch_size, tuned.recipe.batch_size) == (32, 32)


@pytest.mark.parametrize("how", [{"freeze": "none"}, {"freeze": "all", "unfreeze_after": 1}])
@pytest.mark.parametrize(("settings", "size"), [({}, 4), ({"batch_size": 16}, 16), ({"epochs": 5}, 4)])
def test_batches_are_small_where_a_trunk_is_trained_unless_they_are_given(trunk, tmp_path, how, settings, size):
    recipe = choose_recipe(None, settings, RECIPES, source=Path("musicnn"))
    options = training.TrainOptions(LoadOptions(tmp_path), recipe=recipe, source=Path("musicnn"), **how)
    assert training.with_trunk(options).recipe.batch_size == size
    assert training.with_trunk(replace(options, recipe=Recipe("cnn"))).recipe.batch_size == 32


def test_an_untrained_trunk_has_random_weights_of_its_seed_that_stay_as_they_are(trunk, tmp_path):
    def kernels(name: str, seed: int = 0) -> tuple[np.ndarray, bool]:
        options = training.TrainOptions(LoadOptions(tmp_path, seed=seed), recipe=named_recipe(name))
        options = training.with_trunk(options)
        recipe = fill_in(training.resolve_recipe(options), 0, {"train": "ab", "validation": "c"}, feature="logmel")
        model = training.build_model(options, recipe, GenreTask(classes=("a", "b")))
        backbone = model.get_layer("backbone")
        return backbone.get_layer("block1_timbral38").get_weights()[0], bool(backbone.trainable_variables)

    trained, _ = kernels("pretrained")
    control, trainable = kernels("random-trunk")
    assert not trainable
    assert np.abs(control - trained).max() > 0.01
    np.testing.assert_array_equal(control, kernels("random-trunk")[0])
    assert np.abs(control - kernels("random-trunk", seed=1)[0]).max() > 0.01

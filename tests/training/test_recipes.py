import json

import keras
import numpy as np
import pytest

from mtmusic.errors import UserError
from mtmusic.training.recipes import (
    AFFECT_RECIPES,
    LAB_CNN,
    LEADER,
    RECIPES,
    architecture,
    build_backbone,
    choose_recipe,
    fill_in,
    named_recipe,
    recipe_from_card,
    recipe_names,
    task_weights,
)
from tests.runs import write_random_trunk


def test_the_leader_is_the_published_network():
    backbone = build_backbone(fill_in(LEADER, 96, {"train": range(900)}))
    assert backbone.input_shape == (None, 96, 140)
    convolutions = [layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [(layer.filters, layer.kernel_size) for layer in convolutions] == [
        (16, (3, 3)), (32, (3, 3)), (64, (3, 3)), (128, (3, 3)),
    ]  # fmt: skip
    pools = [layer.pool_size for layer in backbone.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    assert pools == [(3, 3)] * 4
    last = [type(layer).__name__ for layer in backbone.layers[-5:]]
    assert last == ["Dropout", "Dense", "PReLU", "FusedBatchNormalization", "Dropout"]
    assert backbone.output_shape == (None, 128)
    assert (named_recipe("leader").learning_rate, named_recipe("leader", multitask=True).learning_rate) == (1e-4, 1e-3)
    assert task_weights(LEADER, ("a", "b", "c")) == {"a": 0.4, "b": 0.2, "c": 0.2}
    assert task_weights(LAB_CNN, ("a", "b")) is None


@pytest.mark.parametrize(("clips", "patience"), [(900, 5), (240, 19), (5000, 5)])
def test_the_leaders_patience_suits_the_folder(clips, patience):
    assert fill_in(LEADER, 96, {"train": range(clips)}).patience == patience


def test_a_card_holds_all_that_rebuilds_the_backbone():
    recipe = fill_in(LEADER, 96, {"train": range(900)})
    card = json.loads(json.dumps({"feature": "fused", "frames": 96, "architecture": architecture(recipe)}))
    again = recipe_from_card(card, RECIPES["lstm"])
    assert architecture(again) == architecture(recipe)
    shapes = [[w.shape for w in build_backbone(one).weights] for one in (recipe, again)]
    assert shapes[0] == shapes[1]
    for name in ("blocks", "pool", "dense"):  # an older card
        del card["architecture"][name]
    assert recipe_from_card(card, LEADER).blocks == LAB_CNN.blocks
    card["architecture"]["blocks"] = [3]
    with pytest.raises(UserError, match="filters and kernel"):
        recipe_from_card(card, LEADER)


def test_flags_change_a_named_recipe():
    assert choose_recipe("leader", {"epochs": 3}, AFFECT_RECIPES).epochs == 3
    assert choose_recipe(None, {"backbone": "lstm"}, AFFECT_RECIPES) == RECIPES["lstm"]
    assert choose_recipe("lab-cnn", {}, AFFECT_RECIPES) == LAB_CNN
    assert named_recipe("best", True) == named_recipe("kernel", True)


BAD = {
    "unknown": ("leder", {}, "Expected `recipe` lab-cnn, lab-lstm, leader, kernel, pretrained or best, got leder"),
    "its own backbone": ("leader", {"backbone": "cnn"}, "Expected `recipe` without `backbone`"),
    "units for a cnn": ("leader", {"units": 3}, "`units` with `backbone=lstm` only"),
    "pooling for an lstm": ("lab-lstm", {"pooling": "masked"}, "`pooling` with `backbone=cnn` only"),
}


@pytest.mark.parametrize(("name", "settings", "expected"), BAD.values(), ids=BAD)
def test_what_a_recipe_cannot_have_is_refused(name, settings, expected):
    with pytest.raises(UserError, match=expected):
        choose_recipe(name, settings, RECIPES)


def test_a_masked_leader_is_refused_and_too_few_frames_are():
    with pytest.raises(UserError, match="for blocks that pool 3"):
        build_backbone(choose_recipe("leader", {"pooling": "masked"}, RECIPES))
    with pytest.raises(UserError, match="Expected 81 frames or more"):
        build_backbone(choose_recipe("leader", {"frames": 80}, RECIPES))


def test_every_recipe_is_named_in_the_help(script):
    flags = script("common").parser("")
    script("common").add_recipe_flag(flags)
    assert all(name in flags.format_help() for name in recipe_names())
    assert np.all([named_recipe(name) for name in recipe_names()])


def test_best_is_the_pretrained_trunk_on_full_rate_clips_where_it_is_there(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert named_recipe("best", beat=True) == named_recipe("kernel")
    with caplog.at_level("INFO", "mtmusic"):
        assert named_recipe("best", beat=False) == named_recipe("kernel")
    assert "the pretrained trunk is missing: mtmusic get-pretrained" in caplog.text
    write_random_trunk(tmp_path / "saved_models" / "musicnn")
    assert named_recipe("best", beat=False) == named_recipe("pretrained")


def test_the_pretrained_recipe_takes_the_arrays_feature_and_its_centres_from_the_folder():
    splits = {"train": range(7), "validation": range(2), "test": range(3)}
    recipe = fill_in(named_recipe("pretrained"), 1280, splits, feature="logmel")
    assert recipe.centres == 9  # the refit learns from the validation clips too
    assert fill_in(named_recipe("pretrained-no-refit"), 1280, splits).centres == 7
    assert (recipe.feature, recipe.frames) == ("logmel", None)
    backbone = build_backbone(recipe)
    assert (backbone.input_shape, backbone.output_shape) == ((None, None, 96), (None, 753))
    again = recipe_from_card(
        json.loads(json.dumps({"feature": "logmel", "frames": None, "architecture": architecture(recipe)})), LAB_CNN
    )
    assert architecture(again) == architecture(recipe)

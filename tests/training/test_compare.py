"""What a fine-tune is compared with; cli/test_finetune_valence.py trains both."""

from dataclasses import replace

import pytest

from mtmusic.data.folder import LoadOptions
from mtmusic.training import compare
from mtmusic.training.affect import AffectTask
from mtmusic.training.recipes import KERNEL, PRETRAINED, Recipe, architecture, build_backbone
from mtmusic.training.train import TrainOptions, with_trunk
from tests.runs import tiny_card, write_tiny_run


@pytest.mark.parametrize("recipe", [KERNEL, PRETRAINED], ids=["kernel", "pretrained"])
def test_the_control_is_the_recipe_as_it_is_trained_on_these_clips(trunk, tmp_path, monkeypatch, recipe: Recipe):
    """A kernel of as many clips as this folder has, not as the source had."""
    source = trunk
    if recipe is KERNEL:
        source, built = tmp_path / "source", replace(KERNEL, centres=38)
        card = tiny_card(feature="fused", architecture=architecture(built))
        write_tiny_run(source, card, build_backbone(built))
    trained: list[TrainOptions] = []
    monkeypatch.setattr(compare, "train", lambda options, task: trained.append(options) or {})
    for name in ("compare_runs", "write_comparison", "write_report", "comparison_table", "read_card"):
        monkeypatch.setattr(compare, name, lambda *arguments: {"source": None, "clips": 0})
    monkeypatch.setattr(compare, "log_known_test_clips", lambda *arguments: None)
    options = TrainOptions(LoadOptions(tmp_path), tmp_path / "out", recipe, source=source, freeze="all")
    compare.finetune(options, AffectTask(("valence",)), compare_scratch=True)
    tuned, control = trained
    assert (tuned.source, tuned.frozen) == (source, "all")
    assert control.recipe.centres is None
    if recipe is KERNEL:
        assert (control.source, control.frozen) == (None, "none")
    else:  # a frozen trunk's random weights stay as they are too
        assert control == replace(tuned, out=control.out, recipe=replace(tuned.recipe, untrained=True))


def test_where_a_trunk_is_tuned_its_control_is_trained_whole_at_the_same_rate(trunk, tmp_path):
    options = TrainOptions(LoadOptions(tmp_path), recipe=PRETRAINED, source=trunk, freeze="none")
    control = compare._from_random_weights(options)
    tuned = with_trunk(options).recipe
    assert (control.source, control.frozen, control.recipe.trunk) == (None, "none", "")
    names = ("learning_rate", "batch_size", "refit")
    assert [getattr(control.recipe, name) for name in names] == [getattr(tuned, name) for name in names]

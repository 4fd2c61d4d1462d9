"""Named, complete settings, and the backbone that each builds."""

from dataclasses import dataclass, replace
from typing import Any

import keras

from mtmusic.errors import UserError
from mtmusic.models.backbones import cnn_backbone, lstm_backbone
from mtmusic.models.training import TrainingConfig

FRAMES = {True: 128, False: 1280}
AFFECT_FRAMES = {True: 96, False: 1280}
"""Frames of a flat CNN by default, for beat-synchronised folders and for full-rate ones. As in the lab's report: its
dense layer takes 512 features for genre and 384 for affect, whose beat-synchronised clips are shorter."""


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained. frames: None takes clips of any length."""

    backbone: str = "cnn"
    feature: str = "mel"
    frames: int | None = None
    pooling: str = "flatten"
    units: int = 128
    layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    batch_size: int = 32
    learning_rate: float = 1e-3
    epochs: int = 100
    patience: int = 15

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig(self.epochs, self.patience)

    @property
    def fixed_frames(self) -> bool:
        return self.backbone == "cnn" and self.pooling == "flatten"


LAB_CNN = Recipe("cnn")
LAB_LSTM = Recipe("lstm")
RECIPES = {"cnn": LAB_CNN, "lstm": LAB_LSTM}
AFFECT_RECIPES = {"cnn": replace(LAB_CNN, pooling="masked", batch_size=16), "lstm": LAB_LSTM}
"""Of affect, whose folders are smaller: the mean over real frames leaves a head 64 weights, where the flat layer leaves
384 that read absolute positions, padding too. The lab's own is `--pooling flatten --batch-size 32`."""


def complete(recipe: Recipe, frames: int) -> Recipe:
    """The recipe with the frames that a flat CNN needs, where none were given."""
    return replace(recipe, frames=frames) if recipe.fixed_frames and recipe.frames is None else recipe


def build_backbone(recipe: Recipe) -> keras.Model:
    """The recipe's backbone with fresh weights."""
    if recipe.backbone == "lstm":
        return lstm_backbone(recipe.feature, recipe.units, recipe.layers, recipe.bidirectional, recipe.dropout)
    return cnn_backbone(recipe.feature, recipe.frames, recipe.pooling)


def architecture(recipe: Recipe) -> dict[str, Any]:
    """The settings that shape the backbone, for the card: with them another can be built for the same weights."""
    names = ("backbone", "feature", "frames", "pooling", "units", "layers", "bidirectional", "dropout")
    return {name: getattr(recipe, name) for name in names}


def from_card(card: dict[str, Any], recipe: Recipe) -> Recipe:
    """The recipe with the architecture of a saved model's card."""
    told, kept = card.get("architecture"), {name: card[name] for name in ("feature", "frames")}
    if (
        not isinstance(told, dict)
        or set(told) != set(architecture(recipe))
        or kept != {name: told[name] for name in kept}
    ):
        raise UserError(f"Expected a card that tells the architecture of its backbone, got {told}")
    return replace(recipe, **told)

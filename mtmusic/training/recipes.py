"""Recipes: named, complete settings of network and training. Builds the backbone of a recipe."""

import logging
import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from mtmusic.cards import TRUNK, locate, read_card
from mtmusic.errors import UserError
from mtmusic.models.backbones import CNN_BLOCKS, POOL, STATISTICS, cnn_backbone, lstm_backbone, statistics_backbone
from mtmusic.models.heads import Neck, neck
from mtmusic.models.musicnn import musicnn_backbone
from mtmusic.models.nystroem import KERNELS
from mtmusic.models.precision import layers_compute_in, supported
from mtmusic.models.trainer import TrainingConfig

logger = logging.getLogger(__name__)

CENTRES = 2048
"""The largest number of centres of a kernel. Its weights grow with the square of the centres."""

LEADER_BLOCKS = ((16, 3), (32, 3), (64, 3), (128, 3))
LEADER_PATIENCE_CLIPS = 5 * 900
"""The leader's patience: five epochs of the lab's affect clips, without the fifth that chooses the epoch."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a network and of its training.

    Attributes:
        frames: Frames of each clip. None takes clips of any length.
        blocks, pool, dense: Arguments of `cnn_backbone`.
        parts, kernels: Arguments of `statistics_backbone`.
        centres: Number of training clips that a kernel compares with. None uses all of them, up to CENTRES.
        features: Argument of `musicnn_backbone`.
        trunk: Name of the run whose backbone the training starts from. All of it is frozen by default.
        untrained: Whether to use the architecture of the trunk with random weights, as a control.
        neck, hidden: Layers between features and outputs, see `heads.neck`.
        dropout: Dropout rate after each layer of an LSTM, before and after the dense block of a CNN, after a kernel, or
            in a neck.
        weights: Weights of the tasks' errors in a multitask loss, in the folder's order. The last weight also applies
            to all further tasks. If empty, see `losses.complete_weights`.
        balanced: Whether all classes have the same weight in a genre loss, independent of their number of clips.
        patience_clips: The patience is at least this number of clips, because an epoch of a small folder has few steps.
        refit: Whether to train a new network on train and validation for the best number of epochs.
        precision: See `models.precision`.
    """

    backbone: str = "cnn"
    feature: str = "mel"
    frames: int | None = None
    pooling: str = "flatten"
    blocks: tuple[tuple[int, int], ...] = CNN_BLOCKS
    pool: int = POOL
    dense: int = 0
    parts: tuple[str, ...] = STATISTICS
    kernels: tuple[str, ...] = KERNELS
    centres: int | None = None
    units: int = 128
    layers: int = 1
    bidirectional: bool = False
    features: str = "mean"
    trunk: str = ""
    untrained: bool = False
    neck: str = "plain"
    hidden: int = 0
    dropout: float = 0.0
    batch_size: int = 32
    learning_rate: float = 1e-3
    precision: str = "float32"
    weight_decay: float = 0.0
    weights: tuple[float, ...] = ()
    balanced: bool = False
    epochs: int = 100
    patience: int = 15
    patience_clips: int = 0
    refit: bool = False

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig(self.epochs, self.patience)

    @property
    def fixed_frames(self) -> bool:
        return self.backbone == "cnn" and self.pooling == "flatten"


LAB_CNN = Recipe("cnn")
LAB_LSTM = Recipe("lstm")
LEADER = Recipe(
    "cnn",
    "fused",
    blocks=LEADER_BLOCKS,
    pool=3,
    dense=128,
    dropout=0.2,
    learning_rate=1e-4,
    weight_decay=1e-4,
    weights=(0.4, 0.2),
    epochs=300,
    patience=5,
    patience_clips=LEADER_PATIENCE_CLIPS,
)
"""The best published solution of the lab. Its loss counts the first task twice."""

KERNEL = Recipe("statistics", "fused", learning_rate=0.02, weight_decay=0.2, balanced=True, epochs=300, patience=25)
"""A kernel machine on statistics of the clips. A small number of songs is enough for it."""

PRETRAINED = Recipe(
    "musicnn",
    "fused",
    trunk=TRUNK,
    neck="kernel",
    learning_rate=0.02,
    weight_decay=0.2,
    balanced=True,
    epochs=300,
    patience=25,
    refit=True,
)
"""A head on the features of a trunk that was trained on 200,000 songs."""

RECIPES = {"cnn": LAB_CNN, "lstm": LAB_LSTM, "statistics": KERNEL, "musicnn": PRETRAINED}
AFFECT_RECIPES = {**RECIPES, "cnn": replace(LAB_CNN, pooling="masked", batch_size=16)}
"""The default recipe of each backbone. Affect folders are smaller, so the CNN averages over present frames. Then a head
has 64 weights. With the lab's flat layer (`lab-cnn`) it has 384, which depend on absolute positions and on padding."""

NAMED_RECIPES = {"lab-cnn": LAB_CNN, "lab-lstm": LAB_LSTM, "leader": LEADER, "kernel": KERNEL, "pretrained": PRETRAINED}
MULTITASK_RECIPES = {"leader": replace(LEADER, learning_rate=1e-3)}
"""Recipes with other settings for several tasks at once."""

ABLATIONS = {
    **{
        f"kernel-no-{part}": replace(KERNEL, parts=tuple(kept for kept in STATISTICS if kept != part))
        for part in STATISTICS
    },
    **{f"kernel-only-{kernel}": replace(KERNEL, kernels=(kernel,)) for kernel in KERNELS},
    "kernel-linear": replace(KERNEL, centres=0, learning_rate=1e-3, weight_decay=1.0),
    "kernel-no-decay": replace(KERNEL, weight_decay=0.0),
    "kernel-dropout": replace(KERNEL, weight_decay=0.0, dropout=0.5),
    "kernel-unbalanced": replace(KERNEL, balanced=False),
    "kernel-refit": replace(KERNEL, refit=True),
    "random-trunk": replace(PRETRAINED, untrained=True),
    "pretrained-no-refit": replace(PRETRAINED, refit=False),
    "pretrained-penultimate": replace(PRETRAINED, features="penultimate"),
    "pretrained-linear": replace(PRETRAINED, neck="linear", dropout=0.5, learning_rate=0.003),
    "pretrained-mlp": replace(
        PRETRAINED,
        features="penultimate",
        neck="mlp",
        hidden=256,
        dropout=0.5,
        learning_rate=1e-3,
        weight_decay=0.5,
    ),
}
"""Variants of `kernel` without one of its parts, and other heads on the pretrained trunk, which store no clips."""

ADDED = ("blocks", "pool", "dense", "parts", "kernels", "centres", "features")
"""Settings of the backbone that cards of older models do not have. These models have the lab's values."""

ONLY = {"cnn": ("pooling",), "lstm": ("units", "layers", "bidirectional")}
"""Settings of the user that apply to one kind of backbone only."""


def recipe_names() -> tuple[str, ...]:
    return (*NAMED_RECIPES, "best")


def best_recipe(beat: bool) -> str:
    """Returns the name of the recipe that `best` stands for, by whether the clips are beat-synchronised.

    Without the pretrained trunk it is the same for all clips, and a message is logged.
    """
    if beat:
        return "kernel"
    try:
        locate(TRUNK)
    except UserError:
        logger.info(
            "The recipe best is kernel here, because the pretrained trunk is missing: mtmusic get-pretrained fetches it"
        )
        return "kernel"
    return "pretrained"


def named_recipe(name: str, multitask: bool = False, beat: bool = True) -> Recipe:
    """Returns a recipe by name. Raises UserError for an unknown name.

    beat: whether the clips are beat-synchronised, for the name "best".
    """
    if name not in recipe_names() and name not in ABLATIONS:
        raise UserError(f"Expected `recipe` {', '.join(NAMED_RECIPES)} or best, got {name}")
    name = best_recipe(beat) if name == "best" else name
    known = {**NAMED_RECIPES, **ABLATIONS, **(MULTITASK_RECIPES if multitask else {})}
    return known[name]


def choose_recipe(
    name: str | None,
    settings: Mapping[str, Any],
    defaults: Mapping[str, Recipe],
    multitask: bool = False,
    source: Path | None = None,
    beat: bool = True,
) -> Recipe:
    """Returns the named recipe, or the default recipe of the backbone in `settings` or of the source, with `settings`.

    source: a run whose backbone the training starts from. beat: see `named_recipe`.
    Raises UserError for an unknown name, and for a setting that the backbone does not have.
    """
    if name is not None and "backbone" in settings:
        raise UserError(f"Expected `recipe` without `backbone`: {name} defines the backbone")
    if name is None:
        recipe = defaults[settings.get("backbone") or _backbone_of(source)]
    else:
        recipe = named_recipe(name, multitask, beat)
    for backbone, names in ONLY.items():
        if backbone != recipe.backbone and (foreign := [name for name in names if name in settings]):
            raise UserError(
                f"Expected `{foreign[0]}` with `backbone={backbone}` only, got `backbone={recipe.backbone}`"
            )
    return replace(recipe, **settings)


def _backbone_of(source: Path | None) -> str:
    """The backbone of the source, by default "cnn". Errors of the source are raised later, when it is loaded."""
    try:
        told = read_card(locate(source)[0]).get("architecture") if source is not None else None
    except UserError:
        return "cnn"
    backbone = told.get("backbone") if isinstance(told, dict) else None
    return backbone if backbone in RECIPES else "cnn"


def fill_in(
    recipe: Recipe, frames: int, splits: Mapping[str, Sized], retrain_on_all: bool = False, feature: str = "fused"
) -> Recipe:
    """Fills in the settings that depend on the folder and the machine.

    These are the frames of a flat CNN if none were given, the patience, the precision, the input of a pretrained trunk
    by the feature of the arrays, and the number of centres of Nystroem features by the number of training clips.
    """
    patience = max(recipe.patience, math.ceil(recipe.patience_clips / len(splits["train"])))
    recipe = replace(recipe, patience=patience, precision=supported(recipe.precision))
    if recipe.backbone == "musicnn":
        recipe = replace(recipe, feature=feature)
    if (recipe.backbone == "statistics" or recipe.neck == "kernel") and recipe.centres is None:
        learnt = splits if retrain_on_all else ("train", "validation") if recipe.refit else ("train",)
        clips = sum(len(splits[split]) for split in learnt)
        recipe = replace(recipe, centres=min(CENTRES, clips))
    return replace(recipe, frames=frames) if recipe.fixed_frames and recipe.frames is None else recipe


def task_weights(recipe: Recipe, tasks: Sequence[str]) -> dict[str, float] | None:
    """The weight of each task's error in a multitask loss, or None if the recipe has none: see `complete_weights`."""
    if not recipe.weights:
        return None
    more = recipe.weights[-1:] * len(tasks)
    return dict(zip(tasks, recipe.weights + more, strict=False))


def build_backbone(recipe: Recipe, stock: bool = False) -> keras.Model:
    """Builds the recipe's backbone with random weights. stock: whether to use only Keras's layers, for comparisons."""
    with layers_compute_in(recipe.precision):
        if recipe.backbone == "statistics":
            return statistics_backbone(
                recipe.feature, recipe.centres or 0, recipe.parts, recipe.kernels, recipe.dropout, stock
            )
        if recipe.backbone == "musicnn":
            return musicnn_backbone(recipe.feature, recipe.features, stock)
        if recipe.backbone == "lstm":
            sizes = recipe.units, recipe.layers, recipe.bidirectional
            return lstm_backbone(recipe.feature, *sizes, recipe.dropout, stock)
        return cnn_backbone(
            recipe.feature,
            recipe.frames,
            recipe.pooling,
            recipe.blocks,
            recipe.pool,
            recipe.dense,
            recipe.dropout,
            stock,
        )


def build_neck(recipe: Recipe) -> Neck | None:
    """Builds the layers between the recipe's features and its outputs."""
    return neck(recipe.neck, recipe.hidden, recipe.centres or 0, recipe.dropout)


def architecture(recipe: Recipe) -> dict[str, Any]:
    """Returns the settings of the backbone for the card, by which it can be built again for its weights."""
    names = ("backbone", "feature", "frames", "pooling", *ADDED, "units", "layers", "bidirectional", "dropout")
    return {name: getattr(recipe, name) for name in names}


def recipe_from_card(card: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """Returns the recipe with the architecture in a saved model's card."""
    told, kept = card.get("architecture"), {name: card[name] for name in ("feature", "frames")}
    if (
        not isinstance(told, dict)
        or {*told, *ADDED} != set(architecture(recipe))
        or kept != {name: told[name] for name in kept}
    ):
        raise UserError(
            f"Expected a card with the architecture of its backbone, got {told}: if save_run wrote the model, start "
            "from it in Python, with load_backbone"
        )
    older = {name: getattr(LAB_CNN, name) for name in ADDED}
    try:
        blocks = tuple((int(filters), int(kernel)) for filters, kernel in told.get("blocks", CNN_BLOCKS))
    except (TypeError, ValueError) as error:
        raise UserError(f"Expected filters and kernel of each block in the card, got {told['blocks']}") from error
    lists = {name: tuple(map(str, told.get(name, older[name]))) for name in ("parts", "kernels")}
    return replace(recipe, **{**older, **told, **lists, "blocks": blocks})

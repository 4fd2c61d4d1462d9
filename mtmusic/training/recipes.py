"""Named, complete settings, and the backbone that each builds."""

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
"""Of a kernel at the most: its weights grow with the square."""

LEADER_BLOCKS = ((16, 3), (32, 3), (64, 3), (128, 3))
LEADER_PATIENCE_CLIPS = 5 * 900
"""The leader's five epochs of the lab's affect clips, less a fifth to choose the epoch by."""


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained.

    Attributes:
        frames: Of each clip; None takes clips of any length.
        blocks, pool, dense: Of a CNN, see `cnn_backbone`.
        parts, kernels: Of clip statistics, see `statistics_backbone`.
        centres: Clips that a kernel compares with. None takes all that it may learn from, up to CENTRES.
        features: Of musicnn, see `musicnn_backbone`.
        trunk: Name of the run whose backbone the training starts from. It is wholly frozen unless a training says
            otherwise.
        untrained: Takes the architecture of the trunk with random weights, as a control.
        neck, hidden: Between features and outputs, see `heads.neck`.
        dropout: After each layer of an LSTM, around the dense block of a CNN, behind a kernel, or in a neck.
        weights: Of the tasks' errors in a multitask loss, in the folder's order; the last one is that of all further
            tasks. Without any, see `losses.complete_weights`.
        balanced: In a genre's loss all classes count alike, however few clips they have.
        patience_clips: The training sees at least so many clips without a better epoch before it stops. An epoch of a
            small folder has few steps.
        refit: After the validation clips have chosen the best epoch, the network is trained anew for so many epochs on
            train and validation.
        precision: See models.precision.
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
"""A kernel machine on statistics of the clips: what small folders have enough songs for."""

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
"""By backbone, where no recipe is named. Of affect, whose folders are smaller: the mean over real frames leaves a head
64 weights, where the flat layer leaves 384 that read absolute positions, padding too. The lab's own is `lab-cnn`."""

NAMED_RECIPES = {"lab-cnn": LAB_CNN, "lab-lstm": LAB_LSTM, "leader": LEADER, "kernel": KERNEL, "pretrained": PRETRAINED}
MULTITASK_RECIPES = {"leader": replace(LEADER, learning_rate=1e-3)}
"""Those that are others where several tasks are learnt at once."""

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
"""`kernel` without each of its parts, and other heads on the pretrained trunk, which store no clips."""

ADDED = ("blocks", "pool", "dense", "parts", "kernels", "centres", "features")
"""What cards of older models do not tell of their backbones: they have the lab's."""

ONLY = {"cnn": ("pooling",), "lstm": ("units", "layers", "bidirectional")}
"""Settings that one kind of backbone has alone, and that a user may give."""


def recipe_names() -> tuple[str, ...]:
    return (*NAMED_RECIPES, "best")


def best_recipe(beat: bool) -> str:
    """The name of the recipe that `best` means, by whether the clips are beat-synchronised.

    Without the pretrained trunk, which is logged, it is the same for all clips.
    """
    if beat:
        return "kernel"
    try:
        locate(TRUNK)
    except UserError:
        logger.info(
            "The recipe best is kernel here, since the pretrained trunk is missing: mtmusic get-pretrained fetches it"
        )
        return "kernel"
    return "pretrained"


def named_recipe(name: str, multitask: bool = False, beat: bool = True) -> Recipe:
    """beat: whether the clips are beat-synchronised, for `best`. Raises UserError for a name that no recipe has."""
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
    """The named recipe, else the default of the backbone in settings or of the source, with what else is given there.

    source: a run whose backbone is to be started from. beat: see `named_recipe`. Raises UserError for an unknown name,
    and for a setting that the backbone does not have.
    """
    if name is not None and "backbone" in settings:
        raise UserError(f"Expected `recipe` without `backbone`: {name} has its own")
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
    """What is wrong with a source is told where it is used."""
    try:
        told = read_card(locate(source)[0]).get("architecture") if source is not None else None
    except UserError:
        return "cnn"
    backbone = told.get("backbone") if isinstance(told, dict) else None
    return backbone if backbone in RECIPES else "cnn"


def fill_in(
    recipe: Recipe, frames: int, splits: Mapping[str, Sized], retrain_on_all: bool = False, feature: str = "fused"
) -> Recipe:
    """The recipe with what depends on folder and machine.

    A flat CNN's frames, where none were given; patience; precision; the input of a pretrained trunk, by the arrays'
    feature; and how many clips Nystroem features have as centres: those that it may learn from.
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
    """Of each task's error in a multitask loss; None where the recipe leaves them to the labels' variances."""
    if not recipe.weights:
        return None
    more = recipe.weights[-1:] * len(tasks)
    return dict(zip(tasks, recipe.weights + more, strict=False))


def build_backbone(recipe: Recipe, stock: bool = False) -> keras.Model:
    """The recipe's backbone with fresh weights. stock: of Keras's own layers alone, to compare with."""
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
    """What lies between the recipe's features and its outputs."""
    return neck(recipe.neck, recipe.hidden, recipe.centres or 0, recipe.dropout)


def architecture(recipe: Recipe) -> dict[str, Any]:
    """The settings that shape the backbone, for the card: with them another can be built for the same weights."""
    names = ("backbone", "feature", "frames", "pooling", *ADDED, "units", "layers", "bidirectional", "dropout")
    return {name: getattr(recipe, name) for name in names}


def recipe_from_card(card: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """The recipe with the architecture of a saved model's card."""
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

"""The lab's step 9: transfer from a genre network, and from the pretrained trunk, to an affect task."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mtmusic.cards import TRUNK, locate, read_card
from mtmusic.data.labels import read_affect_labels
from mtmusic.errors import UserError
from mtmusic.evaluation import plots
from mtmusic.evaluation.bootstrap import measures
from mtmusic.evaluation.reports.html import interval
from mtmusic.evaluation.reports.lab import Table
from mtmusic.lab import plan
from mtmusic.lab.affect import BACKBONES, single_runs, tasks_of
from mtmusic.lab.genre import cnn_runs
from mtmusic.lab.plan import Done, Lab
from mtmusic.training.affect import AffectTask
from mtmusic.training.compare import finetune
from mtmusic.training.crossval.study import CrossOptions, cross_validate

TASK = "valence"
"""The lab's task of the transfer. If the folder does not have it, its first task is used."""

RECIPES = ("pretrained", "kernel", "random-trunk")
FOLDS = {"full": 5, "quick": 2}
SHARES = {"full": (12, 25, 50, 100), "quick": (50, 100)}
"""Settings of the cross-validation on the pretrained trunk, by scale."""

FEWEST_CLIPS = 20
"""Shares with fewer training clips are left out, because a fifth of the clips chooses the epoch."""


class Cut(NamedTuple):
    """A transfer of the source's first blocks. frozen: whether they are frozen. Without blocks there is one run."""

    blocks: int
    frozen: bool

    @property
    def name(self) -> str:
        blocks = f"{self.blocks} block{'s' if self.blocks > 1 else ''}"
        return f"{blocks}, {self.way}" if self.blocks else "random weights"

    @property
    def way(self) -> str:
        return "frozen" if self.frozen else "tuned"

    def runs(self, lab: Lab) -> list[list[Path]]:
        """The runs, one for each seed."""
        return [[lab.step(9) / f"blocks{self.blocks}_{self.way}_seed{seed}"] for seed in lab.every_seed]


RANDOM = Cut(0, False)


def transfer(lab: Lab) -> Done:
    """Step 9: rho of one task with the first 0 to 4 blocks of a genre CNN, frozen and tuned, and with the trunk.

    The other blocks start from random weights.
    """
    task = TASK if TASK in tasks_of(lab) else tasks_of(lab)[0]
    candidates = {run: plan.metrics_of(run)["validation"]["macro_f1"] for run in cnn_runs(lab)}
    source = max(candidates, key=lambda run: candidates[run])
    cuts = [Cut(blocks, frozen) for frozen in (False, True) for blocks in lab.scale.blocks if blocks or not frozen]
    commands = []
    for cut in cuts:
        given = {"source": source, "transfer": str(cut.blocks), "freeze": str(cut.blocks) if cut.frozen else "none"}
        for seed, (run,) in zip(lab.every_seed, cut.runs(lab), strict=True):
            options = plan.finetune_options(lab, run, seed, task, **given)
            finetune(options, AffectTask((task,)))
            commands.append(options.command)
    rho = {cut: plan.rho_rows(cut.runs(lab))[task] for cut in cuts}
    before = {backbone: plan.rho_rows(single_runs(lab, backbone))[task] for backbone in BACKBONES}
    rows = [(cut.name, row) for cut, row in rho.items()]
    rows += [(f"{backbone.upper()}, step 8", row) for backbone, row in before.items()]
    figure = plots.values_by_number(_lines(rho), "transferred blocks", f"Spearman's rho of {task}, test clips")
    plots.save_figure(figure, lab.step(9) / "rho_by_blocks.png")
    moved = [cut for cut in cuts if cut.blocks]
    highest, lowest = (choose(moved, key=lambda cut: rho[cut]["mean"]) for choose in (max, min))
    ((last,), *_) = cuts[-1].runs(lab)
    trunk, why, command = pretrained(lab)
    numbers = {
        "task": task,
        "source": lab.relative(source),
        "candidates": {lab.relative(run): value for run, value in candidates.items()},
        "blocks": lab.scale.blocks[-1],
        "rho": {cut.name: row for cut, row in rho.items()},
        "whole": rho[Cut(lab.scale.blocks[-1], False)],
        "step_8": before,
        "training": {cut.name: plan.training_facts(cut.runs(lab)[0][0]) for cut in cuts},
        "pretrained": trunk,
    }
    return plan.write_up(
        lab,
        9,
        numbers,
        [plan.score_table(f"Rho of {task}, test clips", rows), *(_tables(trunk) if trunk else ())],
        [*commands, *([command] if trunk else ())],
        random=RANDOM.name,
        highest=highest.name,
        highest_less_random=plan.paired(highest.runs(lab), RANDOM.runs(lab), task),
        lowest=lowest.name,
        learnt=read_card(last)["source"]["test_clips_learnt"],
        clips=plan.metrics_of(last)["test"]["clips"],
        why=why,
    )


def pretrained(lab: Lab) -> tuple[dict[str, Any] | None, str, str]:
    """Cross-validates RECIPES on the full-rate affect folder.

    Returns the results or None, the reason if there are none, and the command.
    """
    if plan.AFFECT not in lab.folders:
        return None, f"there is no {plan.AFFECT}, whose clips are at full rate", ""
    try:
        locate(TRUNK)
    except UserError:
        return None, "its weights are missing (mtmusic get-pretrained fetches them)", ""
    folds = FOLDS[lab.scale.name]
    clips = len(read_affect_labels(lab.folders[plan.AFFECT])) * (folds - 1) / folds
    options = CrossOptions(
        lab.load_options(plan.AFFECT),
        RECIPES,
        folds=folds,
        seeds=lab.seeds,
        epochs=lab.scale.epochs,
        precision=lab.precision,
        frames=lab.scale.frames,
        devices=lab.devices,
        shares=tuple(share for share in SHARES[lab.scale.name] if clips * share / 100 >= FEWEST_CLIPS),
        out=lab.step(9) / "pretrained",
    )
    flags = ("recipes", "folds", "seeds", "epochs", "precision", "frames", "devices", "shares", "out")
    given = {name: getattr(options, name) for name in flags}
    command = lab.command("cross-validate", data=options.data.folder, seed=lab.seed, overwrite=True, **given)
    try:
        results = cross_validate(replace(options, command=command))
    except UserError as error:
        return None, f"it cannot run on {plan.AFFECT}: {error}".replace("`", ""), ""
    kept = ("clips", "groups", "folds", "recipes", "comparisons", "shares")
    return {name: results.get(name) for name in kept}, "", command


def _tables(trunk: Mapping[str, Any]) -> list[Table]:
    """Tables of `pretrained`: the mean rho by share, and the difference of the trunk to the other recipes by task."""
    shares = trunk["shares"] or {"100": trunk}
    rho = [(name, *(plan.interval(scores["recipes"][name]["rho"]) for scores in shares.values())) for name in RECIPES]
    less = {row["second"]: measures(row) for row in trunk["comparisons"] if row["first"] == RECIPES[0]}
    differences = [
        (name, *(interval(row[name]["value"], row[name]["low"], row[name]["high"]) for row in less.values()))
        for name in measures(trunk["recipes"][RECIPES[0]])
    ]
    titles = [("", *(f"{share} %" for share in shares)), ("", *(f"minus {name}" for name in less))]
    return [
        Table("Mean rho by the share of the training clips, with 95 % intervals", titles[0], rho),
        Table("Pretrained minus the other recipes, on all training clips, with 95 % intervals", titles[1], differences),
    ]


def _lines(rho: Mapping[Cut, Mapping[str, Any]]) -> dict[str, dict[int, tuple[float, float, float]]]:
    """The lines of frozen and tuned blocks. Both begin with the network without transferred blocks."""
    bounds = {cut: (row["mean"], row["low"], row["high"]) for cut, row in rho.items()}
    return {
        way: {cut.blocks: values for cut, values in bounds.items() if cut.way == way or not cut.blocks}
        for way in ("tuned", "frozen")
    }

"""The lab's step 9: how far the blocks of a genre network serve a task of affect."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mtmusic.evaluation import plots
from mtmusic.evaluation.reports.lab import Part, Picture, Table
from mtmusic.lab.affect import BACKBONES, single_runs, tasks_of
from mtmusic.lab.genre import cnn_runs
from mtmusic.lab.numbers import ROW_HEADER, ROW_NOTE, cells, paired, rho_rows, told, training_facts, versus
from mtmusic.lab.plan import Done, Lab, finetune_options, metrics_of
from mtmusic.models import saving as export
from mtmusic.training.finetune import finetune

TASK = "valence"
"""The lab's; where a folder lacks it, its first task."""

YOSINSKI = (
    "Yosinski, Clune, Bengio and Lipson (How transferable are features in deep neural networks?, NeurIPS 2014) cut a "
    "network trained on one half of ImageNet after each layer and went on with the other half: the first layers served "
    "it nearly as they stood, later ones had grown specific to their task, and a cut in the middle parted layers that "
    "had adapted to each other. Where the transferred layers were tuned along, the network did better than one from "
    "random weights, and kept a little of that even after long training."
)


class Cut(NamedTuple):
    """So many first blocks come from the source; frozen: they stay as they are. Without a block both are one run."""

    blocks: int
    frozen: bool

    @property
    def name(self) -> str:
        blocks = f"{self.blocks} block{'s' if self.blocks > 1 else ''}"
        return f"{blocks}, {self.way}" if self.blocks else "random weights"

    @property
    def way(self) -> str:
        return "frozen" if self.frozen else "tuned"


def transfer(lab: Lab) -> Done:
    """rho of one task with the first 0 to 4 blocks of a genre CNN, frozen and tuned; the others start fresh."""
    tasks = tasks_of(lab)
    task = TASK if TASK in tasks else tasks[0]
    candidates = {run: metrics_of(run)["validation"]["macro_f1"] for run in cnn_runs(lab)}
    source = max(candidates, key=lambda run: candidates[run])
    cuts = [Cut(blocks, frozen) for frozen in (False, True) for blocks in lab.scale.blocks if blocks or not frozen]
    commands = []
    for cut in cuts:
        for seed in lab.seeds:
            freeze = str(cut.blocks) if cut.frozen else "none"
            more = {"task": task, "source": source, "transfer": str(cut.blocks), "freeze": freeze}
            options = finetune_options(lab, _run(lab, cut, seed), seed, **more)
            finetune(options)
            commands.append(options.command)
    rho = {cut: rho_rows([[_run(lab, cut, seed)] for seed in lab.seeds])[task] for cut in cuts}
    before = {backbone: rho_rows(single_runs(lab, backbone))[task] for backbone in BACKBONES}
    rows = [(cut.name, *cells(row)) for cut, row in rho.items()]
    rows += [(f"{backbone.upper()}, step 8", *cells(row)) for backbone, row in before.items()]
    table = Table(f"Rho of {task}, test clips. {ROW_NOTE}", ("", *ROW_HEADER), rows)
    sentences = [
        YOSINSKI,
        _found(task, rho, partial(_less_random, lab, task)),
        _own_models(before),
        _source(lab, source, candidates, _run(lab, cuts[-1], lab.seeds[0])),
    ]
    numbers = {
        "task": task,
        "source": lab.relative(source),
        "candidates": {lab.relative(run): value for run, value in candidates.items()},
        "blocks": lab.scale.blocks[-1],
        "rho": {cut.name: row for cut, row in rho.items()},
        "whole": rho[Cut(lab.scale.blocks[-1], False)],
        "step_8": before,
        "training": {cut.name: training_facts(_run(lab, cut, lab.seeds[0])) for cut in cuts},
    }
    return Done(Part(sentences, [table], [_picture(lab, task, rho)], commands), numbers)


def _run(lab: Lab, cut: Cut, seed: int) -> Path:
    return lab.step(9) / f"blocks{cut.blocks}_{cut.way}_seed{seed}"


def _picture(lab: Lab, task: str, rho: Mapping[Cut, Mapping[str, Any]]) -> Picture:
    path = lab.step(9) / "rho_by_blocks.png"
    figure = plots.values_by_number(_lines(rho), "transferred blocks", f"Spearman's rho of {task}, test clips")
    plots.save_figure(figure, path)
    return lab.picture(
        path,
        f"Rho of {task} by the number of blocks that come from the genre CNN, with 95 % intervals; the others start "
        "from random weights.",
        f"Two lines over {lab.scale.blocks[0]} to {lab.scale.blocks[-1]} blocks, frozen and tuned, with intervals.",
    )


def _lines(rho: Mapping[Cut, Mapping[str, Any]]) -> dict[str, dict[int, tuple[float, float, float]]]:
    """Both begin at the network without a transferred block."""
    bounds = {cut: (row["mean"], row["low"], row["high"]) for cut, row in rho.items()}
    return {
        way: {cut.blocks: values for cut, values in bounds.items() if cut.way == way or not cut.blocks}
        for way in ("tuned", "frozen")
    }


def _less_random(lab: Lab, task: str, cut: Cut) -> dict[str, Any]:
    runs, random = ([[_run(lab, one, seed)] for seed in lab.seeds] for one in (cut, Cut(0, False)))
    return paired(runs, random, task)


def _found(task: str, rho: Mapping[Cut, Mapping[str, Any]], less_random: Callable[[Cut], dict[str, Any]]) -> str:
    moved = {cut: row for cut, row in rho.items() if cut.blocks}
    highest, lowest = (choose(moved, key=lambda cut: moved[cut]["mean"]) for choose in (max, min))
    return (
        f"Here {task} from random weights has {told(rho[Cut(0, False)])}. The highest is {highest.name}, "
        f"{told(moved[highest])}; less random weights it is {versus(less_random(highest))}. The lowest is "
        f"{lowest.name}, {told(moved[lowest])}. The highest of {len(moved)} was picked by its test score, so that it "
        "is too high as an estimate, and its interval does not know of the choice."
    )


def _own_models(before: Mapping[str, Mapping[str, Any]]) -> str:
    return (
        f"Step 8's own models have {told(before['cnn'])} (CNN) and {told(before['lstm'])} (LSTM). That CNN is another "
        "network: its pooling at the end, its number of frames and its batches differ from the genre CNN's, so that "
        "only random weights, the same network without its source, is the control."
    )


def _source(lab: Lab, source: Path, candidates: Mapping[Path, float], transferred: Path) -> str:
    """How the source was chosen, and whether it knew the clips that are judged here."""
    learnt = export.read_card(transferred)["source"]["test_clips_learnt"]
    clips = metrics_of(transferred)["test"]["clips"]
    known = f"{len(learnt)} of the {clips} test clips" if learnt is not None else "an unknown number of test clips"
    return (
        f"The source is {lab.relative(source)}, by the highest validation macro F1 of step 7's CNNs, one a seed: "
        f"{', '.join(f'{value:.3f}' for value in candidates.values())}. No test score was looked at. By content, it "
        f"had learnt the genre of {known}: rho may be too high where it had, as genre and affect go together."
    )

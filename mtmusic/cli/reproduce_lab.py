"""Runs the lab's steps 0 to 11 on data in the lab's layout, and writes one page to compare with the lab's report.

    mtmusic reproduce-lab --quick                     the demo corpus, a few minutes
    mtmusic reproduce-lab --data data                 the lab's four folders in data/, three seeds
    mtmusic reproduce-lab --data data --steps 5-7     some steps; the page shows all finished steps

DATA_ROOT holds fma_genre_spectrograms, fma_genre_spectrograms_beat, multitask_dataset and multitask_dataset_beat, or
some of them. A step whose folders are missing is skipped. The command writes a folder for each step, lab.html and
results.json, and prints a line with the time of each step. If the command was stopped, the same command continues:
finished steps are not repeated. --overwrite repeats the given steps, and existing steps that use their runs. An old
step is kept in step_NN.old until the new one is finished.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common


def steps(text: str) -> tuple[int, ...]:
    """The type of --steps, for example 1-11 or 5,7-9. The lab's steps 0 and 1 are one step here."""
    chosen: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            found = range(int(first), int(last or first) + 1)
        except ValueError:
            found = range(0)
        if not found:
            raise argparse.ArgumentTypeError(f"expected steps such as 1-11 or 5,7-9, got {text}")
        chosen += found
    return tuple(sorted({step or 1 for step in chosen}))


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    add = flags.add_argument
    add("--data", type=Path, metavar="DATA_ROOT", help="folder that holds the lab's folders (default: the demo corpus)")
    common.add_classes_flag(flags)
    text = "folder of the page and the runs (default: saved_models/lab)"
    add("--out", type=Path, default=Path("saved_models/lab"), metavar="DIR", help=text)
    add("--quick", action="store_true", help="few clips, few epochs and one seed, to check that everything runs")
    text = "steps to run, such as 5-7 or 5,9 (default: all). Steps 0 and 1 are one step"
    add("--steps", type=steps, default=steps("1-11"), metavar="1-11", help=text)
    add("--seeds", **common.NUMBER, help="number of trainings of each model (default: 3, with --quick 1)")
    common.add_seed_flag(flags, "first seed")
    common.add_precision_flag(flags, default="float32")
    common.add_devices_flag(flags)
    add("--overwrite", action="store_true", help="repeat the given steps, and existing steps that use their runs")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.datasets.demo import demo_corpus
    from mtmusic.lab.plan import FULL, QUICK, Lab
    from mtmusic.lab.run import reproduce_lab

    if arguments.seeds is None:
        arguments.seeds = 1 if arguments.quick else 3
    data, scale = arguments.data or demo_corpus(), QUICK if arguments.quick else FULL
    reproduce_lab(common.filled(Lab, arguments, data=data, scale=scale, command=common.command))

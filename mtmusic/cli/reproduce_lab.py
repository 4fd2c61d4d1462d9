"""Does the lab's steps 0 to 11 on data in the lab's layout, and writes one page to hold beside the lab's report.

    mtmusic reproduce-lab --quick                     the demo corpus, a few minutes
    mtmusic reproduce-lab --data data                 the lab's four folders in data/, three seeds
    mtmusic reproduce-lab --data data --steps 5-7     some steps; the page is built of all that are finished

DATA_ROOT holds fma_genre_spectrograms, fma_genre_spectrograms_beat, multitask_dataset, multitask_dataset_beat, or some
of them: steps that lack theirs are skipped. Writes a folder a step, lab.html and results.json, and prints a line a step
with its time. Started again it goes on: finished steps are not done twice. --overwrite does the given steps anew, and
those that are there and read their runs; what was there waits in step_NN.old until the new step is finished.
Exit code 0; 2 where it cannot run, with what to do.
"""

import argparse
from pathlib import Path

from mtmusic.cli import common


def steps(text: str) -> tuple[int, ...]:
    """The type of --steps: 1-11, or 5,7-9; the lab's steps 0 and 1 are one here."""
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
    add("--data", type=Path, metavar="DATA_ROOT", help="holds the lab's folders (default: the demo corpus)")
    common.add_classes_flag(flags)
    add("--out", type=Path, default=Path("saved_models/lab"), metavar="DIR", help="(default: saved_models/lab)")
    add("--quick", action="store_true", help="few clips, few epochs, one seed: to see that it runs")
    add("--steps", type=steps, default=steps("1-11"), metavar="1-11", help="(default: all; 0 and 1 are one)")
    add("--seeds", **common.NUMBER, help="trainings of each model (default: 3, quick: 1)")
    common.add_seed_flag(flags, "the first one")
    common.add_precision_flag(flags, default="float32")
    common.add_devices_flag(flags)
    add("--overwrite", action="store_true", help="do these steps anew, and those there that read them")
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

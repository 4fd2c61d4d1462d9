"""Trains models of affect (valence, energy, danceability, or any columns of labels from 0 to 1) on a data folder.

    mtmusic train-affect                                                       the demo corpus, task by task
    mtmusic train-affect --data data/multitask_dataset_beat --task valence     one task
    mtmusic train-affect --data data/multitask_dataset_beat --multitask        one trunk, a head a task
    mtmusic train-affect --multitask --weights valence=.4,energy=.2,danceability=.2

Writes saved_models/<task>_<backbone>/, affect_<backbone>/ for --multitask, and prints Spearman's rho of the test
split. Where that has no labels, labelled clips are held out to judge by; --retrain-on-all then trains the model that
is saved on all of them. Without --task and --multitask --out is the folder that the runs are put in.
Exit code 0; 2 where it cannot run, with what to do.
"""

import argparse

from mtmusic.cli import common


def weights(text: str) -> dict[str, float]:
    """The type of --weights: valence=.4,energy=.2"""
    pairs = [part.partition("=") for part in text.split(",")]
    try:
        parsed = {name.strip(): float(value) for name, _, value in pairs}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected TASK=NUMBER,TASK=NUMBER,..., got {text!r}") from error
    if len(parsed) < len(pairs):
        raise argparse.ArgumentTypeError(f"expected each task once, got {text!r}")
    return parsed


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    common.add_data_flags(flags, "an affect")
    what = flags.add_mutually_exclusive_group()
    alone = "train this one alone (default: each in turn)"
    what.add_argument("--task", dest="tasks", nargs=1, default=(), metavar="NAME", help=alone)
    what.add_argument("--multitask", action="store_true", help="train all with one trunk and a head each")
    weighing = flags.add_mutually_exclusive_group()
    weighing.add_argument(
        "--weights",
        type=weights,
        metavar="TASK=X,...",
        help="multitask: of the tasks' errors in the loss (default: one over the variance of each task's labels)",
    )
    weighing.add_argument(
        "--learned-weights", action="store_true", help="multitask: learn them with the model (Kendall et al. 2018)"
    )
    common.add_affect_flags(flags)
    common.add_training_flags(flags)
    common.add_run_flags(flags, "saved_models/<task>_<backbone>")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.datasets.demo import AFFECT_FOLDERS
    from mtmusic.training.affect import AffectTask, train_each
    from mtmusic.training.recipes import AFFECT_RECIPES

    options = common.train_options(arguments, AFFECT_FOLDERS, AFFECT_RECIPES, arguments.multitask)
    runs = train_each(options, common.filled(AffectTask, arguments, tasks=tuple(arguments.tasks)))
    common.say_how_to_predict(runs)

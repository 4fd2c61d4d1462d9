"""Trains models of affect (valence, energy, danceability, or any columns of labels from 0 to 1) on a data folder.

    mtmusic train-affect                                                       the demo corpus, a model per task
    mtmusic train-affect --data data/multitask_dataset_beat --task valence     one task
    mtmusic train-affect --data data/multitask_dataset_beat --multitask        one backbone, a head per task
    mtmusic train-affect --multitask --weights valence=.4,energy=.2,danceability=.2

The command writes saved_models/<task>_<backbone>/, or saved_models/affect_<backbone>/ with --multitask, and prints
Spearman's rho of the test split. If the test split has no labels, a part of the labelled clips is held out for the
test. With --retrain-on-all, the saved model is then trained on all labelled clips. Without --task and --multitask,
--out is the parent folder of the runs.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse

from mtmusic.cli import common


def weights(text: str) -> dict[str, float]:
    """The type of --weights, for example valence=.4,energy=.2."""
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
    alone = "train a model of this task only (default: a model of each task)"
    what.add_argument("--task", dest="tasks", nargs=1, default=(), metavar="NAME", help=alone)
    what.add_argument("--multitask", action="store_true", help="train one model of all tasks, with a head per task")
    weighing = flags.add_mutually_exclusive_group()
    weighing.add_argument(
        "--weights",
        type=weights,
        metavar="TASK=X,...",
        help="multitask: weights of the tasks' errors in the loss (default: 1 / variance of each task's labels)",
    )
    weighing.add_argument(
        "--learned-weights", action="store_true", help="multitask: learn these weights too (Kendall et al. 2018)"
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

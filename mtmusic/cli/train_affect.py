"""Trains models of affect (valence, energy, danceability, or any columns of labels from 0 to 1) on a data folder.

    python scripts/train_affect.py                                                       the demo corpus, task by task
    python scripts/train_affect.py --data data/multitask_dataset_beat --task valence     one task
    python scripts/train_affect.py --data data/multitask_dataset_beat --multitask        one trunk, a head a task
    python scripts/train_affect.py --multitask --weights valence=.4,energy=.2,danceability=.2

Writes saved_models/<task>_<backbone>/, affect_<backbone>/ for --multitask, and prints Spearman's rho of the test
split. Where that has no labels, labelled clips are held out to judge by; --retrain-on-all then trains the model that
is saved on all of them. Without --task and --multitask --out is the folder that the runs are put in.
Exit code 0; 2 where it cannot run, with what to do.
"""

import argparse
from collections.abc import Sequence

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


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    common.add_data_flags(flags, "an affect")
    what = flags.add_mutually_exclusive_group()
    what.add_argument("--task", metavar="NAME", help="train this one alone (default: each in turn)")
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
    arguments = common.parse(flags, argv)
    settings = common.recipe_settings(arguments)

    from mtmusic.training.affect import AffectOptions, train_affect
    from mtmusic.training.recipes import AFFECT_RECIPES, given_recipe

    train_affect(
        AffectOptions(
            **common.run_options(arguments, __file__, argv),
            recipe=given_recipe(arguments.recipe, settings, AFFECT_RECIPES, arguments.multitask, arguments.source),
            task=arguments.task,
            multitask=arguments.multitask,
            weights=arguments.weights,
            learned_weights=arguments.learned_weights,
            error=arguments.error,
            test=arguments.test,
        )
    )
    return 0

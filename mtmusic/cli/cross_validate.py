"""Compares recipes and baselines by k-fold cross-validation over all labelled clips of a folder.

    mtmusic cross-validate --data data/fma_genre_spectrograms_beat --recipe best leader --baseline
    mtmusic cross-validate --data data/multitask_dataset_beat --recipe best --baseline --seeds 1
    mtmusic cross-validate --data data/multitask_dataset_beat --task valence --baseline
    mtmusic cross-validate --data data/multitask_dataset --recipe pretrained kernel --shares 12 25 50

Folds are stratified. A group's clips stay in one fold. Each recipe is trained once per fold and seed. The command
writes results.json, report.html and the predictions of each training to saved_models/cross_validation_<folder>/, and
prints the scores with their 95 % intervals. If the command was stopped, the same command continues: finished trainings
are not repeated.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse

from mtmusic.cli import common
from mtmusic.errors import UserError


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    add = flags.add_argument
    common.add_data_flags(flags, "a genre or affect")
    common.add_recipe_flag(flags, several=True)
    add(
        "--baseline",
        action="store_true",
        help="also evaluate baselines: for genre the majority class and an SVC, for affect the train mean, an SVR and "
        "ridge regression, on statistics of each clip; for full-rate clips also an SVC or SVR on the pretrained "
        "trunk's features",
    )
    add("--folds", type=int, default=5, metavar="K", help="number of folds (default: 5)")
    add("--seeds", default=3, **common.NUMBER, help="number of trainings per fold, each with its own seed (default: 3)")
    common.add_seed_flag(flags, "first seed, which also draws the folds")
    text = "also train on these shares of each fold's training clips, in percent (default: only 100)"
    add("--shares", type=int, nargs="+", metavar="PERCENT", help=text)
    text = "CSV file of id,group. A group's clips stay in one fold (default: the folder's groups.csv)"
    add("--groups", **common.FILE, help=text)
    what = flags.add_mutually_exclusive_group()
    what.add_argument("--task", metavar="NAME", help="affect: train on this task only (default: all tasks)")
    what.add_argument("--multitask", action="store_true", help="affect: one model for all tasks (default if several)")
    common.add_classes_flag(flags, default=None, otherwise="lab")
    common.add_source_flags(flags)
    add("--epochs", **common.NUMBER, help="largest number of epochs, in place of the recipes' own")
    text = "cut or pad clips to N frames, in recipes such as lab-cnn that take a fixed number (default: the lab's)"
    add("--frames", **common.NUMBER, help=text)
    common.add_precision_flag(flags)
    common.add_devices_flag(flags)
    add("--out", **common.DIR, help="folder of the results (default: saved_models/cross_validation_<folder>)")
    add("--overwrite", action="store_true", help="repeat all trainings")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.data.labels import is_genre_folder
    from mtmusic.datasets.demo import AFFECT_FOLDERS, GENRE_FOLDERS
    from mtmusic.training.crossval.study import CrossOptions, cross_validate

    folders = AFFECT_FOLDERS if arguments.task or arguments.multitask else GENRE_FOLDERS
    options = common.load_options(arguments, folders)
    if arguments.classes is not None and not is_genre_folder(options.folder):
        raise UserError(f"Expected --classes with a genre folder, got an affect folder: {options.folder}")
    given = {name: getattr(arguments, name) for name in ("source", "freeze", "unfreeze_after")}
    given |= {"transfer": arguments.transfer if arguments.transfer != "all" else None}
    given = {name: value for name, value in given.items() if value is not None}
    recipes = tuple(arguments.recipes) or (("pretrained",) if "source" in given else ())
    cross_validate(common.filled(CrossOptions, arguments, data=options, recipes=recipes, transfer=given))

"""Judges recipes and baselines by k-fold cross-validation over all labelled clips of a folder, and compares them.

    mtmusic cross-validate --data data/fma_genre_spectrograms_beat --recipe best leader --baseline
    mtmusic cross-validate --data data/multitask_dataset_beat --recipe best --baseline --seeds 1
    mtmusic cross-validate --data data/multitask_dataset_beat --task valence --baseline
    mtmusic cross-validate --data data/multitask_dataset --recipe pretrained kernel --shares 12 25 50

Folds are stratified and part no group; each recipe is trained on each fold with each seed. Writes results.json,
report.html and each training's answers to saved_models/cross_validation_<folder>/, and prints the scores with their
95 % intervals. Started again it goes on: finished trainings are not done twice.
Exit code 0; 2 where it cannot run, with what to do.
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
        help="also the majority class and an SVC, or the train mean, SVR and ridge, on statistics of each clip; of "
        "full-rate clips an SVC or SVR on the pretrained trunk's features too",
    )
    add("--folds", type=int, default=5, metavar="K", help="(default: 5)")
    add("--seeds", default=3, **common.NUMBER, help="trainings of each fold (default: 3)")
    common.add_seed_flag(flags, "the first one, and that of the folds")
    text = "also train on these shares of each fold's training clips, in percent (default: 100 alone)"
    add("--shares", type=int, nargs="+", metavar="PERCENT", help=text)
    add("--groups", **common.FILE, help="id,group: what no fold parts (default: the folder's groups.csv)")
    what = flags.add_mutually_exclusive_group()
    what.add_argument("--task", metavar="NAME", help="of an affect folder: this one alone (default: all)")
    what.add_argument("--multitask", action="store_true", help="all tasks, learnt together: the default of several")
    common.add_classes_flag(flags, default=None, otherwise="lab")
    common.add_source_flags(flags)
    add("--epochs", **common.NUMBER, help="at most this many, whatever the recipes say")
    text = "cut or pad clips to N frames, in recipes that take a fixed number, as lab-cnn (default: as the lab's)"
    add("--frames", **common.NUMBER, help=text)
    common.add_precision_flag(flags)
    common.add_devices_flag(flags)
    add("--out", **common.DIR, help="(default: saved_models/cross_validation_<folder>)")
    add("--overwrite", action="store_true", help="do every training anew")
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

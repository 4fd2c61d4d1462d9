"""Judges recipes and baselines by k-fold cross-validation over all labelled clips of a folder, and compares them.

    python scripts/cross_validate.py --data data/fma_genre_spectrograms_beat --recipe best leader --baseline
    python scripts/cross_validate.py --data data/multitask_dataset_beat --recipe best --baseline --seeds 1
    python scripts/cross_validate.py --data data/multitask_dataset_beat --task valence --baseline

Folds are stratified and part no group; each recipe is trained on each fold with each seed. Writes results.json,
report.html and each training's answers to saved_models/cross_validation_<folder>/, and prints the scores with their
95 % intervals. Started again it goes on: finished trainings are not done twice.
Exit code 0; 2 where it cannot run, with what to do.
"""

from collections.abc import Sequence
from pathlib import Path

from mtmusic.cli import common


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    common.add_data_flags(flags, "a genre or affect")
    common.add_recipe_flag(flags, several=True)
    flags.add_argument(
        "--baseline",
        action="store_true",
        help="also the majority class and an SVC, or the train mean, SVR and ridge, on statistics of each clip",
    )
    flags.add_argument("--folds", type=int, default=5, metavar="K", help="(default: 5)")
    flags.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each fold (default: 3)")
    flags.add_argument("--seed", type=common.seed, default=0, help="the first one, and that of the folds (default: 0)")
    flags.add_argument(
        "--groups", type=Path, metavar="FILE", help="id,group: what no fold parts (default: the folder's groups.csv)"
    )
    what = flags.add_mutually_exclusive_group()
    what.add_argument("--task", metavar="NAME", help="of an affect folder: this one alone (default: all)")
    what.add_argument("--multitask", action="store_true", help="all tasks, learnt together: the default of several")
    common.add_classes_flag(flags, default=None, otherwise="lab")
    flags.add_argument("--epochs", type=int, metavar="N", help="at most this many, whatever the recipes say")
    common.add_precision_flag(flags)
    common.add_devices_flag(flags)
    flags.add_argument("--out", type=Path, metavar="DIR", help="(default: saved_models/cross_validation_<folder>)")
    flags.add_argument("--overwrite", action="store_true", help="do every training anew")
    arguments = common.parse(flags, argv)

    from mtmusic.training.crossval.study import CrossOptions, cross_validate

    given = {name: value for name, value in vars(arguments).items() if name != "recipe"}
    cross_validate(CrossOptions(**given, recipes=tuple(arguments.recipe), command=common.command(__file__, argv)))
    return 0

"""Fine-tunes a genre model's backbone for one task of affect, valence unless told otherwise: transfer learning.

    python scripts/train_genre.py --data data/fma_genre_spectrograms_beat
    python scripts/finetune_valence.py --data data/multitask_dataset_beat
    python scripts/finetune_valence.py --data data/multitask_dataset_beat --task energy --freeze 2 --compare-scratch
    python scripts/finetune_valence.py --data data/multitask_dataset_beat --unfreeze-after 10

Starts from saved_models/genre_cnn, or from --from. Says what was loaded, what is fresh and what is frozen, writes
saved_models/<task>_<backbone>_transfer/ and prints Spearman's rho of the test split; with --compare-scratch also
<task>_<backbone>_transfer_scratch/, the same network from random weights, and the interval of the difference.
Exit code 0; 2 where it cannot run, with what to do.
"""

from collections.abc import Sequence
from pathlib import Path

from mtmusic.cli import common


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    common.add_data_flags(flags, "an affect")
    flags.add_argument("--task", default="valence", metavar="NAME", help="(default: valence)")
    flags.add_argument(
        "--compare-scratch", action="store_true", help="also train the same network from random weights, and compare"
    )
    common.add_affect_flags(flags)
    common.add_training_flags(flags)
    common.add_run_flags(flags, "saved_models/<task>_<backbone>_transfer", source=Path("saved_models/genre_cnn"))
    arguments = common.parse(flags, argv)
    settings = common.recipe_settings(arguments)

    from mtmusic.training.affect import AffectOptions
    from mtmusic.training.finetune import finetune
    from mtmusic.training.recipes import RECIPES, given_recipe

    finetune(
        AffectOptions(
            **common.run_options(arguments, __file__, argv),
            recipe=given_recipe(arguments.recipe, settings, RECIPES, source=arguments.source),
            task=arguments.task,
            error=arguments.error,
            test=arguments.test,
        ),
        arguments.compare_scratch,
    )
    return 0

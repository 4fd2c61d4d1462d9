"""Fine-tunes a genre model's backbone for one affect task, by default valence (transfer learning).

    mtmusic train-genre --data data/fma_genre_spectrograms_beat
    mtmusic finetune-valence --data data/multitask_dataset_beat
    mtmusic finetune-valence --data data/multitask_dataset_beat --task energy --freeze 2 --compare-scratch
    mtmusic finetune-valence --data data/multitask_dataset_beat --unfreeze-after 10

The training starts from saved_models/genre_cnn, from the run that --from names, or from the trunk of --recipe
pretrained. The command prints which layers were loaded, which start from random weights and which are frozen. It writes
saved_models/<task>_<backbone>_transfer/, or saved_models/<task>_<backbone>/ if it starts from the trunk, and prints
Spearman's rho of the test split. With --compare-scratch it also trains the same network from random weights, writes
that run to <the run's folder>_scratch/, and prints the difference with its interval.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from mtmusic.cli import common

SOURCE = Path("saved_models/genre_cnn")


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    add = flags.add_argument
    common.add_data_flags(flags, "an affect")
    add("--task", default="valence", metavar="NAME", help="task to fine-tune for (default: valence)")
    add("--compare-scratch", action="store_true", help="also train the same network from random weights, and compare")
    common.add_affect_flags(flags)
    common.add_training_flags(flags)
    common.add_run_flags(flags, "saved_models/<task>_<backbone>_transfer", source=SOURCE)
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.datasets.demo import AFFECT_FOLDERS
    from mtmusic.training.affect import AffectTask
    from mtmusic.training.compare import finetune
    from mtmusic.training.recipes import RECIPES
    from mtmusic.training.train import default_out, with_trunk

    options = common.train_options(arguments, AFFECT_FOLDERS, RECIPES)
    if options.recipe.trunk and options.source == SOURCE:
        options = with_trunk(replace(options, source=None))
    task = AffectTask((arguments.task,), error=arguments.error)
    finetune(options, task, arguments.compare_scratch)
    common.say_how_to_predict([options.out or default_out(options, task)])

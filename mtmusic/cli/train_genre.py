"""Trains a genre model on a data folder, evaluates it on the test split once, and saves it with a report.

    mtmusic train-genre                                             the demo corpus, the lab's CNN
    mtmusic train-genre --data data/fma_genre_spectrograms_beat     the lab's data
    mtmusic train-genre --data data/fma_genre_spectrograms_beat --backbone lstm --bidirectional

The command writes saved_models/genre_<backbone>/ with model.keras, card.json, metrics.json, predictions.csv,
history.csv, figures/ and report.html. It prints the classification report of the test split, and the command that
predicts with the model.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    common.add_data_flags(flags, "a genre")
    common.add_classes_flag(flags)
    common.add_training_flags(flags)
    common.add_run_flags(flags, "saved_models/genre_<backbone>")
    flags.add_argument(
        "--leave-out",
        **common.RUN,
        help="leave out clips that are equal to evaluation clips of this affect run. Use it if the model will be "
        "fine-tuned and evaluated on those clips",
    )
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.datasets.demo import GENRE_FOLDERS
    from mtmusic.training.genre import GenreTask
    from mtmusic.training.recipes import RECIPES
    from mtmusic.training.train import default_out, train

    options, task = common.train_options(arguments, GENRE_FOLDERS, RECIPES), GenreTask(arguments.leave_out)
    train(options, task)
    common.say_how_to_predict([options.out or default_out(options, task)])

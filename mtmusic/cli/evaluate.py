"""Evaluates a saved model on any labelled split of a data folder, and writes the same report as a training.

    mtmusic evaluate --model saved_models/genre_cnn --data data/fma_genre_spectrograms_beat
    mtmusic evaluate --model saved_models/affect_cnn --data data/multitask_dataset_beat --split train

The command writes <run>/evaluations/<folder>_<split>/ and prints the classification report, or Spearman's rho by task.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("--model", required=True, **common.RUN, help="a run's folder or its model.keras")
    common.add_data_flags(flags, "a genre or affect")
    common.add_classes_flag(flags, default=None)
    text = "split to evaluate on (default: test)"
    flags.add_argument("--split", choices=("train", "validation", "test"), default="test", help=text)
    text = "folder of the results (default: <run>/evaluations/<folder>_<split>)"
    flags.add_argument("--out", **common.DIR, help=text)
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.cards import locate, read_card
    from mtmusic.datasets.demo import AFFECT_FOLDERS, GENRE_FOLDERS
    from mtmusic.training.evaluate import evaluate

    card = read_card(locate(arguments.model)[0])
    folders = GENRE_FOLDERS if card["task"] == "genre" else AFFECT_FOLDERS
    options = common.load_options(arguments, folders, bool(card["beat"]))
    evaluate(arguments.model, options, arguments.split, arguments.classes, arguments.out, arguments.command)

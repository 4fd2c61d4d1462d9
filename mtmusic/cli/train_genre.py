"""Trains a genre model on a data folder, judges it on the test split once, and saves it with a report.

    python scripts/train_genre.py                                             the demo corpus, the lab's CNN
    python scripts/train_genre.py --data data/fma_genre_spectrograms_beat     the lab's data
    python scripts/train_genre.py --data data/fma_genre_spectrograms_beat --backbone lstm --bidirectional

Writes saved_models/genre_<backbone>/ with model.keras, card.json, metrics.json, predictions.csv, history.csv,
figures/ and report.html, and prints the classification report of the test split.
Exit code 0; 2 where it cannot run, with what to do.
"""

from collections.abc import Sequence
from pathlib import Path

from mtmusic.cli import common


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    common.add_data_flags(flags, "a genre")
    common.add_classes_flag(flags)
    common.add_training_flags(flags)
    common.add_run_flags(flags, "saved_models/genre_<backbone>")
    flags.add_argument(
        "--leave-out",
        type=Path,
        metavar="RUN",
        help="learn from none of the clips that this affect run was judged on, by content: for a fine-tune that is "
        "judged on them too",
    )
    arguments = common.parse(flags, argv)
    settings = common.recipe_settings(arguments)

    from mtmusic.training.genre import GenreOptions, train_genre
    from mtmusic.training.recipes import RECIPES, given_recipe

    recipe = given_recipe(arguments.recipe, settings, RECIPES, source=arguments.source)
    more = {"recipe": recipe, "classes": arguments.classes, "leave_out": arguments.leave_out}
    train_genre(GenreOptions(**common.run_options(arguments, __file__, argv), **more))
    return 0

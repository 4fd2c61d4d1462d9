"""Judges a saved model on any labelled split of a data folder, without training: the same report as after training.

    python scripts/evaluate.py --model saved_models/genre_cnn --data data/fma_genre_spectrograms_beat
    python scripts/evaluate.py --model saved_models/affect_cnn --data data/multitask_dataset_beat --split train

Writes <run>/evaluations/<folder>_<split>/ and prints the classification report, or Spearman's rho by task.
Exit code 0; 2 where it cannot run, with what to do.
"""

from collections.abc import Sequence
from pathlib import Path

from mtmusic.cli import common


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    flags.add_argument("--model", type=Path, required=True, metavar="RUN", help="a run's folder or its model.keras")
    common.add_data_flags(flags, "a genre or affect")
    common.add_classes_flag(flags, default=None)
    flags.add_argument("--split", choices=("train", "validation", "test"), default="test", help="(default: test)")
    flags.add_argument("--out", type=Path, metavar="DIR", help="(default: below the run's folder)")
    arguments = common.parse(flags, argv)

    from mtmusic.training.evaluate import evaluate

    evaluate(
        arguments.model,
        arguments.data,
        arguments.split,
        arguments.classes,
        arguments.beat,
        arguments.skip_bad,
        arguments.checks,
        arguments.out,
        common.command(__file__, argv),
    )
    return 0

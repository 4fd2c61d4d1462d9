"""Judges a saved genre model on any genre folder, without training: the same report as after training.

    python scripts/evaluate.py --model saved_models/genre_cnn --data data/fma_genre_spectrograms_beat

Writes <run>/evaluations/<folder>_<split>/ and prints the classification report.
Exit code 0; 2 where it cannot run, with what to do.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import common


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    flags.add_argument("--model", type=Path, required=True, metavar="RUN", help="a run's folder or its model.keras")
    common.add_data_flags(flags, classes=None)
    flags.add_argument("--split", choices=("train", "validation", "test"), default="test", help="(default: test)")
    flags.add_argument("--out", type=Path, metavar="DIR", help="(default: below the run's folder)")
    arguments = common.parse(flags, argv)

    from mtmusic.jobs.demo import demo_corpus
    from mtmusic.jobs.evaluate import evaluate_genre
    from mtmusic.jobs.folders import DEMO_FOLDER

    evaluate_genre(
        arguments.model,
        arguments.data or demo_corpus() / DEMO_FOLDER,
        arguments.split,
        arguments.classes,
        arguments.beat,
        arguments.skip_bad,
        arguments.out,
        common.command(__file__, argv),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Compares finished runs, all of affect or all of genre, by what they answered for test clips: one table.

    python scripts/compare_runs.py saved_models/affect_cnn saved_models/valence_cnn saved_models/valence_cnn_transfer
    python scripts/compare_runs.py saved_models/genre_cnn saved_models/genre_lstm
    python scripts/compare_runs.py saved_models/affect_cnn saved_models/valence_cnn+saved_models/energy_cnn

Runs of single tasks joined by + count as one. Each rho, accuracy and macro F1 comes with its 95 % bootstrap interval
over the folder's groups, or clips where it has none; where runs judged the same clips, so does the difference to the
first one, from the same draws. --out also writes comparison.json and a picture.
Exit code 0; 2 where it cannot run, with what to do.
"""

from collections.abc import Sequence
from pathlib import Path

from mtmusic.cli import common


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    flags.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or several joined by +")
    flags.add_argument("--seed", type=common.seed, default=0, help="of the bootstrap (default: 0)")
    flags.add_argument("--out", type=Path, metavar="DIR", help="write comparison.json and figures/comparison.png here")
    arguments = common.parse(flags, argv)

    from mtmusic.training.compare import compare_runs, comparison_table, write_comparison

    comparison = compare_runs(arguments.runs, arguments.seed)
    if arguments.out is not None:
        write_comparison(arguments.out, comparison)
    print(comparison_table(comparison))
    return 0

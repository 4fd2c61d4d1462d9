"""Compares finished runs, all of affect or all of genre, by what they answered for test clips: one table.

    mtmusic compare-runs saved_models/affect_cnn saved_models/valence_cnn saved_models/valence_cnn_transfer
    mtmusic compare-runs saved_models/genre_cnn saved_models/genre_lstm
    mtmusic compare-runs saved_models/affect_cnn saved_models/valence_cnn+saved_models/energy_cnn

Runs of single tasks joined by + count as one. Each rho, accuracy and macro F1 comes with its 95 % bootstrap interval
over the folder's groups, or clips where it has none; where runs judged the same clips, so does the difference to the
first one, from the same draws. --out also writes comparison.json and a picture.
Exit code 0; 2 where it cannot run, with what to do.
"""

import argparse

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or several joined by +")
    common.add_seed_flag(flags, "of the bootstrap")
    flags.add_argument("--out", **common.DIR, help="write comparison.json and figures/comparison.png here")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.files import require_writable

    if arguments.out is not None:
        require_writable(arguments.out)

    from mtmusic.training.compare import compare_runs, comparison_table, write_comparison

    comparison = compare_runs(arguments.runs, arguments.seed)
    if arguments.out is not None:
        write_comparison(arguments.out, comparison)
    print(comparison_table(comparison))

"""Compares finished runs by their predictions for the test clips, and prints one table.

    mtmusic compare-runs saved_models/affect_cnn saved_models/valence_cnn saved_models/valence_cnn_transfer
    mtmusic compare-runs saved_models/genre_cnn saved_models/genre_lstm
    mtmusic compare-runs saved_models/affect_cnn saved_models/valence_cnn+saved_models/energy_cnn

The runs are all of genre, or all of affect. Runs of single tasks that are joined by + count as one run. Each rho,
accuracy and macro F1 has a 95 % bootstrap interval. The bootstrap draws the folder's groups, or clips if there are no
groups. For runs that were evaluated on the same clips the table also has the difference to the first run, with its
interval from the same draws. --out also writes comparison.json and a picture.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or several joined by +")
    common.add_seed_flag(flags, "seed of the bootstrap")
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

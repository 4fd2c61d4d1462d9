"""The lab's step 9: a genre model's backbone under a new head for one task, beside the same network from scratch."""

from dataclasses import replace
from typing import Any

from mtmusic.errors import UserError
from mtmusic.evaluation.reports.run import write_report
from mtmusic.models import saving as export
from mtmusic.training import run_folder as runs
from mtmusic.training.affect import AffectOptions, default_out, train_affect
from mtmusic.training.compare import compare_runs, comparison_table, write_comparison
from mtmusic.training.run_files import print_learnt_test_clips
from mtmusic.training.train import resolve_recipe


def finetune(options: AffectOptions, compare_scratch: bool = False) -> dict[str, Any]:
    """Trains the task on the source's backbone; returns what metrics.json holds.

    compare_scratch: then the same network is trained from random weights on the same splits, into `<out>_scratch`, and
    both are compared on the test clips: in the terminal, in comparison.json and on the page.
    Raises UserError for what the user can mend.
    """
    if options.source is None or options.task is None:
        raise ValueError(f"Expected a source and a task, got {options.source} and {options.task}")
    try:
        export.locate(options.source)
    except UserError as error:
        raise UserError(
            f"{error}: make a genre model with python scripts/train_genre.py, or give --from RUN"
        ) from error
    out = options.out or default_out(options, (options.task,))
    scratch_out = out.parent / f"{out.name}_scratch"
    if compare_scratch and not runs.finished(scratch_out, options.resume):
        runs.refuse_taken(scratch_out, options.resume, options.overwrite)
    metrics = train_affect(replace(options, out=out))[str(out)]
    if compare_scratch:
        print(f"\nThe same network from random weights, into {scratch_out}:")
        fresh = replace(options, source=None, transfer="all", freeze="none", unfreeze_after=None)
        train_affect(replace(fresh, recipe=resolve_recipe(options), out=scratch_out))
        comparison = compare_runs([str(out), str(scratch_out)])
        write_comparison(out, comparison)
        write_report(out)
        print(f"\n{comparison_table(comparison)}")
        print_learnt_test_clips(export.read_card(out)["source"], comparison["clips"])
    return metrics

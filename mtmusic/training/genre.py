"""A data folder to a trained, judged and saved genre model."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mtmusic.data.folder import GenreData, load_genre_data, print_data
from mtmusic.data.labels import Clips
from mtmusic.errors import UserError
from mtmusic.evaluation.metrics import genre_table
from mtmusic.models import saving as export
from mtmusic.models.backbones import FRAMES
from mtmusic.models.heads import genre_classifier
from mtmusic.training import run_folder as runs
from mtmusic.training.genre_run import genre_card, judge, write_judgement
from mtmusic.training.recipes import Recipe, complete
from mtmusic.training.run_files import examples, judged_contents, print_learnt_test_clips, source_card, write_clips
from mtmusic.training.train import (
    Objective,
    TrainOptions,
    build_model,
    count_learnt,
    finished,
    refuse_early,
    refuse_other_rate,
    resolve_recipe,
    settings_of,
    train_and_judge,
)


@dataclass(frozen=True)
class GenreOptions(TrainOptions):
    """All that `train_genre` is told.

    classes: raw genre names to classes, see `labels.genre_mapping`. leave_out: an affect run; what it was judged on is
    not learnt from, so that it can be started anew from this one's backbone and judged on clips that are new to both.
    """

    classes: str = "lab"
    leave_out: Path | None = None


def train_genre(options: GenreOptions) -> dict[str, Any]:
    """Trains, judges and saves; returns what metrics.json holds. Raises UserError for what the user can mend."""
    refuse_early(options)
    recipe = resolve_recipe(options)
    transfer = "_transfer" if options.source is not None else ""
    out = options.out or Path("saved_models") / f"genre_{recipe.backbone}{transfer}"
    if done := finished(out, options.resume):
        return done
    runs.refuse_taken(out, options.resume, options.overwrite)
    data = load_genre_data(
        options.data,
        options.classes,
        options.beat,
        options.validation,
        options.subset,
        options.seed,
        options.skip_bad,
        options.checks,
    )
    if options.leave_out is not None:
        data = _without(data, options.leave_out)
    recipe = complete(
        recipe, FRAMES[data.beat], len(data.splits["train"]), count_learnt(data.splits, options.retrain_on_all)
    )
    refuse_other_rate(options, data)

    objective = genre_objective(recipe, data.splits["train"], options.classes)
    model = build_model(options, recipe, objective)
    settings = settings_of(options, recipe, objective, data) | {"leave_out": str(options.leave_out)}
    with runs.run_folder(out, settings, options.resume) as work:
        print_data(data)
        model.summary(expand_nested=True, line_length=100)
        trained = train_and_judge(
            model, options, recipe, objective, data.splits, lambda model, splits: judge(model, recipe, splits), work
        )

        card = genre_card(recipe, data, options.classes, options.command, options.seed)
        if options.source is not None:
            card["source"] = source_card(options.source, data, options.transfer)
            print_learnt_test_clips(card["source"], len(data.splits["test"]))
        export.save(trained.model, work, card, examples(data.splits["test"], recipe))
        write_clips(work, data, trained.facts["model_trained_on"], options.source)
        metrics = write_judgement(work, trained.model, recipe, data, trained.judgement, card, trained.facts)
    print(f"\nTest split, {len(data.splits['test'])} clips, trained on {metrics['judged_model_trained_on']}:")
    print(genre_table(metrics["test"]))
    print(f"Report: {out / 'report.html'}")
    return metrics


def _without(data: GenreData, run: Path) -> GenreData:
    """Train and validation without the clips that the run was judged on, by content. Raises UserError where a class
    has none left."""
    judged = judged_contents(run)
    splits = dict(data.splits)
    for split in ("train", "validation"):
        clips = splits[split]
        kept = [i for i, path in enumerate(clips.paths) if data.digests[path] not in judged]
        splits[split] = clips.take(kept)
        print(f"Left out of {split}: {len(clips) - len(kept)} clips that {run} was judged on")
        if gone := [name for name, count in splits[split].counts().items() if not count and clips.counts()[name]]:
            raise UserError(f"Expected clips of {', '.join(gone)} in {split} that {run} was not judged on, got none")
    return replace(data, splits=splits)


def genre_objective(recipe: Recipe, train: Clips, mapping: str) -> Objective:
    """Softmax cross-entropy; the epoch is chosen by the validation loss. mapping: raw names to classes, as told."""
    head = partial(
        genre_classifier,
        classes=train.classes,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        class_weights=train.class_weights() if recipe.balanced else None,
    )
    return Objective(head, settings={"classes": mapping})

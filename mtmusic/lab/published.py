"""Compares our scores with the lab's report (Tsoufis 2022) and with the best published scores."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mtmusic.evaluation.reports.lab import Part, Table
from mtmusic.lab.plan import AFFECT, AFFECT_BEAT, GENRE, GENRE_BEAT, cells, paragraphs
from mtmusic.training.submission import LAB_TASKS

OWN_CLIPS = {GENRE: 2305 + 575, GENRE_BEAT: 2305 + 575, AFFECT: 1122, AFFECT_BEAT: 1122}
"""Clips in the lab's own data: clips of the merged genres in train and test, and clips with affect labels."""

OTHER_CLIPS = "no: other held-out clips"

HEADER = ("", "ours", "sd of seeds", "95 % interval", "the report", "best published", "comparable")
MEAN = "mean"


class Published(NamedTuple):
    """A row of the table.

    step, place: keys of our score among the numbers of a step.
    limits: why the row is not or only partly comparable, even on the lab's own data.
    folder: the data folder of the test clips.
    """

    title: str
    step: int
    place: tuple[str, ...]
    report: str = "-"
    best: str = "-"
    limits: str = ""
    folder: str = GENRE_BEAT


GENRE_ROWS = (
    Published("Accuracy: always the largest class", 5, ("majority",), best=".179"),
    Published("Accuracy: LSTM on full-rate mel", 5, ("networks", "mel_full", "accuracy"), ".12 (untrained)", ".38",
              "with the best published; not with the report, whose network is untrained", GENRE),
    Published("Accuracy: LSTM on beat mel", 5, ("networks", "mel", "accuracy"), ".41", ".41"),
    Published("Accuracy: LSTM on beat chroma", 5, ("networks", "chroma", "accuracy"), ".21", ".24"),
    Published("Accuracy: LSTM on beat fused", 5, ("networks", "fused", "accuracy"), "-", ".40"),
    Published("Accuracy: CNN on beat mel", 7, ("train", "accuracy"), ".42 (validation)", ".45",
              "with the best published; not with the report, which is on validation"),
    Published("Accuracy: Audio Spectrogram Transformer", 7, ("none",), "-", ".38"),
)  # fmt: skip
AFFECT_MODELS = (
    ("CNN, a model per task", 8, ("rho", "cnn"), (".509", ".790", ".593", ".631"), (".659", ".763", ".678", ".700")),
    ("LSTM, a model per task", 8, ("rho", "lstm"), (".281", ".540", ".233", ".351"), ("-",) * 4),
    ("CNN, multitask, fixed weights", 10, ("rho", "fixed"), ("-",) * 4, (".668", ".794", ".768", ".744")),
    ("CNN, multitask, learned weights", 10, ("rho", "learned"), ("-",) * 4, (".668", ".794", ".768", ".744")),
)
"""For each model: title, step, place, the report's rho, and the best published rho. Both are rho of the lab's tasks and
their mean."""

SUBMITTED = Published("Rho: the submission (expected), mean", 11, ("expected",), "-", ".720",
                      "no: ours is on held-out clips, theirs on the 375 submitted clips", AFFECT_BEAT)  # fmt: skip

ALL_BLOCKS = 4
"""The blocks in the published transfer: the whole backbone, not frozen."""


def is_own(folder: str, clips: Mapping[str, int]) -> bool:
    """Whether the folder has as many labelled clips as the lab's own. clips: labelled clips of each folder."""
    return clips.get(folder) == OWN_CLIPS[folder]


def compare_with_published(
    numbers: Mapping[int, Mapping[str, Any]], clips: Mapping[str, int], seeds: int, quick: bool
) -> Part:
    """Makes the section of the page. numbers: numbers of each finished step. clips: labelled clips of each folder."""
    rows = [
        _row(row, numbers, is_own(row.folder, clips), quick) for row in (*GENRE_ROWS, *_affect_rows(numbers), SUBMITTED)
    ]
    shown = [row for row in rows if row[1] != "-" or row[4:6] != ("-", "-")]
    caption = "Test clips, one seed" if seeds == 1 else f"Test clips, mean and sd of {seeds} seeds"
    own = [name for name in OWN_CLIPS if is_own(name, clips)]
    return Part(paragraphs("published.txt", own=own, quick=quick), [Table(caption, HEADER, shown)])


def _affect_rows(numbers: Mapping[int, Mapping[str, Any]]) -> Iterator[Published]:
    """Yields rows of our tasks and their mean. A transfer to another task than valence is marked."""
    for title, step, place, report, best in AFFECT_MODELS:
        ours = _found(numbers, step, place) or {}
        for task, theirs, highest in zip((*LAB_TASKS, MEAN), report, best, strict=True):
            if task in ours:
                yield Published(
                    f"Rho: {title}, {task}", step, (*place, task), theirs, highest, OTHER_CLIPS, AFFECT_BEAT
                )
    transfer = {"task": LAB_TASKS[0], "blocks": ALL_BLOCKS, **numbers.get(9, {})}
    task, blocks = transfer["task"], transfer["blocks"]
    named = task if task == LAB_TASKS[0] else f"{task} (theirs: {LAB_TASKS[0]})"
    title = f"Rho: transfer CNN, {blocks} block{'s' if blocks > 1 else ''} tuned, {named}"
    yield Published(title, 9, ("whole",), ".423", ".649", OTHER_CLIPS, AFFECT_BEAT)


def _row(row: Published, numbers: Mapping[int, Mapping[str, Any]], own: bool, quick: bool) -> tuple[str, ...]:
    ours = _found(numbers, row.step, row.place)
    if ours is None:
        shown = ("-", "-", "-")
    elif isinstance(ours, float):
        shown = (f"{ours:.3f}", "-", "-")
    else:
        shown = cells(ours)
    return (row.title, *shown, row.report, row.best, _comparable(row, ours, own, quick))


def _comparable(row: Published, ours: Any, own: bool, quick: bool) -> str:
    if ours is None:
        return "no: not measured here"
    if not own:
        return "no: other data"
    return "no: a quick run" if quick else row.limits or "yes"


def _found(numbers: Mapping[int, Mapping[str, Any]], step: int, place: tuple[str, ...]) -> Any:
    """Returns the value at this place among a step's numbers, or None."""
    found: Any = numbers.get(step)
    for name in place:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found

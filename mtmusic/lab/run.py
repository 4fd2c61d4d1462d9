"""Runs the lab's eleven steps. Each has a folder; there are one page, and results.json with all numbers.

A stopped run can be continued.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras

from mtmusic.data.folder import FolderData, load_affect_data, load_genre_data
from mtmusic.errors import UserError
from mtmusic.evaluation.reports.lab import Part, Section, Table, part_from_json, part_to_json, write_lab_page
from mtmusic.files import refuse_other_things, write_json
from mtmusic.lab.affect import multitask, regression, submission
from mtmusic.lab.data import first_look, frame_rates, pipeline
from mtmusic.lab.genre import cnns, lstms
from mtmusic.lab.plan import AFFECT, AFFECT_BEAT, FOLDERS, FULL_RATE_BATCH, GENRE, GENRE_BEAT, Done, Lab, paragraphs
from mtmusic.lab.published import compare_with_published, is_own
from mtmusic.lab.questions import metrics_step
from mtmusic.lab.transfer import transfer
from mtmusic.models.distribution import find_devices
from mtmusic.models.precision import supported
from mtmusic.training.run_folder import versions

SETTINGS, STEP, RESULTS, LOG = "settings.json", "step.json", "results.json", "log.txt"
TITLE = "Music genre and affect: the lab's steps, reproduced"

logger = logging.getLogger(__name__)


class Step(NamedTuple):
    """A step. needs: data folders that it needs, else it is skipped. after: steps whose runs it reads."""

    number: int
    title: str
    do: Callable[[Lab], Done]
    needs: tuple[str, ...]
    after: tuple[int, ...] = ()

    def lacking(self, lab: Lab) -> list[str]:
        return [name for name in self.needs if name not in lab.folders]


STEPS = (
    Step(1, "Steps 0 and 1: the machine, the folder, two clips", first_look, (GENRE_BEAT,)),
    Step(2, "Step 2: mel at full rate and beat-synchronised", partial(frame_rates, 2, "mel"), (GENRE, GENRE_BEAT)),
    Step(
        3,
        "Step 3: chroma at full rate and beat-synchronised",
        partial(frame_rates, 3, "chroma"),
        (GENRE, GENRE_BEAT),
        (2,),
    ),
    Step(4, "Step 4: batches and classes", pipeline, (GENRE_BEAT,)),
    Step(5, "Step 5: genre with an LSTM", lstms, (GENRE_BEAT,)),
    Step(6, "Step 6: what the metrics show", metrics_step, (GENRE_BEAT,), (5,)),
    Step(7, "Step 7: genre with a CNN", cnns, (GENRE_BEAT,), (5,)),
    Step(8, "Step 8: affect, a model per task", regression, (AFFECT_BEAT,)),
    Step(9, "Step 9: transfer from genre", transfer, (GENRE_BEAT, AFFECT_BEAT), (7, 8)),
    Step(10, "Step 10: affect, one model for all tasks", multitask, (AFFECT_BEAT,), (8,)),
    Step(11, "Step 11: the submission", submission, (AFFECT_BEAT,), (8, 10)),
)


def reproduce_lab(lab: Lab) -> dict[str, Any]:
    """Runs the steps that are not finished, and rebuilds the page. Returns the content of results.json.

    A step is finished if its step.json exists. Stopped trainings are continued. Raises UserError for wrong settings or
    data, before the first training if possible.
    """
    lab = replace(lab, precision=supported(lab.precision))
    asked = [step for step in STEPS if step.number in lab.steps and not step.lacking(lab)]
    _refuse_early(lab, asked)
    data = {name: _load(lab, name) for name in lab.folders}
    asked = _open(lab, data, asked)
    for name in FOLDERS:
        if name not in lab.folders:
            logger.info(f"Missing folder: {name}")
    for step in STEPS:
        if step.number in lab.steps and (lacking := step.lacking(lab)):
            are = "are" if len(lacking) > 1 else "is"
            logger.info(f"{step.title}: skipped, because {', '.join(lacking)} {are} missing")
    results = _write(lab, data)  # the page must not show steps that were set aside
    for step in asked:
        if _finished(lab, step) is None:
            _do(lab, step)
        else:
            logger.info(f"{step.title}: already finished")
        results = _write(lab, data)
    logger.info(f"Page: {lab.out / 'lab.html'}")
    return results


def _refuse_early(lab: Lab, asked: list[Step]) -> None:
    if not lab.data.is_dir():
        raise UserError(f"Expected `data` to be a folder that holds {', '.join(FOLDERS)}, got no folder: {lab.data}")
    if not lab.folders:
        raise UserError(f"Expected some of {', '.join(FOLDERS)} in {lab.data}, got none of them: give another `data`")
    refuse_other_things(lab.out, SETTINGS)
    if lab.seeds < 1:
        raise UserError(f"Expected `seeds` of 1 or more, got {lab.seeds}")
    if (devices := len(find_devices(lab.devices))) > FULL_RATE_BATCH:
        raise UserError(
            f"Expected `devices` of {FULL_RATE_BATCH} at most, got {devices}: the smallest batch has that many clips"
        )
    if unknown := sorted({*lab.steps} - {step.number for step in STEPS}):
        raise UserError(f"Expected `steps` from 1 to {len(STEPS)}, got {unknown[0]}")
    if not asked:
        wanted = ", ".join(map(str, lab.steps))
        raise UserError(f"Expected the data folders of at least one of the steps {wanted}, found none in {lab.data}")


def _load(lab: Lab, name: str) -> FolderData:
    """Loads and checks a folder, so that errors are found before the first training."""
    return (load_genre_data if name in (GENRE, GENRE_BEAT) else load_affect_data)(lab.load_options(name))


def _open(lab: Lab, data: Mapping[str, FolderData], asked: list[Step]) -> list[Step]:
    """Makes or continues the lab's folder. Returns the steps to run: the requested steps, and those to repeat.

    Raises UserError if the folder was made with other settings, or if an earlier step is missing. Then nothing is
    changed.
    """
    settings = {
        "scale": asdict(lab.scale),
        "seeds": list(lab.every_seed),
        "classes": lab.classes,
        "precision": lab.precision,
        "data": {name: folder.fingerprint for name, folder in data.items()},
    }
    path, settings = lab.out / SETTINGS, json.loads(json.dumps(settings))
    before = {"precision": "float32"} | json.loads(path.read_text(encoding="utf-8")) if path.is_file() else settings
    if differing := [name for name in settings if before.get(name) != settings[name]]:
        _refuse_mixture(lab, differing, asked)
    anew = _anew(lab, asked) if lab.overwrite else []
    todo = [step for step in STEPS if step in asked or step in anew]
    _require_earlier(lab, todo, anew)
    _set_aside(lab, anew)
    write_json(path, settings)
    return todo


def _refuse_mixture(lab: Lab, differing: list[str], asked: list[Step]) -> None:
    """Raises UserError unless all steps with other settings are repeated, so that the page has one kind of settings."""
    made = f"it was made with other {' and '.join(differing)}"
    if not lab.overwrite:
        raise UserError(
            f"Cannot continue in {lab.out}: {made}; give the same settings, another `out`, or `overwrite=True`"
        )
    if left := [str(step.number) for step in STEPS if lab.step(step.number).exists() and step not in asked]:
        raise UserError(
            f"Cannot repeat a part of {lab.out}: {made}, and has step{'s' if len(left) > 1 else ''} "
            f"{', '.join(left)} too; give `steps` with all of them, the same settings, or another `out`"
        )


def _anew(lab: Lab, asked: list[Step]) -> list[Step]:
    """Returns the existing steps among the requested ones, and the existing steps that read their runs."""
    numbers = tuple(step.number for step in asked)
    return [
        step
        for step in STEPS
        if _touched(step, numbers) and (lab.step(step.number).exists() or _old(lab, step).exists())
    ]


def _touched(step: Step, steps: tuple[int, ...]) -> bool:
    """Whether a step is one of these steps, or reads their runs."""
    return step.number in steps or any(_touched(STEPS[earlier - 1], steps) for earlier in step.after)


def _require_earlier(lab: Lab, todo: list[Step], anew: list[Step]) -> None:
    numbers = {step.number for step in todo}
    for step in todo:
        if step not in anew and _finished(lab, step) is not None:
            continue
        for earlier in step.after:
            if earlier not in numbers and _finished(lab, STEPS[earlier - 1]) is None:
                raise UserError(
                    f"Expected step {earlier} before step {step.number}: give `steps={earlier},{step.number}`"
                )


def _old(lab: Lab, step: Step) -> Path:
    """The folder of an old step, which is kept until the new one is finished."""
    folder = lab.step(step.number)
    return folder.with_name(f"{folder.name}.old")


def _set_aside(lab: Lab, steps: list[Step]) -> None:
    for step in steps:
        folder, old = lab.step(step.number), _old(lab, step)
        logger.info(f"{step.title}: will be repeated. The old step is kept in {old} until the new one is finished")
        if old.exists():  # an earlier repetition was stopped
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.rename(old)


def _finished(lab: Lab, step: Step) -> dict[str, Any] | None:
    """The content of step.json, or None if the step is not finished."""
    path = lab.step(step.number) / STEP
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _do(lab: Lab, step: Step) -> None:
    folder, started = lab.step(step.number), time.perf_counter()
    logger.info(f"{step.title} ... (log: {folder / LOG})")
    with _logged(folder / LOG):
        try:
            done = step.do(lab)
        except UserError as error:
            raise UserError(f"Step {step.number}: {error}") from error
    keras.utils.clear_session(free_memory=True)  # else the next step's models need additional memory
    seconds = time.perf_counter() - started
    write_json(folder / STEP, {"part": part_to_json(done.part), "numbers": done.numbers, "seconds": seconds})
    shutil.rmtree(_old(lab, step), ignore_errors=True)
    logger.info(f"{step.title}: {_duration(seconds)}")


class _Log(logging.StreamHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Raises the error, for example of a full disk. Logging would print a traceback for each message."""
        raise  # noqa: PLE0704


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Writes the log of the trainings, and Keras's line per epoch, to a file. The terminal shows a line per step."""
    library = logging.getLogger(__name__.partition(".")[0])
    before, level = (library.handlers, library.propagate), library.level
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log, redirect_stdout(log):
        library.handlers, library.propagate = [_Log(log)], False
        library.setLevel(logging.INFO)
        try:
            yield
        finally:
            library.handlers, library.propagate = before
            library.setLevel(level)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _write(lab: Lab, data: Mapping[str, FolderData]) -> dict[str, Any]:
    """Writes results.json and the page from every existing step.json."""
    found = {step: content for step in STEPS if (content := _finished(lab, step)) is not None}
    numbers = {step.number: content["numbers"] for step, content in found.items()}
    labelled = {name: sum(map(len, folder.splits.values())) for name, folder in data.items()}
    quick, seconds = lab.scale.name == "quick", sum(content["seconds"] for content in found.values())
    published = compare_with_published(numbers, labelled, lab.seeds, quick)
    results = {
        "command": lab.own_command(),
        "scale": lab.scale.name,
        "seeds": list(lab.every_seed),
        "precision": lab.precision,
        "folders": {name: str(path) for name, path in lab.folders.items()},
        "missing": [name for name in FOLDERS if name not in lab.folders],
        "skipped": {str(step.number): lacking for step in STEPS if (lacking := step.lacking(lab))},
        "seconds": seconds,
        "versions": versions(),
        "steps": {
            str(step.number): {"seconds": content["seconds"], **content["numbers"]} for step, content in found.items()
        },
        "beside_published": [
            dict(zip(table.header, row, strict=True)) for table in published.tables for row in table.rows
        ],
    }
    write_json(lab.out / RESULTS, results)
    warnings = paragraphs("banner.txt", demo=any(folder.demo for folder in data.values()), quick=quick)
    sections = [_section(lab, step, content) for step, content in found.items()]
    sections.append(Section("published", "Compared with the report and the best published solutions", "", published))
    write_lab_page(lab.out, TITLE, warnings, _intro(lab, data, labelled, _duration(seconds)), sections)
    return results


def _section(lab: Lab, step: Step, content: Mapping[str, Any]) -> Section:
    """The section of a step. The command that repeats the step comes before the commands of its trainings."""
    part, again = part_from_json(content["part"]), lab.own_command(steps=step.number, overwrite=True)
    part = replace(part, commands=[again, *part.commands])
    return Section(f"step-{step.number}", step.title, _duration(content["seconds"]), part)


def _intro(lab: Lab, data: Mapping[str, FolderData], labelled: Mapping[str, int], duration: str) -> Part:
    """The introduction of the page. labelled: number of labelled clips in all splits of each folder."""
    subset = f". Trainings use {lab.scale.subset} clips of train" if lab.scale.subset is not None else ""
    table = Table(
        f"The data. Validation is held out of train, and so is test if it has no labels{subset}",
        ("folder", "train", "validation", "test", "median frames"),
        [(name, *_counts(data.get(name))) for name in FOLDERS],
    )
    kinds = {"genre": (GENRE_BEAT, GENRE), "affect": (AFFECT_BEAT, AFFECT)}
    used = {kind: name for kind, names in kinds.items() for name in names[::-1] if name in data}
    sentences = paragraphs(
        "intro.txt",
        lab=lab,
        duration=duration,
        labelled=[
            (kind, labelled[name], data[name].splits["train"], is_own(name, labelled)) for kind, name in used.items()
        ],
        transferred={GENRE_BEAT, AFFECT_BEAT} <= {*lab.folders},
        grouped=[name for name, folder in data.items() if folder.splits["train"].groups is not None],
        skipped=[(step.title, lacking) for step in STEPS if (lacking := step.lacking(lab))],
    )
    return Part(sentences, [table], (), [lab.own_command()])


def _counts(folder: FolderData | None) -> tuple[Any, ...]:
    if folder is None:
        return ("missing", "-", "-", "-")
    frames = sorted(folder.frames)[len(folder.frames) // 2]
    return (*(len(folder.splits[split]) for split in ("train", "validation", "test")), int(frames))

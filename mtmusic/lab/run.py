"""The lab's eleven steps in one go: a folder a step, one page, all numbers in results.json; stopped, it goes on."""

import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import keras

from mtmusic.data.folder import FolderData, load_affect_data, load_genre_data
from mtmusic.datasets.demo import demo_corpus
from mtmusic.errors import UserError
from mtmusic.evaluation.reports.lab import (
    Part,
    Section,
    Table,
    part_from_json,
    part_to_json,
    write_lab_page,
)
from mtmusic.files import refuse_other_things, write_json
from mtmusic.lab.affect import multitask, regression
from mtmusic.lab.data import chroma_rates, first_look, mel_rates, pipeline
from mtmusic.lab.genre import cnns, lstms
from mtmusic.lab.plan import (
    AFFECT,
    AFFECT_BEAT,
    FOLDERS,
    FULL,
    FULL_RATE_BATCH,
    GENRE,
    GENRE_BEAT,
    QUICK,
    Done,
    Lab,
    Scale,
)
from mtmusic.lab.published import beside_published, is_own
from mtmusic.lab.questions import metrics_step
from mtmusic.lab.submission import submission
from mtmusic.lab.transfer import transfer
from mtmusic.models.distribution import find_devices
from mtmusic.models.precision import supported
from mtmusic.training.run_folder import versions

SETTINGS, STEP, RESULTS, LOG = "settings.json", "step.json", "results.json", "log.txt"
TITLE = "Music genre and affect: the lab's steps, done again"


class Step(NamedTuple):
    """needs: folders without which it is skipped. after: steps whose runs it reads."""

    number: int
    title: str
    do: Callable[[Lab], Done]
    needs: tuple[str, ...]
    after: tuple[int, ...] = ()


STEPS = (
    Step(1, "Steps 0 and 1: the machine, the folder, two clips", first_look, (GENRE_BEAT,)),
    Step(2, "Step 2: mel at full rate and by beats", mel_rates, (GENRE, GENRE_BEAT)),
    Step(3, "Step 3: chroma at full rate and by beats", chroma_rates, (GENRE, GENRE_BEAT), (2,)),
    Step(4, "Step 4: batches and classes", pipeline, (GENRE_BEAT,)),
    Step(5, "Step 5: genre by LSTM", lstms, (GENRE_BEAT,)),
    Step(6, "Step 6: what the metrics show", metrics_step, (GENRE_BEAT,), (5,)),
    Step(7, "Step 7: genre by CNN", cnns, (GENRE_BEAT,), (5,)),
    Step(8, "Step 8: affect, a model a task", regression, (AFFECT_BEAT,)),
    Step(9, "Step 9: transfer from genre", transfer, (GENRE_BEAT, AFFECT_BEAT), (7, 8)),
    Step(10, "Step 10: affect, one model of all tasks", multitask, (AFFECT_BEAT,), (8,)),
    Step(11, "Step 11: the submission", submission, (AFFECT_BEAT,), (8, 10)),
)


@dataclass(frozen=True)
class LabOptions:
    """All that `reproduce_lab` is told. data: a folder with the lab's four; None: the demo corpus. steps: which to do.

    seeds: how many, from `seed` on. precision, devices: of every training, see models.precision and
    replicas.find_devices. overwrite: does those steps anew, and those that are there and read their runs; an old step
    is set aside, and goes when the new one is finished.
    """

    data: Path | None = None
    out: Path = Path("saved_models/lab")
    scale: Scale = FULL
    steps: tuple[int, ...] = tuple(step.number for step in STEPS)
    seeds: int = 3
    seed: int = 0
    classes: str = "lab"
    precision: str = "float32"
    devices: str = "1"
    overwrite: bool = False

    def command(self, step: int | None = None) -> str:
        """What does the whole lab, or a step of it anew, with these settings."""
        words = ["python", "scripts/reproduce_lab.py"]
        words += ["--data", str(self.data)] if self.data is not None else []
        words += ["--classes", self.classes] if self.classes != "lab" else []
        words += ["--quick"] if self.scale.name == QUICK.name else []
        words += ["--precision", self.precision] if self.precision != "float32" else []
        words += ["--devices", self.devices] if self.devices != "1" else []
        words += ["--seeds", str(self.seeds), *(["--seed", str(self.seed)] if self.seed else [])]
        words += ["--out", str(self.out), *(["--steps", str(step), "--overwrite"] if step is not None else [])]
        return shlex.join(words)


def reproduce_lab(options: LabOptions) -> dict[str, Any]:
    """Does the steps that are not finished yet and rebuilds the page; returns what results.json holds.

    A step is finished when its step.json stands; a training that was stopped goes on. Raises UserError for what the
    user can mend, before the first training wherever that can be known.
    """
    lab = _lab(options)
    refuse_other_things(lab.out, SETTINGS)
    asked = [step for step in STEPS if step.number in options.steps and set(step.needs) <= set(lab.folders)]
    _refuse_early(options, asked)
    data = {name: _load(lab, name) for name in lab.folders}
    asked = _open(lab, options, data, asked)
    _print_missing(lab, options)
    results = _write(lab, options, data)  # no page shows what was just set aside
    for step in asked:
        if _finished(lab, step) is None:
            _do(lab, step)
        else:
            print(f"{step.title}: finished before")
        results = _write(lab, options, data)
    print(f"Page: {lab.out / 'lab.html'}")
    return results


def _lab(options: LabOptions) -> Lab:
    root = options.data if options.data is not None else demo_corpus()
    if not root.is_dir():
        raise UserError(f"Expected --data to be a folder that holds {', '.join(FOLDERS)}, got no folder: {root}")
    folders = {name: root / name for name in FOLDERS if (root / name).is_dir()}
    if not folders:
        raise UserError(f"Expected some of {', '.join(FOLDERS)} in {root}, got none of them: give --data DATA_ROOT")
    seeds = tuple(range(options.seed, options.seed + options.seeds))
    precision = supported(options.precision)
    return Lab(folders, options.out, options.scale, seeds, options.classes, precision, options.devices)


def _refuse_early(options: LabOptions, asked: list[Step]) -> None:
    if options.seeds < 1:
        raise UserError(f"Expected --seeds of 1 or more, got {options.seeds}")
    if (devices := len(find_devices(options.devices))) > FULL_RATE_BATCH:
        raise UserError(
            f"Expected --devices of {FULL_RATE_BATCH} at most, got {devices}: some steps have batches of so many clips"
        )
    if unknown := sorted({*options.steps} - {step.number for step in STEPS}):
        raise UserError(f"Expected --steps from 1 to {len(STEPS)}, got {unknown[0]}")
    if not asked:
        raise UserError(
            f"Expected data for one of the steps {', '.join(map(str, options.steps))}, got folders for none"
        )


def _load(lab: Lab, name: str) -> FolderData:
    """Checked as a training would, so that what is wrong is told before the first one."""
    if name in (GENRE, GENRE_BEAT):
        return load_genre_data(lab.folders[name], lab.classes, seed=lab.seeds[0])
    return load_affect_data(lab.folders[name], seed=lab.seeds[0])


def _open(lab: Lab, options: LabOptions, data: Mapping[str, FolderData], asked: list[Step]) -> list[Step]:
    """Makes the folder, or goes on in it; returns the steps to do, with those that must be done anew beside the asked.

    Raises UserError where it was made with other settings, or a step lacks an earlier one; nothing is changed then.
    """
    settings = {
        "scale": asdict(lab.scale),
        "seeds": list(lab.seeds),
        "classes": lab.classes,
        "precision": lab.precision,
        "data": {name: folder.fingerprint for name, folder in data.items()},
    }
    path, settings = lab.out / SETTINGS, json.loads(json.dumps(settings))
    before = {"precision": "float32"} | json.loads(path.read_text(encoding="utf-8")) if path.is_file() else settings
    differing = [name for name in settings if before.get(name) != settings[name]]
    if differing:
        _refuse_mixture(lab, options, differing, asked)
    anew = _anew(lab, asked) if options.overwrite else []
    todo = [step for step in STEPS if step in asked or step in anew]
    _require_earlier(lab, todo, anew)
    _set_aside(lab, anew)
    write_json(path, settings)
    return todo


def _refuse_mixture(lab: Lab, options: LabOptions, differing: list[str], asked: list[Step]) -> None:
    """Steps of other settings may go only where each is done anew, so that the page is of one lab."""
    made = f"it was made with other {' and '.join(differing)}"
    if not options.overwrite:
        raise UserError(f"Cannot go on in {lab.out}: {made}; give the same settings, another --out, or --overwrite")
    if left := [str(step.number) for step in STEPS if lab.step(step.number).exists() and step not in asked]:
        raise UserError(
            f"Cannot do a part of {lab.out} anew: {made}, and has step{'s' if len(left) > 1 else ''} "
            f"{', '.join(left)} too; give --steps with all of them, the same settings, or another --out"
        )


def _anew(lab: Lab, asked: list[Step]) -> list[Step]:
    """Those of the asked steps that are there, and what is there and reads their runs."""
    numbers = tuple(step.number for step in asked)
    return [
        step
        for step in STEPS
        if _touched(step, numbers) and (lab.step(step.number).exists() or _old(lab, step).exists())
    ]


def _touched(step: Step, steps: tuple[int, ...]) -> bool:
    """One of these steps, or one that reads their runs."""
    return step.number in steps or any(_touched(STEPS[earlier - 1], steps) for earlier in step.after)


def _require_earlier(lab: Lab, todo: list[Step], anew: list[Step]) -> None:
    numbers = {step.number for step in todo}
    for step in todo:
        if step not in anew and _finished(lab, step) is not None:
            continue
        for earlier in step.after:
            if earlier not in numbers and _finished(lab, STEPS[earlier - 1]) is None:
                raise UserError(
                    f"Expected step {earlier} before step {step.number}: give --steps {earlier},{step.number}"
                )


def _old(lab: Lab, step: Step) -> Path:
    """Where what was finished waits until it is done anew."""
    folder = lab.step(step.number)
    return folder.with_name(f"{folder.name}.old")


def _set_aside(lab: Lab, steps: list[Step]) -> None:
    for step in steps:
        folder, old = lab.step(step.number), _old(lab, step)
        print(f"{step.title}: to be done anew; the old one is kept in {old} until then")
        if old.exists():  # an attempt to do it anew was stopped
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.rename(old)


def _print_missing(lab: Lab, options: LabOptions) -> None:
    for name in FOLDERS:
        if name not in lab.folders:
            print(f"Not there: {name}")
    for step, lacking in _skipped(lab):
        if step.number in options.steps:
            print(f"{step.title}: skipped, without {', '.join(lacking)}")


def _skipped(lab: Lab) -> Iterator[tuple[Step, list[str]]]:
    for step in STEPS:
        if lacking := [name for name in step.needs if name not in lab.folders]:
            yield step, lacking


def _finished(lab: Lab, step: Step) -> dict[str, Any] | None:
    """What step.json holds, or None where it does not stand yet."""
    path = lab.step(step.number) / STEP
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _do(lab: Lab, step: Step) -> None:
    folder, started = lab.step(step.number), time.perf_counter()
    print(f"{step.title} ... (log: {folder / LOG})", flush=True)
    with _logged(folder / LOG):
        try:
            done = step.do(lab)
        except UserError as error:
            raise UserError(f"Step {step.number}: {error}") from error
    keras.utils.clear_session(free_memory=True)  # the next step's models come on top otherwise
    seconds = time.perf_counter() - started
    content = {"part": part_to_json(done.part), "numbers": done.numbers, "seconds": seconds}
    write_json(folder / STEP, content)
    shutil.rmtree(_old(lab, step), ignore_errors=True)
    print(f"{step.title}: {_duration(seconds)}", flush=True)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What the jobs print goes into a file, a line an epoch: the terminal has a line a step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log, redirect_stdout(log):
        yield


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _write(lab: Lab, options: LabOptions, data: Mapping[str, FolderData]) -> dict[str, Any]:
    """results.json and the page, from every step.json that is there."""
    found = {step: content for step in STEPS if (content := _finished(lab, step)) is not None}
    numbers = {step.number: content["numbers"] for step, content in found.items()}
    published = beside_published(numbers, _labelled(data), len(lab.seeds), lab.scale.name == QUICK.name)
    results = {
        "command": options.command(),
        "scale": lab.scale.name,
        "seeds": list(lab.seeds),
        "precision": lab.precision,
        "folders": {name: str(path) for name, path in lab.folders.items()},
        "missing": [name for name in FOLDERS if name not in lab.folders],
        "skipped": {str(step.number): lacking for step, lacking in _skipped(lab)},
        "seconds": sum(content["seconds"] for content in found.values()),
        "versions": versions(),
        "steps": {
            str(step.number): {"seconds": content["seconds"], **content["numbers"]} for step, content in found.items()
        },
        "beside_published": [
            dict(zip(table.header, row, strict=True)) for table in published.tables for row in table.rows
        ],
    }
    write_json(lab.out / RESULTS, results)
    sections = [_section(options, step, content) for step, content in found.items()]
    sections.append(Section("published", "Beside the report and the best published", "", published))
    write_lab_page(lab.out, TITLE, _warnings(lab, data), _intro(lab, options, data, results["seconds"]), sections)
    return results


def _section(options: LabOptions, step: Step, content: Mapping[str, Any]) -> Section:
    """With the command that does it anew in front of those of its trainings."""
    part = part_from_json(content["part"])
    part = replace(part, commands=[options.command(step.number), *part.commands])
    return Section(f"step-{step.number}", step.title, _duration(content["seconds"]), part)


def _labelled(data: Mapping[str, FolderData]) -> dict[str, int]:
    """Of each folder the clips with labels, all splits."""
    return {name: sum(map(len, folder.splits.values())) for name, folder in data.items()}


def _warnings(lab: Lab, data: Mapping[str, FolderData]) -> list[str]:
    warnings = []
    if any(folder.demo for folder in data.values()):
        warnings.append("Demo: synthesised music. These numbers say nothing about real songs.")
    if lab.scale.name == QUICK.name:
        warnings.append("Quick: a part of the clips and a few epochs, to see that everything runs; no result.")
    return warnings


def _intro(lab: Lab, options: LabOptions, data: Mapping[str, FolderData], seconds: float) -> Part:
    seeds = f"seed {lab.seeds[0]}" if len(lab.seeds) == 1 else f"seeds {lab.seeds[0]} to {lab.seeds[-1]}"
    sentences = [
        _whose(data),
        f"The lab's steps on the folders below, {seeds}, {lab.precision}, {_duration(seconds)} in all. The test clips "
        f"chose nothing: the epoch, the source of the transfer and the model to submit are chosen by validation clips."
        f"{_exception(lab)}",
        f"Intervals of accuracies are of the bootstrap over clips: clips of one artist are alike, and make them too "
        f"narrow. Those of rho and of differences are over the folder's groups, where it has some. "
        f"{_grouped(data)}",
        *(f"{step.title}: skipped, without {', '.join(lacking)}." for step, lacking in _skipped(lab)),
    ]
    rows = [(name, *_counts(data.get(name))) for name in FOLDERS]
    part = f"; this run's trainings take {lab.scale.subset} of train" if lab.scale.subset is not None else ""
    table = Table(f"The data; validation is held out of train, and test where it has no labels{part}",
                  ("folder", "train", "validation", "test", "median frames"), rows)  # fmt: skip
    return Part(sentences, [table], (), [options.command()])


def _whose(data: Mapping[str, FolderData]) -> str:
    """The lab's own data, or other data, and what they are; told by the number of clips."""
    told = []
    clips = _labelled(data)
    for kind, names in (("genre", (GENRE_BEAT, GENRE)), ("affect", (AFFECT_BEAT, AFFECT))):
        if name := next((name for name in names if name in data), None):
            train = data[name].splits["train"]
            what = f"classes {', '.join(train.classes)}" if kind == "genre" else f"tasks {', '.join(train.tasks)}"
            owner = "the lab's own data, by their number" if is_own(name, clips) else "other data"
            told.append(f"{clips[name]} clips of {kind} ({what}): {owner}")
    return f"{'. '.join(told)}."


def _exception(lab: Lab) -> str:
    if not {GENRE_BEAT, AFFECT_BEAT} <= set(lab.folders):
        return ""
    return (
        " One exception: the source of step 9's transfer may have learnt the genre of clips that are judged there; the "
        "step says of how many."
    )


def _grouped(data: Mapping[str, FolderData]) -> str:
    grouped = [name for name, folder in data.items() if folder.splits["train"].groups is not None]
    if not grouped:
        return "No folder has a groups.csv, so that an artist may be on both sides of a split."
    return f"What is held out here shares no group of groups.csv with what is left ({', '.join(grouped)})."


def _counts(folder: FolderData | None) -> tuple[Any, ...]:
    if folder is None:
        return ("not there", "-", "-", "-")
    frames = sorted(folder.frames)[len(folder.frames) // 2]
    return (*(len(folder.splits[split]) for split in ("train", "validation", "test")), int(frames))

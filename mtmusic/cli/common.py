"""Shared by the commands: flags, the terminal, and errors in one line. It imports only the standard library."""

import argparse
import ast
import gc
import importlib
import io
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TextIO, TypeVar

from mtmusic.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from mtmusic.data.folder import LoadOptions
    from mtmusic.training.recipes import Recipe
    from mtmusic.training.train import TrainOptions

Filled = TypeVar("Filled", bound="DataclassInstance")

NUMBER: dict[str, Any] = {"type": int, "metavar": "N"}
SHARE: dict[str, Any] = {"type": float, "default": 0.2, "metavar": "SHARE"}
SECONDS: dict[str, Any] = {"type": float, "metavar": "S"}
RUN: dict[str, Any] = {"type": Path, "metavar": "RUN"}
DIR: dict[str, Any] = {"type": Path, "metavar": "DIR"}
FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
FOLDER: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
"""Settings of arguments that several commands have."""

LOWERED = ("batch_size", "frames", "units", "layers", "window", "jobs")
"""Arguments on which the use of memory depends."""


class Main(Protocol):
    """A command. It returns the exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def entry_point(parser: Callable[[], argparse.ArgumentParser]) -> Callable[[Callable[..., int | None]], Main]:
    """Makes a command from a function of the parsed arguments. The command shows the library's log.

    For the exit code see `exit_code`.
    """

    def decorate(run: Callable[[argparse.Namespace], int | None]) -> Main:
        def main(argv: Sequence[str] | None = None) -> int:
            flags = parser()

            def parse_and_run() -> int | None:
                arguments = flags.parse_args(argv)
                arguments.command = shlex.join([*flags.prog.split(), *(sys.argv[1:] if argv is None else argv)])
                quieten_tensorflow()
                with _log_shown(flags):
                    return run(arguments)

            return exit_code(parse_and_run, flags)

        return main

    return decorate


@contextmanager
def _log_shown(flags: argparse.ArgumentParser) -> Iterator[None]:
    log, handler = logging.getLogger("mtmusic"), _Terminal(flags)
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False  # some libraries add a handler to the root logger
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


def exit_code(run: Callable[[], int | None], flags: argparse.ArgumentParser) -> int:
    """Calls `run`, and returns the exit code: that of `run`, or 0 for None.

    It is 2 for an error that the user can correct, with one line on standard error and without a traceback. It is 130
    for Ctrl-C, and 141 without a message if standard output is closed, as in `mtmusic predict music | head`.
    """
    try:
        prepare_streams()
        try:
            return run() or 0
        finally:  # also if argparse exits
            _flush(sys.stdout)
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        return _ended("\nstopped", 130)
    except Exception as error:
        if (line := _in_one_line(error, flags)) is None:
            raise
        return _ended(f"error: {with_flags(line, flags)}", 2)


def _ended(line: str, code: int) -> int:
    with suppress(OSError):  # standard error is closed
        print(line, file=sys.stderr)
    return code


def _flush(stream: TextIO) -> None:
    """Flushes a stream. If it fails, the rest is discarded: Python would report the error again at its end."""
    try:
        stream.flush()
    except OSError as error:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        error.filename = "standard output"
        raise


def _in_one_line(error: Exception, flags: argparse.ArgumentParser) -> str | None:
    """The message for wrong input, errors of the file system, and too little memory. None for other errors: bugs."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        file = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return f"{error.strerror}{file}" if error.strerror else str(error).partition("\n")[0]
    if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":  # TensorFlow's
        return None
    wanted = re.search(r"Unable to allocate .*|tensor with shape\[.*?\]", str(error))
    if not wanted and (full := re.search(r"(/.*); (.*)", str(error))):
        return f"{full[2].partition(' [Op:')[0]}: {full[1]}"
    advice = ", ".join(f"`{name}`" for name in LOWERED if _actions(flags, name))
    return f"Too little memory{f' ({wanted[0]})' if wanted else ''}" + (f": lower one of {advice}" if advice else "")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints one line instead of the whole usage."""
        self.exit(2, f"error: {message}; {self.prog} --help lists the flags\n")


def parser(docstring: str | None, module: str = "") -> argparse.ArgumentParser:
    """Makes the parser of a command. module: module of the command, by default named after the executed file."""
    return _Parser(
        prog=f"mtmusic {module.rpartition('.')[2].replace('_', '-')}" if module else None,
        description=docstring,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def quieten_tensorflow() -> None:
    """Makes TensorFlow log only errors, if it is imported later and the user has not set its log level."""
    quiet = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3"
    if not any(isinstance(finder, _TensorFlow) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TensorFlow(quiet))
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")


class _TensorFlow(MetaPathFinder):
    """Finds TensorFlow as Python does, and silences its import. Since 2.17 the import ignores the log level."""

    def __init__(self, quiet: bool) -> None:
        self.within = (_without_stderr, _without_gc) if quiet else (_without_gc,)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == "tensorflow" else None
        if spec and isinstance(loader := spec.loader, SourceFileLoader):
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with ExitStack() as stack:
                    for context in self.within:
                        stack.enter_context(context())
                    execute(module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextmanager
def _without_gc() -> Iterator[None]:
    """Disables garbage collection. It takes a fifth of the time of TensorFlow's import, and finds nearly nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Discards standard error, including the output of compiled code."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def prepare_streams() -> None:
    """Makes standard output and standard error safe for names of songs in any language.

    Characters that the terminal's encoding lacks are escaped. A closed stream, for example by `2>&-`, is opened to
    /dev/null, because print and libraries would fail or write to another file.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.set_inheritable(nowhere, True)  # worker processes need it too
            setattr(sys, name, os.fdopen(nowhere, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Terminal(logging.Handler):
    """Prints warnings to standard error, and other messages to standard output, above a progress bar if there is one.

    The streams are looked up for each message, so that they can be redirected.
    """

    def __init__(self, flags: argparse.ArgumentParser) -> None:
        super().__init__()
        self.flags = flags

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        write = sys.modules["tqdm"].tqdm.write if "tqdm" in sys.modules else print
        write(with_flags(record.getMessage(), self.flags), file=stream)
        stream.flush()


def with_flags(message: str, flags: argparse.ArgumentParser) -> str:
    """Replaces `argument` and `argument=value` in a message by flags of this command. Other backticks are removed."""

    def shown(found: re.Match[str]) -> str:
        name, equals, text = found[1].partition("=")
        actions = _actions(flags, name)
        if not equals:
            return " or ".join((action.option_strings or [str(action.metavar)])[0] for action in actions) or name
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        return " ".join(_words(actions, value)) or found[1]

    return _harmless(re.sub(r"`([a-z]\w*(?:=[^`\n]+)?)`", shown, message))


def _harmless(message: str) -> str:
    """With control characters as escapes, which file names may hold and a terminal obeys; lines stay lines."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], message)


def command(name: str, **values: Any) -> str:
    """Returns the command line of a command with these values, for example `mtmusic train-genre --data folder`.

    The values are given by destination or flag. None and the command's defaults are left out.
    """
    flags: argparse.ArgumentParser = importlib.import_module(f"mtmusic.cli.{name.replace('-', '_')}").parser()
    if unknown := [one for one in values if not _actions(flags, one)]:
        raise TypeError(f"Expected arguments of {flags.prog}, got {', '.join(unknown)}")
    given = [(_actions(flags, one), value) for one, value in values.items() if value is not None]
    given = [(actions, value) for actions, value in given if all(action.default != value for action in actions)]
    given.sort(key=lambda one: flags._actions.index(one[0][0]))
    return shlex.join([*flags.prog.split(), *(word for actions, value in given for word in _words(actions, value))])


def say_how_to_predict(runs: Iterable[Path | str]) -> None:
    """Prints for each run the command that predicts with it."""
    for run in runs:
        print(f"Predict: {command('predict', songs=['song.mp3'], models=[run])}")


def _actions(flags: argparse.ArgumentParser, name: str) -> list[argparse.Action]:
    """The actions with this destination, or else with this flag."""
    found = [action for action in flags._actions if action.dest == name]
    flag = f"--{name.replace('_', '-')}"
    return found or [action for action in flags._actions if flag in action.option_strings]


def _words(actions: Sequence[argparse.Action], value: Any) -> list[str]:
    """The words that give this value on the command line, by the first action that has it."""
    for action in actions:
        if isinstance(action, argparse.BooleanOptionalAction):
            return [action.option_strings[0 if value else -1]]
        if action.nargs != 0:
            several = value if action.nargs is not None and isinstance(value, list | tuple) else [value]
            return [*action.option_strings[:1], *map(_text, several)]
        if action.const == value:
            return [action.option_strings[0]]
    return []


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={number}" for name, number in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def filled(kind: type[Filled], arguments: argparse.Namespace, **more: Any) -> Filled:
    """Makes a dataclass from `more` and from the given arguments with the names of its fields."""
    names = {field.name for field in fields(kind)}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    return kind(**given | more)


def seed(text: str) -> int:
    """The type of --seed: values that NumPy, scikit-learn and TensorFlow all take."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"expected 0 to {2**32 - 1}, got {text}")
    return value


def add_data_flags(flags: argparse.ArgumentParser, kind: str) -> None:
    flags.add_argument("--data", dest="folder", **FOLDER, help=f"{kind} data folder (default: the demo corpus)")
    add_beat_flag(flags)
    flags.add_argument("--skip-bad", action="store_true", help="leave out clips that cannot be used, and list them")
    add = partial(flags.add_mutually_exclusive_group().add_argument, dest="checks", action="store_const", default="on")
    add("--strict", const="strict", help="also stop at warnings of the data checks")
    add("--skip-checks", const="off", help="use every clip that can be read, without the data checks")


def add_beat_flag(flags: argparse.ArgumentParser) -> None:
    text = "whether the clips are beat-synchronised or at full rate (default: as the folder says)"
    flags.add_argument("--beat", action=argparse.BooleanOptionalAction, help=text)


def add_classes_flag(
    flags: argparse.ArgumentParser, default: str | None = "lab", otherwise: str = "as the model was trained"
) -> None:
    """Adds --classes. otherwise: text of --help if there is no default."""
    flags.add_argument(
        "--classes",
        default=default,
        metavar="lab|all|FILE",
        help="how raw genre names become classes. lab: the lab's mapping of 20 names to 10 classes. all: each name is "
        "a class. FILE: a JSON object that maps each name to a class, or to null to leave its clips out "
        f"(default: {default or otherwise})",
    )


def add_rate_flags(flags: argparse.ArgumentParser) -> None:
    add = partial(flags.add_mutually_exclusive_group().add_argument, dest="rate", action="store_const", default="full")
    add("--beat", const="beat", help="write beat-synchronised arrays (default: full-rate ones)")
    add("--both", const="both", help="write full-rate and beat-synchronised arrays")


def add_jobs_flags(flags: argparse.ArgumentParser, scheduler: bool = True) -> None:
    flags.add_argument("--jobs", **NUMBER, help="number of worker processes (default: one per core)")
    if scheduler:
        text = "use this dask.distributed cluster instead of processes of this machine"
        flags.add_argument("--scheduler", metavar="tcp://HOST:PORT", help=text)


def add_library_flags(flags: argparse.ArgumentParser, out: str, required: bool = False) -> None:
    """Adds the flags of commands that write a table of songs. out: the help of --out."""
    flags.add_argument("--out", type=Path, metavar="OUT", required=required, help=out)
    flags.add_argument("--retry-failed", action="store_true", help="try songs again that failed before")
    add_jobs_flags(flags)
    flags.add_argument("--overwrite", action="store_true", help="replace existing output")


def add_seed_flag(flags: argparse.ArgumentParser, what: str = "random seed") -> None:
    flags.add_argument("--seed", type=seed, default=0, help=f"{what} (default: 0)")


def add_recipe_flag(flags: Any, several: bool = False) -> None:
    flags.add_argument(
        "--recipe",
        metavar="NAME",
        help="named settings: lab-cnn, lab-lstm, leader (the lab's best published solution), kernel (a kernel machine "
        "on statistics of clips), pretrained (a head on the pretrained trunk, see get-pretrained) or best (pretrained "
        "on full-rate clips, kernel on beat-synchronised ones). "
        + (
            "Several recipes are compared"
            if several
            else "The flags below replace single settings. With --from, only the settings of the training are used"
        ),
        **({"dest": "recipes", "nargs": "+", "action": "extend", "default": []} if several else {}),
    )


def add_training_flags(flags: argparse.ArgumentParser) -> None:
    """Adds the settings of the recipe. A setting that is not given is None, so that the recipe's value is used."""
    group = flags.add_argument_group("network and training")
    add = partial(group.add_argument, default=argparse.SUPPRESS)
    add_recipe_flag(group)
    add(
        "--backbone",
        choices=("cnn", "lstm", "statistics"),
        help="(default: cnn, or the backbone of --from)",
    )
    text = "the network's input (default: mel; for statistics: fused)"
    add("--feature", choices=("mel", "chroma", "fused"), help=text)
    add(
        "--frames",
        **NUMBER,
        help="cut or pad clips to N frames (default for cnn: 128, or 96 for affect, in a beat-synchronised folder, and "
        "1280 in a full-rate folder; other backbones take any length)",
    )
    pooled = "cnn: flatten the last layer, as the lab does, or average it over the frames that are not padding "
    pooled += "(default: flatten; mtmusic train-affect: masked)"
    add("--pooling", choices=("flatten", "masked"), help=pooled)
    add("--units", **NUMBER, help="lstm: number of units (default: 128)")
    add("--layers", **NUMBER, help="lstm: number of layers (default: 1)")
    add("--bidirectional", action="store_true", help="lstm: read the clip in both directions")
    text = "largest number of epochs (default: 100, and 300 for kernel, leader and pretrained). A training stops "
    text += "earlier if it does not improve: after 15 epochs, 25 for kernel and pretrained, 5 or more for leader"
    add("--epochs", **NUMBER, help=text)
    text = "clips per step (default: 32; cnn of mtmusic train-affect: 16; training of a trunk: 4)"
    add("--batch-size", **NUMBER, help=text)
    add(
        "--learning-rate",
        type=float,
        metavar="X",
        help="Adam's learning rate (default: 0.001; statistics and a head on the trunk: 0.02; the trunk: 0.0001)",
    )
    add_precision_flag(group, default=argparse.SUPPRESS)


def add_precision_flag(flags: Any, default: str | None = None) -> None:
    text = "the networks' number format. Weights, normalisation, heads and losses stay float32 (default: float32)"
    flags.add_argument("--precision", choices=("float32", "bfloat16"), default=default, help=text)


def add_devices_flag(flags: argparse.ArgumentParser) -> None:
    text = "split each batch across N GPUs of this machine, or all of them. The result matches one device, except for "
    text += "rounding (default: 1)"
    flags.add_argument("--devices", default="1", metavar="N|all", help=text)


def add_run_flags(flags: argparse.ArgumentParser, out: str, source: Path | None = None) -> None:
    """Adds the flags of a training. out: text of --help for the default of --out. source: the default of --from."""
    add = flags.add_argument
    text = "share of the train clips that is held out to choose the epoch, if the folder has no validation split "
    text += "(default: 0.2)"
    add("--validation", **SHARE, help=text)
    add("--subset", **NUMBER, help="train on a stratified subset of N clips, for debugging")
    add_seed_flag(flags)
    add("--overfit-batch", action="store_true", help="first check that the network can overfit three batches")
    add(
        "--retrain-on-all",
        action="store_true",
        help="after the evaluation train a second model for the best number of epochs on train and validation, and "
        "on test clips if they were held out of the labelled clips. The second model is saved",
    )
    add_source_flags(flags, source)
    again = flags.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    again.add_argument("--overwrite", action="store_true", help="replace a finished run")
    add_devices_flag(flags)
    add("--verbose", action="store_true", help="print a line per epoch (default: one progress line)")
    add("--tensorboard", action="store_true", help="write TensorBoard logs into the run's folder")
    add("--out", **DIR, help=f"the run's folder (default: {out})")


def add_source_flags(flags: argparse.ArgumentParser, source: Path | None = None) -> None:
    """Adds the flags for the backbone that a training starts from, and its loaded and frozen blocks."""
    add, start = flags.add_argument, f"start from this run's backbone (default: {source or 'random weights'})"
    add("--from", dest="source", default=source, **RUN, help=start)
    text = "load the weights of all blocks of that backbone, or of its first N blocks. The other blocks start from "
    text += "random weights (default: all)"
    add("--transfer", default="all", metavar="all|N", help=text)
    text = "freeze all blocks of that backbone, none, or its first N blocks (default: none; all for a pretrained "
    text += "trunk, and with --unfreeze-after)"
    add("--freeze", metavar="all|none|N", help=text)
    text = "after N epochs unfreeze the backbone, and train everything at a tenth of the learning rate (default: never)"
    add("--unfreeze-after", **NUMBER, help=text)


def add_affect_flags(flags: argparse.ArgumentParser) -> None:
    add = flags.add_argument
    text = "error of each task in the loss (default: mse)"
    add("--loss", dest="error", choices=("mse", "huber"), default="mse", help=text)
    text = "share of the labelled clips that is held out for the test, if the test split has no labels (default: 0.2)"
    add("--test", **SHARE, help=text)


def load_options(
    arguments: argparse.Namespace, demo_folders: Mapping[bool, str], beat: bool = True, make_demo: bool = True
) -> "LoadOptions":
    """Makes LoadOptions from the data flags. The default folder is that of the demo corpus for `beat`."""
    from mtmusic.cli.extract_features import refuse_songs
    from mtmusic.data.folder import LoadOptions
    from mtmusic.datasets.demo import demo_corpus, demo_corpus_folder

    if (folder := arguments.folder) is None:
        folder = (demo_corpus if make_demo else demo_corpus_folder)() / demo_folders[beat]
    refuse_songs(folder, genres="classes" in arguments)
    return filled(LoadOptions, arguments, folder=folder)


def train_options(
    arguments: argparse.Namespace,
    demo_folders: Mapping[bool, str],
    recipes: "Mapping[str, Recipe]",
    multitask: bool = False,
) -> "TrainOptions":
    """Makes TrainOptions from the training flags. recipes: the default recipe of each backbone."""
    from mtmusic.data.labels import is_beat_synchronised
    from mtmusic.training.recipes import choose_recipe
    from mtmusic.training.train import TrainOptions, refuse_early

    settings = _recipe_settings(arguments)
    data = load_options(arguments, demo_folders, make_demo=False)
    beat = data.beat if data.beat is not None else is_beat_synchronised(data.folder)
    recipe = choose_recipe(arguments.recipe, settings, recipes, multitask, arguments.source, beat=bool(beat))
    options = filled(
        TrainOptions,
        arguments,
        recipe=recipe,
        data=data,
        progress=True,
    )
    if arguments.folder is None:
        refuse_early(options)  # before the demo corpus is made, which takes time
        load_options(arguments, demo_folders)
    return options


def _recipe_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given in addition to the recipe's name. Raises UserError for settings of the source."""
    shaping = ("backbone", "feature", "pooling", "units", "layers", "bidirectional")
    given = vars(arguments)
    if arguments.source is not None and (fixed := [name for name in shaping if name in given]):
        raise UserError(f"Expected `source` without `{fixed[0]}`: {arguments.source} defines the backbone")
    names = (*shaping, "frames", "epochs", "batch_size", "learning_rate", "precision")
    return {name: given[name] for name in names if name in given}

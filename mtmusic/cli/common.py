"""What the scripts share: flags, and errors in one line. Only the standard library is imported here."""

import argparse
import functools
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mtmusic.errors import UserError

Main = Callable[[Sequence[str] | None], int]


def reports_errors(main: Main) -> Main:
    """What the user can mend is said on standard error, without a traceback, and ends with exit code 2."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except OSError as error:  # a folder that cannot be written, a full disk
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 130

    return wrapped


def parser(docstring: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def parse(flags: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; afterwards TensorFlow may be imported, and says only what concerns the user."""
    arguments = flags.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    return arguments


def seed(text: str) -> int:
    """The type of --seed: what NumPy, scikit-learn and TensorFlow all take."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"expected 0 to {2**32 - 1}, got {text}")
    return value


def command(script: str, argv: Sequence[str] | None) -> str:
    """The command that repeats this call."""
    return shlex.join(["python", f"scripts/{Path(script).name}", *(sys.argv[1:] if argv is None else argv)])


def add_data_flags(flags: argparse.ArgumentParser, kind: str) -> None:
    flags.add_argument("--data", type=Path, metavar="FOLDER", help=f"{kind} data folder (default: the demo corpus)")
    add_beat_flag(flags)
    flags.add_argument("--skip-bad", action="store_true", help="leave out clips that cannot be used, and list them")
    checks = flags.add_mutually_exclusive_group()
    checks.add_argument(
        "--strict",
        dest="checks",
        action="store_const",
        const="strict",
        default="on",
        help="stop on what the data checks warn of, too",
    )
    checks.add_argument(
        "--no-validate",
        dest="checks",
        action="store_const",
        const="off",
        help="use whatever can be read, without looking for what cannot be right",
    )


def add_beat_flag(flags: argparse.ArgumentParser) -> None:
    flags.add_argument(
        "--beat",
        action=argparse.BooleanOptionalAction,
        help="the clips are beat-synchronised, or full rate (default: told from the folder)",
    )


def add_classes_flag(
    flags: argparse.ArgumentParser, default: str | None = "lab", otherwise: str = "as the model was trained"
) -> None:
    """otherwise: what --help says of no default."""
    flags.add_argument(
        "--classes",
        default=default,
        metavar="lab|all|FILE",
        help="raw genre names to classes: the lab's 20 to 10, each its own, or by a JSON file of raw name to class or "
        f"null (default: {default or otherwise})",
    )


def add_recipe_flag(flags: Any, several: bool = False) -> None:
    flags.add_argument(
        "--recipe",
        metavar="NAME",
        help="named settings: lab-cnn, lab-lstm, leader (the lab's best published solution), kernel (a kernel machine "
        "on statistics of clips) or best (the best known: kernel)"
        + ("; several are compared" if several else "; the flags below change some. With --from: how to train"),
        **({"nargs": "+", "action": "extend", "default": []} if several else {}),
    )


def add_training_flags(flags: argparse.ArgumentParser) -> None:
    """The recipe's settings; those that are not given stay out, so that the recipe's own hold."""
    recipe = flags.add_argument_group("network and training")

    def add(name: str, **kwargs: Any) -> None:
        recipe.add_argument(name, default=argparse.SUPPRESS, **kwargs)

    add_recipe_flag(recipe)
    add("--backbone", choices=("cnn", "lstm", "statistics"), help="(default: cnn, or that of --from)")
    add(
        "--feature",
        choices=("mel", "chroma", "fused"),
        help="what the network hears (default: mel; statistics: fused)",
    )
    add(
        "--frames",
        type=int,
        metavar="N",
        help="cut or pad clips to N frames (default: cnn 128, or 96 for affect, for beat-synchronised "
        "folders and 1280 for full rate; else any length)",
    )
    add(
        "--pooling",
        choices=("flatten", "masked"),
        help="cnn: the lab's, or the mean over real frames (default: flatten; train_affect.py: masked)",
    )
    add("--units", type=int, metavar="N", help="lstm: units (default: 128)")
    add("--layers", type=int, metavar="N", help="lstm: layers (default: 1)")
    add("--bidirectional", action="store_true", help="lstm: read the clip from both ends")
    add("--epochs", type=int, metavar="N", help="at most this many (default: 100; stops after 15 without a better one)")
    add("--batch-size", type=int, metavar="N", help="clips a step (default: 32; train_affect's cnn: 16)")
    add("--learning-rate", type=float, metavar="X", help="Adam's (default: 0.001; statistics: 0.02)")
    add_precision_flag(recipe, default=argparse.SUPPRESS)


def add_precision_flag(flags: Any, default: str | None = None) -> None:
    flags.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default=default,
        help="what networks compute in; weights, normalisation, heads and losses stay float32 (default: float32)",
    )


def add_devices_flag(flags: argparse.ArgumentParser) -> None:
    flags.add_argument(
        "--devices",
        default="1",
        metavar="N|all",
        help="part each batch among N of this machine's GPUs, or all of them; the result is that of one (default: 1)",
    )


def add_run_flags(flags: argparse.ArgumentParser, out: str, source: Path | None = None) -> None:
    """out: what --help says of the default. source: the default of --from."""
    flags.add_argument(
        "--validation",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="of train held out to choose the epoch, where the folder has no validation split (default: 0.2)",
    )
    flags.add_argument("--subset", type=int, metavar="N", help="train on N clips, stratified: for debugging")
    flags.add_argument("--seed", type=seed, default=0, help="(default: 0)")
    flags.add_argument(
        "--overfit-batch", action="store_true", help="first check that the network can learn three batches by heart"
    )
    flags.add_argument(
        "--retrain-on-all",
        action="store_true",
        help="then train anew on train and validation, and on a held-out test part once the first model was judged on "
        "it, for the best number of epochs; that model is saved",
    )
    _add_source_flags(flags, source)
    again = flags.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    again.add_argument("--overwrite", action="store_true", help="put the new run in the place of a finished one")
    add_devices_flag(flags)
    flags.add_argument("--tensorboard", action="store_true", help="write TensorBoard logs into the run's folder")
    flags.add_argument("--out", type=Path, metavar="DIR", help=f"the run's folder (default: {out})")


def _add_source_flags(flags: argparse.ArgumentParser, source: Path | None) -> None:
    """The backbone that a training starts from, and what of it is kept."""
    flags.add_argument(
        "--from",
        dest="source",
        type=Path,
        default=source,
        metavar="RUN",
        help=f"start from this run's backbone (default: {source or 'fresh weights'})",
    )
    flags.add_argument(
        "--transfer",
        default="all",
        metavar="all|N",
        help="of that backbone's weights: take all, or those of its first N blocks; the others start fresh "
        "(default: all)",
    )
    flags.add_argument(
        "--freeze",
        metavar="all|none|N",
        help="of that backbone: keep all, or its first N blocks, as is (default: none; with --unfreeze-after: all)",
    )
    flags.add_argument(
        "--unfreeze-after",
        type=int,
        metavar="N",
        help="after N epochs train all of the backbone too, at a tenth of the rate (default: never)",
    )


def add_affect_flags(flags: argparse.ArgumentParser) -> None:
    flags.add_argument(
        "--loss", dest="error", choices=("mse", "huber"), default="mse", help="of each task (default: mse)"
    )
    flags.add_argument(
        "--test",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="of the labelled clips held out to judge by, where the test split has no labels (default: 0.2)",
    )


def run_options(arguments: argparse.Namespace, script: str, argv: Sequence[str] | None) -> dict[str, Any]:
    """The fields of jobs.training.TrainOptions but for the recipe."""
    names = (
        "out", "data", "source", "transfer", "unfreeze_after", "beat", "validation", "subset", "seed", "overfit_batch",
        "retrain_on_all", "skip_bad", "checks", "resume", "overwrite", "tensorboard", "devices",
    )  # fmt: skip
    freeze = arguments.freeze or ("none" if arguments.unfreeze_after is None else "all")
    return {name: getattr(arguments, name) for name in names} | {"freeze": freeze, "command": command(script, argv)}


def recipe_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What of the recipe was given beside its name. Raises UserError for a setting that --from has already."""
    shaping = ("backbone", "feature", "pooling", "units", "layers", "bidirectional")
    given = vars(arguments)
    if arguments.source is not None and (fixed := [name for name in shaping if name in given]):
        raise UserError(f"Expected --from without --{fixed[0]}: the backbone comes as {arguments.source} has it")
    names = (*shaping, "frames", "epochs", "batch_size", "learning_rate", "precision")
    return {name: given[name] for name in names if name in given}

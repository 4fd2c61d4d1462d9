"""What the terminal shows of a library that knows neither terminal nor flags."""

import argparse
import contextlib
import io
import logging
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tqdm import tqdm

from mtmusic.cli import common, cross_validate, extract_features, reproduce_lab, train_affect, train_genre
from mtmusic.errors import UserError

logger = logging.getLogger("mtmusic.training.train")


class ResourceExhaustedError(Exception):
    """As TensorFlow's, which takes seconds to import."""


def parser() -> argparse.ArgumentParser:
    flags = common.parser("Runs.", "mtmusic.cli.try_it")
    flags.add_argument("--epochs", type=int, default=1)
    return flags


def runs(body):
    """A command that does this."""
    return common.entry_point(parser)(body)


def raising(error: BaseException):
    def body(arguments):
        raise error

    return runs(body)


# --- what is logged, and what goes wrong


def test_messages_go_to_standard_output_and_warnings_to_standard_error(capsys):
    def body(arguments):
        logger.debug("nothing")
        logger.info("Folder: %s", "here")
        logger.warning("warning: `epochs` is %d", arguments.epochs)
        logging.getLogger("other").warning("not ours")

    assert runs(body)(["--epochs", "3"]) == 0
    assert capsys.readouterr() == ("Folder: here\n", "warning: --epochs is 3\n")
    logger.info("after the command")
    assert capsys.readouterr() == ("", "")


def test_the_streams_are_those_of_the_moment(capsys):
    log = io.StringIO()

    def body(arguments):
        logger.info("before")
        with contextlib.redirect_stdout(log):
            logger.info("into the log")

    for _ in range(2):
        runs(body)([])
    assert log.getvalue() == "into the log\n" * 2
    assert capsys.readouterr().out == "before\n" * 2


def test_a_message_does_not_tear_a_progress_bar(capsys):
    def body(arguments):
        with tqdm(total=2, file=sys.stderr, ascii=True) as bar:
            bar.update()
            logger.warning("warning: a song is short")

    runs(body)([])
    assert "\nwarning: a song is short\n" in capsys.readouterr().err.replace("\r", "\n")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("Expected `epochs` of 1 or more, got 0"), 2, "error: Expected --epochs of 1 or more, got 0\n"),
        (PermissionError(13, "Permission denied", "run"), 2, "error: Permission denied: run\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (OSError("[Errno 28] Can't write data (file write failed: time = noon\n, offset = 9)"), 2,
         "error: [Errno 28] Can't write data (file write failed: time = noon\n"),
        (MemoryError("Unable to allocate 5 GiB for an array"), 2,
         "error: Too little memory (Unable to allocate 5 GiB for an array): lower one of --epochs\n"),
        (MemoryError(), 2, "error: Too little memory: lower one of --epochs\n"),
        (ResourceExhaustedError("{{node a}} /run/events.v2; No space left on device\n\tFailed to flush [Op:Flush]"), 2,
         "error: No space left on device: /run/events.v2\n"),
        (ResourceExhaustedError("{{node a}} /run/data-0; No space left on device [Op:SaveV2]"), 2,
         "error: No space left on device: /run/data-0\n"),
        (ResourceExhaustedError("Graph execution error:\n\nOOM when allocating tensor with shape[3,4] and type"), 2,
         "error: Too little memory (tensor with shape[3,4]): lower one of --epochs\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_said_without_a_traceback(capsys, monkeypatch, error, code, told):
    monkeypatch.setattr(common, "LOWERED", ("batch_size", "epochs"))
    assert raising(error)([]) == code
    assert capsys.readouterr() == ("", told)


def test_an_argument_that_is_refused_is_named_in_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        runs(print)(["--epochs", "x"])
    line = "error: argument --epochs: invalid int value: 'x'; mtmusic try-it --help lists the flags\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("body", [print, lambda arguments: logger.info("a message")])
def test_without_a_reader_it_ends_without_a_word(capsys, monkeypatch, body):
    """As `mtmusic ... | true`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert runs(body)([]) == 141
        nobody.flush()  # as Python does at its end
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_standard_output(capsys, monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert runs(print)([]) == 2
        full.flush()
    assert capsys.readouterr().err == "error: No space left on device: standard output\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(capsys, monkeypatch, name):
    def body(arguments):
        print("out")
        print("err", file=sys.stderr)
        logger.info("a message")
        logger.warning("a warning")
        with tqdm(total=1) as bar:
            bar.update()

    monkeypatch.setattr(sys, name, None)
    assert runs(body)([]) == 0
    opened = getattr(sys, name)
    printed = capsys.readouterr()
    assert printed.out == ("" if name == "stdout" else "out\na message\n")
    assert printed.err.startswith("" if name == "stderr" else "err\na warning\n")
    opened.close()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_name_that_the_terminal_cannot_show_is_escaped(monkeypatch, encoding):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def body(arguments):
        logger.info("夜.mp3 \udce9")
        raise UserError("夜")

    assert runs(body)([]) == 2
    night = "夜" if encoding == "utf-8" else "\\u591c"
    for stream, expected in ((out, f"{night}.mp3 \\udce9\n"), (err, f"error: {night}\n")):
        stream.flush()
        assert stream.buffer.getvalue().decode(encoding) == expected


def test_a_name_does_not_command_the_terminal(capsys):
    def body(arguments):
        logger.info("a\x1b[31m\x9b\r.mp3\n\tnext line")
        raise UserError("no \x1b]0;title\x07.mp3")

    assert runs(body)([]) == 2
    assert capsys.readouterr() == ("a\\x1b[31m\\x9b\\r.mp3\n\tnext line\n", "error: no \\x1b]0;title\\x07.mp3\n")


def test_other_errors_keep_their_traceback():
    with pytest.raises(ValueError, match="a fault of ours"):
        raising(ValueError("a fault of ours"))([])
    assert logging.getLogger("mtmusic").handlers == []


def test_the_exit_code_and_the_call_are_the_commands():
    assert runs(lambda arguments: 1)([]) == 1
    assert runs(lambda arguments: None)([]) == 0
    seen = []
    runs(lambda arguments: seen.append(arguments.command))(["--epochs", "3"])
    assert seen == ["mtmusic try-it --epochs 3"]


# --- arguments as flags


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`epochs` of 1 or more, got `epochs=0`", "--epochs of 1 or more, got --epochs 0"),
        ("`overwrite=True` replaces it, `out` writes elsewhere", "--overwrite replaces it, --out writes elsewhere"),
        ("`beat=True` or `beat=False`", "--beat or --no-beat"),
        ('`checks="off"` goes on all the same', "--skip-checks goes on all the same"),
        ("other `checks`", "other --strict or --skip-checks"),
        ("`source` with `folder`", "--from with --data"),
        ('`freeze="all"` or `learning_rate=0.1`', "--freeze all or --learning-rate 0.1"),
        ("lower `batch_size` or `data`", "lower --batch-size or --data"),
        ('`split="train"`, `n_fft` and `unknown`', 'split="train", n_fft and unknown'),
        ("`mtmusic predict` needs it, `out` does not", "`mtmusic predict` needs it, --out does not"),
        ("Expected `epochs`\nor `seed`", "Expected --epochs\nor --seed"),
        ("`checks=on`", "checks=on"),
    ],
)
def test_arguments_are_shown_as_flags(message, shown):
    assert common.with_flags(message, train_genre.parser()) == shown


def test_positional_arguments_are_shown_as_help_has_them():
    message = 'another `out`, `rate="both"`, `rate="beat"` or `songs`'
    assert common.with_flags(message, extract_features.parser()) == "another DATA_FOLDER, --both, --beat or SONGS"


# --- values as a command line


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("train-genre", {}, "mtmusic train-genre"),
        ("train_genre", {"folder": Path("a b"), "epochs": 3}, "mtmusic train-genre --data 'a b' --epochs 3"),
        ("train-genre", {"data": "x", "seed": 0, "source": None, "transfer": "all"}, "mtmusic train-genre --data x"),
        ("train-genre", {"checks": "off", "beat": False}, "mtmusic train-genre --no-beat --skip-checks"),
        ("train-genre", {"bidirectional": True, "resume": False}, "mtmusic train-genre --bidirectional"),
        ("train-genre", {"learning_rate": 1e-3, "freeze": "2"}, "mtmusic train-genre --learning-rate 0.001 --freeze 2"),
        ("train-affect", {"weights": {"a": 0.5, "b": 1}}, "mtmusic train-affect --weights a=0.5,b=1"),
        ("train-affect", {"error": "huber", "tasks": ("energy",)}, "mtmusic train-affect --task energy --loss huber"),
        ("predict", {"models": ["m", "n"], "songs": ["s"]}, "mtmusic predict s --model m n"),
        ("finetune-valence", {"source": Path("saved_models/genre_cnn")}, "mtmusic finetune-valence"),
        ("cross-validate", {"recipes": ("best",)}, "mtmusic cross-validate --recipe best"),
        ("reproduce-lab", {"steps": (5, 7), "quick": True}, "mtmusic reproduce-lab --quick --steps 5,7"),
    ],
)
def test_a_command_has_what_is_not_its_default(name, values, line):
    assert common.command(name, **values) == line


@pytest.mark.parametrize(
    ("module", "values"),
    [
        (
            train_genre,
            {"folder": Path("a b"), "beat": False, "checks": "strict", "units": 8, "resume": True, "seed": 3},
        ),
        (train_affect, {"tasks": ["energy"], "error": "huber", "source": Path("run"), "freeze": "all"}),
        (train_affect, {"multitask": True, "weights": {"valence": 0.4, "energy": 0.25}}),
        (cross_validate, {"recipes": ["best", "leader"], "baseline": True, "groups": Path("groups.csv")}),
        (extract_features, {"songs": [Path("a"), Path("it's")], "out": Path("data"), "rate": "both", "duration": 12.5}),
        (reproduce_lab, {"steps": (1, 5, 6, 7), "seeds": 2, "precision": "bfloat16"}),
    ],
)
def test_a_command_that_is_parsed_gives_its_values_again(module, values):
    program, name, *words = shlex.split(common.command(module.__name__.rpartition(".")[2], **values))
    assert program == "mtmusic"
    given = vars(module.parser().parse_args(words))
    assert {name: given[name] for name in values} == values
    assert name.replace("-", "_") == module.__name__.rpartition(".")[2]


def test_a_command_knows_its_arguments():
    with pytest.raises(TypeError, match="Expected arguments of mtmusic predict, got epochs"):
        common.command("predict", epochs=3)


# --- dataclasses


@dataclass(frozen=True)
class Options:
    epochs: int = 5
    out: str = "here"


def test_options_are_filled_with_what_was_given():
    arguments = argparse.Namespace(epochs=None, out="there", other=1)
    assert common.filled(Options, arguments) == Options(5, "there")
    assert common.filled(Options, arguments, epochs=2) == Options(2, "there")


@pytest.mark.parametrize("text", ["-1", "4294967296", "x"])
def test_a_seed_is_one_that_every_library_takes(capsys, text):
    with pytest.raises(SystemExit, match="2"):
        train_genre.parser().parse_args([f"--seed={text}"])
    assert "--seed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "x", "7-5", "1,,2"])
def test_steps_are_ranges_of_numbers(capsys, text):
    with pytest.raises(SystemExit, match="2"):
        reproduce_lab.parser().parse_args([f"--steps={text}"])
    assert "argument --steps: expected steps such as 1-11 or 5,7-9" in capsys.readouterr().err


def test_tensorflow_writes_nothing_as_it_is_imported():
    """From 2.17 on it does, whatever its log level; what comes after the import is shown."""
    program = (
        "import gc, os; from mtmusic.cli import common; common.quieten_tensorflow(); common.quieten_tensorflow(); "
        "import keras; os.write(2, b'after'); assert gc.isenabled() and gc.get_freeze_count() > 100_000"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, env=environment)
    assert run.stderr == "after"

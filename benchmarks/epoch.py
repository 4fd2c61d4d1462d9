"""Times a whole training epoch: clips batched by length, as in a training, against clips padded to the longest one.

    python benchmarks/epoch.py --peer FOLDER --peer-python PATH
    python benchmarks/epoch.py --only cnn --clips 2305 --json epoch.json

The clips are synthetic mel spectrograms with the lengths of the lab's 2305 beat-synchronised training clips: 14 to 129
frames, mean 60, standard deviation 15, 10 classes. The networks are the lab's LSTM and the CNN with masked pooling.
They run as in a training: clips are cached in memory, one iterator is used for all epochs, and times are taken from the
second epoch on. The CNN's epoch takes minutes, so by default it has 256 clips, the quantiles of the same lengths. The
LSTM's peer is lab_torch.py in PyTorch, which pads all clips to 129 frames. Its epoch is the time of its step with the
same batch size, times the number of batches. docs/benchmarks.md says how to install the peer.
The program prints a row for each comparison: seconds of our epoch and of the other one, and the ratio ours / other,
which is below 1 if ours is faster. Then it prints the saved share of a padded epoch, with our layers and with Keras's
LSTM.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab_folder import LAB_CLIPS, lab_lengths, write_clips
from peer import add_torch_flags, run_torch, torch_program

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

CLIPS = {"lstm": LAB_CLIPS, "cnn": 256}
FEWEST, QUICK_CLIPS, QUICK_SCALE = 4, 24, 8
GOAL = 1 / 3
"""The goal: batches by length save this share of a padded epoch's time."""

PADDED = "ours, padded"
KERAS, KERAS_PADDED = "Keras's LSTM, by length", "Keras's LSTM, padded"
"""Rows with Keras's LSTM instead of ours. Ours skips most of the padding by itself."""

PEERS = {"the peer, packed": (), "the peer, unpacked": ("--unpacked",)}
BATCH, PEER_REPEATS = 32, 7
HEADER = ("network", "clips", "against", "ours, s", "other, s", "ours/other", "min to max")


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    add_torch_flags(flags)
    flags.add_argument("--only", choices=CLIPS, help="time this network only")
    flags.add_argument("--clips", type=int, metavar="N", help="clips per epoch (default: lstm 2305, cnn 256)")
    flags.add_argument("--rounds", type=int, default=7, metavar="N", help="number of rounds (default: 7)")
    flags.add_argument("--quick", action="store_true", help="24 clips with an eighth of the frames, as a test")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")
    if arguments.clips is not None and arguments.clips < FEWEST:
        raise UserError(f"Expected --clips of {FEWEST} or more, got {arguments.clips}")
    names = [arguments.only] if arguments.only else list(CLIPS)
    program = torch_program(arguments) if "lstm" in names else []

    print(_line(HEADER))
    measured, rows = {}, []
    for name in names:
        clips = arguments.clips or (QUICK_CLIPS if arguments.quick else CLIPS[name])
        scale = QUICK_SCALE if arguments.quick else 1
        measured[name] = _measure(name, clips, scale, arguments.rounds, program)
        found = rows_of(name, clips, measured[name])
        for row in found:
            print(_line(_cells(row)), flush=True)
        rows += found
        if arguments.json:  # after each network, because both take long
            write_json(arguments.json, {"rounds": arguments.rounds, "rows": rows, "seconds": measured})
    for row in rows:
        if row["against"] in (PADDED, KERAS_PADDED):
            print(_verdict(row))


def _measure(name: str, count: int, scale: int, rounds: int, peer: Sequence[str]) -> dict[str, list[float]]:
    """Seconds of an epoch in each round: by length, padded, and for the LSTM with Keras's layer and of the peers."""
    from unittest.mock import patch

    import keras
    import numpy as np

    from mtmusic.models import backbones
    from mtmusic.training.run_folder import seed_everything

    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    seed_everything(0)  # as in a training
    lengths, batch = lab_lengths(count, scale), min(BATCH, max(1, count // 8))
    with tempfile.TemporaryDirectory() as temporary:
        clips = write_clips(Path(temporary), lengths, np.random.default_rng(0))
        epochs = {"by length": _epoch(name, clips, batch, None), PADDED: _epoch(name, clips, batch, max(lengths))}
        if name == "lstm":
            with patch.object(backbones, "LastStateLSTM", keras.layers.LSTM):
                epochs |= {KERAS: _epoch(name, clips, batch, None)}
                epochs |= {KERAS_PADDED: _epoch(name, clips, batch, max(lengths))}
        for epoch in epochs.values():
            epoch()  # compiles, and fills the cache
        seconds: dict[str, list[float]] = {}
        for number in range(1, rounds + 1):
            print(f"{name}: round {number} of {rounds}", file=sys.stderr, flush=True)
            for way, epoch in epochs.items():
                seconds.setdefault(way, []).append(_timed(epoch))
            for way, added in PEERS.items() if name == "lstm" else ():
                seconds.setdefault(way, []).append(_peer_epoch(count, batch, max(lengths), added, peer))
    return seconds


def _epoch(name: str, clips: Any, batch: int, frames: int | None) -> Callable[[], None]:
    """Returns a function that trains for one epoch with the loop of model.fit. frames: padded length of all clips."""
    from dataclasses import replace

    from mtmusic.models.heads import genre_classifier
    from mtmusic.training import train as training
    from mtmusic.training.recipes import LAB_CNN, LAB_LSTM, build_backbone

    recipe = LAB_LSTM if name == "lstm" else replace(LAB_CNN, pooling="masked")
    recipe = replace(recipe, batch_size=batch)
    model = genre_classifier(build_backbone(recipe), clips.classes)
    dataset = training.batches_of(clips, replace(recipe, frames=frames), shuffle=True, seed=0)
    model.make_train_function()
    batches, steps = iter(dataset.repeat()), int(dataset.cardinality())  # as in training.fit

    def epoch() -> None:
        for _ in range(steps):
            float(model.train_function(batches)["loss"])  # waits for the step

    return epoch


def _timed(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peer_epoch(clips: int, batch: int, frames: int, added: Sequence[str], peer: Sequence[str]) -> float:
    """The time of the peer's step with this number of frames, times the batches of an epoch."""
    sizes = ("--batch", batch, "--frames", frames, "--repeats", PEER_REPEATS)
    return run_torch(peer, "lstm", *sizes, "--varied", *added)["step_seconds"] * math.ceil(clips / batch)


def rows_of(name: str, clips: int, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each epoch that is compared with ours by length. Values and ratios are medians over the rounds."""
    ours = seconds["by length"]
    rows = []
    for way in list(seconds)[1:]:
        ratios = [a / b for a, b in zip(ours, seconds[way], strict=True)]
        rows.append(
            {
                "network": name,
                "clips": clips,
                "against": way,
                "ours_seconds": statistics.median(ours),
                "other_seconds": statistics.median(seconds[way]),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
        )
    return rows


def _verdict(row: dict[str, Any]) -> str:
    saved = 1 - row["ratio"]
    share = "" if row["clips"] == LAB_CLIPS else f" ({row['clips']} clips that stand for the lab's {LAB_CLIPS})"
    word = "reached" if saved >= GOAL else "missed"
    return f"{row['network']}: saves {saved:.0%} of an epoch of {row['against']}{share}; the goal of a third is {word}"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    seconds = [f"{row[key]:.2f}" for key in ("ours_seconds", "other_seconds")]
    spread = f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
    return (row["network"], str(row["clips"]), row["against"], *seconds, f"{row['ratio']:.2f}", spread)


def _line(cells: Sequence[str]) -> str:
    return "{:<8} {:>6} {:<23} {:>8} {:>8} {:>10}  {}".format(*cells)


if __name__ == "__main__":
    sys.exit(main())

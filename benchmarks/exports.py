"""Compares a model's exports: the difference of their answers to the model's, and the time per clip in their runtimes.

    python benchmarks/exports.py
    python benchmarks/exports.py --rounds 20 --json exports.json

The models are the lab's CNN on 128 beats, a masked CNN for genre, a masked CNN for three tasks, and an LSTM on 30 s at
full rate, all with random weights, and mood_musicnn on 30 s of logmel. `mtmusic get-pretrained` downloads the trunk of
mood_musicnn. Without it this row is left out. Each model is exported as a SavedModel, to LiteRT and to ONNX, and opened
in its runtime with the default number of threads. The formats predict one clip at a time, in turn. The program needs
the packages of the extra `export`.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

if TYPE_CHECKING:
    import keras

CLIPS = 3
BEATS, FRAMES, LOGMEL_FRAMES, QUICK_FRAMES = 128, 1292, 1875, 200
TRUNK_HEAD = "mood_musicnn"
FORMATS = {"savedmodel": "SavedModel", "litert": "LiteRT", "onnx": "ONNX"}


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="number of rounds, of which medians are taken (default: 10)"
    )
    flags.add_argument("--quick", action="store_true", help="small networks, short clips and one round, as a test")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")
    from mtmusic.models.conversion import FILES, require_packages

    for kind in FILES:
        require_packages(kind)
    rows = []
    print("| model | format | largest difference | ms a clip | time, SavedModel 1 | MB |\n|---|---|---|---|---|---|")
    for name, build in models(arguments.quick).items():
        try:
            model, card, frames = build()
        except UserError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        for row in measure(name, model, card, frames, 1 if arguments.quick else arguments.rounds):
            rows.append(row)
            print(
                f"| {name} | {FORMATS[row['format']]} | {row['difference']:.1g} | {row['milliseconds']:.3g} | "
                f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f}) | {row['megabytes']:.2g} |",
                flush=True,
            )
    if arguments.json:
        write_json(arguments.json, {"rounds": arguments.rounds, "rows": rows})


def models(quick: bool) -> dict[str, Callable[[], tuple["keras.Model", dict[str, Any], int]]]:
    """For each name a function that returns the model, its card, and the number of frames of the clips."""
    from mtmusic.models.backbones import CNN_BLOCKS, cnn_backbone, lstm_backbone
    from mtmusic.models.heads import genre_classifier, multitask_regressor
    from mtmusic.models.saving import load

    blocks = ((4, 5),) if quick else CNN_BLOCKS
    beats, frames, logmel_frames = [
        min(each, QUICK_FRAMES) if quick else each for each in (BEATS, FRAMES, LOGMEL_FRAMES)
    ]
    classes, tasks = [f"genre {number}" for number in range(10)], ["valence", "energy", "danceability"]
    genre = {"task": "genre", "classes": classes, "feature": "mel", "beat": True, "frames": None}
    affect = {"task": "affect", "targets": tasks, "label_means": dict.fromkeys(tasks, 0.5)}
    affect |= {"feature": "mel", "beat": True, "frames": None}

    def masked() -> "keras.Model":
        return cnn_backbone(pooling="masked", blocks=blocks)

    return {
        "cnn": lambda: (genre_classifier(cnn_backbone(blocks=blocks), classes), genre | {"frames": beats}, beats),
        "masked cnn": lambda: (genre_classifier(masked(), classes), genre, beats),
        "masked cnn, three tasks": lambda: (multitask_regressor(masked(), tasks), affect, beats),
        "lstm": lambda: (genre_classifier(lstm_backbone(units=4 if quick else 128), classes), genre, frames),
        TRUNK_HEAD: lambda: (*load(TRUNK_HEAD), logmel_frames),
    }


def measure(name: str, model: "keras.Model", card: dict[str, Any], frames: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each format: the largest difference, the median milliseconds per clip, their ratios, and the size."""
    import numpy as np

    from mtmusic.models.conversion import FILES, export_converted, open_converted
    from mtmusic.models.savedmodel import export_savedmodel, open_model

    bins = model.input_shape[2]
    low, high = (0, 4) if card["feature"] == "logmel" else (-80, 0)
    examples = np.random.default_rng(0).uniform(low, high, (CLIPS, frames, bins)).astype("float32")
    with tempfile.TemporaryDirectory() as temporary:
        folders = {kind: Path(temporary) / kind for kind in FORMATS}
        differences = {"savedmodel": export_savedmodel(model, card, examples, folders["savedmodel"])}
        differences |= {kind: export_converted(model, card, examples, folders[kind], kind) for kind in FILES}
        asks = {"savedmodel": open_model(folders["savedmodel"]).serve}
        asks |= {kind: open_converted(folders[kind] / file) for kind, file in FILES.items()}
        seconds: dict[str, list[float]] = {kind: [] for kind in FORMATS}
        for number in range(rounds + 1):
            for kind, ask in asks.items():
                start = time.perf_counter()
                ask(examples[:1])
                if number:  # the first round warms up
                    seconds[kind].append(time.perf_counter() - start)
        sizes = {kind: megabytes(folders[kind]) for kind in FORMATS}
    ratios = {
        kind: [one / base for one, base in zip(taken, seconds["savedmodel"], strict=True)]
        for kind, taken in seconds.items()
    }
    return [
        {
            "model": name,
            "format": kind,
            "difference": differences[kind],
            "milliseconds": 1e3 * statistics.median(seconds[kind]),
            "ratio": statistics.median(ratios[kind]),
            "ratio_min": min(ratios[kind]),
            "ratio_max": max(ratios[kind]),
            "megabytes": sizes[kind],
        }
        for kind in FORMATS
    ]


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


if __name__ == "__main__":
    sys.exit(main())

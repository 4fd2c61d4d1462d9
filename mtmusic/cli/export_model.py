"""Exports a run's model to a format that runs without mtmusic: SavedModel, LiteRT or ONNX.

    mtmusic export-model saved_models/genre_cnn
    mtmusic export-model saved_models/genre_cnn --out serving/genre/1      the layout of TensorFlow Serving
    mtmusic export-model saved_models/genre_cnn --format litert            litert/model.tflite
    mtmusic export-model saved_models/genre_cnn --format onnx              onnx/model.onnx

A SavedModel has these signatures:
`serve`, which is also `serving_default`, takes `spectrogram`, float32 (batch, frames, bins), with any number of frames.
Its values are in the arrays' own units, and -1024 fills absent frames. The output of a genre model is `genre`
(batch, classes), probabilities in the card's order. The output of a tag model is `tags` (batch, tags), scores in the
card's order. An affect model has one output (batch, 1) per task, with the task's name.
`embed` takes the same input. Its output is `embedding` (batch, features). For a model on the pretrained trunk these are
the trunk's 753 time means.
A model of full-rate mel or of logmel also has `waveform`. It takes `samples`, float32 (batch, samples), one mono clip
per row, at 22 050 Hz, or for logmel at 16 000 Hz with values from -1 to 1. Its outputs are those of `serve`.
The card is in assets/card.json, with the licences in the same folder.
A LiteRT or ONNX file has the inputs and outputs of `serve`, with the same names. It does not check its input. An LSTM
in LiteRT takes one clip at a time. card.json and the licences are next to the file. Both formats need the packages of
the extra `export`, and a model that computes in float32. They cannot hold the recipe kernel, which uses an
eigendecomposition.
The command loads the export again and compares it with the model on the run's examples. If an answer differs by more
than 1e-4, the export fails and nothing is left behind.
The exit code is 0, or 2 if the command cannot run; a message then says what to do.
"""

import argparse
import signal

from mtmusic.cli import common

FORMATS = ("savedmodel", "litert", "onnx")


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("run", **common.RUN, help="a run's folder or its model.keras")
    text = "format of the export (default: %(default)s)"
    flags.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=text)
    text = "folder of the export (default: saved_model/, litert/ or onnx/ in the run's folder)"
    flags.add_argument("--out", **common.DIR, help=text)
    flags.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.training.export import export_model

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, so that no unfinished file is left
    export_model(arguments.run, arguments.out, arguments.overwrite, arguments.format)

"""Exports a run's model for other programs, which need no mtmusic: TensorFlow, LiteRT or ONNX Runtime.

    mtmusic export-model saved_models/genre_cnn
    mtmusic export-model saved_models/genre_cnn --out serving/genre/1      as TensorFlow Serving wants it
    mtmusic export-model saved_models/genre_cnn --format litert            litert/model.tflite
    mtmusic export-model saved_models/genre_cnn --format onnx              onnx/model.onnx

Signatures of a SavedModel: `serve` (and `serving_default`, the same): input `spectrogram` float32 (batch, frames,
bins), any number of frames, in the arrays' own units, absent frames filled with -1024; output `genre` (batch, classes),
probabilities in the card's order, `tags` (batch, tags), scores in the card's order, or (batch, 1) a task, named after
it. `embed`: the same input, output `embedding` (batch, features), of a model on the pretrained trunk its 753 time
means. `waveform`, for a model of the full-rate mel or of logmel: input `samples` float32 (batch, samples) mono, at
22 050 Hz or for logmel at 16 000 Hz from -1 to 1, each row one clip; the outputs of `serve`.
The card lies in assets/card.json, licences next to it.
A file of LiteRT or ONNX takes and gives what `serve` does, under the same names, and does not check its input. An LSTM
in LiteRT takes one clip at a time. card.json and licences lie next to the file. Both formats need the packages of the
extra `export`. They hold models that compute in float32 and need no eigendecomposition, as the recipe kernel does.
The export is loaded again and compared with the model on the run's examples before it counts: an answer over 1e-4 away
fails, and leaves nothing.
Exit code 0; 2 where it cannot run, with what to do.
"""

import argparse
import signal

from mtmusic.cli import common

FORMATS = ("savedmodel", "litert", "onnx")


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument("run", **common.RUN, help="a run's folder or its model.keras")
    flags.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="(default: %(default)s)")
    flags.add_argument("--out", **common.DIR, help="(default: saved_model/, litert/ or onnx/ in the run's folder)")
    flags.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.training.export import export_model

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that nothing half-written stays
    export_model(arguments.run, arguments.out, arguments.overwrite, arguments.format)

"""Serves a web page on this computer that predicts a dropped song's tags, genre and affect.

    mtmusic web-demo
    mtmusic web-demo --model saved_models/genre_cnn saved_models/affect_cnn --port 8000

The command prints the page's address, http://127.0.0.1:7860, and serves the page until Ctrl-C. Other computers cannot
open it. The page has an example song. A song may have up to 50 MB and 15 minutes. It is deleted after its prediction.
The page loads nothing from other hosts. It needs Gradio: pip install gradio.
Several pages may be open. One song is processed at a time, and up to ten songs wait. Each page shows how many songs
come before its own. If ten songs wait already, another song is refused, and its page says so.
Without --model the pretrained models predict. `mtmusic get-pretrained` downloads musicnn, which predicts tags.
mood_musicnn, which predicts valence and arousal, comes with mtmusic.
A song is cut into windows as long as the clips that the models were trained on. If the models' clips differ in length,
give --window. Tags are scored in steps of 3 seconds.
Ctrl-C ends the command after the current song, with exit code 0. The exit code is 2 if the command cannot run; a
message then says what to do.
"""

import argparse
import signal

from mtmusic.cli import common


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__, __name__)
    flags.add_argument(
        "--model",
        nargs="+",
        action="extend",
        default=[],
        **common.RUN,
        help="names of runs, their folders, their model.keras, or exported SavedModels (default: the pretrained ones)",
    )
    flags.add_argument("--port", default=7860, **common.NUMBER, help="port of the page (default: 7860)")
    flags.add_argument("--window", **common.SECONDS, help="window length in seconds (default: as the models' clips)")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.serving.web import serve

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # all like Ctrl-C, so that no upload is left
        signal.signal(name, signal.default_int_handler)
    serve(arguments.model, arguments.port, arguments.window)

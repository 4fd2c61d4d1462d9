"""A page on this computer: drop a song, see what models say of its tags, genre and affect.

    mtmusic web-demo
    mtmusic web-demo --model saved_models/genre_cnn saved_models/affect_cnn --port 8000

Prints the page's address, http://127.0.0.1:7860, and serves until Ctrl-C; other computers cannot see it. An example
song is there to try. A song may have 50 MB and 15 minutes, and is deleted once it is answered. The page loads nothing
from elsewhere. It needs Gradio: pip install gradio.
Several pages may be open. One song is answered at a time, and ten wait. Each page shows how many songs come before its
own. A song that comes while ten wait is not taken, and its page says so.
Without --model the pretrained models answer: `mtmusic get-pretrained` fetches musicnn, for tags; mood_musicnn, for
valence and arousal, comes with mtmusic.
A song is cut into windows as long as the clips that the models were trained on. Where these differ, give --window.
Tags are scored in steps of 3 seconds.
Exit code 0 once it was ended, after the song that it is hearing; 2 where it cannot run, with what to do.
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
    flags.add_argument("--port", default=7860, **common.NUMBER, help="(default: 7860)")
    flags.add_argument("--window", **common.SECONDS, help="seconds (default: as the models' clips)")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    from mtmusic.serving.web import serve

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # all as Ctrl-C, so that no upload stays behind
        signal.signal(name, signal.default_int_handler)
    serve(arguments.model, arguments.port, arguments.window)

"""Times the pretrained trunk: tags of a folder of songs, compared with the original musicnn, and a clip's features.

    python benchmarks/pretrained.py --peer-python PATH --peer-wheel musicnn-0.1.0-py3-none-any.whl
    python benchmarks/pretrained.py --rounds 7 --json pretrained.json

The peer is the unchanged package musicnn 0.1.0, with one call of its extractor per song. It needs a separate Python
with tensorflow-cpu 2.15.1, librosa 0.10.2 and NumPy below 2. Its wheel is not installed but unpacked into a temporary
folder. Without --peer-wheel only mtmusic is timed.
In each round both get the same songs in turn, each in a new process. The peer builds its graph at each call. mtmusic
predicts the folder twice. The first pass starts its worker processes and traces the model. The first ratio compares
songs per second of the second pass with those of the peer's calls after its first one. The ratio of whole processes
compares the import and the first pass with the whole process of the peer.
Then the program times one clip of 30 s, from its array to the trunk's 753 features.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from peer import run_program
from songs import some_songs

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

PROJECT = Path(__file__).resolve().parent.parent
PEER = Path(__file__).parent / "original_musicnn.py"
OURS = "import sys, pretrained; pretrained.answer_folder(sys.argv[1:])"
ADVICE = "give a Python that has what musicnn needs with --peer-python"
SECONDS = ("import_seconds", "first_seconds", "later_seconds")
CLIP_SECONDS = 30.0
CLIP_FRAMES = {"logmel": 1876, "mel": 1292}
GOALS = {"ratio": 5.0, "clip": 0.35}
"""The goals: at least this ratio to the peer, and at most this time of a clip in seconds."""

Run = Callable[[Sequence[str]], dict[str, Any]]


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument(
        "--peer-python",
        metavar="PATH",
        default=os.environ.get("MTMUSIC_PEER_PYTHON") or sys.executable,
        help="a Python with the packages that musicnn needs (default: MTMUSIC_PEER_PYTHON, or this one)",
    )
    flags.add_argument("--peer-wheel", type=Path, metavar="FILE", help="the wheel of musicnn")
    flags.add_argument("--data", type=Path, nargs="+", metavar="SONGS", help="files, or folders of them")
    flags.add_argument("--songs", type=int, default=16, metavar="N", help="use the first N songs (default: 16)")
    flags.add_argument("--rounds", type=int, default=5, metavar="N", help="number of rounds (default: 5)")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")
    if arguments.songs < 2:
        raise UserError(f"Expected --songs of 2 or more, got {arguments.songs}")
    from mtmusic.cards import find_run

    find_run("musicnn")  # raises an error at once if there is none
    with tempfile.TemporaryDirectory() as temporary:
        songs = some_songs(arguments.data, "songs", CLIP_SECONDS, Path(temporary))[: arguments.songs]
        runs = {"ours": run_ours}
        if arguments.peer_wheel:
            package = unpacked(arguments.peer_wheel, Path(temporary) / "peer")
            runs["peer"] = partial(run_peer, arguments.peer_python, package)
        rounds = measure(runs, list(map(str, songs)), arguments.rounds)
    row = compare(rounds, len(songs))
    clips = {feature: clip_seconds(feature, arguments.rounds) for feature in CLIP_FRAMES}
    print(described(row))
    for feature, (median, least, most) in clips.items():
        print(f"A clip of {feature}: {median:.3f} s ({least:.3f} to {most:.3f}), goal {GOALS['clip']:g} s")
    if arguments.json:
        write_json(arguments.json, {"songs": len(songs), "row": row, "clips": clips, "rounds": rounds, "goals": GOALS})


def unpacked(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"Expected musicnn's wheel, got {wheel}: {error}") from error
    return folder


def measure(runs: dict[str, Run], songs: Sequence[str], rounds: int) -> list[dict[str, dict[str, Any]]]:
    """The times of each run in each round."""
    from tqdm import tqdm

    return [{name: run(songs) for name, run in runs.items()} for _ in tqdm(range(rounds), "Rounds", disable=None)]


def run_peer(python: str, package: Path, songs: Sequence[str]) -> dict[str, Any]:
    return run_program([python, str(PEER), *songs], SECONDS, ADVICE, PYTHONPATH=str(package))


def run_ours(songs: Sequence[str]) -> dict[str, Any]:
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "benchmarks")])
    command = [sys.executable, "-c", OURS, *songs]
    return run_program(command, SECONDS, "give other songs with --data", PYTHONPATH=paths, TF_CPP_MIN_LOG_LEVEL="3")


def answer_folder(songs: Sequence[str]) -> None:
    """Prints the times of the first and of the second pass, in the format of the peer's program."""
    times = [time.perf_counter()]
    from mtmusic import Predictor

    predictor = Predictor("musicnn")
    times.append(time.perf_counter())
    for _ in range(2):
        answers = list(predictor.predict_folder(songs))
        times.append(time.perf_counter())
    if failures := [song.failure for song in answers if song.failure]:
        raise UserError(failures[0])
    tags = [song["tags"] for song in answers]
    seconds = [end - start for start, end in pairwise(times)]
    print(json.dumps({**dict(zip(SECONDS, seconds, strict=True)), "tags": tags}))


def compare(rounds: Sequence[dict[str, dict[str, Any]]], songs: int) -> dict[str, Any]:
    """Medians over the rounds. If a ratio is above 1, mtmusic is faster. Without the peer there are no ratios."""
    ours = [each["ours"] for each in rounds]
    row = {"songs_per_second": statistics.median(songs / each["later_seconds"] for each in ours)}
    row |= {name: statistics.median(each[name] for each in ours) for name in SECONDS}
    if "peer" not in rounds[0]:
        return row
    peer = [each["peer"] for each in rounds]
    row["peer_songs_per_second"] = statistics.median((songs - 1) / each["later_seconds"] for each in peer)
    row |= {f"peer_{name}": statistics.median(each[name] for each in peer) for name in SECONDS}
    pairs = list(zip(ours, peer, strict=True))
    warm = [(b["later_seconds"] / (songs - 1)) / (a["later_seconds"] / songs) for a, b in pairs]
    whole = [sum(map(b.get, SECONDS)) / (a["import_seconds"] + a["first_seconds"]) for a, b in pairs]
    for name, ratios in (("ratio", warm), ("process_ratio", whole)):
        row |= {name: statistics.median(ratios), f"{name}_min": min(ratios), f"{name}_max": max(ratios)}
    answers = zip(ours[0]["tags"], peer[0]["tags"], strict=True)
    return row | {"difference": max(abs(a[tag] - b[tag]) for a, b in answers for tag in b)}


def described(row: dict[str, Any]) -> str:
    lines = [
        f"mtmusic: {row['songs_per_second']:.2f} songs/s; import and model {row['import_seconds']:.1f} s, first pass "
        f"{row['first_seconds']:.1f} s, second pass {row['later_seconds']:.1f} s"
    ]
    if "ratio" in row:
        lines += [
            f"musicnn: {row['peer_songs_per_second']:.2f} songs/s after the first; import "
            f"{row['peer_import_seconds']:.1f} s, first song {row['peer_first_seconds']:.2f} s",
            f"Times as fast: {row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f}), goal "
            f"{GOALS['ratio']:g}; whole processes: {row['process_ratio']:.2f} ({row['process_ratio_min']:.2f} to "
            f"{row['process_ratio_max']:.2f})",
            f"Largest difference of a score: {row['difference']:.1e}",
        ]
    return "\n".join(lines)


def clip_seconds(feature: str, rounds: int) -> tuple[float, float, float]:
    """Median, smallest and largest seconds from an array (1, frames, bins) to the 753 features, after a first call."""
    import numpy as np
    import tensorflow as tf

    from mtmusic.constants import FEATURE_BINS
    from mtmusic.models.musicnn import musicnn_backbone
    from mtmusic.models.saving import load
    from mtmusic.models.transfer import set_backbone_weights

    backbone = musicnn_backbone(feature, "mean")
    set_backbone_weights(backbone, load("musicnn")[0].get_layer("backbone"), "musicnn")
    low, high = {"logmel": (0, 4), "mel": (-80, 0)}[feature]
    shape = (1, CLIP_FRAMES[feature], FEATURE_BINS[feature])
    clip = tf.constant(np.random.default_rng(0).uniform(low, high, shape), tf.float32)
    embed = tf.function(lambda clip: backbone(clip, training=False))
    embed(clip)
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        embed(clip).numpy()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), min(taken), max(taken)


if __name__ == "__main__":
    sys.exit(main())

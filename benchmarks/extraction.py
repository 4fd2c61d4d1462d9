"""Times feature extraction by mtmusic and by the lab's code on the same songs, and with several workers.

    python benchmarks/extraction.py --songs ../shared/data/audio
    python benchmarks/extraction.py --rounds 5 --json extraction.json

The peer is lab_extractor.py in the folder --peer. It makes the same librosa calls as the lab's helper code. Both get
the same decoded waveform of at most 30 s, on one thread, after a first call. Decoding is timed separately. The program
prints a row for each song and frame rate: median seconds of mtmusic and of the peer, the ratio ours / peer, which is
below 1 if ours is faster, and the differences of the arrays. Then it prints songs per second with one and with two
workers, from file to array. Without --songs it uses the recordings in MTMUSIC_REAL_DATA (default: ../shared/data), or
else synthesised songs.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import importlib.util
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peer import add_peer_flag, require_program
from songs import some_songs

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

PEER = "lab_extractor.py"
SECONDS, QUICK_SECONDS = 30.0, 5.0
WORKERS = (1, 2)
SONGS_A_WORKER = 16

Extract = Callable[[Any, int, bool], Any]


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    add_peer_flag(flags, PEER)
    flags.add_argument("--songs", type=Path, nargs="+", metavar="SONGS", help="files, or folders of them")
    flags.add_argument("--rounds", type=int, default=5, metavar="N", help="number of rounds (default: 5)")
    flags.add_argument("--quick", action="store_true", help="one song of 5 s and one round, as a test")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")
    peer = load_peer(require_program(arguments.peer, PEER))

    from threadpoolctl import threadpool_limits

    seconds = QUICK_SECONDS if arguments.quick else SECONDS
    with tempfile.TemporaryDirectory() as temporary:
        songs = some_songs(arguments.songs, "audio", seconds, Path(temporary))[: 1 if arguments.quick else None]
        rounds = 1 if arguments.quick else arguments.rounds
        with threadpool_limits(1):
            rows = [row for song in songs for row in compare(song, seconds, peer, rounds)]
        print(_table(rows))
        count = len(WORKERS) if arguments.quick else SONGS_A_WORKER * max(WORKERS)
        scaling = measure_scaling(songs, count, seconds, Path(temporary))
    for row in scaling:
        print(
            f"{row['rate']:<5} {row['workers']} workers: {row['songs_per_second']:.2f} songs of {seconds:g} s a second"
        )
    if arguments.json:
        write_json(arguments.json, {"rounds": rounds, "seconds": seconds, "rows": rows, "scaling": scaling})


def load_peer(program: Path) -> Extract:
    """Loads the peer's function extract(waveform, rate, beat) -> (140, frames)."""
    spec = importlib.util.spec_from_file_location(program.stem, program)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():  # the peer disables all warnings
        spec.loader.exec_module(module)
    return module.extract


def compare(song: Path, seconds: float, peer: Extract, rounds: int) -> list[dict[str, Any]]:
    """A row for full rate and a row for beats: medians over the rounds, and differences of the arrays."""
    from mtmusic.audio.features import fused_spectrogram
    from mtmusic.audio.loading import load_waveform
    from mtmusic.constants import SAMPLE_RATE

    for _ in range(2):  # the first imports the resampler
        decoding, waveform = timed(lambda: load_waveform(song, duration=seconds))
    rows = []
    for beat in (False, True):
        calls = {
            "ours": lambda: fused_spectrogram(waveform, beat),  # noqa: B023
            "peer": lambda: peer(waveform, SAMPLE_RATE, beat),  # noqa: B023
        }
        arrays = {name: call() for name, call in calls.items()}  # compiles, and fills the caches
        taken = [{name: timed(call)[0] for name, call in calls.items()} for _ in range(rounds)]
        ratios = [pair["ours"] / pair["peer"] for pair in taken]
        rows.append(
            {
                "song": song.name,
                "rate": "beat" if beat else "full",
                "seconds": len(waveform) / SAMPLE_RATE,
                "decode_seconds": decoding,
                "ours_seconds": statistics.median(pair["ours"] for pair in taken),
                "peer_seconds": statistics.median(pair["peer"] for pair in taken),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                **parity(arrays["ours"], arrays["peer"]),
            }
        )
    return rows


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def parity(ours: Any, peer: Any) -> dict[str, Any]:
    """The largest differences of mel in dB and of chroma. None if the numbers of frames, and so of beats, differ."""
    from mtmusic.constants import FEATURE_ROWS

    def largest(feature: str) -> float | None:
        rows = FEATURE_ROWS[feature]
        return float(abs(ours[rows] - peer[rows]).max()) if ours.shape == peer.shape else None

    return {
        "frames": ours.shape[1],
        "peer_frames": peer.shape[1],
        "mel_difference_db": largest("mel"),
        "chroma_difference": largest("chroma"),
    }


def measure_scaling(songs: Sequence[Path], count: int, seconds: float, folder: Path) -> list[dict[str, Any]]:
    """Songs per second by rate and number of workers, from file to array on disk, with running workers."""
    from mtmusic.audio.extraction import Excerpt, Song, extract_songs
    from mtmusic.data.spectrograms import write_array

    def extract(number: int, workers: int, beat: bool) -> None:
        places = [(folder / f"{i}.fused.full.npy",) for i in range(number)]
        copies = [folder / f"copy-{i}{songs[i % len(songs)].suffix}" for i in range(number)]
        for i, copy in enumerate(copies):
            if not copy.exists():
                shutil.copy(songs[i % len(songs)], copy)
        work = [Song(copy, *(((), place) if beat else (place, ()))) for copy, place in zip(copies, places, strict=True)]
        for outcome in extract_songs(work, Excerpt(duration=seconds), write_array, jobs=workers):
            if outcome.failure:
                raise UserError(outcome.failure)

    rows = []
    for beat in (False, True):
        for workers in WORKERS:
            extract(2 * workers, workers, beat)
            taken, _ = timed(lambda: extract(count, workers, beat))  # noqa: B023
            rows.append({"rate": "beat" if beat else "full", "workers": workers, "songs_per_second": count / taken})
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{'song':<24} {'rate':<5} {'decode, s':>9} {'ours, s':>8} {'peer, s':>8} {'ours/peer':>9}  {'min to max':<12} "
        f"{'frames':>6} {'peer':>6} {'mel, dB':>9} {'chroma':>9}"
    ]
    for row in rows:
        differences = [
            "-" if row[name] is None else f"{row[name]:.1e}" for name in ("mel_difference_db", "chroma_difference")
        ]
        lines.append(
            f"{row['song'][:24]:<24} {row['rate']:<5} {row['decode_seconds']:>9.3f} {row['ours_seconds']:>8.3f} "
            f"{row['peer_seconds']:>8.3f} {row['ratio']:>9.3f}  {row['ratio_min']:.2f} to {row['ratio_max']:.2f} "
            f"{row['frames']:>6} {row['peer_frames']:>6} "
            f"{differences[0]:>9} {differences[1]:>9}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

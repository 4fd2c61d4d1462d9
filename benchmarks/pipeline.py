"""Clips a second of the data pipeline, beside a plain NumPy loop that reads and pads the same clips.

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --rounds 5 --json pipeline.json

Two folders are made in a temporary folder: beat-like (1000 clips of 14 to 129 frames) and full-rate (100 clips of
1291 frames). They were just written, so the operating system holds them in its page cache: no number is of a cold
disk. Prints a row a way to read them: clips a second, and ours / NumPy, which is above 1 where ours is faster.
Exit code 0; 2 where it cannot run, with what to do.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "scripts"))

import common  # noqa: E402
from mtmusic.errors import UserError  # noqa: E402
from mtmusic.files import write_json  # noqa: E402

BATCH = 32
NUMPY = "NumPy loop"


@common.reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    flags = common.parser(__doc__)
    flags.add_argument("--rounds", type=int, default=3, metavar="N", help="each way in turn, N times (default: 3)")
    flags.add_argument("--seed", type=int, default=0, help="of the arrays and of the shuffle (default: 0)")
    flags.add_argument("--quick", action="store_true", help="a twentieth of the clips, to see that it runs")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write the table to it")
    arguments = common.parse(flags, argv)
    if arguments.rounds < 1:
        raise UserError(f"Expected --rounds of 1 or more, got {arguments.rounds}")

    import numpy as np

    rng = np.random.default_rng(arguments.seed)
    share = 20 if arguments.quick else 1
    lengths = {
        "beat": np.clip(rng.normal(60, 15, 1000 // share), 14, 129).astype(int),  # as the lab's are
        "full rate": np.full(100 // share, 1291),
    }
    rows = []
    for name, frames in lengths.items():
        with tempfile.TemporaryDirectory() as temporary:
            clips = _write_clips(Path(temporary), frames, rng)
            rows += _compare(name, clips, Path(temporary) / "cache", arguments.rounds, arguments.seed)
    print(_table(rows))
    if arguments.json:
        write_json(arguments.json, {"rounds": arguments.rounds, "page_cache": "warm", "rows": rows})
    return 0


def _write_clips(folder: Path, lengths: Any, rng: Any) -> Any:
    """A clip of each length, float32, as Clips of one class."""
    import numpy as np

    from mtmusic.constants import CHROMA_BINS, MEL_BINS, MEL_FLOOR_DB
    from mtmusic.data.labels import Clips
    from mtmusic.data.spectrograms import write_array

    paths = tuple(folder / f"{number}.fused.full.npy" for number in range(len(lengths)))
    for path, frames in zip(paths, lengths, strict=True):
        mel = rng.uniform(MEL_FLOOR_DB, 0, (MEL_BINS, frames))
        chroma = rng.uniform(0, 1, (CHROMA_BINS, frames))
        write_array(path, np.concatenate([mel, chroma]).astype(np.float32))
    ids = tuple(path.name.split(".")[0] for path in paths)
    return Clips(ids, paths, np.zeros(len(paths), np.int64), classes=("Rock",))


def _compare(folder: str, clips: Any, cache: Path, rounds: int, seed: int) -> list[dict[str, Any]]:
    """A row a way to read the clips: the median of its rate, and of its ratio to NumPy's in the same round."""
    from mtmusic.data.pipeline import make_dataset

    caches = {
        "from disk, every epoch": None,
        "memory cache, from the second epoch": "memory",
        "file cache, from the second epoch": cache,
    }
    datasets = {
        way: make_dataset(clips, batch_size=BATCH, shuffle=True, seed=seed, cache=kind) for way, kind in caches.items()
    }
    for ds in datasets.values():
        _seconds(ds)  # fills the caches
    seconds = [
        {NUMPY: _seconds(_numpy_batches(clips.paths)), **{way: _seconds(ds) for way, ds in datasets.items()}}
        for _ in range(rounds)
    ]
    rows = []
    for way in seconds[0]:
        ratios = [taken[NUMPY] / taken[way] for taken in seconds]
        rate = len(clips) / statistics.median(taken[way] for taken in seconds)
        rows.append({"folder": folder, "way": way, "clips_per_second": rate, **_spread(ratios)})
    return rows


def _numpy_batches(paths: Sequence[Path]) -> Iterator[Any]:
    """The plain loop: each batch's mel read, turned and padded to its longest clip."""
    import numpy as np

    from mtmusic.constants import MEL_BINS, PAD_VALUE

    for start in range(0, len(paths), BATCH):
        clips = [np.load(path)[:MEL_BINS].T for path in paths[start : start + BATCH]]
        batch = np.full((len(clips), max(map(len, clips)), MEL_BINS), PAD_VALUE, np.float32)
        for row, clip in zip(batch, clips, strict=True):
            row[: len(clip)] = clip
        yield batch


def _seconds(batches: Iterable[Any]) -> float:
    """To go through all batches once."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def _spread(ratios: Sequence[float]) -> dict[str, float]:
    return {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'folder':<10} {'way':<35} {'clips/s':>8} {'ours/NumPy':>11}  min to max"]
    for row in rows:
        lines.append(
            f"{row['folder']:<10} {row['way']:<35} {row['clips_per_second']:>8.0f} {row['ratio']:>11.2f}  "
            f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Evaluates embeddings: measures how often the nearest clips by other artists have the genre of a clip.

    python benchmarks/similar.py --data FOLDER
    python benchmarks/similar.py --data FOLDER --neighbours 1 10 --json similar.json

FOLDER is a genre data folder of full-rate or logmel arrays with groups.csv (artists). All clips are compared with each
other as in `mtmusic similar`: by the cosine of their features, with each value standardised over the clips. Clips of
the same artist are never neighbours. A row has the share of the K nearest clips with the clip's genre, as a mean over
clips with its 95 % interval over artists, and the share of musicnn minus this share.
The features are musicnn's 753 time means, the statistics of the recipe kernel (only for fused arrays), and the mean and
deviation of each bin and of its differences between frames. Chance is the share of the clip's genre among the clips of
other artists.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
from typing import Any

import keras
import numpy as np

from mtmusic.cli import common
from mtmusic.data.folder import LoadOptions, load_genre_data, pooled_clips
from mtmusic.data.labels import Clips
from mtmusic.data.spectrograms import read_array
from mtmusic.errors import UserError
from mtmusic.evaluation.bootstrap import RESAMPLES, group_draws, interval
from mtmusic.files import write_json
from mtmusic.models.backbones import statistics_backbone
from mtmusic.serving.similar import cosines, standardised
from mtmusic.training.crossval.features import pooled_features, trunk_features

MUSICNN, KERNEL, POOLED, CHANCE = "musicnn, 753 time means", "statistics of the recipe kernel", "pooled bins", "chance"


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument("--data", required=True, **common.DIR, help="a genre data folder with groups.csv")
    flags.add_argument(
        "--neighbours",
        type=int,
        nargs="+",
        default=[1, 10],
        metavar="K",
        help="numbers of nearest clips (default: 1 10)",
    )
    flags.add_argument("--json", **common.FILE, help="write the shares and their intervals to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    data = load_genre_data(LoadOptions(arguments.data, classes="all"))
    clips, _ = pooled_clips(data)
    if len(groups := {*clips.group_names}) == len(clips):
        raise UserError(f"Expected artists with several clips in {arguments.data / 'groups.csv'}, got none")
    if min(arguments.neighbours) < 1:
        raise UserError(f"Expected --neighbours of 1 or more, got {min(arguments.neighbours)}")
    shares = _shares(clips, _described(clips, data.feature), arguments.neighbours)
    rows = _rows(shares, clips.group_names)
    print(f"{len(clips)} clips of {len(groups)} artists and {len(clips.classes)} genres")
    print(_table(rows))
    if arguments.json:
        write_json(arguments.json, {"data": str(arguments.data), "clips": len(clips), "rows": rows})


def _described(clips: Clips, feature: str) -> dict[str, np.ndarray]:
    """The features (clips, values) by name."""
    described = {MUSICNN: trunk_features(clips, feature)[0]}
    if feature == "fused":
        backbone = statistics_backbone(centres=0)
        statistics = keras.Model(backbone.input, backbone.get_layer("statistics").output)
        described[KERNEL] = {path: statistics(read_array(path).T[np.newaxis]).numpy()[0] for path in clips.paths}
    described[POOLED] = pooled_features(clips)[0]
    return {name: np.stack([of_clip[path] for path in clips.paths]) for name, of_clip in described.items()}


def _shares(clips: Clips, described: dict[str, np.ndarray], neighbours: list[int]) -> dict[str, dict[int, np.ndarray]]:
    """By features and K, (clips,): the share of the K nearest clips of other artists that have the clip's genre."""
    same_genre = clips.targets == clips.targets[:, np.newaxis]
    others = clips.group_names != clips.group_names[:, np.newaxis]
    shares: dict[str, dict[int, np.ndarray]] = {}
    for name, rows in described.items():
        rows = standardised(rows.astype(np.float64), rows.mean(axis=0), rows.std(axis=0, dtype=np.float64))
        order = np.argsort(-np.where(others, cosines(rows, rows), -np.inf), axis=1, kind="stable")
        hits = np.take_along_axis(same_genre, order, axis=1)
        shares[name] = {k: hits[:, :k].mean(axis=1) for k in neighbours}
    shares[CHANCE] = dict.fromkeys(neighbours, (same_genre & others).sum(axis=1) / others.sum(axis=1))
    return shares


def _rows(shares: dict[str, dict[int, np.ndarray]], groups: np.ndarray) -> list[dict[str, Any]]:
    """Rows with bootstrap intervals over artists. The neighbours of a clip are the same in all draws."""
    counts = group_draws(groups, np.random.default_rng(0), RESAMPLES)

    def scored(values: np.ndarray) -> dict[str, float]:
        low, high = interval(values.mean(), counts @ values / counts.sum(axis=1))
        return {"value": float(values.mean()), "low": low, "high": high}

    return [
        {"described by": name, "k": k, **scored(values), "musicnn less it": scored(shares[MUSICNN][k] - values)}
        for name, by_k in shares.items()
        for k, values in by_k.items()
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'described by':34}  {'k':>3}  {'share':>5}  {'95 % interval':>14}  musicnn less it"]
    for row in rows:
        less = row["musicnn less it"]
        shown = (
            f"{less['value']:.3f} ({less['low']:.3f} to {less['high']:.3f})" if row["described by"] != MUSICNN else ""
        )
        interval_shown = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(
            f"{row['described by']:34}  {row['k']:3}  {row['value']:5.3f}  {interval_shown:>14}  {shown}".rstrip()
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())

"""Measures how changes of a song affect the pretrained models: musicnn's tags, mood_musicnn's valence and arousal.

    python benchmarks/robustness.py
    python benchmarks/robustness.py --songs 36 --json robustness.json --plot robustness.png

The first 30 s of each song are changed, written to a file, read again and predicted. The file is a WAV of floats, or an
mp3 by soundfile. The answers are compared with those for the unchanged song. The row "another song" compares different
songs, as a scale for the other rows. A second table has the answers for sounds that are not music.
--seed draws the songs from --data. The default is the folder songs in MTMUSIC_REAL_DATA (default: ../shared/data), or
else eight synthesised songs.
The program needs the weights of the models (mtmusic get-pretrained). It takes about five seconds per song.
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from songs import some_songs

from mtmusic.cli import common
from mtmusic.errors import UserError
from mtmusic.files import write_json

SECONDS = 30.0
RATE = 44_100
"""Sample rate of the changed files in Hz. At this rate mp3 has bitrates up to 320 kbit/s."""

KBITS = {f"mp3, {kbits} kbit/s": kbits for kbits in (64, 128, 320)}
DELAY_SECONDS = 0.015
SOUND_SECONDS, SOUND_LEVEL_DB = 10.0, -20
SHOWN_TAGS = 3
ANOTHER = "another song"
QUANTILES = (0.05, 0.5, 0.95)

Alter = Callable[[Any, int], Any]
"""A function from (samples,) and its rate in Hz to (samples,) or (samples, 2)."""


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument("--data", type=Path, nargs="+", metavar="SONGS", help="files, or folders of them, to draw from")
    flags.add_argument("--songs", type=int, default=12, metavar="N", help="number of songs to draw (default: 12)")
    common.add_seed_flag(flags, "seed of the draw and of the sounds")
    flags.add_argument("--plot", type=Path, metavar="FILE", help="draw the changes, as a PNG")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> None:
    if arguments.songs < 1:
        raise UserError(f"Expected --songs of 1 or more, got {arguments.songs}")
    import numpy as np

    ask, tags, tasks, label_sd = open_models()
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        songs = some_songs(arguments.data, "songs", SECONDS, Path(temporary))
        songs = sorted(rng.permutation(songs)[: arguments.songs])
        measured = measure(songs, ask, tasks, label_sd, Path(temporary))
    rows = summarise(measured, tasks)
    sounds = [{"sound": name, **described(ask(samples), tags, tasks)} for name, samples in make_sounds(rng).items()]
    print(
        f"{len(songs)} songs. Standard deviation of the labels: " + ", ".join(f"{t} {label_sd[t]:.3f}" for t in tasks)
    )
    print(table(rows, tasks))
    print(sound_table(sounds, tasks))
    if arguments.plot:
        draw(measured, tasks, arguments.plot)
    if arguments.json:
        content = {"songs": [song.name for song in songs], "seed": arguments.seed, "label_sd": label_sd}
        write_json(arguments.json, {**content, "rows": rows, "sounds": sounds, "measured": measured})


def open_models() -> tuple[Callable[[Any], dict[str, Any]], list[str], list[str], dict[str, float]]:
    """Returns a function that predicts (samples,) at 16 kHz, the tags, the tasks, and the deviation of their labels.

    The function returns "tags" (tags,), "mood" (tasks,) and "embedding" (753,). Both models share a pass of the trunk.
    """
    import keras
    import tensorflow as tf

    from mtmusic.audio.features import logmel_spectrogram
    from mtmusic.cards import locate
    from mtmusic.constants import LOGMEL_BINS
    from mtmusic.models.heads import head_alone
    from mtmusic.models.musicnn import embedding
    from mtmusic.models.saving import load

    (tagger, card), (mood, mood_card) = load("musicnn"), load("mood_musicnn")
    backbone = tagger.get_layer("backbone")
    patches = backbone.output  # (1, patches, 200): a single clip is not padded
    outputs = {
        "tags": keras.ops.mean(tagger.get_layer("tags")(patches), axis=1),
        "mood": head_alone(mood)(keras.ops.mean(patches, axis=1)),
        "embedding": embedding(tagger).output,
    }
    both = keras.Model(backbone.input, outputs)
    answer = tf.function(partial(both, training=False), [tf.TensorSpec((None, None, LOGMEL_BINS), tf.float32)])

    def ask(samples: Any) -> dict[str, Any]:
        outputs = answer(logmel_spectrogram(samples).T[None])
        return {name: output[0].numpy() for name, output in outputs.items()}

    metrics = json.loads((locate("mood_musicnn")[0] / "metrics.json").read_text())
    return ask, card["tags"], mood_card["targets"], {task: label_sd(metrics, task) for task in mood_card["targets"]}


def label_sd(metrics: dict[str, Any], task: str) -> float:
    """The standard deviation of a task's labels in the splits that were not used for training."""
    splits = [metrics[split]["per_task"][task] for split in ("validation", "test")]
    return math.sqrt(sum(one["mse_constant"] * one["clips"] for one in splits) / sum(one["clips"] for one in splits))


def changes() -> dict[str, Alter]:
    """The changes of each song."""
    gains = {f"{decibels:+d} dB": partial(gain, decibels=decibels) for decibels in (-20, -12, -6, -3, 3, 6)}
    return {
        **gains,
        "+6 dB, clipped": lambda samples, rate: gain(samples, rate, 6).clip(-1, 1),
        **{name: lambda samples, rate: samples for name in KBITS},
        "3 s, from the middle": partial(excerpt, seconds=3, place=0.5),
        "10 s, the first": partial(excerpt, seconds=10, place=0),
        "10 s, from the middle": partial(excerpt, seconds=10, place=0.5),
        "10 s, the last": partial(excerpt, seconds=10, place=1),
        "without its first 1.5 s": lambda samples, rate: samples[int(1.5 * rate) :],
        "stereo, both channels alike": lambda samples, rate: stereo(samples, samples),
        "stereo, one channel silent": lambda samples, rate: stereo(samples, 0 * samples),
        "stereo, one channel 15 ms late": lambda samples, rate: stereo(samples, late(samples, rate)),
    }


def gain(samples: Any, rate: int, decibels: float) -> Any:
    return samples * 10 ** (decibels / 20)


def excerpt(samples: Any, rate: int, seconds: float, place: float) -> Any:
    """Cuts an excerpt. place: 0 for the beginning of the song, 1 for its end."""
    length = min(int(seconds * rate), len(samples))
    begin = int(place * (len(samples) - length))
    return samples[begin : begin + length]


def late(samples: Any, rate: int) -> Any:
    import numpy as np

    delay = int(DELAY_SECONDS * rate)
    return np.pad(samples, (delay, 0))[: len(samples)]


def stereo(left: Any, right: Any) -> Any:
    import numpy as np

    return np.stack([left, right], axis=1)


def measure(
    songs: Sequence[Path],
    ask: Callable[[Any], dict[str, Any]],
    tasks: Sequence[str],
    label_sd: dict[str, float],
    folder: Path,
) -> list[dict[str, Any]]:
    """A row for each song and change: the difference to the answer for the unchanged song."""
    from tqdm import tqdm

    from mtmusic.audio.loading import load_with_doubts
    from mtmusic.constants import LOGMEL_SAMPLE_RATE

    compared = partial(difference, tasks=tasks, label_sd=label_sd)
    altered, measured, unchanged = changes(), [], []
    with tqdm(total=len(songs) * len(altered), desc="Answering", unit="file", disable=None) as progress:
        for song in songs:
            unchanged.append(ask(load_with_doubts(song, 0, SECONDS, LOGMEL_SAMPLE_RATE)[0]))
            samples = load_with_doubts(song, 0, SECONDS, RATE)[0]
            for name, alter in altered.items():
                path = write(alter(samples, RATE), folder / "altered", KBITS.get(name))
                answer = ask(load_with_doubts(path, sample_rate=LOGMEL_SAMPLE_RATE)[0])
                measured.append({"song": song.name, "change": name, **compared(answer, unchanged[-1])})
                progress.update()
    for i, song in enumerate(songs[1:], 1):
        measured.append({"song": song.name, "change": ANOTHER, **compared(unchanged[i - 1], unchanged[i])})
    return measured


def write(samples: Any, path: Path, kbits: int | None) -> Path:
    """Writes an mp3 with a constant bitrate, or a WAV of floats, which keeps all values."""
    import soundfile

    if kbits is None:
        soundfile.write(path := path.with_suffix(".wav"), samples, RATE, subtype="FLOAT")
        return path
    level = (320 - kbits) / (320 - 32)  # libsndfile's level: 0 for 320 kbit/s, 1 for 32
    path = path.with_suffix(".mp3")
    soundfile.write(path, samples, RATE, bitrate_mode="CONSTANT", compression_level=level)
    return path


def difference(
    answer: dict[str, Any], unchanged: dict[str, Any], tasks: Sequence[str], label_sd: dict[str, float]
) -> dict[str, Any]:
    """Differences of two answers. score: the largest change of a tag's score. Tasks: in deviations of the labels."""
    import numpy as np

    one, other = answer["embedding"], unchanged["embedding"]
    moved = dict(zip(tasks, answer["mood"] - unchanged["mood"], strict=True))
    return {
        "top_tag_changed": bool(answer["tags"].argmax() != unchanged["tags"].argmax()),
        "score": float(np.abs(answer["tags"] - unchanged["tags"]).max()),
        **{task: float(moved[task] / label_sd[task]) for task in tasks},
        "cosine": float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other))),
    }


def summarise(measured: Sequence[dict[str, Any]], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each change: shares, means and extremes over songs. The size of a task is its mean absolute change."""
    import numpy as np

    rows = []
    for name in dict.fromkeys(one["change"] for one in measured):
        songs = [one for one in measured if one["change"] == name]
        values = {key: np.array([one[key] for one in songs]) for key in ("top_tag_changed", "score", "cosine", *tasks)}
        row = {"change": name, "songs": len(songs), "top_tag_changed": float(values["top_tag_changed"].mean())}
        row |= {"score": float(values["score"].mean()), "score_max": float(values["score"].max())}
        for task in tasks:
            row |= {task: float(values[task].mean()), f"{task}_size": float(np.abs(values[task]).mean())}
        rows.append(row | {"cosine": float(values["cosine"].mean()), "cosine_min": float(values["cosine"].min())})
    return rows


def make_sounds(rng: Any) -> dict[str, Any]:
    """Sounds (samples,) at 16 kHz, all of the same level apart from silence."""
    import numpy as np

    from mtmusic.constants import LOGMEL_SAMPLE_RATE as RATE

    time = np.arange(int(SOUND_SECONDS * RATE)) / RATE
    white = rng.normal(size=len(time))
    spectrum = np.fft.rfft(rng.normal(size=len(time)))
    sounds = {
        "white noise": white,
        "pink noise": np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)).clip(1)), len(time)),
        "sine of 440 Hz": np.sin(2 * np.pi * 440 * time),
        "speech-like": speech_like(RATE, len(time), rng),
    }
    level = 10 ** (SOUND_LEVEL_DB / 20)
    scaled = {name: (level * sound / np.sqrt(np.mean(sound**2))).astype("float32") for name, sound in sounds.items()}
    return scaled | {"silence": np.zeros(len(time), "float32")}


FORMANTS_HZ = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
"""Formants of five vowels of men (Peterson and Barney 1952)."""

BANDWIDTHS_HZ = (80, 90, 120)
SYLLABLE_SECONDS = 0.2
SYLLABLES = 9
"""Number of syllables in a phrase. The last one is a pause."""


def speech_like(rate: int, length: int, rng: Any) -> Any:
    """(length,): pulses of falling pitch in each phrase, filtered by formants of vowels, after consonants of noise."""
    import numpy as np
    from scipy.signal import lfilter

    each = int(SYLLABLE_SECONDS * rate)
    opening = np.hanning(each)
    spoken = []
    for syllable in range(-(-length // each)):
        place = syllable % SYLLABLES
        pitch = np.linspace(140 - 6 * place, 134 - 6 * place, each) * rng.uniform(0.95, 1.05)
        sound = np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0)
        for hertz, width in zip(FORMANTS_HZ[rng.integers(len(FORMANTS_HZ))], BANDWIDTHS_HZ, strict=True):
            radius = np.exp(-np.pi * width / rate)
            poles = [1, -2 * radius * np.cos(2 * np.pi * hertz / rate), radius**2]
            sound = lfilter([sum(poles)], poles, sound)  # constant below the formant
        vowel = opening * sound / np.abs(sound).max()
        consonant = 0.1 * rng.normal(size=each) * np.exp(-np.arange(each) / (0.02 * rate))
        spoken.append((vowel + consonant) * (place < SYLLABLES - 1))
    return np.concatenate(spoken)[:length]


def described(answer: dict[str, Any], tags: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
    """The tags with the highest scores, and the value of each task."""
    scores = sorted(zip(tags, answer["tags"].tolist(), strict=True), key=lambda one: -one[1])
    return {"tags": dict(scores[:SHOWN_TAGS]), **dict(zip(tasks, answer["mood"].tolist(), strict=True))}


def table(rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> str:
    moods = "".join(f"{task:>10} {'size':>6}" for task in tasks)
    lines = [f"{'change':<32} {'top tag':>8} {'score':>6} {'max':>6}{moods} {'cosine':>8} {'min':>7}"]
    for row in rows:
        moods = "".join(f"{row[task]:>10.2f} {row[f'{task}_size']:>6.2f}" for task in tasks)
        lines.append(
            f"{row['change']:<32} {row['top_tag_changed']:>8.0%} {row['score']:>6.3f} {row['score_max']:>6.3f}{moods} "
            f"{row['cosine']:>8.4f} {row['cosine_min']:>7.4f}"
        )
    return "\n".join(lines)


def sound_table(sounds: Sequence[dict[str, Any]], tasks: Sequence[str]) -> str:
    lines = [f"{'sound':<16} {'tags':<60}" + "".join(f"{task:>10}" for task in tasks)]
    for row in sounds:
        shown = ", ".join(f"{tag} {score:.2f}" for tag, score in row["tags"].items())
        lines.append(f"{row['sound']:<16} {shown:<60}" + "".join(f"{row[task]:>10.2f}" for task in tasks))
    return "\n".join(lines)


def draw(measured: Sequence[dict[str, Any]], tasks: Sequence[str], path: Path) -> None:
    import numpy as np

    from mtmusic.evaluation import plots

    titles = {"score": "largest change of a score"} | {task: f"{task} (sd of labels)" for task in tasks}
    rows = []
    for name in dict.fromkeys(one["change"] for one in measured):
        songs = [one for one in measured if one["change"] == name]
        spread = {title: np.quantile([one[key] for one in songs], QUANTILES) for key, title in titles.items()}
        rows.append((name, {title: (median, low, high) for title, (low, median, high) in spread.items()}))
    plots.save_figure(plots.intervals(rows, "change: median, 5 to 95 % of songs"), path)


if __name__ == "__main__":
    sys.exit(main())

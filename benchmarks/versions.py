"""Compares models between two environments: train them in one, then open them in the other.

    python benchmarks/versions.py train FOLDER
    python benchmarks/versions.py open FOLDER --json versions.json

`train` writes a small demo corpus below FOLDER, and trains a model of each kind on it for two epochs. A run holds some
clips and the answers of the model when it was saved. `open` opens each run and predicts the same clips. It prints the
largest difference, which is divided by the largest answer if that exceeds 1, as logits may, and the versions in both
environments. The recipe `pretrained` needs the weights of musicnn (mtmusic get-pretrained).
The exit code is 0, or 2 if the program cannot run; a message then says what to do.
"""

import argparse
import sys
from pathlib import Path

from mtmusic.cli import common
from mtmusic.files import write_json

CLIPS_A_GENRE, AFFECT_CLIPS = 9, 60
SMALL = ("--epochs", "2", "--skip-checks")
RUNS = {
    "CNN": ("train-genre", "beat", ("--frames", "32")),
    "masked CNN": ("train-genre", "beat", ("--pooling", "masked")),
    "LSTM": ("train-genre", "full", ("--backbone", "lstm")),
    "multitask CNN": ("train-affect", "beat", ("--multitask", "--frames", "32")),
    "kernel": ("train-genre", "beat", ("--recipe", "kernel")),
    "pretrained": ("train-genre", "full", ("--recipe", "pretrained")),
}
"""For the name of each row the command, the frame rate of the folder, and flags."""


def parser() -> argparse.ArgumentParser:
    flags = common.parser(__doc__)
    flags.add_argument("step", choices=("train", "open"), help="train the models, or open them and compare")
    flags.add_argument("folder", **common.FOLDER, help="folder of the corpus and the runs")
    common.add_seed_flag(flags, "seed of the corpus and the trainings")
    flags.add_argument("--json", **common.FILE, help="write all differences to this file")
    return flags


@common.entry_point(parser)
def main(arguments: argparse.Namespace) -> int:
    if arguments.step == "train":
        return train(arguments.folder, arguments.seed)
    rows = compare(arguments.folder)
    print(f"{'model':<14} {'TensorFlow, Keras, Python: saved':<34} {'opened':<26} {'difference':>10}")
    for row in rows:
        print(f"{row['model']:<14} {row['saved']:<34} {row['opened']:<26} {row['difference']:>10.1e}")
    if arguments.json:
        write_json(arguments.json, {"rows": rows})
    return 0


def train(folder: Path, seed: int) -> int:
    from mtmusic.cli.main import main as mtmusic
    from mtmusic.datasets.demo import AFFECT_FOLDERS, GENRE_FOLDERS, make_demo_corpus

    if not (folder / "corpus").is_dir():
        make_demo_corpus(folder / "corpus", seed, CLIPS_A_GENRE, AFFECT_CLIPS)
    for name, (command, rate, flags) in RUNS.items():
        data = folder / "corpus" / (AFFECT_FOLDERS if command == "train-affect" else GENRE_FOLDERS)[rate == "beat"]
        out = _run(folder, name)
        failed = mtmusic([command, "--data", str(data), "--out", str(out), "--seed", str(seed), *flags, *SMALL])
        if failed:
            return failed
    return 0


def compare(folder: Path) -> list[dict[str, object]]:
    import numpy as np

    from mtmusic.cards import EXAMPLES_FILE
    from mtmusic.models.saving import load_model, read_card
    from mtmusic.training.run_folder import versions

    rows: list[dict[str, object]] = []
    for name in RUNS:
        run = _run(folder, name)
        with np.load(run / EXAMPLES_FILE) as examples:
            clips, saved = examples["spectrogram"], examples["prediction"]
        difference = np.abs(load_model(run).predict(clips, verbose=0) - saved).max() / max(1.0, np.abs(saved).max())
        sides = (read_card(run)["versions"], versions())
        shown = [", ".join(str(side[key]) for key in ("tensorflow", "keras", "python")) for side in sides]
        rows.append({"model": name, "saved": shown[0], "opened": shown[1], "difference": float(difference)})
    return rows


def _run(folder: Path, name: str) -> Path:
    return folder / name.lower().replace(" ", "_")


if __name__ == "__main__":
    sys.exit(main())

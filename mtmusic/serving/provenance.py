"""Describes the models of an answer: names, runs, and hashes of the files that determine the answers."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmusic.cards import CARD_FILE, MODEL_FILE, PRETRAINED, SAVED_MODEL_FILE, find_run
from mtmusic.serving.predictor import Predictor


def describe(predictor: Predictor) -> list[dict[str, Any]]:
    """Returns for each model its name ("model"), its run by a path that is valid in any folder, "sha256" and "card"."""
    runs = map(lasting, predictor.runs)
    return [
        {"model": Path(run.removesuffix(f"/{MODEL_FILE}")).name, "run": run, "sha256": sha256_of(run), "card": card}
        for run, card in zip(runs, predictor.cards, strict=True)
    ]


def lasting(run: Path | str) -> str:
    """Returns a run's absolute path, or its name for a run that comes with the package."""
    found = find_run(run)
    return str(run) if found.parent == PRETRAINED else str(found.absolute())


def sha256_of(run: Path | str) -> str:
    """Returns the hash of a run's model and card, which has the trunk's hash, or of all files of a SavedModel."""
    found = find_run(run)
    folder = found.parent if found.is_file() else found
    files = [found if found.is_file() else folder / MODEL_FILE, folder / CARD_FILE]
    if (folder / SAVED_MODEL_FILE).is_file():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(b"%s %d\n" % (os.fsencode(file.relative_to(folder)), file.stat().st_size) + file.read_bytes())
    return digest.hexdigest()


def name_and_hash(described: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Returns the joined names and one hash of all models. For a single model these are its name and its hash."""
    hashes = [model["sha256"] for model in described]
    one = hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    return " + ".join(model["model"] for model in described), one

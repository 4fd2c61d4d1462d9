"""A run's model exported as a SavedModel, checked before it is there."""

import logging
from pathlib import Path

from mtmusic.audio.features import fused_spectrogram, mel_filters
from mtmusic.audio.synthesis import synthesise
from mtmusic.constants import FEATURE_ROWS
from mtmusic.errors import UserError
from mtmusic.files import refuse_other_things
from mtmusic.models.savedmodel import ASSETS, Sound, export_savedmodel, no_waveform
from mtmusic.models.saving import CARD_FILE, SAVED_MODEL_FILE, load, locate, read_examples

FOLDER = "saved_model"
CHECK_SECONDS = 10.0

logger = logging.getLogger(__name__)


def export_model(run: Path, out: Path | None = None, overwrite: bool = False) -> Path:
    """Writes the SavedModel to `out`, by default `saved_model/` in the run's folder, and returns where.

    Raises UserError where the run cannot be loaded, its examples are missing, damaged or another model's, `out` holds
    other things, or an earlier export without `overwrite`, and where the export answers otherwise than the model.
    """
    model, card = load(run)
    folder = out or locate(run)[0] / FOLDER
    refuse_other_things(folder, f"{ASSETS}/{CARD_FILE}")
    if (folder / SAVED_MODEL_FILE).is_file() and not overwrite:
        raise UserError(f"{folder} holds an earlier export: `overwrite=True` replaces it, `out` writes elsewhere")
    examples = read_examples(locate(run)[0], model)
    takes_samples = card["feature"] == "mel" and not card["beat"]
    difference = export_savedmodel(model, card, examples, folder, _sound() if takes_samples else None)
    logger.info(f"Signatures: serve (serving_default), embed{', waveform' if takes_samples else ''}")
    if not takes_samples:
        logger.info(f"No signature takes samples: {no_waveform(card)}")
    logger.info(f"Largest difference from {run} on {len(examples)} clips: {difference:.1g}")
    logger.info(f"SavedModel: {folder}")
    return folder


def _sound() -> Sound:
    samples, _ = synthesise("Rock", 0, CHECK_SECONDS)
    return Sound(mel_filters(), samples, fused_spectrogram(samples)[FEATURE_ROWS["mel"]])

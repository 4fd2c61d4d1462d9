"""Exports a run's model for other programs. The export is checked before its folder is written."""

import logging
from pathlib import Path

from mtmusic.audio.features import fused_spectrogram, logmel_filters, logmel_spectrogram, mel_filters
from mtmusic.audio.resampling import resample
from mtmusic.audio.synthesis import synthesise
from mtmusic.cards import ASSETS, CARD_FILE, LICENSE_FILE, SAVED_MODEL_FILE, locate, own_folder, read_card
from mtmusic.constants import FEATURE_ROWS, LOGMEL_SAMPLE_RATE, SAMPLE_RATE
from mtmusic.errors import UserError
from mtmusic.files import refuse_other_things
from mtmusic.models.conversion import FILES, NAMES, export_converted, require_convertible, require_packages
from mtmusic.models.savedmodel import Sound, export_savedmodel, no_waveform
from mtmusic.models.saving import load, read_examples

SAVEDMODEL = "savedmodel"
FOLDERS = {SAVEDMODEL: "saved_model", **{kind: kind for kind in FILES}}
"""Name of the export in the run's folder, by format."""

TRUNK_LICENSE = "LICENSE.musicnn"
CHECK_SECONDS = 10.0

logger = logging.getLogger(__name__)


def export_model(run: Path, out: Path | None = None, overwrite: bool = False, format: str = SAVEDMODEL) -> Path:
    """Exports a run's model to another format.

    Args:
        run: A run's folder, its model.keras or its name.
        out: The folder to write, by default `saved_model/`, `litert/` or `onnx/` in the run's folder.
        overwrite: Whether an earlier export in `out` is replaced.
        format: "savedmodel", "litert" or "onnx". The last two need the packages of the extra `export`.

    Returns:
        The folder of the export.

    Raises:
        UserError: The run cannot be loaded. Its examples are missing, damaged, or belong to another model. `out` holds
            other files, or an earlier export without `overwrite`. Packages are missing. The format does not support the
            model. The answers of the export differ from the model's. In all these cases nothing is written.

    Examples:
        >>> from mtmusic.training.export import export_model
        >>> export_model("saved_models/genre_lstm", overwrite=True).as_posix()
        'saved_models/genre_lstm/saved_model'
    """
    if format not in FOLDERS:
        raise UserError(f"Expected `format` {', '.join(FOLDERS)}, got {format}")
    model, card = load(run)
    if format != SAVEDMODEL:
        require_convertible(model, format)
        require_packages(format)
    folder = out or own_folder(run) / FOLDERS[format]
    refuse_other_things(folder, FILES.get(format, f"{ASSETS}/{CARD_FILE}"))
    if (folder / FILES.get(format, SAVED_MODEL_FILE)).is_file() and not overwrite:
        raise UserError(
            f"{folder} holds an earlier export: `overwrite=True` replaces it, and `out` names another folder"
        )
    examples = read_examples(run, model)
    licenses = {LICENSE_FILE: locate(run)[0] / LICENSE_FILE}
    if "trunk" in card:  # the export holds the trunk's weights, the run does not
        licenses[TRUNK_LICENSE] = locate(card["trunk"]["name"])[0] / LICENSE_FILE
    licenses = {name: file for name, file in licenses.items() if file.is_file()}
    if format == SAVEDMODEL:
        sound = _sound(card["feature"]) if card["feature"] in ("mel", "logmel") and not card["beat"] else None
        difference = export_savedmodel(model, card, examples, folder, sound, licenses)
        _, *others = read_card(folder / ASSETS)["signatures"]
        logger.info(f"Signatures: serve (serving_default), {', '.join(others)}")
        if sound is None:
            logger.info(f"The export has no signature waveform: {no_waveform(card)}")
    else:
        difference = export_converted(model, card, examples, folder, format, licenses)
    logger.info(f"Largest difference from {run} on {len(examples)} clips: {difference:.1g}")
    logger.info(f"{NAMES.get(format, 'SavedModel')}: {folder / FILES.get(format, '')}")
    return folder


def _sound(feature: str) -> Sound:
    samples, _ = synthesise("Rock", 0, CHECK_SECONDS)
    if feature == "logmel":
        samples = resample(samples, SAMPLE_RATE, LOGMEL_SAMPLE_RATE)
        return Sound(logmel_filters(), samples, logmel_spectrogram(samples))
    return Sound(mel_filters(), samples, fused_spectrogram(samples)[FEATURE_ROWS["mel"]])

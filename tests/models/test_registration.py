"""A saved model is opened by programs that have built none: what is ours must be known by mtmusic.models alone."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import mtmusic.models  # noqa: F401

REGISTERED = """
import importlib, pkgutil
import keras
import mtmusic.models
before = {*keras.saving.get_custom_objects()}
for module in pkgutil.walk_packages(mtmusic.models.__path__, "mtmusic.models."):
    importlib.import_module(module.name)
assert len(before) > 15, before
print(*sorted({*keras.saving.get_custom_objects()} - before))
"""


def test_every_class_is_registered_by_the_package():
    result = subprocess.run([sys.executable, "-c", REGISTERED], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


RENAMED = {
    "CepstralCoefficients": "MFCC",
    "FrameMoments": "StatisticsPooling",
    "FrameChanges": "DeltaStatistics",
    "SpectralRoughness": "SpectralVariation",
    "GaussianKernel": "NystroemFeatures",
}
KEPT = (
    "ChromaIntervals", "ClassWeightedCrossentropy", "DecayedAdam", "FrameMask", "FusedBatchNormalization",
    "GaussianEmbedding", "LastStateLSTM", "LogMelSpectrogram", "MaskedAveragePooling", "NormalizedError",
    "SpectrogramNormalization", "StridedMask", "TaskUncertainty", "UncertaintyWeightedModel", "WeightedLoss",
    "WinogradConv2D", "ZeroAbsentFrames",
)  # fmt: skip
"""What models that are saved already name."""


@pytest.mark.parametrize("saved", [*RENAMED, *KEPT])
def test_the_names_in_saved_models_are_still_those_of_our_classes(saved):
    kind = keras.saving.get_registered_object(f"mtmusic>{saved}")
    assert kind.__qualname__ == RENAMED.get(saved, saved)
    assert keras.saving.get_registered_name(kind) == f"mtmusic>{saved}"


def test_a_model_that_was_saved_before_the_renames_gives_its_answers():
    """The file was written by the classes of the old names, with two clips as centres, the first two here."""
    model = keras.models.load_model(Path(__file__).with_name("before_renames.keras"))
    kinds = {type(layer).__qualname__ for layer in model.get_layer("backbone").layers}
    assert kinds >= {*RENAMED.values()}
    clips = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        clips.append(np.concatenate([rng.uniform(-80, 0, (9, 128)), rng.uniform(0, 1, (9, 12))], axis=1))
    expected = [[1.3261431, -1.2300403], [2.286963, 0.2111893], [0.25227916, -0.2505912]]
    np.testing.assert_allclose(model.predict(np.stack(clips), verbose=0), expected, atol=1e-4)

"""A saved model is opened by programs that have built none: what is ours must be known by mtmusic.models alone."""

import subprocess
import sys

import keras
import pytest

import mtmusic.models
from mtmusic.models.clip_statistics import MFCC

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


@pytest.mark.parametrize(("saved", "now"), [*RENAMED.items(), *zip(KEPT, KEPT, strict=True)])
def test_the_names_in_saved_models_are_still_those_of_our_classes(saved, now):
    kind = keras.saving.get_registered_object(f"{mtmusic.models.layers.PACKAGE}>{saved}")
    assert kind.__name__ == now
    assert keras.saving.get_registered_name(kind) == f"mtmusic>{saved}"


def test_a_layer_that_was_saved_by_its_old_name_is_opened():
    saved = {
        "module": "mtmusic.models.clip_statistics",
        "class_name": "CepstralCoefficients",
        "config": {"name": "cepstrum", "coefficients": 7},
        "registered_name": "mtmusic>CepstralCoefficients",
    }
    layer = keras.saving.deserialize_keras_object(saved)
    assert type(layer) is MFCC
    assert layer.coefficients == 7

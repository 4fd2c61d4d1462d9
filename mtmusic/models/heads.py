"""Heads: they take a backbone and give a compiled model."""

from collections.abc import Sequence

import keras
from keras import layers

LEARNING_RATE = 1e-3


def genre_classifier(
    backbone: keras.Model, classes: Sequence[str], learning_rate: float = LEARNING_RATE
) -> keras.Model:
    """Logits (batch, classes) on the backbone's features; softmax cross-entropy and Adam, as the lab has it.

    Targets are (batch,) class indices. A backbone that is to be frozen must be so before (`transfer.freeze`).
    """
    spectrogram = keras.Input(backbone.input_shape[1:], dtype="float32", name="spectrogram")
    logits = layers.Dense(len(classes), dtype="float32", name="genre")(backbone(spectrogram))
    model = keras.Model(spectrogram, logits, name="genre_classifier")
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model

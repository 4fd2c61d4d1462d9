"""A fixed backbone gives a clip the same features in every epoch: they are computed once, and train the head."""

import keras
import numpy as np
import tensorflow as tf

RANDOM = (keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.GaussianNoise)


def is_fixed(backbone: keras.Model) -> bool:
    """Whether nothing in it is trained, and nothing drawn."""
    drawn = any(isinstance(layer, RANDOM) for layer in backbone.layers)
    return not drawn and not backbone.trainable_variables


def head_alone(model: keras.Model) -> keras.Model:
    """The layers on the backbone, compiled alike: (batch, features) -> answers. Layers and optimizer are the model's
    own, so that training it trains the model."""
    number = model.layers.index(model.get_layer("backbone"))
    head = type(model)(model.layers[number + 1].input, model.output, name=model.name)
    head.compile_from_config(model.get_compile_config())
    head.optimizer = model.optimizer
    return head


def embedded(
    backbone: keras.Model, dataset: tf.data.Dataset, batch_size: int, shuffle: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Batches of (features, target), in another order each epoch where shuffled.

    dataset: finite batches of (spectrogram, target); backbone: to (batch, features), a fixed one.
    """
    features, targets = [], []
    for spectrogram, target in dataset:
        features.append(keras.ops.cast(backbone(spectrogram, training=False), "float32"))
        targets.append(target.numpy())
    slices = tf.data.Dataset.from_tensor_slices((np.concatenate(features), np.concatenate(targets)))
    if shuffle:
        slices = slices.shuffle(len(slices), seed=seed, reshuffle_each_iteration=True)
    return slices.batch(batch_size)

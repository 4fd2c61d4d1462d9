import keras
import numpy as np
import pytest
import tensorflow as tf

from mtmusic.models.backbones import cnn_backbone, lstm_backbone
from mtmusic.models.cpu import is_quicker, layer_type, stock_operations
from mtmusic.models.cpu.convolution import WinogradConv2D
from mtmusic.models.cpu.lstm import LastStateLSTM
from mtmusic.models.cpu.normalization import FusedBatchNormalization
from mtmusic.models.musicnn import musicnn_backbone


@pytest.mark.parametrize(
    ("ours", "stock"),
    [
        (WinogradConv2D, keras.layers.Conv2D),
        (LastStateLSTM, keras.layers.LSTM),
        (FusedBatchNormalization, keras.layers.BatchNormalization),
    ],
)
def test_each_layer_stands_for_its_parent(ours, stock):
    assert layer_type(ours, stock=False) is ours
    assert layer_type(ours, stock=True) is stock


def test_a_layer_is_quicker_with_these_options_where_no_gpu_is_visible(monkeypatch):
    layer = keras.layers.Dense(3)
    assert is_quicker(layer, {"units": 3, "use_bias": True, "of_a_newer_keras": False})
    assert not is_quicker(layer, {"units": 3, "use_bias": False})
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    assert not is_quicker(layer, {"units": 3})
    assert is_quicker(layer, {"units": 3}, on_gpu=True)
    assert not is_quicker(layer, {"units": 4}, on_gpu=True)


BUILDS = {
    "cnn": lambda stock: cnn_backbone(frames=16, blocks=((64, 5), (64, 5)), stock=stock),
    "masked cnn": lambda stock: cnn_backbone(pooling="masked", stock=stock),
    "lstm": lambda stock: lstm_backbone(units=4, stock=stock),
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_what_is_traced_as_stock_has_the_operations_of_a_stock_build(build):
    takes = tf.TensorSpec((None, 16, 128), tf.float32)

    def operations(backbone: keras.Model) -> list[str]:
        traced = tf.function(lambda x: backbone(x, training=False)).get_concrete_function(takes)
        return [operation.type for operation in traced.graph.get_operations()]

    ours, stock = build(False), operations(build(True))
    with stock_operations():
        assert operations(ours) == stock
    assert operations(ours) != stock  # outside they are our own again


def test_the_trunk_gives_the_same_as_stock():
    backbone, batch = musicnn_backbone(), np.random.default_rng(0).uniform(0, 4, (2, 200, 96)).astype("float32")
    ours = backbone(batch).numpy()
    with stock_operations():
        np.testing.assert_allclose(backbone(batch), ours, atol=1e-5)

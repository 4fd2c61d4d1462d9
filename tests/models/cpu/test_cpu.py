import keras
import pytest
import tensorflow as tf

from mtmusic.models.cpu import is_quicker, layer_type
from mtmusic.models.cpu.convolution import WinogradConv2D
from mtmusic.models.cpu.lstm import LastStateLSTM
from mtmusic.models.cpu.normalization import FusedBatchNormalization


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

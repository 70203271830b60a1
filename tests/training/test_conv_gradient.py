"""The faster gradient of convolutions equals the usual one, and is used only where it is valid."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from helpers import named_weights
from permafrost.training.conv_gradient import is_supported, quick_gradients

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's gradients alone")


def layered(count: int = 3) -> keras.Model:
    """A stack of convolutions with kernels as in Inception v3, with and without bias."""
    inputs = keras.Input((6, 5, 4))
    outputs = inputs
    for number, kernel in enumerate([(1, 7), (3, 3), (1, 1)][:count]):
        outputs = keras.layers.Conv2D(
            8, kernel, padding="same", activation="relu", use_bias=number > 0, name=f"conv_{number}"
        )(outputs)
    outputs = keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling2D()(outputs))
    return keras.Model(inputs, outputs)


def test_steps_with_the_faster_gradient_are_the_usual_steps_and_no_layer_stays_changed():
    model, random = layered(), np.random.default_rng(0)
    pixels, labels = random.normal(size=(16, 6, 5, 4)).astype(np.float32), random.integers(0, 3, 16)
    start, trained = model.get_weights(), []

    for quick in (False, True):
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", run_eagerly=True)
        if quick:
            with quick_gradients(model):
                assert all("convolution_op" in vars(layer) for layer in model.layers if is_supported(layer))
                for _ in range(5):
                    model.train_on_batch(pixels, labels)
        else:
            for _ in range(5):
                model.train_on_batch(pixels, labels)
        trained.append(named_weights(model))

    plain, quick = trained
    assert max(np.abs(plain[name] - quick[name]).max() for name in plain) <= 1e-6
    assert np.abs(plain["conv_0/kernel"] - start[0]).max() > 1e-3
    assert not any("convolution_op" in vars(layer) for layer in model.layers)


@pytest.mark.parametrize(
    "changed",
    [{"strides": 2}, {"padding": "valid"}, {"kernel_size": (2, 3)}, {"dilation_rate": 2}, {"groups": 2}],
)
def test_other_convolutions_are_unchanged(changed):
    usual = {"filters": 8, "kernel_size": 3, "padding": "same", "data_format": "channels_last"}

    assert is_supported(keras.layers.Conv2D(**usual))
    assert not is_supported(keras.layers.Conv2D(**(usual | changed)))
    assert not is_supported(keras.layers.DepthwiseConv2D(3, padding="same"))


def test_this_version_of_keras_convolves_by_the_method_that_is_replaced():
    # If this fails, `Conv2D.call` has changed: training is right, but slow, until `quick_gradients` is adapted.
    layer, called = keras.layers.Conv2D(2, 3, padding="same"), []
    layer.build((None, 4, 4, 3))

    def convolution_op(inputs, kernel):
        called.append((inputs.shape, kernel.shape))
        return keras.layers.Conv2D.convolution_op(layer, inputs, kernel)

    layer.convolution_op = convolution_op
    layer(np.zeros((1, 4, 4, 3), np.float32))

    assert [tuple(shape) for shape in called[0]] == [(1, 4, 4, 3), (3, 3, 3, 2)]


def test_without_that_method_training_uses_the_usual_gradient(monkeypatch):
    model = layered()
    monkeypatch.delattr(keras.layers.Conv2D.__mro__[1], "convolution_op")

    with quick_gradients(model):
        assert not any("convolution_op" in vars(layer) for layer in model.layers)

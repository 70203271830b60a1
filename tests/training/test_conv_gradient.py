"""The quicker gradient of convolutions is the gradient, and is used where it holds and nowhere else."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from helpers import named_weights
from permafrost.training.conv_gradient import quick_gradients, suits

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's gradients alone")


def layered(count: int = 3) -> keras.Model:
    """Convolutions one on the other, of kernels as in Inception v3, with a bias and without."""
    inputs = keras.Input((6, 5, 4))
    outputs = inputs
    for number, kernel in enumerate([(1, 7), (3, 3), (1, 1)][:count]):
        outputs = keras.layers.Conv2D(
            8, kernel, padding="same", activation="relu", use_bias=number > 0, name=f"conv_{number}"
        )(outputs)
    outputs = keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling2D()(outputs))
    return keras.Model(inputs, outputs)


def test_steps_with_it_are_the_steps_without_it_and_nothing_of_it_stays():
    model, random = layered(), np.random.default_rng(0)
    pixels, labels = random.normal(size=(16, 6, 5, 4)).astype(np.float32), random.integers(0, 3, 16)
    start, trained = model.get_weights(), []

    for quick in (False, True):
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", run_eagerly=True)
        if quick:
            with quick_gradients(model):
                assert all("convolution_op" in vars(layer) for layer in model.layers if suits(layer))
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
def test_other_convolutions_are_left_as_they_are(changed):
    usual = {"filters": 8, "kernel_size": 3, "padding": "same", "data_format": "channels_last"}

    assert suits(keras.layers.Conv2D(**usual))
    assert not suits(keras.layers.Conv2D(**(usual | changed)))
    assert not suits(keras.layers.DepthwiseConv2D(3, padding="same"))

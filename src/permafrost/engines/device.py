"""The device that Keras computes on."""

from __future__ import annotations

import keras


def sees_gpu() -> bool:
    """Return whether Keras puts tensors on a GPU (or a TPU) by default."""
    device = getattr(keras.ops.zeros(1), "device", "cpu")
    return "cpu" not in str(device).lower()


def tensorflow_on_processor() -> bool:
    """Return whether Keras computes with TensorFlow without a GPU, where it uses XLA only on request."""
    return keras.backend.backend() == "tensorflow" and not sees_gpu()

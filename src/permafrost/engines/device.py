"""What the machine computes on."""

from __future__ import annotations

import keras


def sees_gpu() -> bool:
    """Whether Keras puts tensors on a GPU (or a TPU) by default."""
    device = getattr(keras.ops.zeros(1), "device", "cpu")
    return "cpu" not in str(device).lower()


def tensorflow_on_processor() -> bool:
    """Whether Keras computes by TensorFlow without a GPU, where it compiles nothing by XLA unless it is told to."""
    return keras.backend.backend() == "tensorflow" and not sees_gpu()

"""Keras as an engine, on its current backend."""

from __future__ import annotations

import threading

import keras
import numpy as np

from permafrost.engines.device import sees_gpu
from permafrost.engines.engine import padded


def batch_size_for(count: int, maximum: int) -> int:
    """Return the batch size for an engine that computes `count` images: the next power of two, up to `maximum`.

    A few images are then not padded to a full batch, and the backend compiles for only a few sizes.
    """
    return min(maximum, 1 << max(count - 1, 0).bit_length())


class KerasEngine:
    """Runs a model with Keras' own compiled `predict_on_batch`.

    Every batch is padded to one size, so that the last one neither makes the backend compile again nor is computed
    differently from the others. Pixels go to the device as bytes, a quarter of the size of floats. On a GPU the next
    batch is copied while one is computed.

    Attributes:
        name: `keras/` and the backend.
        record: the name with the version of Keras.
        batch_size: images per batch.
        streams: 2 on a GPU, where one batch is copied while another is computed; else 1.
        why: why `auto` chose Keras; empty if it was requested.
        difference, converted: None.

    Args:
        model: a model with one input.
        batch_size: images per batch.
        why: why `auto` chose Keras.
    """

    def __init__(self, model: keras.Model, *, batch_size: int, why: str = "") -> None:
        self.name = f"keras/{keras.backend.backend()}"
        self.record = f"{self.name} {keras.__version__}"
        self.batch_size = batch_size
        self.why = why
        self.difference = self.converted = None
        self.streams = 2 if sees_gpu() else 1
        self._model = model
        self._computing = threading.Lock()

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features, as `Engine`; `pixels` may be any numbers (n, *shape)."""
        numbers = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32, copy=False)
        batch = padded(numbers, self.batch_size)
        inputs = keras.ops.convert_to_tensor(batch) if self.streams > 1 else batch
        with self._computing:
            outputs = self._model.predict_on_batch(inputs)
        return [np.asarray(output, np.float32)[: len(pixels)] for output in keras.tree.flatten(outputs)]


def compute_once(model: keras.Model, pixels: np.ndarray) -> list[np.ndarray]:
    """Compute one batch with Keras, without compiling for further batches.

    On JAX the whole model is compiled, since compiling each operation by itself takes longer.

    Args:
        model: from (n, h, w, 3), 0 to 255, to one or several outputs.
        pixels: (n, h, w, 3) uint8.

    Returns:
        One array per output of the model, each (n, *shape) float32.
    """
    if keras.backend.backend() == "jax":
        return KerasEngine(model, batch_size=len(pixels))(pixels)
    outputs = keras.tree.flatten(model(pixels.astype(np.float32), training=False))
    return [np.asarray(keras.ops.convert_to_numpy(output), np.float32) for output in outputs]

"""Keras itself as an engine, on whatever backend it was started with."""

from __future__ import annotations

import keras
import numpy as np


class KerasEngine:
    """Runs a model by Keras' own compiled `predict_on_batch`.

    Every batch is filled up to one size, so that the last one neither makes the backend compile anew nor computes by
    another path than the others.
    """

    def __init__(self, model: keras.Model, *, batch_size: int) -> None:
        self.name = f"keras/{keras.backend.backend()}"
        self._model = model
        self._batch_size = batch_size

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """As `engines.Engine`."""
        count = len(pixels)
        batch = np.zeros((self._batch_size, *pixels.shape[1:]), np.float32)
        batch[:count] = pixels
        outputs = self._model.predict_on_batch(batch)
        if not isinstance(outputs, list | tuple):
            outputs = [outputs]
        return [np.asarray(output, np.float32)[:count] for output in outputs]

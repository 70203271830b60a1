"""Compare the first batch of an engine with Keras, and fall back to Keras if they differ."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from permafrost.engines.keras_engine import KerasEngine, compute_once
from permafrost.errors import EngineError

if TYPE_CHECKING:
    import keras

    from permafrost.engines.conversion import ConvertedModel
    from permafrost.engines.engine import Engine
    from permafrost.engines.openvino_engine import OpenVINOEngine

TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 0.05}
"""Permitted difference by precision, relative to the largest feature. Pooled features agree to about 2e-6, the feature
maps of MobileNet to 2e-5. In bfloat16, which has 8 bits, engines that agree to 1e-6 in float32 differ by 2 %."""

IMAGES: Final = 4
"""Images of the first batch that are compared: with a slow base more would take seconds, and would show no more."""


class CheckedEngine:
    """An engine that is compared with Keras on its first batch.

    Attributes:
        difference: difference from Keras, relative to the largest feature; None before the first batch and for Keras.
        batch_size: images per batch: that of the engine, or that of Keras if it took over.

    Args:
        engine: the engine.
        model: the model that it runs.
        precision: the precision in which the model computes.
        fall_back: batch size of Keras, which takes over if the engine does not agree; None makes that an error. A base
            that is sensitive to rounding gives the features of `--engine keras` only in batches of the same size.
    """

    def __init__(self, engine: OpenVINOEngine, model: keras.Model, *, precision: str, fall_back: int | None) -> None:
        self.difference: float | None = None
        self.batch_size, self.streams = engine.batch_size, engine.streams
        self._engine: Engine = engine
        self._model, self._fall_back = model, fall_back
        self._tolerance = TOLERANCE[precision]
        self._checked = False
        self._checking = threading.Lock()

    @property
    def name(self) -> str:
        """The name of the engine in use."""
        return self._engine.name

    @property
    def why(self) -> str:
        """Why Keras took over."""
        return self._engine.why

    @property
    def converted(self) -> ConvertedModel | None:
        """The model in the form of the engine in use."""
        return self._engine.converted

    @property
    def record(self) -> str:
        """The record of the engine in shards, with a bound on its difference from Keras.

        The bound is a power of ten, because shards are merged only if their records are equal.
        """
        if self.difference is None:
            return self._engine.record
        bound = 10.0 ** max(-7, math.ceil(math.log10(self.difference or 1e-7)))
        return f"{self._engine.record}, within {bound:.0e} of Keras"

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features, as `Engine`.

        Raises:
            EngineError: the features differ from those of Keras.
        """
        engine = self._engine
        features = engine(pixels)
        if not self._checked:
            with self._checking:  # Other threads compute meanwhile; none returns before the check is over.
                if not self._checked:
                    self._check(pixels, features)
        return features if engine is self._engine else self._engine(pixels)

    def _check(self, pixels: np.ndarray, features: list[np.ndarray]) -> None:
        expected = compute_once(self._model, pixels[:IMAGES])
        found = max(largest_difference(part[:IMAGES], right) for part, right in zip(features, expected, strict=True))
        if found <= self._tolerance:
            self.difference, self._checked = found, True
            return
        error = EngineError(
            f"the features of {self._engine.name} are not those of Keras",
            expected=f"a difference of at most {self._tolerance:.0e} of the largest",
            found=f"{found:.1e}",
            do="use --engine keras",
        )
        if self._fall_back is None:
            raise error
        self._engine = KerasEngine(self._model, batch_size=self._fall_back, why=str(error))
        self.batch_size = self._fall_back
        self._checked = True


def largest_difference(features: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of `features` from `expected`, relative to the largest value expected.

    Values that are not finite in `expected` are ignored here: they are another error, reported elsewhere.
    """
    finite = np.isfinite(expected)
    if not finite.any():
        return 0.0
    difference = np.abs(features[finite] - expected[finite]).max()
    largest = np.abs(expected[finite]).max()
    if difference == 0:
        return 0.0
    return float(difference / largest) if largest > 0 and np.isfinite(difference) else float("inf")

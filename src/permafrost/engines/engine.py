"""The interface of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from permafrost.engines.conversion import ConvertedModel


class Engine(Protocol):
    """Runs a model on batches of one size."""

    @property
    def name(self) -> str:
        """The engine's name, e.g. `keras/tensorflow`."""
        ...

    @property
    def record(self) -> str:
        """What shards record: the name with versions, and a bound of the difference from Keras."""
        ...

    @property
    def batch_size(self) -> int:
        """Images per batch; it may become larger after the first batch."""
        ...

    @property
    def streams(self) -> int:
        """Number of batches that are best computed at once: that many threads may call the engine."""
        ...

    @property
    def difference(self) -> float | None:
        """Difference from Keras on the first batch, relative to the largest feature; None for Keras itself."""
        ...

    @property
    def why(self) -> str:
        """Why `auto` chose this engine, unless it is the fastest one on a CPU."""
        ...

    @property
    def converted(self) -> ConvertedModel | None:
        """The model in the engine's own form, to be stored for the next run; None for Keras."""
        ...

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features.

        Args:
            pixels: (n, h, w, 3) uint8, 0 to 255; n is at most the batch size.

        Returns:
            For each output of the model (n, *shape) float32.
        """
        ...

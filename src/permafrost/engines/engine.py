"""The interface that all engines have, and the padding of their batches."""

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
        """The record of the engine in shards: its name and version, and a bound on the difference from Keras."""
        ...

    @property
    def batch_size(self) -> int:
        """Images per batch; it may grow after the first batch, if Keras takes over."""
        ...

    @property
    def streams(self) -> int:
        """Number of batches to compute at once for the best throughput: that many threads may call the engine."""
        ...

    @property
    def difference(self) -> float | None:
        """Difference from Keras on the first batch, relative to the largest feature; None for Keras itself."""
        ...

    @property
    def why(self) -> str:
        """Why `auto` chose this engine; empty for the one that is fastest on a CPU, and for a requested one."""
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
            One array per output of the model, each (n, *shape) float32.
        """
        ...


def padded(array: np.ndarray, count: int) -> np.ndarray:
    """Return (n, *shape) as a contiguous array of `count` rows; the rows added to a partial batch are zeros."""
    if len(array) == count:
        return np.ascontiguousarray(array)
    batch = np.zeros((count, *array.shape[1:]), array.dtype)
    batch[: len(array)] = array
    return batch

"""What an engine is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from permafrost.engines.conversion import ConvertedModel


class Engine(Protocol):
    """Runs a model on batches of one size."""

    @property
    def name(self) -> str:
        """For people, e.g. `keras/tensorflow`."""
        ...

    @property
    def record(self) -> str:
        """What shards record: the name, with versions, and how near it came to Keras."""
        ...

    @property
    def batch_size(self) -> int:
        """Images in a batch; it may become larger after the first."""
        ...

    @property
    def streams(self) -> int:
        """How many batches it computes best at once; so many threads may call it."""
        ...

    @property
    def difference(self) -> float | None:
        """From Keras on the first batch, as a share of the largest feature; None where it is Keras."""
        ...

    @property
    def why(self) -> str:
        """Why it is this one, where `auto` did not take the fastest that a processor has."""
        ...

    @property
    def converted(self) -> ConvertedModel | None:
        """The model in the engine's own form, to be kept and given to the next one; None for Keras."""
        ...

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features.

        Args:
            pixels: (n, h, w, 3) uint8, 0 to 255; n at most the engine's batch size.

        Returns:
            For each output of the model (n, *shape) float32.
        """
        ...

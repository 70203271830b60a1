"""What runs a trunk on batches. An engine is made from a Keras model, and called on pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from permafrost.errors import OptionError

if TYPE_CHECKING:
    import keras
    import numpy as np

ENGINES: Final = ("auto", "keras")


class Engine(Protocol):
    """Runs a model on batches of one size.

    Attributes:
        name: what shards record, e.g. `keras/tensorflow`.
    """

    name: str

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features.

        Args:
            pixels: (n, h, w, 3) uint8, 0 to 255; n at most the engine's batch size.

        Returns:
            For each output of the model (n, *shape) float32.
        """
        ...


def make_engine(name: str, model: keras.Model, *, batch_size: int) -> Engine:
    """The engine called `name`, for `model`.

    Args:
        name: one of `ENGINES`; `auto` takes the best that is there.
        model: from (n, h, w, 3) float32, 0 to 255, to one or several outputs.
        batch_size: pictures in a batch.

    Raises:
        OptionError: there is no such engine.
    """
    if name not in ENGINES:
        raise OptionError("unknown engine", expected=" or ".join(ENGINES), found=name)
    from permafrost.engines.keras_engine import KerasEngine

    return KerasEngine(model, batch_size=batch_size)

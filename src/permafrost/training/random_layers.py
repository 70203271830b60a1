"""The random layers of a model, such as dropout: training can be repeated, and frozen layers stay frozen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

from permafrost.trunk.graph import leaves


def seed_random_layers(model: keras.Model, seed: int) -> None:
    """Seed the random layers of a model that have no seed of their own, each by its name.

    Keras draws their seeds from Python's global generator, so no two processes would train alike.
    """
    for layer in leaves(model):
        generator = getattr(layer, "seed_generator", None)
        if isinstance(generator, keras.random.SeedGenerator) and generator.get_config()["seed"] is None:
            drawn = np.random.default_rng([seed, *layer.name.encode()]).integers(0, 2**31)
            generator.state.assign(np.array([drawn, 0]))


@contextlib.contextmanager
def frozen_layers_keep_all(model: keras.Model) -> Iterator[None]:
    """Switch off dropout in frozen layers within the block, where features would not be those that are cached.

    Keras drops in training whether a layer is trainable or not.
    """
    rates = [(layer, layer.rate) for layer in leaves(model) if not layer.trainable and getattr(layer, "rate", False)]
    for layer, _ in rates:
        layer.rate = 0
    try:
        yield
    finally:
        for layer, rate in rates:
            layer.rate = rate

"""A small base of `keras.applications` for the tests of bases and of their weights."""

from __future__ import annotations

import numpy as np
import pytest

from permafrost.trunk.bases import Base, load_base
from samples import PX

SMALL = "mobilenet:alpha=0.25"
PIXELS = np.random.default_rng(0).integers(0, 256, (2, PX, PX, 3)).astype(np.float32)


def small_base(weights: object = "none") -> Base:
    """Load the base with some weights, at 32 px."""
    return load_base(SMALL, weights=str(weights), image_size=(PX, PX))


@pytest.fixture(scope="module")
def small() -> Base:
    """A small MobileNet with random weights. Not to be changed."""
    return small_base()

"""Nearest neighbours: the fraction of each class among them; the setting is their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from permafrost.heads.classical_head import ClassicalHead
from permafrost.heads.fitters import Setup
from permafrost.heads.head import too_many_neighbours

COUNTS: Final = (50, 30, 20, 15, 10, 7, 5, 3, 1)


def fitter(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], KNeighborsClassifier]:  # noqa: ARG001
    """Return a function that fits a number of neighbours; it raises `OptionError` if there are fewer rows."""

    def fit(count: float) -> KNeighborsClassifier:
        if count > len(x):
            raise too_many_neighbours(int(count), len(x))
        return KNeighborsClassifier(int(count), algorithm="brute").fit(x, y)

    return fit


HEAD: Final = ClassicalHead(
    name="knn",
    setting="neighbours",
    option="neighbours",
    values=lambda n: tuple(float(count) for count in COUNTS if count <= n / 2),
    fitter=fitter,
    rotation_invariant=True,
    valid=(lambda value: value >= 1 and value == int(value), "a whole number, 1 or more"),
    passes_gradient=False,
)

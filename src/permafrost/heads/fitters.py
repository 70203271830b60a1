"""The interface of functions that fit heads which Keras does not train."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from permafrost.heads.calibration import log_probabilities
from permafrost.heads.to_keras import Affine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that fitting depends on besides the rows and the setting.

    Attributes:
        class_count: the number of classes.
        features: the number of features; rows may be coordinates in the smaller space that they span.
        balanced: whether classes are weighted equally.
        hidden: units of each hidden layer of `mlp`.
        seed: random seed.
    """

    class_count: int
    features: int
    balanced: bool
    hidden: tuple[int, ...]
    seed: int

    def class_weights(self, y: np.ndarray) -> np.ndarray:
        """Return the weight (classes,) of a row of each class: n / (classes * rows of the class), or 1."""
        if not self.balanced:
            return np.ones(self.class_count)
        return len(y) / (self.class_count * np.maximum(np.bincount(y, minlength=self.class_count), 1))


Fitted = Any
"""An `Affine` map to logits, or a fitted scikit-learn classifier with probabilities."""

Fitter = Callable[[np.ndarray, np.ndarray, Setup], Callable[[float], Fitted]]
"""Takes rows x (n, d) and y (n,), and returns a function that fits for one value of the setting. It is called with the
most regularised value first, so that each fit can start from the previous one."""


def logits_of(fitted: Fitted, x: np.ndarray) -> np.ndarray:
    """Return the logits (n, classes) float64 of rows x (n, d)."""
    if isinstance(fitted, Affine):
        return fitted(x)
    return log_probabilities(fitted.predict_proba(x))


def powers_of_ten(first: int, last: int, steps: int) -> tuple[float, ...]:
    """Return `steps` powers of ten with evenly spaced exponents, from 10^first to 10^last."""
    return tuple(float(value) for value in np.logspace(first, last, steps))

"""Gaussian naive Bayes; the setting is the fraction of the largest variance that is added to all variances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from sklearn.naive_bayes import GaussianNB

from permafrost.heads.classical_head import ClassicalHead
from permafrost.heads.fitters import Setup, powers_of_ten


def fitter(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], GaussianNB]:
    """Return a function that fits each value from scratch."""
    priors = np.full(setup.class_count, 1 / setup.class_count) if setup.balanced else None

    def fit(smoothing: float) -> GaussianNB:
        return GaussianNB(priors=priors, var_smoothing=smoothing).fit(x, y)

    return fit


HEAD: Final = ClassicalHead(
    name="nb",
    setting="smoothing",
    values=lambda _: powers_of_ten(1, -9, 11),
    fitter=fitter,
    scalings=("standard",),  # Scaling changes nothing.
)

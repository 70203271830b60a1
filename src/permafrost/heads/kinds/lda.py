"""Linear discriminant analysis; the setting is the shrinkage of the covariance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from permafrost.heads.classical_head import ClassicalHead
from permafrost.heads.closed_forms import Moments, lda_path
from permafrost.heads.fitters import Setup
from permafrost.heads.out_of_core import fit_from_moments
from permafrost.heads.to_keras import Affine

SHRINKAGES: Final = (0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)


def fitter(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], Affine]:
    """Return a function that fits any shrinkage from one eigendecomposition."""
    return lda_path(Moments.of(x.astype(np.float64), y, setup.class_weights(y)), setup.features)


HEAD: Final = ClassicalHead(
    name="lda",
    setting="shrinkage",
    values=lambda _: SHRINKAGES,
    fitter=fitter,
    from_disk=fit_from_moments(lda_path),
    rotation_invariant=True,
    valid=(lambda value: 0 < value <= 1, "more than 0, at most 1"),
)

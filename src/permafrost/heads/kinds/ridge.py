"""Ridge regression of targets -1 and 1 per class; the setting alpha is the strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from permafrost.heads.classical_head import ClassicalHead
from permafrost.heads.closed_forms import Moments, ridge_path
from permafrost.heads.fitters import Setup, powers_of_ten
from permafrost.heads.out_of_core import fit_from_moments
from permafrost.heads.to_keras import Affine


def fitter(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], Affine]:
    """Return a function that fits any strength from one eigendecomposition."""
    return ridge_path(Moments.of(x.astype(np.float64), y, setup.class_weights(y)))


HEAD: Final = ClassicalHead(
    name="ridge",
    setting="alpha",
    values=lambda n: tuple(n * value for value in powers_of_ten(2, -4, 25)),
    fitter=fitter,
    from_disk=fit_from_moments(lambda moments, _: ridge_path(moments)),
    rotation_invariant=True,
    scores_only=True,
)

"""L2-regularised logistic regression; the setting C is the inverse strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from sklearn.linear_model import LogisticRegression

from permafrost.heads.classical_head import ClassicalHead
from permafrost.heads.fitters import Setup, powers_of_ten
from permafrost.heads.logistic_from_disk import fit_logistic_from_disk
from permafrost.heads.to_keras import Affine, as_logits

MAX_ITERATIONS: Final = 1000
TOLERANCE: Final = 1e-4
"""L-BFGS stops when no component of the gradient is larger: scikit-learn's default, which gives its results."""

TOLERANCE_IN_SPAN: Final = 1e-6
"""The same for rows in coordinates of their span, where gradients differ: it gives probabilities within 1e-5."""


def fitter(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], Affine]:
    """Return a function that fits by L-BFGS, each value from the coefficients of the previous one."""
    model = LogisticRegression(
        class_weight="balanced" if setup.balanced else None,
        max_iter=MAX_ITERATIONS,
        # Rows are float32 in comparisons, which need less precision.
        tol=TOLERANCE if x.shape[1] == setup.features or x.dtype == np.float32 else TOLERANCE_IN_SPAN,
        warm_start=True,
    )

    def fit(strength: float) -> Affine:
        model.set_params(C=strength).fit(x, y)
        return as_logits(model.coef_, model.intercept_)

    return fit


HEAD: Final = ClassicalHead(
    name="logistic",
    setting="C",
    values=lambda _: powers_of_ten(-4, 2, 19),
    fitter=fitter,
    from_disk=fit_logistic_from_disk,
    rotation_invariant=True,
)

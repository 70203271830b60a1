"""A linear support vector machine, one class against the rest; the setting C is the inverse strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from sklearn.svm import LinearSVC

from permafrost.heads.classical_head import ClassicalHead
from permafrost.heads.fitters import Setup, powers_of_ten
from permafrost.heads.to_keras import Affine, as_logits

MAX_ITERATIONS: Final = 1000


def fitter(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], Affine]:
    """Return a function that fits each value from scratch."""
    # Rows are float32 in comparisons, where most of the time would go to converging weak regularisation.
    speed: dict[str, Any] = {"dual": True, "tol": 1e-2} if x.dtype == np.float32 else {"dual": "auto"}

    def fit(strength: float) -> Affine:
        weight = "balanced" if setup.balanced else None
        model = LinearSVC(C=strength, class_weight=weight, random_state=setup.seed, max_iter=MAX_ITERATIONS, **speed)
        model.fit(x, y)
        return as_logits(model.coef_, model.intercept_, symmetric=True)

    return fit


HEAD: Final = ClassicalHead(
    name="svm",
    setting="C",
    values=lambda _: powers_of_ten(-6, -1, 11),
    fitter=fitter,
    scores_only=True,
)

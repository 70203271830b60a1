"""scikit-learn's network of fully connected layers; the setting alpha is its L2 penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from sklearn.neural_network import MLPClassifier

from permafrost.heads.classical_head import ClassicalHead
from permafrost.heads.fitters import Setup


def fitter(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], MLPClassifier]:
    """Return a function that fits each value from scratch."""

    def fit(alpha: float) -> MLPClassifier:
        model = MLPClassifier(setup.hidden, alpha=alpha, random_state=setup.seed)
        return model.fit(x, y, sample_weight=setup.class_weights(y)[y] if setup.balanced else None)

    return fit


HEAD: Final = ClassicalHead(
    name="mlp",
    setting="alpha",
    values=lambda _: (1e-4,),
    fitter=fitter,
    scalings=("standard",),  # Fitting is slow.
)

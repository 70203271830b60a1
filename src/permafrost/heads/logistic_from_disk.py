"""Fit logistic regression to features that stay on disk, by several passes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from permafrost.heads.fitters import Setup
from permafrost.heads.head import FittedHead, HeadData
from permafrost.heads.options import HeadOptions
from permafrost.heads.out_of_core import gather_scaling, over_blocks, require_no_components
from permafrost.heads.preparation import setup_of
from permafrost.heads.to_keras import Affine, softmax, to_keras
from permafrost.store.streaming import FeatureRows
from permafrost.units import size

if TYPE_CHECKING:
    from permafrost.heads.classical_head import ClassicalHead

MAX_PASSES: Final = 60
"""Maximum number of passes over the rows."""


def fit_logistic_from_disk(head: ClassicalHead, data: HeadData, options: HeadOptions) -> FittedHead:
    """Fit logistic regression by L-BFGS, one pass per step, warm-started on the sample in memory."""
    stream = data.stream
    assert stream is not None
    require_no_components(options)
    first = head.fit(data, options)
    setup = setup_of(data, options, math.prod(stream.shape))
    weights = setup.class_weights(stream.labels)
    scaling = gather_scaling(stream, options.scaling)
    objective = _LogisticLoss(stream, weights, scaling, first.details["C"], setup)
    kernel, bias = (np.asarray(array, np.float64) for array in first.model.layers[-1].get_weights())
    found = minimize(
        objective,
        objective.start(kernel, bias),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_PASSES, "maxfun": MAX_PASSES, "gtol": 1e-6, "ftol": 1e-10},
    )
    how = (
        f"in {objective.passes} passes over {size(stream.nbytes)} on disk, "
        f"from a start fitted to {len(data.y):,} rows in memory"
    )
    return FittedHead(
        model=to_keras([scaling, objective.as_affine(found.x), softmax], stream.shape),
        history=first.history,
        details=first.details | {"fitted": how, "passes": objective.passes},
    )


class _LogisticLoss:
    """scikit-learn's objective and its gradient, from one pass over the rows per call.

    The objective is C times the sum of losses plus half the squared weights, divided by C times the sum of the rows'
    weights. Two classes have one row of coefficients, as in scikit-learn.

    Attributes:
        passes: passes so far.
    """

    def __init__(
        self, stream: FeatureRows, weights: np.ndarray, scaling: Affine, strength: float, setup: Setup
    ) -> None:
        self._stream, self._weights, self._scaling = stream, weights, scaling
        # Rows are centred before they are multiplied, to preserve precision; the scaling then adds almost nothing.
        self._centre = (-scaling.bias / scaling.kernel).astype(np.float32)
        self._of_centred = Affine(scaling.kernel, scaling.bias + self._centre * scaling.kernel)
        self._total = float(weights[stream.labels].sum())
        self._penalty = 1 / (strength * self._total)
        self._classes, self._binary = setup.class_count, setup.class_count == 2
        self.passes = 0

    def start(self, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Return the parameters of a map from unscaled features: kernel (d, classes) and bias (classes,)."""
        scaled = kernel / self._scaling.kernel[:, None]
        moved = bias - (self._scaling.bias / self._scaling.kernel) @ kernel
        if self._binary:
            scaled, moved = scaled[:, 1:] - scaled[:, :1], moved[1:] - moved[:1]
        return np.concatenate([scaled.reshape(-1), moved])

    def as_affine(self, parameters: np.ndarray) -> Affine:
        """Return the map from scaled features to logits for these parameters."""
        columns = 1 if self._binary else self._classes
        kernel, bias = parameters[:-columns].reshape(-1, columns), parameters[-columns:]
        if self._binary:
            kernel = np.concatenate([np.zeros_like(kernel), kernel], axis=1)
            bias = np.concatenate([[0.0], bias])
        return Affine(kernel, bias)

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the objective and its gradient."""
        self.passes += 1
        scaled = self.as_affine(parameters)
        whole = self._of_centred.then(scaled)
        kernel, bias = whole.kernel.astype(np.float32), whole.bias.astype(np.float32)

        def of_block(numbers: np.ndarray, block: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            x, y = block.reshape(len(block), -1), self._stream.labels[numbers]
            x -= self._centre
            logs = log_softmax((x @ kernel + bias).astype(np.float64), axis=1)
            weights = self._weights[y]
            residuals = np.exp(logs)
            residuals[np.arange(len(y)), y] -= 1
            residuals *= weights[:, None]
            block_loss = -float(weights @ logs[np.arange(len(y)), y])
            return block_loss, (x.T @ residuals.astype(np.float32)).astype(np.float64), residuals.sum(axis=0)

        loss, gradient, slopes = 0.0, np.zeros_like(scaled.kernel), np.zeros_like(scaled.bias)
        for block_loss, block_gradient, block_slopes in over_blocks(self._stream, of_block):
            loss, gradient, slopes = loss + block_loss, gradient + block_gradient, slopes + block_slopes
        # The gradient for scaled features: (x * k + b)ᵀ r.
        gradient = gradient * self._of_centred.kernel[:, None] + np.outer(self._of_centred.bias, slopes)
        if self._binary:
            gradient, slopes, penalised = gradient[:, 1:], slopes[1:], scaled.kernel[:, 1:]
        else:
            penalised = scaled.kernel
        value = loss / self._total + 0.5 * self._penalty * float(np.sum(penalised**2))
        gradient = gradient / self._total + self._penalty * penalised
        return value, np.concatenate([gradient.reshape(-1), slopes / self._total])

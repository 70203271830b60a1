"""Probabilities that mean what they say: temperature scaling, and the expected calibration error.

Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

MIN_PROBABILITY: Final = 1e-15
"""Probabilities are taken to be no smaller, so that their logarithm is a number."""

LOG_RANGE: Final = (-10.0, 10.0)
"""Of the inverse temperature's logarithm: scikit-learn's."""


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Logits (n, classes) float64 whose softmax the probabilities are."""
    logits: np.ndarray = np.log(np.clip(probabilities.astype(np.float64), MIN_PROBABILITY, None))
    return logits


def row_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The log loss (n,) of each row, in nats, as scikit-learn bounds it."""
    chosen = log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    losses: np.ndarray = -np.maximum(chosen, np.log(MIN_PROBABILITY))
    return losses


def temperature_is_identifiable(logits: np.ndarray, labels: np.ndarray) -> bool:
    """Whether one temperature suits these rows best: where all are right, the lower the better, without end.

    Args:
        logits: (n, classes), or their softmax.
        labels: (n,) int64.
    """
    return bool((logits.argmax(axis=1) != labels).any())


def inverse_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The factor for the logits (n, classes) with which the mean log loss is least.

    Args:
        logits: of rows that were not fitted to.
        labels: (n,) int64.
        weights: (n,), of the rows; equal ones if None.

    Returns:
        The largest of `LOG_RANGE` where it is not `temperature_is_identifiable`, as scikit-learn does.
    """

    def loss(log_factor: float) -> float:
        return float(np.average(row_losses(np.exp(log_factor) * logits, labels), weights=weights))

    return float(np.exp(minimize_scalar(loss, bounds=LOG_RANGE, options={"xatol": 1e-9}).x))

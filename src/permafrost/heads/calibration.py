"""Temperature scaling: Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks"."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from permafrost.training.metrics import MIN_PROBABILITY

LOG_RANGE: Final = (-10.0, 10.0)
"""Range of the logarithm of the inverse temperature, as in scikit-learn."""


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return logits (n, classes) float64 whose softmax gives the probabilities."""
    logits: np.ndarray = np.log(np.clip(probabilities.astype(np.float64), MIN_PROBABILITY, None))
    return logits


def row_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the log loss (n,) of each row, in nats, bounded as in scikit-learn."""
    chosen = log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    losses: np.ndarray = -np.maximum(chosen, np.log(MIN_PROBABILITY))
    return losses


def temperature_is_identifiable(logits: np.ndarray, labels: np.ndarray) -> bool:
    """Return whether a best temperature exists: if all rows are classified correctly, a lower one is always better.

    Args:
        logits: (n, classes), or their softmax.
        labels: (n,) int64.
    """
    return bool((logits.argmax(axis=1) != labels).any())


def inverse_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the factor for the logits that minimises the mean log loss.

    Without a best temperature (see `temperature_is_identifiable`) its logarithm is the upper end of `LOG_RANGE`, as in
    scikit-learn.

    Args:
        logits: (n, classes), of rows that the head was not fitted to.
        labels: (n,) int64.
        weights: (n,), weights of the rows; equal if None.
    """

    def loss(log_factor: float) -> float:
        return float(np.average(row_losses(np.exp(log_factor) * logits, labels), weights=weights))

    return float(np.exp(minimize_scalar(loss, bounds=LOG_RANGE, options={"xatol": 1e-9}).x))

"""Metrics of predicted probabilities, with intervals, and the best decision threshold for two classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

RESAMPLES: Final = 10_000
"""Bootstrap resamples of a paired difference."""

INTERVAL_RESAMPLES: Final = 2000
"""Bootstrap resamples of an interval of an accuracy."""

LEVEL: Final = 0.95
"""Fraction of the resamples inside an interval of an accuracy."""

CALIBRATION_BINS: Final = 15

MIN_PROBABILITY: Final = 1e-15
"""Smaller probabilities are raised to this, so that their logarithm is finite."""


def metrics(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of predictions.

    Args:
        labels: (n,) int64.
        probabilities: (n, classes).
        class_names: the classes.

    Returns:
        `n`; `accuracy`; `balanced_accuracy`, the mean recall of the classes that occur; `log_loss`, mean, in nats;
        `calibration_error`, see `calibration_error`; `intervals` of the accuracies, see `bootstrap_intervals`;
        `classes`, each with `n`, `precision`, `recall`, `f1`, None if undefined; and `confusion`, (classes, classes),
        one row per true class. Only `n` if there are no images.
    """
    if not len(labels):
        return {"n": 0}
    predicted = probabilities.argmax(axis=1)
    matrix = confusion(labels, predicted, len(class_names))
    hits, truths, predicted_counts = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return {
        "n": len(labels),
        **accuracies(labels, predicted),
        "log_loss": scores(labels, probabilities)["log_loss"],
        "calibration_error": calibration_error(labels, probabilities),
        "intervals": bootstrap_intervals(matrix),
        "classes": {
            name: {
                "n": int(truths[i]),
                "precision": _fraction(hits[i], predicted_counts[i]),
                "recall": _fraction(hits[i], truths[i]),
                "f1": _fraction(2 * hits[i], truths[i] + predicted_counts[i]),
            }
            for i, name in enumerate(class_names)
        },
        "confusion": matrix.tolist(),
    }


def accuracies(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return `accuracy` and `balanced_accuracy`, the mean recall of the classes that occur.

    Args:
        labels: (n,) int64, n at least 1.
        predicted: (n,) int64.
    """
    right = predicted == labels
    counts, hits = np.bincount(labels), np.bincount(labels, weights=right)
    recalls = hits[counts > 0] / counts[counts > 0]
    return {"accuracy": float(right.mean()), "balanced_accuracy": float(recalls.mean())}


def paired_difference(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Return the difference of two models' accuracies on the same images, with a percentile interval.

    The paired bootstrap resamples images together with both models' outputs: Efron and Tibshirani 1993, "An
    Introduction to the Bootstrap", chapter 13.

    Args:
        labels: (n,) int64.
        before, after: (n, classes), probabilities of the two models.

    Returns:
        `n`, `accuracy_difference` (after minus before), its 95 % `interval`, and `resamples`; only `n` if n is 0.
    """
    if not len(labels):
        return {"n": 0}
    right = [(outputs.argmax(axis=1) == labels).astype(int) for outputs in (before, after)]
    change = right[1] - right[0]
    # A resample is determined by how many of its images got better, got worse, and did not change.
    fractions = np.array([(change == 1).mean(), (change == -1).mean(), (change == 0).mean()])
    drawn = np.random.default_rng(0).multinomial(len(labels), fractions / fractions.sum(), size=RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / len(labels), [0.025, 0.975])
    return {
        "n": len(labels),
        "accuracy_difference": float(change.mean()),
        "interval": [float(low), float(high)],
        "resamples": RESAMPLES,
    }


def bootstrap_intervals(matrix: np.ndarray) -> dict[str, Any]:
    """Return bootstrap percentile intervals of the accuracies.

    A resample is a multinomial draw over the cells of the confusion matrix: Efron and Tibshirani 1993, "An Introduction
    to the Bootstrap", chapter 13. The same matrix gives the same intervals.

    Args:
        matrix: (classes, classes) int64, from `confusion`, with at least one image.

    Returns:
        `level`, and the lower and upper bound of `accuracy` and of `balanced_accuracy`.
    """
    truths, predicted = np.nonzero(matrix)
    counts = matrix[truths, predicted]
    drawn = np.random.default_rng(0).multinomial(counts.sum(), counts / counts.sum(), size=INTERVAL_RESAMPLES)
    right = truths == predicted
    correct = drawn[:, right].sum(axis=1) / counts.sum()
    recalls = []
    for label in np.unique(truths):
        # A resample without images of a class leaves that class out of its balanced accuracy.
        of_class = drawn[:, truths == label].sum(axis=1)
        hits = drawn[:, right & (truths == label)].sum(axis=1)
        recalls.append(np.divide(hits, of_class, out=np.full(INTERVAL_RESAMPLES, np.nan), where=of_class > 0))
    bounds = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    return {
        "level": LEVEL,
        "accuracy": np.percentile(correct, bounds).tolist(),
        "balanced_accuracy": np.percentile(np.nanmean(recalls, axis=0), bounds).tolist(),
    }


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy over equal-width bins.

    Guo et al. 2017, "On Calibration of Modern Neural Networks".

    Args:
        labels: (n,) int64, n at least 1.
        probabilities: (n, classes).
    """
    # A diverged model, whose probabilities are NaN, has no confidence.
    confidence = np.nan_to_num(probabilities.max(axis=1).astype(np.float64), nan=0.0)
    right = probabilities.argmax(axis=1) == labels
    numbers = np.clip((confidence * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(numbers, weights=right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the decision threshold with the highest balanced accuracy for two classes.

    The second class is predicted if its probability is at least the threshold. If a range of thresholds is equally
    good, its middle is returned.

    Args:
        labels: (n,) int64, 0 and 1; both occur.
        scores: (n,) probabilities of class 1.
    """
    values = np.unique(scores.astype(np.float64))
    thresholds = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [1.0]])
    recall_of_1 = 1 - np.searchsorted(np.sort(scores[labels == 1]), thresholds) / (labels == 1).sum()
    recall_of_0 = np.searchsorted(np.sort(scores[labels == 0]), thresholds) / (labels == 0).sum()
    best = np.flatnonzero(np.isclose(recall_of_0 + recall_of_1, (recall_of_0 + recall_of_1).max()))
    # Average only consecutive thresholds: the middle between two separate ranges need not be good.
    run = best[: int(np.argmax(np.append(np.diff(best) != 1, True))) + 1]
    return float(thresholds[run].mean())


def at_threshold(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    """Return the accuracies (see `accuracies`) if class 1 of two is predicted at or above a probability."""
    return accuracies(labels, (probabilities[:, 1] >= threshold).astype(np.int64))


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return the two metrics that training monitors; they are cheap enough for every epoch.

    Args:
        labels: (n,) int64, n at least 1.
        probabilities: (n, classes).

    Returns:
        `accuracy`, and `log_loss`, mean, in nats.
    """
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "accuracy": float(np.mean(probabilities.argmax(axis=1) == labels)),
        "log_loss": float(-np.log(np.clip(chosen, MIN_PROBABILITY, None)).mean()),
    }


def confusion(labels: np.ndarray, predicted: np.ndarray, class_count: int) -> np.ndarray:
    """Return the confusion matrix (classes, classes) int64: rows are true classes, columns predicted ones."""
    matrix = np.zeros((class_count, class_count), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def _fraction(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None

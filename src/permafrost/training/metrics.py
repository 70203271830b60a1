"""Figures and plots of how well a model does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    pass


RESAMPLES: Final = 10_000
"""Of the bootstrap."""


def metrics(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Figures of predictions against the truth.

    Args:
        labels: (n,) int64.
        probabilities: (n, classes).
        class_names: the classes.

    Returns:
        `n`; `accuracy`, the fraction of right labels; `balanced_accuracy`, its mean over the classes that occur;
        `log_loss`, mean, in nats; `calibration_error`, see `calibration_error`; `intervals`, of the accuracies, see
        `bootstrap_intervals`; `classes`, for each `n`, `precision`, `recall`, `f1`, None where undefined; and
        `confusion`, (classes, classes), a row a true class. Only `n` where there are no images.
    """
    if not len(labels):
        return {"n": 0}
    matrix = confusion(labels, probabilities.argmax(axis=1), len(class_names))
    hits, truths, guesses = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    occurring = truths > 0
    overall = scores(labels, probabilities)
    return {
        "n": len(labels),
        "accuracy": overall["accuracy"],
        "balanced_accuracy": float((hits[occurring] / truths[occurring]).mean()),
        "log_loss": overall["log_loss"],
        "calibration_error": calibration_error(labels, probabilities),
        "intervals": bootstrap_intervals(matrix),
        "classes": {
            name: {
                "n": int(truths[i]),
                "precision": _fraction(hits[i], guesses[i]),
                "recall": _fraction(hits[i], truths[i]),
                "f1": _fraction(2 * hits[i], truths[i] + guesses[i]),
            }
            for i, name in enumerate(class_names)
        },
        "confusion": matrix.tolist(),
    }


def paired_difference(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """By how much one model's accuracy differs from another's on the same images.

    The interval is that of the paired bootstrap by percentiles (Efron and Tibshirani 1993, "An Introduction to the
    Bootstrap", chapter 13): images are drawn anew, each with what both models say of it.

    Args:
        labels: (n,) int64.
        before, after: (n, classes), probabilities of both models.

    Returns:
        `n`, `accuracy_difference`, after less before, `interval`, of 95 %, and `resamples`; only `n` without images.
    """
    if not len(labels):
        return {"n": 0}
    right = [(outputs.argmax(axis=1) == labels).astype(int) for outputs in (before, after)]
    change = right[1] - right[0]
    # All that matters of a drawing is how many images got better, worse, and neither.
    fractions = np.array([(change == 1).mean(), (change == -1).mean(), (change == 0).mean()])
    drawn = np.random.default_rng(0).multinomial(len(labels), fractions / fractions.sum(), size=RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / len(labels), [0.025, 0.975])
    return {
        "n": len(labels),
        "accuracy_difference": float(change.mean()),
        "interval": [float(low), float(high)],
        "resamples": RESAMPLES,
    }


def bootstrap_intervals(matrix: np.ndarray, *, draws: int = 2000, level: float = 0.95) -> dict[str, Any]:
    """Between which values accuracies lie in most sets of as many images, drawn from these with replacement.

    Percentile intervals: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13. A drawn set is a
    multinomial draw over the cells of the confusion matrix. The same matrix gives the same intervals.

    Args:
        matrix: (classes, classes) int64, from `confusion`, with at least one image.
        draws: how many sets are drawn.
        level: the fraction of them between the two values.

    Returns:
        `level`, and for `accuracy` and `balanced_accuracy` the lower and the upper value.
    """
    truths, guesses = np.nonzero(matrix)
    counts = matrix[truths, guesses]
    drawn = np.random.default_rng(0).multinomial(counts.sum(), counts / counts.sum(), size=draws)
    right = truths == guesses
    accuracies = drawn[:, right].sum(axis=1) / counts.sum()
    recalls = []
    for label in np.unique(truths):
        # A drawn set may have no image of a class; it has no say there.
        of_class = drawn[:, truths == label].sum(axis=1)
        hits = drawn[:, right & (truths == label)].sum(axis=1)
        recalls.append(np.divide(hits, of_class, out=np.full(draws, np.nan), where=of_class > 0))
    bounds = [50 * (1 - level), 50 * (1 + level)]
    return {
        "level": level,
        "accuracy": np.percentile(accuracies, bounds).tolist(),
        "balanced_accuracy": np.percentile(np.nanmean(recalls, axis=0), bounds).tolist(),
    }


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 15) -> float:
    """How far the probability of the label that is given lies from the fraction of right ones, on average.

    The expected calibration error of Guo et al. 2017, over bins of equal width.

    Args:
        labels: (n,) int64, n at least 1.
        probabilities: (n, classes).
        bins: how many.
    """
    # A model that ran off to infinity is sure of nothing.
    confidence = np.nan_to_num(probabilities.max(axis=1).astype(np.float64), nan=0.0)
    right = probabilities.argmax(axis=1) == labels
    numbers = np.clip((confidence * bins).astype(int), 0, bins - 1)
    gaps = np.bincount(numbers, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The probability of the second of two classes from which on to say it, so that balanced accuracy is highest.

    Where a range of thresholds does equally well, its middle.

    Args:
        labels: (n,) int64, 0 and 1, both of them.
        scores: (n,) probabilities of class 1.
    """
    values = np.unique(scores.astype(np.float64))
    thresholds = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [1.0]])
    recall_of_1 = 1 - np.searchsorted(np.sort(scores[labels == 1]), thresholds) / (labels == 1).sum()
    recall_of_0 = np.searchsorted(np.sort(scores[labels == 0]), thresholds) / (labels == 0).sum()
    best = np.flatnonzero(np.isclose(recall_of_0 + recall_of_1, (recall_of_0 + recall_of_1).max()))
    # Only neighbours of the first one: another range that does as well lies elsewhere.
    run = best[: int(np.argmax(np.append(np.diff(best) != 1, True))) + 1]
    return float(thresholds[run].mean())


def at_threshold(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    """Accuracy and balanced accuracy where class 1 of two is said from this probability on."""
    matrix = confusion(labels, (probabilities[:, 1] >= threshold).astype(np.int64), 2)
    truths = matrix.sum(axis=1)
    recalls = np.diag(matrix)[truths > 0] / truths[truths > 0]
    return {"accuracy": float(np.diag(matrix).sum() / len(labels)), "balanced_accuracy": float(recalls.mean())}


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The two figures that training is watched by, cheap enough for each epoch.

    Args:
        labels: (n,) int64, n at least 1.
        probabilities: (n, classes).

    Returns:
        `accuracy`, the fraction of right labels; `log_loss`, mean, in nats.
    """
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "accuracy": float(np.mean(probabilities.argmax(axis=1) == labels)),
        "log_loss": float(-np.log(np.clip(chosen, 1e-15, None)).mean()),
    }


def confusion(labels: np.ndarray, guesses: np.ndarray, class_count: int) -> np.ndarray:
    """How often each class (row) was taken for each (column): (classes, classes) int64."""
    matrix = np.zeros((class_count, class_count), np.int64)
    np.add.at(matrix, (labels, guesses), 1)
    return matrix


def _fraction(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None

"""Metrics equal scikit-learn's; plots are drawn for any class names and any number of classes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
)

from permafrost.training.metrics import (
    at_threshold,
    best_threshold,
    bootstrap_intervals,
    calibration_error,
    confusion,
    metrics,
)


def predictions(draw, count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)), np.int64)
    row = st.lists(st.integers(1, 1000), min_size=classes, max_size=classes, unique=True)
    scores = draw(st.lists(row, min_size=count, max_size=count))
    probabilities = np.array(scores, np.float64)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


@st.composite
def cases(draw) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Draw labels (n,), probabilities (n, classes) without ties, and names; classes need not occur."""
    classes = draw(st.integers(2, 5))
    labels, probabilities = predictions(draw, draw(st.integers(1, 25)), classes)
    return labels, probabilities, tuple("abcde"[:classes])


@settings(deadline=None)
@given(cases())
def test_metrics_equal_scikit_learns(case):
    labels, probabilities, names = case
    guesses, numbers = probabilities.argmax(axis=1), range(len(names))

    found = metrics(labels, probabilities, names)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns about classes that are predicted but do not occur.
        assert found["n"] == len(labels)
        assert found["accuracy"] == pytest.approx(accuracy_score(labels, guesses))
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, guesses))
        assert found["log_loss"] == pytest.approx(log_loss(labels, probabilities, labels=list(numbers)))
        assert found["confusion"] == confusion_matrix(labels, guesses, labels=list(numbers)).tolist()
        expected_values = precision_recall_fscore_support(labels, guesses, labels=list(numbers), zero_division=np.nan)
    for name, precision, recall, f1, count in zip(names, *expected_values, strict=True):
        expected = {"precision": precision, "recall": recall, "f1": f1}
        values = found["classes"][name]
        assert values["n"] == count
        assert {key: np.nan if values[key] is None else values[key] for key in expected} == pytest.approx(
            expected, nan_ok=True
        )


def test_an_undefined_metric_is_none():
    found = metrics(np.array([0, 0]), np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]]), ("a", "b", "c"))

    assert found["classes"]["a"] == {"n": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert found["classes"]["b"] == {"n": 0, "precision": None, "recall": None, "f1": None}


def test_a_certain_and_wrong_answer_has_a_large_but_finite_log_loss():
    found = metrics(np.array([1]), np.array([[1.0, 0.0]], np.float32), ("a", "b"))

    assert 30 < found["log_loss"] < 40


def test_without_images_there_is_only_their_number():
    assert metrics(np.empty(0, np.int64), np.empty((0, 3), np.float32), ("a", "b", "c")) == {"n": 0}


def test_rows_of_a_confusion_matrix_are_true_classes():
    assert confusion(np.array([0, 0, 1]), np.array([1, 1, 0]), 2).tolist() == [[0, 2], [1, 0]]


def test_bootstrap_intervals_equal_those_of_resampled_images_and_are_reproducible():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 200)
    guesses = np.where(generator.random(200) < 0.8, labels, (labels + 1) % 3)
    drawn = generator.integers(0, 200, (4000, 200))
    expected = np.percentile((labels == guesses)[drawn].mean(axis=1), [2.5, 97.5])

    found = bootstrap_intervals(confusion(labels, guesses, 3))

    assert found["accuracy"] == pytest.approx(expected, abs=0.011)
    assert found == bootstrap_intervals(confusion(labels, guesses, 3))
    low, high = found["balanced_accuracy"]
    assert low < balanced_accuracy_score(labels, guesses) < high


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy():
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    labels = np.array([0] * 8 + [1] * 2 + [1] * 9 + [0])

    assert calibration_error(labels, probabilities) == pytest.approx((10 * 0.1 + 10 * 0.3) / 20)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=30))
def test_no_threshold_has_a_better_balanced_accuracy_than_the_best(pairs):
    labels = np.array([first for first, _ in pairs], np.int64)
    scores = np.array([second for _, second in pairs]) / 20
    labels[:2] = 0, 1
    probabilities = np.stack([1 - scores, scores], axis=1)

    threshold = best_threshold(labels, scores)

    best = at_threshold(labels, probabilities, threshold)["balanced_accuracy"]
    for other in np.linspace(-0.01, 1.01, 103):
        assert best >= at_threshold(labels, probabilities, other)["balanced_accuracy"] - 1e-9

"""Evaluate a fitted head, and choose its temperature and, for two classes, its decision threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.special import softmax

from permafrost.errors import HeadError, OptionError
from permafrost.heads.calibration import inverse_temperature, log_probabilities, temperature_is_identifiable
from permafrost.heads.to_keras import apply_temperature
from permafrost.images.splits import SPLITS
from permafrost.training.metrics import at_threshold, best_threshold, calibration_error, metrics

if TYPE_CHECKING:
    from permafrost.heads.data import FitData
    from permafrost.heads.head import FittedHead

USES: Final = {
    "train": "the head was fitted to these",
    "validation": "monitored while fitting; calibration and threshold were chosen on these",
    "test": "computed once, after every choice",
}
"""The use of the images of each split, as `metrics.json` records it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatedHead:
    """A fitted head and its metrics.

    Attributes:
        fitted: the head, calibrated if requested.
        metrics: `training.metrics.metrics` of each split, with `split`, `use` and, for two classes, `at_threshold`.
        calibration: the best temperature for held-out images and the calibration error before and after; the
            temperature is 1 if there is no best one. None without held-out images.
        threshold: for two classes, the minimum probability at which the second class is predicted, and the images that
            it was chosen on.
    """

    fitted: FittedHead
    metrics: dict[str, dict[str, Any]]
    calibration: dict[str, Any] | None
    threshold: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class _HeldOut:
    """Images that a head was not fitted to.

    Attributes:
        split: where they come from.
        labels: (n,) int64.
        probabilities: (n, classes), the head's outputs.
    """

    split: str
    labels: np.ndarray
    probabilities: np.ndarray

    def calibrated(self, factor: float) -> _HeldOut:
        """Return the same images with their logits multiplied by a factor."""
        return dataclasses.replace(self, probabilities=calibrated_probabilities(self.probabilities, factor))


def evaluate_head(fitted: FittedHead, data: FitData, *, calibrate: bool) -> EvaluatedHead:
    """Evaluate a head on every split.

    Temperature and threshold are chosen on images that the head was not fitted to, never on test images.

    Args:
        fitted: the head.
        data: the data that it was fitted to.
        calibrate: whether to apply the best temperature for held-out images.

    Raises:
        HeadError: the head's probabilities are not numbers.
        OptionError: `calibrate` is set, and there are no images to calibrate on.
    """
    held_out = _held_out(fitted, data)
    if held_out is None and calibrate:
        raise OptionError(
            "nothing to calibrate on: there are no validation images",
            expected="validation images, or a head that is cross-validated",
        )
    calibration, threshold, factor = None, None, 1.0
    known: dict[str, np.ndarray] = {}
    if held_out is not None:
        calibration, factor = _calibration(held_out, calibrate=calibrate)
        if calibration["applied"]:
            fitted = dataclasses.replace(fitted, model=apply_temperature(fitted.model, factor))
            held_out = held_out.calibrated(factor)
        else:
            known[held_out.split] = held_out.probabilities
        threshold = _threshold(held_out, data.class_names)
    found = {}
    for split in SPLITS:
        labels = data.labels[split]
        outputs = known[split] if split in known else data.outputs(fitted, split)
        require_numbers(outputs)
        found[split] = _split_metrics(split, labels, outputs, data.class_names, threshold)
        if split == "test" and calibration and len(outputs):
            calibration |= _error_on_test(labels, outputs, factor, applied=calibration["applied"])
    return EvaluatedHead(fitted=fitted, metrics=found, calibration=calibration, threshold=threshold)


def _split_metrics(
    split: str,
    labels: np.ndarray,
    outputs: np.ndarray,
    class_names: Sequence[str],
    threshold: dict[str, Any] | None,
) -> dict[str, Any]:
    found = metrics(labels, outputs, class_names)
    if len(labels):
        found |= {"split": split, "use": USES[split]}
        if threshold:
            found["at_threshold"] = at_threshold(labels, outputs, threshold["threshold"])
    return found


def calibrated_probabilities(probabilities: np.ndarray, factor: float) -> np.ndarray:
    """Return probabilities (n, classes) with their logits multiplied by a factor, an inverse temperature."""
    result: np.ndarray = softmax(factor * log_probabilities(probabilities), axis=1)
    return result


def _calibration(held_out: _HeldOut, *, calibrate: bool) -> tuple[dict[str, Any], float]:
    """Return the best temperature for held-out images as a run records it, and its inverse."""
    labels, probabilities = held_out.labels, held_out.probabilities
    require_numbers(probabilities)
    identifiable = temperature_is_identifiable(probabilities, labels)
    factor = inverse_temperature(log_probabilities(probabilities), labels) if identifiable else 1.0
    found = {
        "split": held_out.split,
        "n": len(labels),
        "identifiable": identifiable,
        "temperature": 1 / factor,
        "error_before": calibration_error(labels, probabilities),
        "error_after": calibration_error(labels, held_out.calibrated(factor).probabilities),
        "applied": calibrate and identifiable,
    }
    return found, factor


def _threshold(held_out: _HeldOut, class_names: Sequence[str]) -> dict[str, Any] | None:
    """Return the best threshold for held-out images; None unless there are two classes and both occur."""
    if len(class_names) != 2 or len(np.unique(held_out.labels)) != 2:
        return None
    value = best_threshold(held_out.labels, held_out.probabilities[:, 1])
    chosen = {"class": class_names[1], "threshold": value, "split": held_out.split, "n": len(held_out.labels)}
    return chosen | at_threshold(held_out.labels, held_out.probabilities, value)


def _error_on_test(labels: np.ndarray, outputs: np.ndarray, factor: float, *, applied: bool) -> dict[str, float]:
    """Return the calibration error on test images without and with the temperature, whether or not it is applied."""
    other = calibrated_probabilities(outputs, 1 / factor if applied else factor)
    errors = [calibration_error(labels, values) for values in (outputs, other)]
    before, after = reversed(errors) if applied else errors
    return {"test_error_before": before, "test_error_after": after}


def _held_out(fitted: FittedHead, data: FitData) -> _HeldOut | None:
    """Return the validation images, else the training images with their cross-validated outputs, else None."""
    if len(data.rows["validation"]):
        return _HeldOut("validation", data.labels["validation"], data.outputs(fitted, "validation"))
    if fitted.held_out_logits is not None:
        labels = data.labels["train"]
        # The rows of other views follow those of the images themselves.
        return _HeldOut("train, cross-validated", labels, softmax(fitted.held_out_logits[: len(labels)], axis=1))
    return None


def require_numbers(outputs: np.ndarray) -> None:
    """Check that a head's probabilities are finite.

    Raises:
        HeadError: they are not, because training diverged.
    """
    if not np.isfinite(outputs).all():
        raise HeadError(
            "training diverged: the head's probabilities are not numbers",
            expected="probabilities",
            found="NaN",
            do="lower --learning-rate",
        )

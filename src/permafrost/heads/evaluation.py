"""How well a head does, and what is chosen once it is fitted: a temperature, and for two classes a threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scipy.special import softmax

from permafrost.errors import HeadError, OptionError
from permafrost.heads.calibration import inverse_temperature, log_probabilities, temperature_is_identifiable
from permafrost.heads.head import FittedHead
from permafrost.heads.to_keras import apply_temperature
from permafrost.images.splits import SPLITS
from permafrost.store.feature_set import FeatureSet
from permafrost.store.streaming import FeatureRows
from permafrost.training.loop import Examples, predict_examples
from permafrost.training.metrics import at_threshold, best_threshold, calibration_error, metrics

USES: Final = {
    "train": "the head was fitted to these",
    "validation": "watched while fitting, and what calibration and threshold were chosen on",
    "test": "computed once, after every choice",
}
"""What the images of a split were used for, as `metrics.json` says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatedHead:
    """A fitted head with its metrics.

    Attributes:
        fitted: the head, calibrated where that was asked for.
        metrics: for each split `evaluation.metrics`, with `split`, `use`, and for two classes `at_threshold`.
        calibration: the temperature that suits held-out images, 1 where all images are right and none is best,
            and the calibration error before and after.
        threshold: for two classes the probability of the second from which on to say it, and what it was chosen on.
    """

    fitted: FittedHead
    metrics: dict[str, dict[str, Any]]
    calibration: dict[str, Any] | None
    threshold: dict[str, Any] | None


def evaluate_head(
    fitted: FittedHead,
    features: FeatureSet,
    rows: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    *,
    calibrate: bool,
    limit: int,
) -> EvaluatedHead:
    """Say how well a head does; what is still chosen is chosen on images that it was not fitted to, never on test.

    Args:
        fitted: the head.
        features: the set.
        rows, labels: of each split.
        calibrate: whether to apply the temperature that suits held-out images.
        limit: bytes that the features which are read at once may take.

    Raises:
        HeadError: its probabilities are not numbers.
        OptionError: there is nothing to calibrate on.
    """
    held = _held_out(fitted, features, rows, labels, limit)
    if held is None and calibrate:
        raise OptionError(
            "nothing to calibrate on: there are no validation images",
            expected="validation images, or a head that is cross-validated",
        )
    calibration, threshold, factor = None, None, 1.0
    if held is not None:
        calibration, factor = _calibration(held, calibrate=calibrate)
        probabilities = held.probabilities
        if calibration["applied"]:
            fitted = dataclasses.replace(fitted, model=apply_temperature(fitted.model, factor))
            probabilities = calibrated_probabilities(probabilities, factor)
        threshold = _threshold(dataclasses.replace(held, probabilities=probabilities), features.class_names)
    found = {}
    for split in SPLITS:
        outputs = outputs_of_rows(fitted, features, rows[split], limit)
        require_numbers(outputs)
        found[split] = metrics(labels[split], outputs, features.class_names)
        if len(outputs):
            found[split] |= {"split": split, "use": USES[split]}
        if threshold and len(outputs):
            found[split]["at_threshold"] = at_threshold(labels[split], outputs, threshold["threshold"])
        if split == "test" and calibration and len(outputs):
            calibration |= _error_on_test(labels[split], outputs, factor, applied=calibration["applied"])
    return EvaluatedHead(fitted=fitted, metrics=found, calibration=calibration, threshold=threshold)


@dataclasses.dataclass(frozen=True)
class _HeldOut:
    """Images that a head was not fitted to.

    Attributes:
        split: which.
        labels: (n,) int64.
        probabilities: (n, classes), what the head says of them.
    """

    split: str
    labels: np.ndarray
    probabilities: np.ndarray


def calibrated_probabilities(probabilities: np.ndarray, factor: float) -> np.ndarray:
    """Probabilities (n, classes) whose logits are those of the given ones times a factor, an inverse temperature."""
    result: np.ndarray = softmax(factor * log_probabilities(probabilities), axis=1)
    return result


def _calibration(held: _HeldOut, *, calibrate: bool) -> tuple[dict[str, Any], float]:
    """What a run says of the temperature that suits held-out images, and the temperature's inverse."""
    require_numbers(held.probabilities)
    suited = temperature_is_identifiable(held.probabilities, held.labels)
    factor = inverse_temperature(log_probabilities(held.probabilities), held.labels) if suited else 1.0
    found = {
        "split": held.split,
        "n": len(held.labels),
        "identifiable": suited,
        "temperature": 1 / factor,
        "error_before": calibration_error(held.labels, held.probabilities),
        "error_after": calibration_error(held.labels, calibrated_probabilities(held.probabilities, factor)),
        "applied": calibrate and suited,
    }
    return found, factor


def _threshold(held: _HeldOut, class_names: Sequence[str]) -> dict[str, Any] | None:
    """For two classes, both of which are there, the threshold that is best on held-out images."""
    if len(class_names) != 2 or len(np.unique(held.labels)) != 2:
        return None
    value = best_threshold(held.labels, held.probabilities[:, 1])
    chosen = {"class": class_names[1], "threshold": value, "split": held.split, "n": len(held.labels)}
    return chosen | at_threshold(held.labels, held.probabilities, value)


def _error_on_test(labels: np.ndarray, outputs: np.ndarray, factor: float, *, applied: bool) -> dict[str, float]:
    """What calibration does to the error on images that it was not chosen on, whether it is applied or not."""
    other = calibrated_probabilities(outputs, 1 / factor if applied else factor)
    errors = [calibration_error(labels, values) for values in (outputs, other)]
    before, after = reversed(errors) if applied else errors
    return {"test_error_before": before, "test_error_after": after}


def _held_out(
    fitted: FittedHead, features: FeatureSet, rows: dict[str, np.ndarray], labels: dict[str, np.ndarray], limit: int
) -> _HeldOut | None:
    """What to choose on: validation images, or the training images by heads that were not fitted to them."""
    if len(rows["validation"]):
        outputs = outputs_of_rows(fitted, features, rows["validation"], limit)
        return _HeldOut("validation", labels["validation"], outputs)
    if fitted.held_out_logits is not None:
        outputs = softmax(fitted.held_out_logits[: len(labels["train"])], axis=1)
        return _HeldOut("train, cross-validated", labels["train"], outputs)
    return None


def require_numbers(outputs: np.ndarray) -> None:
    """Refuse a head whose training ran off to infinity.

    Raises:
        HeadError: its probabilities are not numbers.
    """
    if not np.isfinite(outputs).all():
        raise HeadError(
            "training diverged: the head's probabilities are not numbers",
            expected="probabilities",
            found="NaN",
            do="lower --learning-rate",
        )


def outputs_of_rows(fitted: FittedHead, features: FeatureSet, rows: np.ndarray, limit: int) -> np.ndarray:
    """The head's probabilities (n, classes) for rows of a set, read by blocks."""
    outputs = np.empty((len(rows), len(features.class_names)), np.float32)
    for numbers, block in FeatureRows(features, rows, memory_limit=limit).blocks():
        outputs[numbers] = outputs_of(fitted, block)
    return outputs


def outputs_of(fitted: FittedHead, x: np.ndarray) -> np.ndarray:
    """The head's probabilities (n, classes) for features x (n, *shape)."""
    # Batch by batch, all of one size: `predict` takes longer to begin than a block of features takes.
    return predict_examples(fitted.model, Examples(np.empty(len(x)), x.__getitem__), batch_size=256)

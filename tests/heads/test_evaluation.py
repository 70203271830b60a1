"""Temperature and threshold are chosen on held-out images, and every split is evaluated with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from permafrost.errors import HeadError, OptionError
from permafrost.heads.evaluation import evaluate_head
from permafrost.heads.head import FittedHead

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")


@dataclasses.dataclass
class Splits:
    """The data of a fit with given probabilities of class 1, in place of features."""

    labels: dict[str, np.ndarray]
    scores: dict[str, list[float]]
    class_names: tuple[str, ...] = ("cats", "dogs")
    read: list[str] = dataclasses.field(default_factory=list)

    @property
    def rows(self) -> dict[str, np.ndarray]:
        return {split: np.arange(len(labels)) for split, labels in self.labels.items()}

    def outputs(self, head: FittedHead, split: str) -> np.ndarray:
        self.read.append(split)
        scores = np.array(self.scores[split], np.float32)
        return np.stack([1 - scores, scores], axis=1)


def make_splits(**splits: tuple[list[int], list[float]]) -> Splits:
    splits = {"train": ([0, 1], [0.1, 0.9]), "validation": ([], []), "test": ([0, 1], [0.1, 0.9])} | splits
    labels = {name: np.array(labels, np.int64) for name, (labels, _) in splits.items()}
    return Splits(labels, {name: scores for name, (_, scores) in splits.items()})


def head(logits: np.ndarray | None = None) -> FittedHead:
    return FittedHead(model=None, history=[], details={}, held_out_logits=logits)


def test_the_threshold_is_the_best_one_for_the_validation_images_and_is_applied_to_test():
    # Few dogs: the head gives all of them less than 0.5.
    data = make_splits(
        validation=([0, 0, 0, 1, 1], [0.02, 0.04, 0.10, 0.20, 0.40]), test=([0, 0, 1, 1], [0.05, 0.30, 0.18, 0.45])
    )

    found = evaluate_head(head(), data, calibrate=False)

    assert found.threshold == {
        "class": "dogs",
        "threshold": pytest.approx(0.15),
        "split": "validation",
        "n": 5,
        "accuracy": 1.0,
        "balanced_accuracy": 1.0,
    }
    assert found.metrics["validation"]["balanced_accuracy"] == 0.5
    assert found.metrics["test"]["at_threshold"] == {"accuracy": 0.75, "balanced_accuracy": 0.75}
    assert found.metrics["test"]["accuracy"] == 0.5


def test_without_validation_images_the_threshold_is_chosen_on_cross_validated_training_images():
    scores = np.array([0.60, 0.70, 0.80, 0.90])
    logits = np.log(np.stack([1 - scores, scores], axis=1))
    data = make_splits(train=([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]))

    # The rows of a second view follow; they are not counted.
    found = evaluate_head(head(np.concatenate([logits, logits])), data, calibrate=False)

    assert found.threshold["threshold"] == pytest.approx(0.75)
    assert (found.threshold["split"], found.threshold["n"]) == ("train, cross-validated", 4)


def test_the_features_of_each_split_are_read_once():
    data = make_splits(validation=([0, 1], [0.2, 0.4]))

    evaluate_head(head(), data, calibrate=False)

    assert sorted(data.read) == ["test", "train", "validation"]


def test_no_threshold_is_chosen_if_a_class_does_not_occur():
    found = evaluate_head(head(), make_splits(validation=([0, 0], [0.1, 0.2])), calibrate=False)

    assert found.threshold is None
    assert "at_threshold" not in found.metrics["test"]


def test_calibration_without_held_out_images_is_refused():
    with pytest.raises(OptionError, match="nothing to calibrate on: there are no validation images"):
        evaluate_head(head(), make_splits(), calibrate=True)


def test_probabilities_that_are_not_numbers_are_refused():
    with pytest.raises(HeadError, match="training diverged"):
        evaluate_head(head(), make_splits(test=([0], [float("nan")])), calibrate=False)

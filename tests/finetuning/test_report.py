"""A fine-tuned run records its options and how it differs from the run it started from."""

from __future__ import annotations

import json

import numpy as np
import pytest

from permafrost.training.metrics import paired_difference

pytest_plugins = ["upper", "tuning"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


def test_the_difference_on_test_images_has_an_interval(tune):
    difference = tune(epochs=6).about["test_difference"]

    low, high = difference["interval"]
    assert difference["n"] == 9
    assert low <= difference["accuracy_difference"] <= high


def test_a_paired_difference_compares_the_same_images():
    labels = np.zeros(100, np.int64)
    right, wrong = np.tile([0.9, 0.1], (100, 1)), np.tile([0.1, 0.9], (100, 1))
    mixed = np.concatenate([right[:80], wrong[80:]])

    assert paired_difference(labels, mixed, mixed)["interval"] == [0, 0]
    better = paired_difference(labels, mixed, right)
    assert better["accuracy_difference"] == pytest.approx(0.2)
    # The standard error of a fraction of 0.2 of 100 is 0.04.
    assert better["interval"] == pytest.approx([0.2 - 1.96 * 0.04, 0.2 + 1.96 * 0.04], abs=0.01)
    assert paired_difference(labels[:0], mixed[:0], right[:0]) == {"n": 0}


def test_a_run_records_its_options(tune):
    tuned = tune(views=2, augment="flip", lowest_rate=0.5)

    options = tuned.about["options"]
    assert (options["views"], options["lowest_rate"], options["dtype"]) == (2, 0.5, "float32")
    assert options["augmentation"].startswith("flip;")
    assert json.dumps(tuned.about)

"""The plots of a run are drawn for any history, matrix and name."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from permafrost.model.plots import confusion_png, curves_png

EPOCHS = [
    {"epoch": number, "loss": 1 / number, "accuracy": 1 - 0.5 / number, "val_loss": 1.1 / number, "val_accuracy": 0.8}
    for number in range(1, 8)
]
STRENGTHS = [
    {"C": 10.0**power, "cross_validation_log_loss": abs(power) / 3 + 0.1, "standard_error": 0.05}
    for power in range(-4, 1)
]


def opened(png: bytes) -> np.ndarray:
    """Return a plot's pixels; check that its size fits a screen and a page, and that it is not blank."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert 300 <= image.width <= 2600
        assert 300 <= image.height <= 2600
        pixels = np.asarray(image.convert("L"))
    assert pixels.std() > 3
    return pixels


@pytest.mark.parametrize(
    "history",
    [EPOCHS, EPOCHS[:1], [{"epoch": 1, "loss": 0.3, "accuracy": 0.9}], STRENGTHS, []],
    ids=["epochs", "one epoch", "no validation", "strengths", "nothing"],
)
def test_curves_of_any_history_are_drawn(history):
    opened(curves_png(history, "logistic head on tiny top"))


def test_curves_of_loss_and_accuracy_are_drawn_side_by_side():
    both = opened(curves_png(EPOCHS, "both"))
    one = opened(curves_png(STRENGTHS, "one"))

    assert both.shape[1] > 1.8 * one.shape[1]


@pytest.mark.parametrize("count", [2, 300])
def test_a_confusion_matrix_of_any_number_of_classes_is_drawn(count):
    matrix = np.diag(np.full(count, 1000))

    opened(confusion_png(matrix, [f"class number {number}" for number in range(count)], "test, 1,000 images"))


NAMES = {
    "long": "x" * 300,
    "a broken formula": "$x_$",
    "dollars": "cash$$",
    "a character missing from the font": "猫",
    "a line break": "a\nb",
    "bytes that are not text": "\udcff",
    "hidden": "_hidden",
    "empty": "",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_class_names_may_be_anything(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(confusion_png(np.array([[3, 1], [0, 2]]), [name, "other"], f"{name}: test"))


@pytest.mark.parametrize("title", ["$x_$", "猫", "\udcff"])
def test_titles_may_be_anything(title):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(curves_png(EPOCHS[:2], title))


def test_a_class_name_that_looks_like_a_formula_is_drawn_literally():
    matrix = np.array([[3, 1], [0, 2]])

    assert not np.array_equal(
        opened(confusion_png(matrix, ["$a$", "b"], "")), opened(confusion_png(matrix, ["a", "b"], ""))
    )


def test_a_class_without_images_is_drawn():
    opened(confusion_png(np.array([[0, 0], [1, 2]]), ["none", "some"], "test"))

"""Numbers to predict are refused as labels, classes are not."""

from __future__ import annotations

import pytest

from permafrost.errors import DatasetError
from permafrost.images.labels import require_classes


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["apple", "berry"],
        ["0", "1"] * 20,
        ["0.0", "1.0", "2.00"] * 5,
        ["0,0", "1,0"] * 5,
        ["1e2", "2E+3"] * 5,
        ["-1", "+1"] * 5,
        [f"{number:03}" for number in range(50)],
        ["0.5 mm", "1.5", "2.5"],
        ["1.2.3", "1.2.4"],
        [str(number // 2) for number in range(100)],
        [str(number) for number in range(10)],
        ["nan", "inf", "1.5"],
        ["", ".", "1.5"],
    ],
)
def test_classes_are_taken(labels):
    require_classes("labels in a.csv", labels)


@pytest.mark.parametrize(
    "labels",
    [
        ["12.375", "99.1", "3.0"],
        ["12,375", "99,1"],
        [" 0.5", "1.5 "] * 20,
        ["-0.25", "0.25"],
        ["1e-3", "2e-3"],
        [".5", ".25"],
        [str(age) for age in range(20, 60)],
    ],
)
def test_numbers_to_predict_are_refused_with_what_they_are_and_what_to_do(labels):
    with pytest.raises(DatasetError, match=r"labels in a\.csv are numbers to predict, not classes; .* in words"):
        require_classes("labels in a.csv", labels)


def test_the_line_counts_the_numbers_and_gives_examples():
    with pytest.raises(DatasetError, match=r"found 3 different numbers in 4 images: 1\.5, 2\.5, 3, \.\.\."):
        require_classes("labels in a.csv", ["1.5", "2.5", "3", "1.5"])

"""The splits, and the fractions of images that go to them; imports no NumPy."""

from __future__ import annotations

from typing import Final

from permafrost.errors import OptionError

SPLITS: Final = ("train", "validation", "test")
"""The splits, in the order of their numbers in a feature set."""

TRAIN, VALIDATION, TEST = range(len(SPLITS))
"""The number of each split."""

VALIDATION_FRACTION: Final = 0.15
"""Default fraction of the images without a given split that go to validation."""

TEST_FRACTION: Final = 0.15
"""Default fraction of the images without a given split that go to test."""


def check_fractions(validation_fraction: float, test_fraction: float) -> None:
    """Check that fractions leave something to train on.

    Raises:
        OptionError: a fraction is out of range, or the two leave nothing.
    """
    if not (0 <= validation_fraction < 1 and 0 <= test_fraction < 1 and validation_fraction + test_fraction < 1):
        raise OptionError(
            "fractions for validation and test leave nothing to train on",
            expected="each at least 0, together less than 1",
            found=f"{validation_fraction:g} and {test_fraction:g}",
        )

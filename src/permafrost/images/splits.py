"""Splits, and the assignment of images to them by content."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from permafrost.errors import OptionError

SPLITS: Final = ("train", "validation", "test")
"""The splits, in the order of their numbers in a feature set."""

VALIDATION_FRACTION: Final = 0.15
"""Default fraction of the images without a given split that go to validation."""

TEST_FRACTION: Final = 0.15
"""Default fraction of the images without a given split that go to test."""


def assign_splits(
    digests: Iterable[bytes],
    given: Iterable[str | None],
    *,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
) -> list[str]:
    """Return the split of each image: the given one, or else one derived from its content.

    The split of an image does not depend on the other images, and copies of an image share one.

    Args:
        digests: content digests, 32 bytes each.
        given: names of splits, or None for images without one.
        validation_fraction: fraction of the images without a given split that go to validation, 0 to 1.
        test_fraction: likewise for test.

    Raises:
        OptionError: a fraction is out of range, or the two leave nothing to train on.
    """
    if not (0 <= validation_fraction < 1 and 0 <= test_fraction < 1 and validation_fraction + test_fraction < 1):
        raise OptionError(
            "fractions for validation and test leave nothing to train on",
            expected="each at least 0, together less than 1",
            found=f"{validation_fraction:g} and {test_fraction:g}",
        )

    def split_of(digest: bytes) -> str:
        position = content_position(digest)
        if position < test_fraction:
            return "test"
        return "validation" if position < test_fraction + validation_fraction else "train"

    return [split or split_of(digest) for digest, split in zip(digests, given, strict=True)]


def content_position(digest: bytes) -> float:
    """Map a content digest to a number from 0 to 1; over all digests the numbers are uniformly distributed."""
    return int.from_bytes(digest[:8], "big") / 2**64

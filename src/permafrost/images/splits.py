"""Splits: their names, and the split that follows from an image's content."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from permafrost.errors import OptionError

if TYPE_CHECKING:
    pass


SPLITS: Final = ("train", "validation", "test")
"""The splits, in the order of their numbers in a feature set."""


SPLIT_FOLDERS: Final = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of folders, and of splits in a CSV, and what they mean; upper and lower case are the same here."""


VALIDATION_FRACTION: Final = 0.15


TEST_FRACTION: Final = 0.15


def assign_splits(
    digests: Iterable[bytes],
    given: Iterable[str | None],
    *,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
) -> list[str]:
    """The split of each image: the given one, or where none is given one that follows from its content.

    An image's split stays what it is when others come and go, and copies of one image share theirs.

    Args:
        digests: content digests, 32 bytes each.
        given: splits' names, or None.
        validation_fraction: of the images without a split, the share for validation, 0 to 1.
        test_fraction: the share for test.

    Raises:
        OptionError: a fraction is out of range, or the two leave nothing to train on.
    """
    validation = VALIDATION_FRACTION if validation_fraction is None else validation_fraction
    test = TEST_FRACTION if test_fraction is None else test_fraction
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise OptionError(
            "fractions for validation and test leave nothing to train on",
            expected="each at least 0, together less than 1",
            found=f"{validation:g} and {test:g}",
        )

    def split_of(digest: bytes) -> str:
        position = content_position(digest)
        if position < test:
            return "test"
        return "validation" if position < test + validation else "train"

    return [split or split_of(digest) for digest, split in zip(digests, given, strict=True)]


def content_position(digest: bytes) -> float:
    """A number from 0 to 1, uniform over contents, that follows from a content digest alone."""
    return int.from_bytes(digest[:8], "big") / 2**64

"""Labels that are numbers to predict, not classes."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from permafrost.errors import DatasetError

_NUMBER: Final = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]{0,17})(?:[.,][0-9]{0,20})?|[.,][0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?"
)
"""A number as tables hold it. `007` is a name; a comma may be the decimal point."""

_MANY: Final = 10
"""More different whole numbers than this, most of them in one image alone, are numbers to predict."""


def require_classes(where: str, labels: Collection[str]) -> None:
    """Refuse labels that are numbers to predict, such as prices or ages, and not classes.

    Labels are numbers to predict if all are numbers, and some of them have a fraction other than zero, or there are
    more than `_MANY` different ones, fewer than two images per number.

    Args:
        where: what holds the labels, for the error: `labels in photos.csv`.
        labels: the label of each image, as text.

    Raises:
        DatasetError: the labels are numbers to predict.
    """
    different = dict.fromkeys(labels)
    if not different or not all(_is_number(label) for label in different):
        return
    if not any(_has_fraction(label) for label in different) and len(different) <= max(_MANY, len(labels) / 2):
        return
    examples = ", ".join(list(different)[:3])
    raise DatasetError(
        f"{where} are numbers to predict, not classes",
        expected="a class per image",
        found=f"{len(different):,} different numbers in {len(labels):,} images: {examples}, ...",
        do="make classes of them, such as low and high; if they are classes, name them in words, such as size 0.5",
    )


def _is_number(label: str) -> bool:
    return _NUMBER.fullmatch(label.strip()) is not None


def _has_fraction(label: str) -> bool:
    return not float(label.replace(",", ".")).is_integer()

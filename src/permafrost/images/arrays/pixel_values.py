"""The values of image arrays: their smallest and largest, image by image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from permafrost.errors import DatasetError

BOOLEANS: Final = "booleans"
BYTES: Final = "bytes"
INTEGERS: Final = "integers"
FLOATS: Final = "floats"

SLACK: Final = 1e-3
"""Part of the range by which floats may miss it: arithmetic leaves values such as 1.0000001."""

_CHUNK: Final = 16 * 2**20
"""Bytes that are converted at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelValues:
    """The values of n images with one kind of dtype.

    Attributes:
        where: what holds the images, for errors: `X_train in photos.npz`.
        dtype: the dtype.
        low: (n,) float64, the smallest value of each image, NaN if it has values that are not finite.
        high: (n,) float64, the largest.
        fractions: (n,) bool, whether an image has values that are not whole.
    """

    where: str
    dtype: np.dtype
    low: np.ndarray
    high: np.ndarray
    fractions: np.ndarray

    @property
    def kind(self) -> str:
        """`booleans`, `bytes`, `integers` or `floats`."""
        return _kind(self.dtype)

    @property
    def finite(self) -> np.ndarray:
        """(n,) bool, whether all values of an image are finite."""
        finite: np.ndarray = ~np.isnan(self.low)
        return finite

    @property
    def bottom(self) -> float:
        """The smallest finite value of all images."""
        return float(np.min(self.low, initial=np.inf, where=self.finite)) if self.finite.any() else 0.0

    @property
    def top(self) -> float:
        """The largest finite value of all images."""
        return float(np.max(self.high, initial=-np.inf, where=self.finite)) if self.finite.any() else 0.0

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        return not self.fractions[self.finite].any()

    @property
    def text(self) -> str:
        """The range for errors: `0 to 4095 in uint16`."""
        return f"{self.bottom:.6g} to {self.top:.6g} in {self.dtype}"

    @property
    def few(self) -> bool:
        """Whether the largest value is 1, apart from noise: black and white, or fractions."""
        return 0 < self.top <= 1 + (SLACK if self.kind == FLOATS else 0)


def pixel_values(where: str, images: np.ndarray) -> PixelValues:
    """Return the values of images.

    Args:
        where: what holds them, for errors.
        images: (n, ...) of numbers.

    Raises:
        DatasetError: they are not numbers.
    """
    require_numbers(where, images.dtype)
    low, high = np.full(len(images), np.nan), np.full(len(images), np.nan)
    fractions = np.zeros(len(images), bool)
    for block in blocks(images) if images.size else ():
        rows = images[block].reshape(len(images[block]), -1)
        if rows.dtype.kind == "f":
            bad = ~np.isfinite(rows).all(axis=1)
            fractions[block] = (rows != np.rint(rows)).any(axis=1)
            low[block], high[block] = np.where(bad, np.nan, rows.min(axis=1)), np.where(bad, np.nan, rows.max(axis=1))
        else:
            low[block], high[block] = rows.min(axis=1), rows.max(axis=1)
    return PixelValues(where=where, dtype=images.dtype, low=low, high=high, fractions=fractions)


def together(where: str, parts: Sequence[PixelValues]) -> list[PixelValues]:
    """Return the values of images that lie in many arrays, one record per kind of dtype."""
    joined = []
    for kind in dict.fromkeys(part.kind for part in parts):
        same = [part for part in parts if part.kind == kind]
        low, high, fractions = (
            np.concatenate([getattr(part, name) for part in same]) for name in ("low", "high", "fractions")
        )
        dtype = max((part.dtype for part in same), key=lambda dtype: dtype.itemsize)
        joined.append(PixelValues(where=where, dtype=dtype, low=low, high=high, fractions=fractions))
    return joined


def require_numbers(where: str, dtype: np.dtype) -> None:
    """Refuse a dtype that holds no pixels.

    Raises:
        DatasetError: it is neither bool nor integers nor floats.
    """
    if dtype.kind not in "buif":
        raise DatasetError(f"values of {where} are not pixels", expected="numbers from 0 to 255", found=dtype)


def _kind(dtype: np.dtype) -> str:
    if dtype.kind == "f":
        return FLOATS
    if dtype.kind == "b":
        return BOOLEANS  # True is white, whatever 1 means in other arrays.
    return BYTES if dtype == np.uint8 else INTEGERS


def blocks(array: np.ndarray) -> Iterator[slice]:
    """Yield slices of the first axis with about `_CHUNK` bytes each."""
    count = max(1, _CHUNK * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), count):
        yield slice(start, start + count)

"""What the values of image arrays mean, decided once for all images of a dataset, and their conversion to bytes.

- `uint8` stays as it is.
- Values that are all 0 or 1, of any dtype, are black and white.
- Fractions from 0 to 1 are scaled by 255; floats up to 255 are rounded.
- Other integers have 8, 10, 12, 14 or 16 bits, the fewest that hold the largest value of all images.
- Everything else has no meaning, or more than one, and is refused.

A dark image is scaled like the others: no image decides for itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from permafrost.errors import DatasetError
from permafrost.images.arrays.pixel_values import (
    BYTES,
    FLOATS,
    INTEGERS,
    SLACK,
    PixelValues,
    blocks,
    pixel_values,
    together,
)

DARK: Final = 16
"""No scale ends at a value from 2 to this, and images of no higher level of 255 are nearly black."""

_DEPTHS: Final = (8, 10, 12, 14, 16)
"""Bits per value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelRange:
    """What the values of arrays mean: 0 is black and `white` is white.

    Attributes:
        white: 1, 255, 1023, 4095, 16383 or 65535.
        kinds: the kinds of dtype whose values have decided it: `booleans`, `bytes`, `integers`, `floats`; empty
            if all are 0.
        note: what was understood that the user should know.
        warning: what the user should check.
    """

    white: int = 255
    kinds: frozenset[str] = frozenset()
    note: str | None = None
    warning: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the range as JSON."""
        return {"white": self.white, "kinds": sorted(self.kinds)}

    @staticmethod
    def recorded(record: Mapping[str, Any] | None) -> PixelRange | None:
        """Return the range of a record; None without one."""
        return None if record is None else PixelRange(white=int(record["white"]), kinds=frozenset(record["kinds"]))

    def convert(self, array: np.ndarray) -> np.ndarray:
        """Return an array of the same shape, uint8, 0 to 255. Its values must be finite and in the range.

        Args:
            array: bool, integers or floats of any shape; `uint8` is returned itself if 255 is white.
        """
        if self.white == 255 and array.dtype == np.uint8:
            return array
        converted = np.empty(array.shape, np.uint8)
        for block in blocks(array):
            converted[block] = self._bytes(array[block])
        return converted

    def _bytes(self, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "f":
            scaled: np.ndarray = np.rint(array.astype(np.float64) * (255 / self.white))
            converted: np.ndarray = np.clip(scaled, 0, 255).astype(np.uint8)
            return converted
        table: np.ndarray = np.rint(np.arange(self.white + 1) * (255 / self.white)).astype(np.uint8)
        return table[array.astype(np.intp)]


AS_THEY_ARE: Final = PixelRange(kinds=frozenset({BYTES}))
"""The range of arrays that have been converted: their bytes stay, even if all are 0 or 1."""


def range_of(where: str, arrays: Sequence[np.ndarray], *, fitted: PixelRange | None = None) -> PixelRange:
    """Return what the values of single images mean, decided by all of them together.

    Args:
        where: what holds them, for errors.
        arrays: the images, of any shapes and dtypes.
        fitted: as for `pixel_range`.

    Raises:
        DatasetError: as `pixel_range`.
    """
    values = [pixel_values(where, array[None]) for array in arrays]
    return pixel_range(together(where, values), fitted=fitted)


def pixel_range(parts: Sequence[PixelValues], *, fitted: PixelRange | None = None) -> PixelRange:
    """Return what the values of images mean, decided by all of them together.

    Args:
        parts: the values of all images; those of one split, or of one kind of dtype, are one record.
        fitted: a range that was decided before by other images: it holds for arrays of the same kind of dtype that fit
            it.

    Raises:
        DatasetError: they have no known meaning, or more than one; or they are integers that do not fit `fitted`, whose
            number of bits was then taken for too small.
    """
    for part in parts:
        _require_no_negatives(part)
    bright = [part for part in parts if part.top > 0]
    if fitted and bright and all(part.kind in fitted.kinds and _fits(part, fitted) for part in bright):
        return fitted
    whites = {}
    for kind in dict.fromkeys(part.kind for part in bright):
        same = [part for part in bright if part.kind == kind]
        _require_one_range(same, [1 if part.few else 255 for part in same])
        (joined,) = together(" and ".join(dict.fromkeys(part.where for part in same)), same)
        whites[kind] = _white(joined)
    _require_one_range(bright, [whites[part.kind] for part in bright])
    if not bright:
        return PixelRange(warning="all values are 0: the images are black" if parts else None)
    brightest = max(bright, key=lambda part: part.top)
    white = whites[brightest.kind]
    return PixelRange(
        white=white,
        kinds=frozenset(whites),
        note=_note(bright, brightest, white),
        warning=_warning(brightest, white),
    )


def _white(part: PixelValues) -> int:
    """Return the value that is white, from the images of one kind of dtype, not all black."""
    if part.few:
        if part.kind == FLOATS and part.top <= (1 + SLACK) / 255 and not part.whole:
            raise DatasetError(
                f"values of {part.where} are nearly 0, as if divided by 255 twice",
                expected="0 to 1, or 0 to 255",
                found=part.text,
                do="multiply them by 255",
            )
        return 1
    if part.kind == BYTES:
        return 255
    if part.top <= DARK:
        raise DatasetError(
            f"values of {part.where} have two readings: nearly black, or {part.top:.6g} is white",
            expected="0 to 1, or 0 to 255",
            found=part.text,
            do=f'if 255 is white, save X.round().astype("uint8"); if {part.top:.6g} is, save X / {part.top:.6g}'
            + (", or X.clip(0, 1) if it is a little too large" if part.top < 2 else ""),
        )
    if part.kind == FLOATS and part.top <= 255 * (1 + SLACK):
        _require_no_faint(part)
        return 255
    depths = [2**bits - 1 for bits in _DEPTHS if part.top < 2**bits]
    if part.kind == FLOATS or not depths:
        raise DatasetError(
            f"values of {part.where} are too large",
            expected="0 to 1, or 0 to 255" + ("" if part.kind == FLOATS else ", or at most 16 bits"),
            found=part.text,
            do=f"divide them by the value of white, such as {depths[0] if depths else part.top:.6g}",
        )
    return depths[0]


def _note(bright: Sequence[PixelValues], brightest: PixelValues, white: int) -> str | None:
    if white == 1:
        if all(part.whole for part in bright):
            return "values are 0 and 1, taken as black and white"
        return "values from 0 to 1, scaled to 0 to 255"
    if white > 255:
        return f"{white.bit_length()}-bit values, scaled to 8 bits"
    return f"8-bit values in {brightest.dtype}" if brightest.kind == INTEGERS else None


def _warning(brightest: PixelValues, white: int) -> str | None:
    if brightest.top > DARK * white / 255 or (white == 1 and brightest.whole):
        return None
    top = f"{brightest.top:.6g}"
    return f"no value is above {top}, and {white} is white: the images are nearly black; if {top} is white, X / {top}"


def _require_no_negatives(part: PixelValues) -> None:
    slack = SLACK * (255 if part.top > DARK else 1) if part.kind == FLOATS else 0
    if part.bottom >= -slack:
        return
    before = "give the images as they were before preprocessing"
    if part.dtype == np.int8:
        do = 'save them with X.view("uint8") if they are bytes'
    elif part.kind == INTEGERS:
        do = f"map the values that matter to bytes, such as numpy.interp(X, ({part.bottom:g}, {part.top:g}), (0, 255))"
    elif part.bottom >= -0.5 * (1 + SLACK) and part.top <= 0.5 * (1 + SLACK):
        do = f"{before}, or X + 0.5"
    elif part.bottom >= -1 - SLACK and part.top <= 1 + SLACK:
        do = f"{before}, or (X + 1) / 2"
    else:
        do = f"{before}, or X * deviation + mean with the numbers that were used"
    raise DatasetError(
        f"values of {part.where} are negative" + (", as after standardising" if part.kind == FLOATS else ""),
        expected="0 to 1, or 0 to 255",
        found=part.text,
        do=do,
    )


def _require_no_faint(part: PixelValues) -> None:
    """Refuse floats up to 255 among which some images look as if 1 were white."""
    finite = part.finite
    faint = finite & part.fractions & (np.nan_to_num(part.high) <= 1 + SLACK)
    if faint.any():
        raise DatasetError(
            f"{faint.sum():,} of {finite.sum():,} images of {part.where} have fractions up to 1, others go up to 255",
            expected="one range",
            found=part.text,
            do="multiply those by 255; if they are black, save X.round()",
        )


def _require_one_range(parts: Sequence[PixelValues], whites: Sequence[int]) -> None:
    for part, white in zip(parts, whites, strict=True):
        if white != whites[0]:
            names = [parts[0].where, part.where]
            raise DatasetError(
                f"images have two ranges: {' and '.join(dict.fromkeys(names))}",
                expected="one range",
                found=f"{parts[0].text}, and {part.text}",
                do="scale them alike",
            )


def _fits(part: PixelValues, fitted: PixelRange) -> bool:
    """Return whether images have a range that was decided before; floats and bytes may clearly have another one."""
    if part.kind == FLOATS:
        if fitted.white == 255 and not part.few:
            _require_no_faint(part)
        return part.top <= fitted.white * (1 + SLACK) and not (fitted.white > 1 and part.few and not part.whole)
    if part.top > fitted.white and part.kind == INTEGERS:
        raise DatasetError(
            f"values of {part.where} have another range than the images before",
            expected=f"0 to {fitted.white}",
            found=part.text,
            do="scale them alike",
        )
    return part.top <= fitted.white

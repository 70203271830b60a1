"""What the values of arrays mean is decided once, by all images together."""

from __future__ import annotations

import numpy as np
import pytest

from permafrost.errors import DatasetError
from permafrost.images.arrays.pixel_values import pixel_values
from permafrost.images.arrays.ranges import AS_THEY_ARE, PixelRange, pixel_range, range_of
from samples import CLASSES, texture

PIXELS = np.stack([texture(kind, seed, (8, 9)) for kind in CLASSES for seed in range(2)])
"""(6, 8, 9, 3) uint8."""

UNIT = PIXELS / np.float32(255)


def decided(*arrays: np.ndarray, fitted: PixelRange | None = None) -> PixelRange:
    return pixel_range([pixel_values(f"X{number}", array) for number, array in enumerate(arrays)], fitted=fitted)


def converted(array: np.ndarray) -> np.ndarray:
    pixels = decided(array).convert(array)
    assert pixels.dtype == np.uint8 and pixels.shape == array.shape
    return pixels


def with_dark(array: np.ndarray, factor: float = 0.05) -> np.ndarray:
    """A copy whose first two images are dark, and whose third is black."""
    dark = array.copy()
    dark[:2] = (dark[:2] * factor).astype(dark.dtype)
    dark[2] = 0
    return dark


def test_bytes_stay_as_they_are_and_nothing_is_said():
    assert converted(PIXELS) is PIXELS
    assert decided(PIXELS).note is None and decided(PIXELS).warning is None


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int64, np.uint16, np.float16, np.float32, np.float64])
def test_values_of_0_and_1_are_black_and_white(dtype):
    mask = PIXELS > 128

    assert np.array_equal(converted(mask.astype(dtype)), mask * np.uint8(255))
    assert decided(mask.astype(dtype)).note == "values are 0 and 1, taken as black and white"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble, ">f4"])
def test_fractions_from_0_to_1_are_scaled_in_dark_and_black_images_too(dtype):
    unit = with_dark((PIXELS / 255).astype(dtype))

    assert np.array_equal(converted(unit), np.rint(unit.astype(float) * 255))
    assert np.array_equal(converted(unit)[3:], PIXELS[3:])
    assert decided(unit).note == "values from 0 to 1, scaled to 0 to 255"


@pytest.mark.parametrize("excess", [1e-7, 1e-4])
def test_fractions_may_miss_their_range_a_little(excess):
    unit = UNIT.copy()
    unit[0, 0, 0], unit[0, 0, 1] = 1 + excess, -excess

    assert converted(unit)[0, 0, :2].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_up_to_255_are_rounded(dtype):
    assert np.array_equal(converted(PIXELS.astype(dtype) + dtype(0.25)), PIXELS)
    assert decided(PIXELS.astype(dtype)).note is None


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", "<i8", "<u8"])
def test_integers_have_the_fewest_bits_that_hold_the_largest_value_of_all_images(bits, dtype):
    white = 2**bits - 1
    deep = with_dark((PIXELS / 255 * white).round().astype(dtype))

    assert np.array_equal(converted(deep), np.rint(deep.astype(float) * 255 / white))
    assert np.array_equal(converted(deep)[3:], PIXELS[3:])
    assert decided(deep).note == f"{bits}-bit values, scaled to 8 bits"


@pytest.mark.parametrize(
    ("high", "bits"), [(256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14), (16384, 16), (65535, 16)]
)
def test_the_number_of_bits_changes_just_above_the_largest_value_that_they_hold(high, bits):
    assert decided(np.array([[[0, high]]])).white == 2**bits - 1


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.int16])
def test_integers_up_to_255_are_bytes_in_a_wider_type(dtype):
    assert np.array_equal(converted(PIXELS.astype(dtype)), PIXELS)
    assert decided(PIXELS.astype(dtype)).note == f"8-bit values in {np.dtype(dtype)}"


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.uint16])
def test_images_that_are_all_black_stay_black_and_are_warned_of(dtype):
    black = np.zeros((2, 3, 3), dtype)

    assert not converted(black).any()
    assert decided(black).warning == "all values are 0: the images are black"


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (PIXELS // 64, "no value is above 3, and 255 is white: the images are nearly black; if 3 is white, X / 3"),
        (UNIT * np.float32(0.04) + 0.01, "and 1 is white: the images are nearly black"),
    ],
)
def test_values_far_below_white_are_taken_and_warned_of(array, line):
    assert line in (decided(array).warning or "")


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (PIXELS.astype("c16"), r"values of X0 are not pixels; expected numbers from 0 to 255, found complex128"),
        (PIXELS.astype("U3"), r"not pixels; .* found <U3"),
        (
            UNIT * 2 - 1,
            r"are negative, .*; expected 0 to 1, or 0 to 255, found -\S+ to \S+ in float32\. .*\(X \+ 1\) / 2",
        ),
        (UNIT - 0.5, r"are negative, .* or X \+ 0\.5"),
        ((UNIT - 0.4) / 0.2, r"are negative, .* X \* deviation \+ mean"),
        (PIXELS - np.float32(117), r"are negative, .* as they were before preprocessing"),
        (PIXELS.view(np.int8), r'are negative; .*X\.view\("uint8"\) if they are bytes'),
        (PIXELS.astype(int) - 1000, r"are negative; .*numpy\.interp\(X, \(-\d+, -\d+\), \(0, 255\)\)"),
        (UNIT / UNIT.max() * 1.1, r"two readings: nearly black, or 1\.\d+ is white; .* X\.clip\(0, 1\)"),
        (PIXELS // 16 * 1.0, r'two readings: nearly black, or 1\d is white; .*\.astype\("uint8"\); .* save X / 1\d'),
        (PIXELS.astype(int) // 16, r"two readings: nearly black, or 1\d is white"),
        (PIXELS * 16.0, r"are too large; expected 0 to 1, or 0 to 255, found .* float64\. .* such as 4095"),
        (PIXELS * 1e6, r"are too large; .*by the value of white"),
        (PIXELS.astype(int) * 1000, r"are too large; expected 0 to 1, or 0 to 255, or at most 16 bits"),
        (UNIT / 255, r"nearly 0, as if divided by 255 twice; .* Multiply them by 255"),
        (np.concatenate([PIXELS, UNIT]), r"6 of 12 images of X0 have fractions up to 1, others go up to 255; exp"),
    ],
)
def test_values_without_one_meaning_are_refused_in_one_clear_line(array, line):
    with pytest.raises(DatasetError, match=line):
        decided(array)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (UNIT, PIXELS),
        (UNIT, PIXELS.astype(np.float32)),
        (PIXELS, UNIT),
        ((PIXELS > 128).astype(np.uint8), PIXELS),
        (PIXELS > 128, PIXELS),
        (PIXELS, PIXELS.astype("u2") * 257),
        ((PIXELS > 128).astype(int), PIXELS.astype(int)),
    ],
)
def test_splits_of_two_ranges_are_refused_with_both(first, second):
    with pytest.raises(DatasetError, match=r"two ranges: X0 and X1; expected one range, found 0|found \d+ to .*, and"):
        decided(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (UNIT, UNIT.astype(np.float64) * 0.1),
        (PIXELS.astype("u2") * 16, PIXELS[:1].astype("i8") // 20),
        (PIXELS, PIXELS.astype(np.float32)),
        (PIXELS > 128, (PIXELS > 128).astype(float)),
        (PIXELS, np.zeros((2, 8, 9), np.float32)),
    ],
)
def test_splits_of_one_range_are_decided_together(first, second):
    found = decided(first, second)

    assert found.convert(second).max() <= 255
    assert found.white == decided(first).white


def test_images_that_are_not_finite_decide_nothing():
    unit = UNIT.copy()
    unit[1, 0, 0], unit[2, 0, 0], unit[3] = np.nan, np.inf, -np.inf

    assert pixel_values("X", unit).finite.tolist() == [True, False, False, False, True, True]
    assert decided(unit).white == 1


def test_a_range_holds_for_later_arrays_of_the_same_kind_that_fit_it():
    deep = decided(PIXELS.astype("u2") * 16)

    assert decided(PIXELS[:1].astype("i8") // 2, fitted=deep) is deep
    with pytest.raises(DatasetError, match=r"another range than the images before; expected 0 to 4095, found"):
        decided(PIXELS.astype("u2") * 257, fitted=deep)
    assert decided(UNIT * 0.1, fitted=decided(UNIT)) == decided(UNIT)
    assert decided(UNIT, fitted=deep).white == 1  # Another kind, with a clear meaning of its own.


def test_floats_and_bytes_that_do_not_fit_a_range_have_their_own():
    floats, masks = decided(PIXELS * 1.0), decided((PIXELS > 128).astype(np.uint8))

    assert decided(UNIT, fitted=floats).white == 1
    assert decided(PIXELS * 1.0, fitted=decided(UNIT)).white == 255
    assert decided(PIXELS, fitted=masks).white == 255
    with pytest.raises(DatasetError, match="of 12 images of X0 have fractions up to 1"):
        decided(np.concatenate([PIXELS, UNIT]), fitted=floats)


def test_a_range_is_recorded():
    deep = decided(PIXELS.astype("u2") * 16)

    assert deep.record() == {"white": 4095, "kinds": ["integers"]}
    assert PixelRange.recorded(deep.record()) == PixelRange(white=4095, kinds=deep.kinds)
    assert PixelRange.recorded(None) is None


def test_bytes_of_0_and_1_that_were_converted_before_stay_as_they_are():
    noise = (PIXELS > 128).astype(np.uint8)

    assert decided(noise, fitted=AS_THEY_ARE).convert(noise) is noise


def test_true_is_white_whatever_range_was_decided_before():
    mask = PIXELS > 128

    assert np.array_equal(decided(mask, fitted=AS_THEY_ARE).convert(mask), mask * np.uint8(255))
    assert decided(mask[:1], fitted=decided(PIXELS)).white == 1


def test_single_images_decide_together():
    images = [(PIXELS[0] / 255).astype(np.float16), UNIT[1], PIXELS[2] > 128]

    assert range_of("the arrays", images).white == 1
    assert range_of("the arrays", []) == PixelRange()


def test_large_arrays_are_converted_in_blocks(monkeypatch):
    whole = converted(UNIT)
    monkeypatch.setattr("permafrost.images.arrays.pixel_values._CHUNK", 1000)

    assert np.array_equal(converted(UNIT), whole)
    assert decided(with_dark(PIXELS.astype("u2") * 16)).white == 4095

"""Drawn arrays: all images are taken with one meaning, or the dataset is refused in one line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from permafrost.errors import DatasetError
from permafrost.images.dataset import Dataset, read_dataset

DTYPES = ("?", "u1", "i1", "<u2", ">u2", "i2", "i4", "u4", "i8", "u8", "f2", "<f4", ">f4", "f8")
SHAPES = ((4, 5), (4, 5, 1), (5, 4, 3), (3, 4, 4), (4, 5, 4), (3, 6, 5), (1, 6, 5), (4, 5, 2), (6,), (2, 4, 5, 3))
RANGES = (
    (0, 0),
    (0, 1),
    (0, 1.0000001),
    (0, 1.2),
    (0, 9),
    (0, 255),
    (0, 300),
    (0, 4095),
    (0, 65535),
    (0, 1e6),
    (-1, 1),
    (-3, 3),
)


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    """Draw images (n, ...) of any dtype, shape and range; some are dark, black or not finite."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    low, high = draw(st.sampled_from(RANGES))
    count = draw(st.integers(2, 6))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    values = generator.uniform(low, high, (count, *draw(st.sampled_from(SHAPES))))
    values = np.round(values) if draw(st.booleans()) else values
    values[draw(st.integers(0, count - 1))] *= draw(st.sampled_from((1, 0.05, 0)))
    if dtype.kind == "f" and draw(st.booleans()):
        values[draw(st.integers(0, count - 1)), 0] = draw(st.sampled_from((np.nan, np.inf, -np.inf)))
    with np.errstate(all="ignore"):
        return values.astype(dtype)


@st.composite
def files(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Draw the arrays of a file: one split or two, whose images may be the same or of another dtype."""
    train = draw(images())
    if draw(st.booleans()):
        return {"X": train, "y": np.arange(len(train)) % 2}
    test = draw(st.one_of(st.just(train[::-1].copy()), st.just(train[:1].astype("f8")), images()))
    return {
        "X_train": train,
        "y_train": np.arange(len(train)) % 2,
        "X_test": test,
        "y_test": np.arange(len(test)) % 2,
    }


def read_twice(arrays: dict[str, np.ndarray]) -> tuple[Dataset, Dataset] | None:
    """Write and read the arrays; None if they are refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        np.savez(path, **arrays)
        try:
            return read_dataset(path, min_classes=1), read_dataset(path, min_classes=1)
        except DatasetError as error:
            assert "\n" not in str(error) and str(error.what)
            return None


def originals(dataset: Dataset, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The images as they were written, in the order of the dataset and with channels last."""
    found = []
    for name, pixels in zip(dataset.names, dataset.arrays or (), strict=True):
        key, _, number = name.rstrip("]").partition("[")
        image = arrays[key][int(number)]
        found.append(image if image.shape == pixels.shape else np.moveaxis(image, 0, 2))
    return found


@given(files())
@settings(max_examples=150, deadline=None)
def test_arrays_are_taken_whole_with_one_meaning_or_refused(arrays):
    read = read_twice(arrays)
    if read is None:
        return
    dataset, again = read
    found = originals(dataset, arrays)

    # What was read and what was skipped is all that is there, and only what is not finite was skipped.
    everything = [f"{key}[{row}]" for key, array in arrays.items() if key[0] == "X" for row in range(len(array))]
    assert sorted([*dataset.names, *(name for name, _ in dataset.skipped)]) == sorted(everything)
    assert all(np.isfinite(image).all() for image in found)
    assert {reason for _, reason in dataset.skipped} <= {"NaN or infinity among its values"}

    # Equal values have equal meanings in whatever split or image they are, and brighter ones are not darker.
    values = np.concatenate([image.astype(np.float64).ravel() for image in found])
    pixels = np.concatenate([image.ravel() for image in dataset.arrays])
    assert pixels.dtype == np.uint8
    order = np.lexsort((pixels, values))
    assert (np.diff(pixels[order].astype(int)) >= 0).all()
    for value in np.unique(values)[:20]:
        assert len(set(pixels[values == value].tolist())) == 1

    # Bytes stay, unless they are black and white.
    if all(array.dtype == np.uint8 for key, array in arrays.items() if key[0] == "X") and pixels.max() < 255:
        assert np.array_equal(values, pixels)

    # A second reading gives the same.
    assert again == dataset and all(map(np.array_equal, again.arrays, dataset.arrays))


@given(st.integers(0, 99), st.sampled_from([(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)]), st.integers(2, 255))
@settings(max_examples=40, deadline=None)
def test_bytes_are_never_changed(seed, shape, top):
    array = np.random.default_rng(seed).integers(0, top + 1, (3, *shape), dtype=np.uint8)
    array[0].flat[0] = top

    read = read_twice({"X": array, "y": [0, 1, 0]})

    assert read is not None and np.array_equal(read[0].arrays, array)


@given(images())
@settings(max_examples=50, deadline=None)
def test_a_copy_of_an_image_in_another_split_has_the_same_content(array):
    read = read_twice({"X_train": array, "y_train": np.zeros(len(array)), "X_test": array[:1], "y_test": [0]})
    if read is None or "X_test[0]" not in read[0].names:
        return
    dataset = read[0]

    contents = {name: dataset.image(index).load().digest for index, name in enumerate(dataset.names)}
    assert contents["X_train[0]"] == contents["X_test[0]"]

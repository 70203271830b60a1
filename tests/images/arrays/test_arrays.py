"""Datasets in npz files."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from permafrost.errors import DatasetError
from permafrost.images.dataset import read_dataset
from permafrost.images.decoding import array_digest
from permafrost.images.sources import ArrayImage
from samples import CLASSES, texture

PIXELS = np.stack([texture(kind, seed, (8, 9)) for kind in CLASSES for seed in range(2)])


def write_npz(tmp_path, **arrays):
    np.savez(tmp_path / "arrays.npz", **arrays)
    return tmp_path / "arrays.npz"


def test_an_npz_gives_images_labels_and_splits(tmp_path):
    path = write_npz(tmp_path, X_train=PIXELS[:4], y_train=[3, 7, 3, 7], X_val=PIXELS[4:], y_val=[[7], [3]])

    dataset = read_dataset(path)

    assert dataset.names == ("X_train[0]", "X_train[1]", "X_train[2]", "X_train[3]", "X_val[0]", "X_val[1]")
    assert dataset.class_names == ("3", "7")
    assert dataset.labels == (0, 1, 0, 1, 1, 0)
    assert dataset.splits == ("train",) * 4 + ("validation",) * 2
    assert dataset.name == "arrays"
    assert isinstance(dataset.image(0), ArrayImage)
    loaded = dataset.image(4).load()
    assert loaded.digest == array_digest(PIXELS[4])
    assert np.array_equal(loaded.pixels((8, 9)), PIXELS[4])


def test_an_npz_may_hold_grey_float_images_and_class_names_as_labels(tmp_path):
    grey = PIXELS[:2, :, :, 0].astype(np.float32)

    dataset = read_dataset(write_npz(tmp_path, X=grey, y=np.array(["dog", "cat"])))

    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels == (1, 0)
    assert dataset.splits == (None, None)
    assert np.array_equal(dataset.image(0).load().pixels((8, 9))[:, :, 2], PIXELS[0, :, :, 0])


def test_labels_that_are_numbers_are_sorted_as_numbers_and_named_by_class_names(tmp_path):
    path = write_npz(tmp_path, X=PIXELS[:3], y=[10, 9, 2])
    named = write_npz(tmp_path / "..", X=PIXELS[:2], y=[2, 0], class_names=["zebra", "-", "ant"])

    assert read_dataset(path).class_names == ("2", "9", "10")
    assert read_dataset(named).class_names == ("zebra", "ant")
    assert read_dataset(named).labels == (1, 0)


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({}, r"no images in .*; expected X_train and y_train, or X and y, found none"),
        ({"photos": PIXELS}, r"expected X_train and y_train, or X and y, found photos\. Name them with numpy\.savez"),
        ({"images": PIXELS}, r"labels missing in .*; expected y beside images, found images"),
        ({"X_train": PIXELS}, r"labels missing in .*; expected y_train beside X_train, found X_train"),
        (
            {"X_query": PIXELS, "y_query": range(6)},
            r"unknown split in .*; expected X_train, X_validation, X_test, found X_query",
        ),
        (
            {"X": PIXELS, "y": range(5)},
            r"labels y in .* do not fit the images; expected 6, one per image, found \(5,\)",
        ),
        ({"X": PIXELS, "y": np.zeros((6, 2, 2))}, r"not one class per image; .* found float64 \(6, 2, 2\)"),
        (
            {"X": PIXELS, "y": ["a", "b", "", "a", "", "b"]},
            r"labels y in .* are missing for 2 images, the first is number 2; expec",
        ),
        (
            {"X": PIXELS[:2], "y": np.array([b"a", b""])},
            r"labels y in .* are missing for 1 images, the first is number 1",
        ),
        ({"X": np.zeros((3, 4)), "y": [0, 1, 1]}, r"not hold images; expected shape \(n, h, w, 3\), found \(3, 4\)"),
        ({"X": PIXELS, "y": [0] * 6}, r"only one class in .*; expected at least two, found 0"),
        ({"X": PIXELS[:0], "y": np.zeros(0, int)}, r"no images in .*arrays\.npz"),
        ({"X": PIXELS[:2], "y": [0, 3], "class_names": ["a", "b"]}, r"class_names in .* do not fit the labels"),
        ({"X": PIXELS[:2], "y": [0, -1], "class_names": ["a", "b"]}, r"class_names in .* do not fit the labels"),
        (
            {"X_train": PIXELS[:2], "y_train": [0, 1], "X_test": PIXELS[:2], "y_test": ["a", "b"]},
            r"of one kind in one split and of another in another; .* found numbers and names",
        ),
        (
            {"X": PIXELS[:2], "y": np.array([{}, {}])},
            r"y in .* holds Python objects, which only pickle can read; .* Save y\.astype\(str\)",
        ),
    ],
)
def test_an_invalid_npz_is_one_clear_error(tmp_path, arrays, line):
    with pytest.raises(DatasetError, match=line):
        read_dataset(write_npz(tmp_path, **arrays))


@pytest.mark.parametrize("keep", [0, 100, 400])
def test_a_truncated_npz_is_refused(tmp_path, keep):
    path = write_npz(tmp_path, X=PIXELS, y=range(6))
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(
        DatasetError, match=r"not an npz file: .*arrays\.npz; found (an empty file|the beginning of an npz)"
    ):
        read_dataset(path)


def test_an_npz_with_a_flipped_bit_is_refused(tmp_path):
    path = write_npz(tmp_path, X=PIXELS, y=range(6))
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(data)

    with pytest.raises(DatasetError, match=r"cannot read .*arrays\.npz; found Bad CRC-32"):
        read_dataset(path)


def forged_npz(path, shape, *, held=b"", compression=zipfile.ZIP_STORED):
    """Write an npz whose image array declares a shape and holds other bytes."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, declared, dtype, data in (("X", shape, "|u1", held), ("y", (2,), "<i8", bytes(16))):
            with file.open(f"{name}.npy", "w") as part:
                header = {"descr": dtype, "fortran_order": False, "shape": declared}
                np.lib.format.write_array_header_1_0(part, header)
                part.write(data)
    return path


def test_an_npz_that_declares_more_than_it_holds_is_refused_before_memory_is_allocated(tmp_path):
    path = forged_npz(tmp_path / "forged.npz", (2, 2**20, 2**20, 3), held=b"few")

    line = r"X\.npy in .*forged\.npz declares more than it holds; expected 3 bytes, found 6,597,069,766,656"
    with pytest.raises(DatasetError, match=line):
        read_dataset(path)


def test_an_npz_that_does_not_fit_into_memory_is_refused_however_small_its_file(tmp_path, monkeypatch):
    # Zeros, a thousand times smaller when compressed.
    path = forged_npz(
        tmp_path / "zeros.npz", (2, 1000, 500, 3), held=bytes(3 * 10**6), compression=zipfile.ZIP_DEFLATED
    )
    monkeypatch.setattr("permafrost.images.arrays.reading.available_memory", lambda: 2_000_000)

    with pytest.raises(DatasetError, match=r"zeros\.npz does not fit into memory; .* Save the images as files"):
        read_dataset(path)


def test_arrays_of_an_npz_must_fit_into_memory_together(tmp_path, monkeypatch):
    path = write_npz(tmp_path, X_train=PIXELS, y_train=range(6), X_test=PIXELS, y_test=range(6))
    monkeypatch.setattr("permafrost.images.arrays.reading.available_memory", lambda: int(1.5 * PIXELS.nbytes))

    with pytest.raises(DatasetError, match=r"arrays\.npz does not fit into memory; expected at most 1,944 bytes"):
        read_dataset(path)

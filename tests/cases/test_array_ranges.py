"""The range of arrays is decided once for all images of all splits: all are taken rightly, or none in one line."""

from __future__ import annotations

import numpy as np
import pytest

import permafrost as pf
from permafrost.errors import DatasetError
from permafrost.images.dataset import read_dataset
from permafrost.model.inference import open_model
from samples import CLASSES, texture

LABELS = np.arange(12) % 2
BYTES = np.stack([texture(CLASSES[label], seed, (32, 32)) for seed, label in enumerate(LABELS)])
"""(12, 32, 32, 3) uint8."""

MASKS = (BYTES.mean(axis=3, keepdims=True) > np.median(BYTES)).astype(np.uint8)

UNIT = BYTES / np.float32(255)
UNIT[::4] = 0
"""Fractions; a quarter of the images is black."""

DEEP = BYTES.astype(np.uint16) * 16
DEEP[::3] //= 20
"""12 bits in 16; a third of the images is dark."""


def read(tmp_path, **arrays):
    np.savez(tmp_path / "arrays.npz", **arrays)
    return read_dataset(tmp_path / "arrays.npz")


@pytest.mark.parametrize(
    ("images", "right", "note"),
    [
        (MASKS, MASKS * 255, "values are 0 and 1, taken as black and white"),
        (MASKS.astype(np.float32), MASKS * 255, "values are 0 and 1, taken as black and white"),
        (MASKS.astype(bool), MASKS * 255, "values are 0 and 1, taken as black and white"),
        (UNIT, np.rint(UNIT * 255), "values from 0 to 1, scaled to 0 to 255"),
        (DEEP, np.rint(DEEP / 4095 * 255), "12-bit values, scaled to 8 bits"),
    ],
    ids=["masks in bytes", "masks in floats", "masks in booleans", "fractions", "12 bits in 16"],
)
def test_arrays_that_do_not_end_at_255_are_all_taken_with_their_brightness_and_it_is_said(
    tmp_path, images, right, note
):
    dataset = read(tmp_path, X=images, y=LABELS)

    assert len(dataset) == 12 and dataset.skipped == ()
    assert np.array_equal(np.stack(dataset.arrays), right)
    assert dataset.notes == (note,)
    loaded = dataset.image(1).load()
    assert loaded.content.dtype == np.uint8 and np.array_equal(loaded.content[:, :, 0], right[1, :, :, 0])


def test_a_dark_split_is_scaled_like_the_bright_one(tmp_path):
    dataset = read(tmp_path, X_train=DEEP, y_train=LABELS, X_test=DEEP[:1] // 8, y_test=LABELS[:1])

    assert np.array_equal(dataset.arrays[-1], np.rint(DEEP[0] // 8 / 4095 * 255))


def test_splits_of_two_ranges_are_refused_in_one_line(tmp_path):
    with pytest.raises(DatasetError, match=r"two ranges: X_train in .* and X_test in .*; expected one range"):
        read(tmp_path, X_train=UNIT, y_train=LABELS, X_test=BYTES, y_test=LABELS)


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (
            BYTES / np.float32(127.5) - 1,
            r"are negative, .* Give the images as they were before preprocessing, or \(X \+ 1\)",
        ),
        (BYTES * np.float32(16), r"are too large; .* Divide them by the value of white, such as 4095"),
        (BYTES // 16 * 1.0, r"have two readings: nearly black, or 1\d is white"),
    ],
)
def test_values_without_one_meaning_are_refused_in_one_line(tmp_path, images, line):
    with pytest.raises(DatasetError, match=rf"values of X in .*arrays\.npz {line}"):
        read(tmp_path, X=images, y=LABELS)


def test_an_image_that_is_not_finite_is_skipped_and_the_others_are_taken(tmp_path):
    images = UNIT.copy()
    images[3, 0, 0] = np.nan
    images[5] = np.inf

    dataset = read(tmp_path, X=images, y=LABELS)

    assert len(dataset) == 10
    assert dict(dataset.skipped) == dict.fromkeys(("X[3]", "X[5]"), "NaN or infinity among its values")
    assert dataset.labels == tuple(np.delete(LABELS, [3, 5]))


def test_features_of_fractions_are_those_of_the_same_images_in_bytes(tmp_path, tiny_base):
    np.savez(tmp_path / "bytes.npz", X=BYTES, y=LABELS)
    np.savez(tmp_path / "unit.npz", X=BYTES / 255, y=LABELS)

    sets = [
        pf.extract(tmp_path / f"{name}.npz", base=str(tiny_base), pool="avg", out=tmp_path / f"{name}.h5")
        for name in ("bytes", "unit")
    ]

    assert np.array_equal(sets[0].arrays()[0], sets[1].arrays()[0])
    assert sets[1].summary["cached"] == 12, "they are the same images"


def test_a_run_remembers_the_range_of_its_arrays(tmp_path, tiny_base):
    np.savez(tmp_path / "deep.npz", X=DEEP, y=LABELS)
    np.savez(tmp_path / "dark.npz", X=DEEP // 20, y=LABELS)
    features = pf.extract(tmp_path / "deep.npz", base=str(tiny_base), pool="avg", out=tmp_path / "set.h5")
    run = pf.fit_head(features, head="nb", out=tmp_path / "run")

    alone, among = (pf.predict(run, images)[0] for images in (DEEP[1:2] // 20, [DEEP[1] // 20, DEEP[2]]))

    assert alone["probability"] == pytest.approx(among["probability"], abs=1e-6)
    assert read_dataset(tmp_path / "dark.npz").pixels.white == 255, "alone, they are taken for bytes"
    opened = open_model(run)
    assert read_dataset(tmp_path / "dark.npz", pixels=opened.pixels).pixels.white == 4095
    with pytest.raises(DatasetError, match="another range than the images before; expected 0 to 4095"):
        pf.evaluate(run, write(tmp_path / "deeper.npz", X=DEEP * 16, y=LABELS))


def write(path, **arrays):
    np.savez(path, **arrays)
    return path

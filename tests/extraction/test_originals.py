"""The original images of a feature set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from permafrost.errors import ImageError
from permafrost.extraction import originals
from permafrost.extraction.originals import Originals
from permafrost.model.parity import sample_images
from permafrost.store.feature_set import FeatureSet
from samples import CLASSES, encoded, texture

pytest_plugins = ["upper"]


@pytest.fixture
def arrays(take, tmp_path) -> FeatureSet:
    """Features of images in an `.npz` file: three classes, two images each."""
    pixels = np.stack([texture(kind, seed) for kind in CLASSES for seed in range(2)])
    np.savez(tmp_path / "arrays.npz", X=pixels, y=[kind for kind in CLASSES for _ in range(2)])
    return take(tmp_path / "arrays.npz")


def with_max_pixels(features: FeatureSet, count: int) -> FeatureSet:
    content = dataclasses.replace(features.content, about=features.about | {"max_pixels": count})
    return FeatureSet(features.path, content)


def test_an_image_is_read_as_it_was_extracted(take, photos, arrays):
    from_files = Originals(take(photos, out=arrays.path.with_name("photos.h5")))

    assert np.array_equal(from_files.load(0).full_size(), texture("checks", 0, (40, 48)))
    assert np.array_equal(Originals(arrays).load(2).full_size(), texture(CLASSES[1], 0))
    assert from_files.pixels(0).shape == (32, 32, 3)


def test_an_image_that_has_changed_or_is_gone_is_named(take, own_photos):
    features = take(own_photos)
    changed, gone = (Path(path) for path in features.paths()[:2])
    changed.write_bytes(encoded(texture("dots", 99)))
    gone.unlink()

    with pytest.raises(ImageError, match=rf"{changed} has changed since its features were cached\. Extract again"):
        Originals(features).load(0)
    with pytest.raises(ImageError, match=rf"cannot read {gone}: No such file"):
        Originals(features).load(1)


def test_an_array_that_is_gone_is_named(arrays):
    np.savez(arrays.root, X=np.stack([texture(kind, 0) for kind in CLASSES]), y=list(CLASSES))

    with pytest.raises(ImageError, match=r"X\[5\] is no longer in .*arrays\.npz\. Extract again"):
        Originals(arrays).load(5)

    Path(arrays.root).unlink()
    with pytest.raises(ImageError, match=r"cannot read .*arrays\.npz: no such folder or file"):
        Originals(arrays).load(0)


def test_the_images_of_some_rows_are_a_dataset(take, photos, arrays):
    from_files = take(photos, out=arrays.path.with_name("photos.h5"))

    files, in_memory = Originals(from_files).dataset(np.array([4, 1])), Originals(arrays).dataset(np.array([4, 1]))

    assert files.names == (from_files.paths()[4], from_files.paths()[1])
    assert files.labels == (from_files.labels()[4], from_files.labels()[1])
    assert np.array_equal(in_memory.image(0).load().full_size(), texture(CLASSES[2], 0))


def test_each_array_is_found_without_going_through_the_others(arrays, monkeypatch):
    comparisons = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return str.__eq__(self, other)

    read = originals.read_dataset

    def read_dataset(path: str):
        dataset = read(path)
        return dataclasses.replace(dataset, names=tuple(Name(name) for name in dataset.names))

    monkeypatch.setattr(originals, "read_dataset", read_dataset)
    loaded = Originals(arrays)

    for row in range(len(arrays)):
        loaded.load(row)

    assert comparisons <= len(arrays)


def test_images_are_read_up_to_the_limit_that_the_set_was_extracted_with(take, photos):
    features = take(photos)

    assert Originals(with_max_pixels(features, 40 * 48)).load(0).full_size().shape == (40, 48, 3)
    with pytest.raises(ImageError, match="too many pixels; expected at most 1,919"):
        Originals(with_max_pixels(features, 40 * 48 - 1)).load(0).full_size()


def test_an_image_over_the_limit_is_an_error_in_the_check_of_a_model_and_not_left_out(take, photos):
    features = with_max_pixels(take(photos), 100)

    with pytest.raises(ImageError, match="too many pixels"):
        list(sample_images(features, {"test": np.arange(3)}))


def test_pillows_own_limit_leaves_no_image_out_of_the_check_of_a_model(take, photos, monkeypatch):
    features = take(photos)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses twice as many.
    rows = features.rows()

    sampled = list(sample_images(features, {"test": rows}))

    assert len(sampled) == len(rows)

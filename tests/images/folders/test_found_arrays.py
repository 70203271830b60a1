"""Arrays that are given to `predict`: one image or many, with one meaning for all of one call."""

from __future__ import annotations

import numpy as np
import pytest

from permafrost.errors import DatasetError, ImageError, OptionError
from permafrost.images.folders.found import find_images
from samples import CLASSES, texture

IMAGES = np.stack([texture(kind, 0, (8, 9)) for kind in CLASSES])


def contents(images):
    return [source.load().content for _, source in find_images(images).images]


@pytest.mark.parametrize("image", [IMAGES[0], IMAGES[0, :, :, :1], IMAGES[0, :, :, 0]])
def test_a_single_image_needs_no_list(image):
    (found,) = contents(image)

    assert np.array_equal(found[:, :, 0], image.reshape(8, 9, -1)[:, :, 0])


@pytest.mark.parametrize("images", [IMAGES, IMAGES[:2, :, :, 0], np.moveaxis(IMAGES, 3, 1), IMAGES[:1, :, :, 0]])
def test_an_array_of_images_is_a_list_of_them(images):
    assert len(contents(images)) == len(images)


def test_three_grey_images_and_one_image_with_its_channels_first_are_not_told_apart():
    with pytest.raises(OptionError, match=r"two readings: one image with channels first, or 3 grey images; .* a list"):
        contents(np.moveaxis(IMAGES[0], 2, 0))

    assert np.array_equal(contents([np.moveaxis(IMAGES[0], 2, 0)])[0], IMAGES[0])


@pytest.mark.parametrize("scale", [lambda a: a / 255, lambda a: a.astype(np.uint16) * 257, lambda a: a.astype(int)])
def test_all_images_of_a_call_decide_what_their_values_mean(scale):
    images = scale(IMAGES)
    images[1] = images[1] / 20

    bright, dark, _ = contents(list(images))

    assert np.array_equal(bright, IMAGES[0])
    assert 0 < dark.max() <= 13


def test_images_of_two_ranges_are_refused():
    with pytest.raises(DatasetError, match="images have two ranges"):
        contents([IMAGES[0], IMAGES[1] / 255])


def test_a_bad_image_is_bad_alone():
    bad = IMAGES[1] / 255
    bad[0, 0] = np.nan
    found = find_images([IMAGES[0] / 255, bad, np.zeros(7)]).images

    assert np.array_equal(found[0][1].load().content, IMAGES[0])
    with pytest.raises(ImageError, match="NaN or infinity among its values"):
        found[1][1].load()
    with pytest.raises(ImageError, match=r"not an image; expected shape \(h, w, 3\), found shape \(7,\)"):
        found[2][1].load()


@pytest.mark.parametrize("image", [3, None, b"a.jpg", [1, 2], {"a": 1}])
def test_what_is_neither_a_path_nor_an_array_is_refused(image):
    with pytest.raises(OptionError, match=r"not an image; expected paths, or arrays \(h, w, 3\), found"):
        find_images([image])

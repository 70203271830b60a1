"""Augmented views: deterministic, within their ranges, and the image itself as view 0."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers import one_error_line
from permafrost.errors import OptionError
from permafrost.images.augmentation import LIMITS, RANGES, Augmentation, Views, read_augmentation, read_views
from samples import texture

DIGEST = hashlib.sha256(b"a picture").digest()
EVERYTHING = "flip,shift,rotate,zoom,brightness,contrast"


@pytest.fixture(scope="module")
def pixels():
    return texture("checks", 0, (40, 60))


def views(pixels, text: str, count: int = 200) -> list[np.ndarray]:
    augmentation = read_augmentation(text)
    return [augmentation.view(pixels, DIGEST, number) for number in range(1, count + 1)]


def test_view_0_is_the_image_itself(pixels):
    assert read_augmentation(EVERYTHING).view(pixels, DIGEST, 0) is pixels


def test_a_view_is_pinned():
    # If this changes, change `AUGMENTING` too: cached views were made by the old rule.
    y, x = np.mgrid[:12, :10]
    ramp = np.stack([20 * y, 25 * x, 10 * (x + y)], axis=2).astype(np.uint8)

    view = read_augmentation(EVERYTHING).view(ramp, DIGEST, 1)

    pinned = [[36, 218, 104], [14, 178, 78], [1, 73, 29], [140, 249, 169], [120, 147, 118], [100, 41, 66]]
    assert np.abs(view[::5, ::4].reshape(-1, 3)[:6].astype(int) - pinned).max() <= 1  # Processors round differently.


def test_a_view_is_the_same_every_time_in_any_thread_and_does_not_change_its_image(pixels):
    before = pixels.copy()

    first = views(pixels, EVERYTHING, 40)
    with ThreadPoolExecutor(4) as threads:
        again = list(threads.map(lambda n: read_augmentation(EVERYTHING).view(pixels, DIGEST, n), range(1, 41)))

    assert all(np.array_equal(left, right) for left, right in zip(first, again, strict=True))
    assert np.array_equal(pixels, before)
    assert all(view.shape == pixels.shape and view.dtype == np.uint8 for view in first)


def test_views_differ_by_number_and_by_image(pixels):
    augmentation = read_augmentation("shift,rotate")

    assert len({view.tobytes() for view in views(pixels, "shift,rotate", 50)}) == 50
    other = hashlib.sha256(b"another").digest()
    assert not np.array_equal(augmentation.view(pixels, DIGEST, 1), augmentation.view(pixels, other, 1))


def test_flips_are_exact_and_occur_in_half_of_the_views(pixels):
    mirrored = [np.array_equal(view, pixels[:, ::-1]) for view in views(pixels, "flip")]

    assert all(
        flipped or np.array_equal(view, pixels) for flipped, view in zip(mirrored, views(pixels, "flip"), strict=True)
    )
    assert 70 < sum(mirrored) < 130


def test_the_values_of_an_augmentation_do_not_depend_on_other_augmentations(pixels):
    with_light = read_augmentation("flip,brightness=0.0001").view(pixels, DIGEST, 3)

    assert np.array_equal(with_light, read_augmentation("flip").view(pixels, DIGEST, 3))


def spot(size: tuple[int, int] = (101, 101), at: tuple[int, int] = (50, 50)) -> np.ndarray:
    """Return a black image with a white square of 5 px."""
    image = np.zeros((*size, 3), np.uint8)
    image[at[0] - 2 : at[0] + 3, at[1] - 2 : at[1] + 3] = 255
    return image


def centre(view: np.ndarray) -> np.ndarray:
    """Return the row and column of the centre of an image's light."""
    weight = view[..., 0].astype(float)
    grid = np.stack(np.mgrid[: view.shape[0], : view.shape[1]])
    return (grid * weight).sum(axis=(1, 2)) / weight.sum()


def test_shifts_are_uniform_within_their_range():
    moved = np.array([centre(view) - 50 for view in views(spot(), "shift=0.2", 300)]) / 101

    assert np.abs(moved).max() <= 0.2 + 0.01
    assert (np.abs(moved).max(axis=0) > 0.18).all()
    assert np.abs(moved.mean(axis=0)).max() < 0.03


def test_rotations_are_about_the_centre_and_within_their_range_in_both_directions():
    angles = []
    for view in views(spot(at=(50, 80)), "rotate=30", 300):
        row, column = centre(view) - 50
        assert np.hypot(row, column) == pytest.approx(30, abs=0.6)
        angles.append(np.degrees(np.arctan2(row, column)))

    assert -31 < min(angles) < -28
    assert 28 < max(angles) < 31
    assert np.abs(centre(views(spot(), "rotate=30", 1)[0]) - 50).max() < 0.01


def test_zooms_are_about_the_centre_and_within_their_range():
    columns = np.array([centre(view)[1] - 50 for view in views(spot(at=(50, 70)), "zoom=0.2", 300)]) / 20

    assert 0.79 < columns.min() < 0.82
    assert 1.18 < columns.max() < 1.21


def test_brightness_and_contrast_are_within_their_ranges():
    grey = np.full((8, 8, 3), 100, np.uint8)
    added = np.array([int(view[0, 0, 0]) - 100 for view in views(grey, "brightness=0.2", 300)])
    assert -51 <= added.min() < -47
    assert 47 < added.max() <= 51
    halves = grey.copy()
    halves[:4] = 140
    contrast = np.array([int(view[0, 0, 0]) - int(view[7, 0, 0]) for view in views(halves, "contrast=0.5", 300)]) / 40
    assert 0.5 <= contrast.min() < 0.55
    assert 1.45 < contrast.max() <= 1.5
    assert all(abs(view.mean() - 120) < 1 for view in views(halves, "contrast=0.5", 50))


def test_borders_are_filled_by_reflection():
    image = np.full((40, 40, 3), 77, np.uint8)

    assert all((view == 77).all() for view in views(image, "shift=0.5,rotate=90,zoom=0.5", 50))


def test_ranges_have_defaults():
    augmentation = read_augmentation(EVERYTHING)

    assert {name: getattr(augmentation, name) for name in RANGES} == RANGES
    assert augmentation.flip


def test_two_augmentations_have_the_same_text_only_if_they_are_equal():
    assert (
        str(read_augmentation(" rotate=15.0, flip,shift=0"))
        == "flip,rotate=15"
        == str(read_augmentation("flip,rotate"))
    )
    assert str(Augmentation(shift=0.1)) != str(Augmentation(shift=0.1 + 1e-12))
    assert read_augmentation(str(Augmentation(zoom=0.3, flip=True))) == Augmentation(zoom=0.3, flip=True)


def test_epochs_cycle_through_the_views_or_use_new_ones():
    cached, live = read_views(3, "flip"), read_views("live", "flip", live=True)

    assert [cached.of_epoch(epoch) for epoch in range(5)] == [0, 1, 2, 0, 1]
    assert [live.of_epoch(epoch) for epoch in range(5)] == [0, 1, 2, 3, 4]


def test_views_have_a_default_augmentation_and_the_image_alone_has_none():
    assert read_views(None, None) == read_views("1", None) == Views()
    assert Views().rule == ""
    assert read_views(2, None).rule.startswith("flip,shift=0.1,rotate=15,zoom=0.1;")


@pytest.mark.parametrize(
    ("views", "augment", "line"),
    [
        (0, None, "not a number of views; expected 1 or more, found 0"),
        ("live", None, "not a number of views; expected 1 or more, found live"),
        ("1.5", None, "not a number of views; expected 1 or more, found 1.5"),
        (None, "flip", "an augmentation without views; expected --views 2 or more, found --augment flip"),
        (2, "", "views without an augmentation; expected flip, shift, ..., found ''"),
        (2, "shift=0", "views without an augmentation; expected flip, shift, ..., found 'shift=0'"),
        (2, "flop", "unknown augmentation flop; expected flip"),
        (2, "flip=1", "unknown augmentation flip=1; expected flip"),
        (2, "shift=much", "the range of shift is not a number; expected 0 to 1, found much"),
        (2, "shift=nan", "the range of shift is not a number; expected 0 to 1, found nan"),
        (2, "zoom=1", "zoom is out of range; expected 0 to 0.9, found 1.0"),
        (2, "rotate=-3", "rotate is out of range; expected 0 to 180, found -3.0"),
    ],
)
def test_invalid_views_are_refused_in_one_line(views, augment, line):
    with pytest.raises(OptionError) as caught:
        read_views(views, augment)

    assert one_error_line(caught.value).startswith(line)


def test_every_range_has_a_limit():
    assert RANGES.keys() == LIMITS.keys()
    assert all(0 < RANGES[name] <= LIMITS[name] for name in RANGES)

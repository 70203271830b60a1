"""Units: copies and groups, and whatever they connect."""

from __future__ import annotations

import numpy as np
import pytest

from permafrost.images.splitting.units import NO_GROUP, connect_images, group_numbers, number_contents, unit_classes


def digests_of(*numbers: int) -> np.ndarray:
    return np.frombuffer(b"".join(bytes(8) + number.to_bytes(24, "big") for number in numbers), np.uint8).reshape(
        -1, 32
    )


def parts(numbers: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(numbers == number).tolist()) for number in np.unique(numbers)}


def test_contents_are_equal_in_all_bytes():
    # The first eight bytes are the same for all.
    assert parts(number_contents(digests_of(1, 2, 1, 3, 2))) == {frozenset({0, 2}), frozenset({1, 4}), frozenset({3})}


def test_copies_connect_groups():
    groups = group_numbers(["a", "b", None, "b", None, "c"])

    units = connect_images(digests_of(1, 1, 2, 3, 3, 4), groups)

    assert parts(units.numbers) == {frozenset({0, 1, 3, 4}), frozenset({2}), frozenset({5})}
    assert len(units.keys) == 3


def test_a_unit_without_a_group_has_its_content_as_its_key():
    digests = digests_of(5, 6)

    assert connect_images(digests).keys[connect_images(digests).numbers].tolist() == digests.tolist()
    grouped = connect_images(digests, group_numbers(["a", None]))
    assert grouped.keys[grouped.numbers[1]].tolist() == digests[1].tolist()
    assert grouped.keys[grouped.numbers[0]].tolist() != digests[0].tolist()


def test_the_key_of_a_group_follows_from_its_name_and_not_from_its_images():
    first, second = (
        connect_images(digests_of(1, 2), group_numbers(["a", "a"])),
        connect_images(digests_of(3), group_numbers(["a"])),
    )

    assert first.keys.tolist() == second.keys.tolist()
    assert first.rehashed().keys.tolist() != first.keys.tolist()


def test_groups_are_numbered_by_name_in_any_unicode_form():
    composed, decomposed, undecodable, absent, other = group_numbers(
        ["caf\u00e9", "cafe\u0301", "\udcff", None, "cafe"]
    )

    assert composed == decomposed
    assert len({composed, undecodable, absent, other}) == 4
    assert absent == NO_GROUP
    assert min(composed, undecodable, other) >= 0


def test_no_images_have_no_units():
    units = connect_images(np.zeros((0, 32), np.uint8), group_numbers([]))

    assert (len(units.numbers), len(units.keys)) == (0, 0)


@pytest.mark.parametrize("labels", [[0, 0, 1, 2]])
def test_classes_of_units_are_counted(labels):
    assert unit_classes(np.array([0, 0, 0, 1]), np.array(labels)) == [[(0, 2), (1, 1)], [(2, 1)]]

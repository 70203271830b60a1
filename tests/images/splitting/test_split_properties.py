"""Splits of any images: drawn digests, groups, labels, given splits and fractions."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from permafrost.images.splits import SPLITS
from permafrost.images.splitting.assignment import assign_splits, splits_at, unit_positions
from permafrost.images.splitting.units import connect_images, group_numbers

FRACTIONS = st.sampled_from([0.0, 0.05, 0.15, 0.3, 0.49])


@dataclasses.dataclass(frozen=True)
class Images:
    """Some images, as drawn."""

    digests: tuple[bytes, ...]
    labels: tuple[int, ...]
    given: tuple[str | None, ...]
    groups: tuple[str | None, ...]
    fractions: dict[str, float]

    def splits(self) -> list[str]:
        array = np.frombuffer(b"".join(self.digests), np.uint8).reshape(-1, 32)
        units = connect_images(array, group_numbers(self.groups))
        return [SPLITS[number] for number in assign_splits(units, self.given, self.labels, **self.fractions).tolist()]

    def taken(self, order: Any) -> Images:
        """Return the images at some indices."""
        columns = (
            (column[index] for index in order) for column in (self.digests, self.labels, self.given, self.groups)
        )
        return Images(*map(tuple, columns), self.fractions)  # type: ignore[arg-type]


# Few different positions, so that copies and equal positions occur; or many, of a hash.
DIGESTS = st.builds(
    lambda head, tail: bytes([head]) + bytes(30) + bytes([tail]), st.integers(0, 255), st.integers(0, 3)
) | st.binary(min_size=32, max_size=32)
SPLIT = st.sampled_from([None, None, None, *SPLITS])
GROUP = st.sampled_from([None, None, "a", "b", "c", "\udcff"])
ANY_FRACTIONS = st.fixed_dictionaries({"validation_fraction": FRACTIONS, "test_fraction": FRACTIONS})


@st.composite
def images(draw: st.DrawFn, *, given: Any = SPLIT, group: Any = GROUP, unique: bool = False) -> Images:
    """Draw images; each class from 0 on may occur."""
    digests = draw(st.lists(DIGESTS, max_size=60, unique=unique))
    rows = [draw(st.tuples(st.integers(0, 3), given, group)) for _ in digests]
    labels, splits, groups = zip(*rows, strict=True) if rows else ((), (), ())
    return Images(tuple(digests), labels, splits, groups, draw(ANY_FRACTIONS))


alone = images(given=st.none(), group=st.none(), unique=True)


@given(images())
def test_given_splits_stay_and_a_second_call_gives_the_same(drawn):
    splits = drawn.splits()

    assert all(wanted in (None, split) for wanted, split in zip(drawn.given, splits, strict=True))
    assert splits == drawn.splits()


@given(images(), st.randoms())
def test_the_order_of_the_images_does_not_matter(drawn, random):
    order = list(range(len(drawn.digests)))
    random.shuffle(order)

    assert drawn.taken(order).splits() == [drawn.splits()[index] for index in order]


@given(images())
def test_copies_and_groups_are_in_one_split_unless_given_splits_tear_them(drawn):
    splits = drawn.splits()

    for keys in (drawn.digests, drawn.groups):
        for key in {*keys} - {None}:
            rows = [row for row, each in enumerate(keys) if each == key]
            names = {drawn.given[row] for row in rows} - {None}
            decided = {splits[row] for row in rows if drawn.given[row] is None}
            assert len(decided) <= 1
            if len(names) < 2 and not _connected_to_given(drawn, rows):
                assert len({splits[row] for row in rows}) == 1


def _connected_to_given(drawn: Images, rows: list[int]) -> bool:
    """Return whether images of the same unit as these, or these, have given splits."""
    array = np.frombuffer(b"".join(drawn.digests), np.uint8).reshape(-1, 32)
    numbers = connect_images(array, group_numbers(drawn.groups)).numbers
    return any(split for split, number in zip(drawn.given, numbers, strict=True) if number == numbers[rows[0]])


@given(images())
def test_each_class_has_training_images_unless_given_splits_forbid_it(drawn):
    splits = drawn.splits()
    array = np.frombuffer(b"".join(drawn.digests), np.uint8).reshape(-1, 32)
    numbers = connect_images(array, group_numbers(drawn.groups)).numbers
    bound = {number for number, split in zip(numbers.tolist(), drawn.given, strict=True) if split}

    for label in set(drawn.labels):
        rows = [row for row, each in enumerate(drawn.labels) if each == label]
        free = {int(numbers[row]) for row in rows} - bound
        trained = {int(numbers[row]) for row in rows if splits[row] == "train"}
        assert len(trained) >= min(2, len(free))


@given(alone)
def test_each_split_has_its_fraction_of_each_class(drawn):
    splits = drawn.splits()

    for label in set(drawn.labels):
        of_class = [split for split, each in zip(splits, drawn.labels, strict=True) if each == label]
        for split, name in (("validation", "validation_fraction"), ("test", "test_fraction")):
            wanted = drawn.fractions[name] * len(of_class)
            if not wanted:
                assert split not in of_class
            assert abs(of_class.count(split) - wanted) <= 1 + wanted / 3 + 1e-9


@given(alone, st.data())
def test_more_images_move_no_image_of_a_class_that_needs_no_correction(drawn, data):
    fewer = drawn.taken(sorted(data.draw(st.sets(st.sampled_from(range(len(drawn.digests)))))) if drawn.digests else [])
    before, after = fewer.splits(), dict(zip(drawn.digests, drawn.splits(), strict=True))
    assume(before)

    for label in set(fewer.labels):
        rows = [row for row, each in enumerate(fewer.labels) if each == label]
        uncorrected = [_at_its_position(fewer.digests[row], drawn.fractions) for row in rows]
        now = [row for row, each in enumerate(drawn.labels) if each == label]
        corrected = [after[drawn.digests[row]] != _at_its_position(drawn.digests[row], drawn.fractions) for row in now]
        if [before[row] for row in rows] == uncorrected and not any(corrected):
            assert [after[fewer.digests[row]] for row in rows] == uncorrected


@given(alone, st.integers(0, 3))
def test_a_class_keeps_its_splits_whatever_other_classes_there_are(drawn, label):
    rows = [row for row, each in enumerate(drawn.labels) if each == label]

    assert drawn.taken(rows).splits() == [drawn.splits()[row] for row in rows]


def _at_its_position(digest: bytes, fractions: dict[str, float]) -> str:
    positions = unit_positions(np.frombuffer(digest, np.uint8)[None])
    return SPLITS[int(splits_at(positions, **fractions)[0])]

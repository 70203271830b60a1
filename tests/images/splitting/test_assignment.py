"""The split of each image: decided by content or group, and corrected for classes that are far off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from permafrost.errors import OptionError
from permafrost.images.decoding import content_digest
from permafrost.images.splits import SPLITS
from permafrost.images.splitting.assignment import assign_splits, hold_out_images, unit_positions
from permafrost.images.splitting.units import Units, connect_images, group_numbers


def digest_at(position: float, number: int = 0) -> bytes:
    """Return a digest with a given position."""
    return int(position * 2**64).to_bytes(8, "big") + number.to_bytes(24, "big")


def units_of(digests: Sequence[bytes], groups: Sequence[str | None] | None = None) -> Units:
    array = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return connect_images(array, None if groups is None else group_numbers(groups))


def assign(digests, given=None, labels=None, groups=None, **fractions) -> list[str]:
    count = len(digests)
    splits = assign_splits(units_of(digests, groups), given or [None] * count, labels or [0] * count, **fractions)
    return [SPLITS[number] for number in splits.tolist()]


def some(count: int, prefix: str = "") -> list[bytes]:
    return [content_digest(f"{prefix}{number}".encode()) for number in range(count)]


def test_splits_of_a_large_class_are_pinned_and_decided_by_content_alone():
    # A change here moves users' images between training and test.
    digests = some(600)

    splits = assign(digests)

    assert "".join(split[1] for split in splits[:40]) == "rrrrarrraearrarrrarrrrrrrrrrrarrrrrrrrre"
    positions = unit_positions(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))
    assert splits == ["test" if at < 0.15 else "validation" if at < 0.3 else "train" for at in positions.tolist()]
    assert assign(digests[:400]) == splits[:400]


def test_positions_are_the_first_eight_bytes():
    keys = np.frombuffer(bytes(31) + b"\1" + b"\x80" + bytes(31), np.uint8).reshape(2, 32)

    assert unit_positions(keys).tolist() == [0, 0.5]


@pytest.mark.parametrize(("validation", "test"), [(1, 0), (0.5, 0.5), (-0.1, 0), (0, float("nan"))])
def test_fractions_that_leave_nothing_to_train_on_are_refused(validation, test):
    with pytest.raises(OptionError, match=r"leave nothing to train on; expected each at least 0, together less than 1"):
        assign([], validation_fraction=validation, test_fraction=test)


def test_no_images_have_no_splits():
    assert assign([]) == []


def test_by_default_15_of_100_images_are_for_validation_and_15_for_test():
    splits = assign(some(20_000))

    assert splits == assign(some(20_000), validation_fraction=0.15, test_fraction=0.15)
    assert [round(splits.count(split) / len(splits), 2) for split in SPLITS] == [0.7, 0.15, 0.15]


@pytest.mark.parametrize("positions", [[0.01], [0.2], [0.01, 0.02], [0.2, 0.01, 0.14], [0.8, 0.01, 0.2]])
def test_a_class_of_few_images_has_two_to_train_on_or_all_that_it_has(positions):
    large = some(100)

    splits = assign([*map(digest_at, positions), *large], labels=[1] * len(positions) + [0] * 100)

    assert all(splits[number] == "train" for number in np.argsort(positions)[-2:])
    assert splits[: len(positions)].count("test") == (len(positions) > 2)
    assert splits[len(positions) :] == assign(large)


def test_a_class_with_given_training_images_may_have_its_other_images_held_out():
    digests = [digest_at(0.01), digest_at(0.5), digest_at(0.9)]

    assert assign(digests[:2], ["test", "train"]) == ["test", "train"]
    assert assign(digests, [None, "train", "train"]) == ["test", "train", "train"]
    assert assign(digests[:2], [None, "train"]) == ["train", "train"]


def test_a_class_that_would_be_all_test_is_spread_by_position():
    # All images are those that another dataset had for testing.
    digests = [digest_at(0.15 * number / 100) for number in range(100)]

    splits = assign(digests)

    assert splits == ["test"] * 21 + ["validation"] * 21 + ["train"] * 58


def test_a_class_that_would_be_all_train_is_spread_by_position():
    digests = [digest_at(0.5 + number / 200) for number in range(100)]

    assert assign(digests) == ["test"] * 9 + ["validation"] * 9 + ["train"] * 82


def test_a_class_with_a_whole_image_for_a_split_occurs_in_it():
    digests = [digest_at(0.5 + number / 20) for number in range(9)]

    assert assign(digests) == ["test"] + ["validation"] + ["train"] * 7


def test_a_fraction_of_zero_holds_nothing_out():
    splits = assign(some(50), validation_fraction=0, test_fraction=0)

    assert set(splits) == {"train"}
    assert set(assign(some(50), validation_fraction=0, test_fraction=0.3)) == {"train", "test"}


def test_images_follow_those_of_their_unit_that_have_a_given_split_training_first():
    digests = some(6)
    groups = ["a", "a", "a", "b", "b", None]

    splits = assign(
        [*digests, digests[3]], ["test", "train", None, "validation", None, "test", None], groups=[*groups, None]
    )

    assert splits == ["test", "train", "train", "validation", "validation", "test", "validation"]


def test_the_split_of_a_group_follows_from_its_name():
    groups = [f"patient {number // 5}" for number in range(100)]

    first, other = assign(some(100), groups=groups), assign(some(100, "other "), groups=groups)

    assert first == other
    assert set(first) == set(SPLITS)


@pytest.mark.parametrize(("count", "wanted"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (2, 0, 1)), (4, (2, 1, 1))])
def test_of_few_groups_two_are_for_training_then_one_for_test_then_one_for_validation(count, wanted):
    for seed in range(20):
        groups = [f"{seed} {number // 30}" for number in range(30 * count)]

        splits = assign(some(30 * count), groups=groups)

        assert [splits.count(split) for split in SPLITS] == [30 * number for number in wanted]


def test_a_large_group_is_not_held_out_where_a_small_one_can_be():
    for seed in range(20):
        groups = [f"{seed} {name}" for name, size in (("a", 20), ("b", 10), ("large", 200)) for _ in range(size)]

        splits = assign(some(230), groups=groups)

        assert splits[30:] == ["train"] * 200
        assert {splits[0], splits[20]} == {"train", "test"}


def test_a_group_of_several_classes_is_moved_only_if_that_is_better_for_them_together():
    # Class 1 needs a training image, and its only group is shared with class 0.
    groups = ["shared"] * 12 + [None] * 100
    labels = [0] * 10 + [1] * 2 + [0] * 100

    splits = assign(some(112), labels=labels, groups=groups)

    assert len(set(splits[:12])) == 1
    assert splits[11] == "train"


def test_a_fit_holds_a_tenth_out_from_other_positions_than_those_of_the_splits():
    # All are training images, so their positions are above 0.3.
    digests = [digest for digest, split in zip(some(3000), assign(some(3000)), strict=True) if split == "train"]

    held_out = hold_out_images(units_of(digests), np.zeros(len(digests), np.int64), 0.1)

    assert held_out.mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_a_fit_of_few_images_holds_one_out_if_no_class_is_left_without(seed):
    units = units_of(some(5, f"{seed} "))

    held_out = hold_out_images(units, np.array([0, 0, 1, 2, 2]), 0.1)

    assert held_out.sum() >= 1
    assert not held_out[2]
    assert not held_out[:2].all() and not held_out[3:].all()
    assert not hold_out_images(units, np.arange(5), 0.1).any()


def test_content_in_two_classes_has_one_split():
    digests = some(40)

    splits = assign(digests + digests[:10], labels=[0] * 40 + [1] * 10)

    assert splits[:10] == splits[40:]
    assert "train" in splits[40:]

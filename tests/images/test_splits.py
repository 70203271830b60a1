"""The split of each image."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from permafrost.errors import OptionError
from permafrost.images.decoding import content_digest
from permafrost.images.splits import SPLITS, assign_splits, content_position

DIGESTS = st.binary(min_size=32, max_size=32)


@given(digests=st.lists(DIGESTS, min_size=1), others=st.lists(DIGESTS))
def test_the_split_of_an_image_does_not_depend_on_the_other_images(digests, others):
    alone = assign_splits(digests, [None] * len(digests))
    together = assign_splits(others + digests, [None] * (len(others) + len(digests)))

    assert together[len(others) :] == alone


@given(digest=DIGESTS, others=st.lists(DIGESTS))
def test_copies_of_one_image_share_a_split(digest, others):
    splits = assign_splits([digest, *others, digest], [None] * (len(others) + 2))

    assert splits[0] == splits[-1]


@given(digests=st.lists(DIGESTS), data=st.data())
def test_a_given_split_is_respected(digests, data):
    given_splits = [data.draw(st.sampled_from([*SPLITS, None])) for _ in digests]

    splits = assign_splits(digests, given_splits)

    assert all(wanted in (split, None) for wanted, split in zip(given_splits, splits, strict=True))
    assert set(splits) <= set(SPLITS)


@given(digest=DIGESTS, lower=st.floats(0, 0.4), more=st.floats(0, 0.4))
def test_a_test_image_stays_one_when_the_test_fraction_grows(digest, lower, more):
    splits = [
        assign_splits([digest], [None], validation_fraction=0.1, test_fraction=fraction)[0]
        for fraction in (lower, lower + more)
    ]

    assert splits[0] != "test" or splits[1] == "test"


def test_splits_have_the_fractions_that_were_asked_for():
    digests = [content_digest(str(number).encode()) for number in range(4000)]

    splits = assign_splits(digests, [None] * 4000, validation_fraction=0.2, test_fraction=0.1)

    assert abs(splits.count("validation") / 4000 - 0.2) < 0.03
    assert abs(splits.count("test") / 4000 - 0.1) < 0.03


@pytest.mark.parametrize(("validation", "test"), [(1, 0), (0.5, 0.5), (-0.1, 0), (0, float("nan"))])
def test_fractions_that_leave_nothing_to_train_on_are_refused(validation, test):
    with pytest.raises(OptionError, match=r"leave nothing to train on; expected each at least 0, together less than 1"):
        assign_splits([], [], validation_fraction=validation, test_fraction=test)


def test_splits_are_pinned():
    # A change here moves users' images between training and test.
    digests = [content_digest(name.encode()) for name in "abcdefgh"]

    splits = assign_splits(digests, [None] * 8, validation_fraction=0.3, test_fraction=0.3)

    assert splits == ["train", "test", "test", "test", "test", "test", "train", "train"]
    assert content_position(bytes(31) + b"\1") == 0
    assert content_position(b"\x80" + bytes(31)) == 0.5


def test_by_default_15_of_100_images_are_for_validation_and_15_for_test():
    digests = [content_digest(str(number).encode()) for number in range(20_000)]

    splits = assign_splits(digests, [None] * len(digests))

    assert splits == assign_splits(digests, [None] * len(digests), validation_fraction=0.15, test_fraction=0.15)
    assert [round(splits.count(split) / len(splits), 2) for split in SPLITS] == [0.7, 0.15, 0.15]

"""Folds: stratified, and exact copies, groups and views of images together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from helpers import one_error_line
from permafrost.errors import HeadError
from permafrost.heads.folds import FOLDS, Folds, make_folds
from permafrost.heads.head import HeadData


def data_of(labels: list[int], units: list[int] | None = None, *, views: int = 1) -> HeadData:
    return HeadData(
        x=np.zeros((views * len(labels), 1), np.float32),
        y=np.tile(labels, views),
        validation_x=None,
        validation_y=None,
        class_names=tuple("abcdefgh"[: max(labels) + 1]),
        views=views,
        units=None if units is None else np.tile(units, views),
    )


def folds_of(data: HeadData, seed: int = 0) -> Folds:
    folds = make_folds(data, seed, purpose="choose C")
    held_out = np.concatenate([held for _, held in folds])
    assert sorted(held_out.tolist()) == list(range(len(data.y)))
    assert all(sorted([*fit, *held]) == list(range(len(data.y))) for fit, held in folds)
    return folds


def test_folds_of_different_images_are_those_of_scikit_learn():
    labels = np.random.default_rng(0).integers(0, 3, 50)

    folds = folds_of(data_of(labels.tolist()), seed=7)

    expected = list(StratifiedKFold(5, shuffle=True, random_state=7).split(labels, labels))
    assert len(folds) == len(expected) == FOLDS
    for found, wanted in zip(folds, expected, strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("views", [1, 3])
def test_images_of_a_unit_share_a_fold_with_all_their_views(views):
    random = np.random.default_rng(1)
    units = np.repeat(np.arange(30), random.integers(1, 9, 30))
    labels = units % 3

    folds = folds_of(data_of(labels.tolist(), units.tolist(), views=views))

    for _, held in folds:
        assert len(np.unique(held % len(units))) * views == len(held)
        rest = np.setdiff1d(np.arange(len(units)), held % len(units))
        assert not set(units[held % len(units)]) & set(units[rest])


def test_units_are_stratified():
    random = np.random.default_rng(2)
    units = np.repeat(np.arange(200), random.integers(1, 5, 200))
    labels = (units % 10 > 6).astype(int)

    folds = folds_of(data_of(labels.tolist(), units.tolist()))

    for _, held in folds:
        assert abs(len(held) - len(units) / 5) < 6
        assert abs(labels[held].mean() - labels.mean()) < 0.03


def test_there_are_as_many_folds_as_the_smallest_class_has_units():
    labels, units = [0] * 20 + [1] * 20, [*range(20), *[20] * 10, *[21] * 9, 22]

    assert len(folds_of(data_of(labels, units))) == 3


def test_a_class_of_one_unit_is_refused_and_named():
    with pytest.raises(HeadError) as caught:
        make_folds(data_of([0] * 5 + [1] * 5, [0, 1, 2, 3, 4] + [5] * 5), 0, purpose="choose C")

    assert one_error_line(caught.value) == (
        "class b has too few separate training images to choose C by cross-validation; expected at least 2, found 1, "
        "as copies and images of one group count once. Add images of it"
    )


def test_classes_that_no_folds_divide_are_refused():
    # Each class has two units, and each pair of classes shares one.
    with pytest.raises(HeadError, match=r"class . shares its groups of images with others, so that no folds divide it"):
        make_folds(data_of([0, 1, 1, 2, 2, 0], [0, 0, 1, 1, 2, 2]), 0, purpose="choose C")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=4, max_size=40), st.integers(0, 5))
def test_each_fold_leaves_images_of_each_class_to_fit_to(rows, seed):
    labels, units = (list(column) for column in zip(*rows, strict=True))
    units = [10 * label + unit if unit > 2 else unit for label, unit in zip(labels, units, strict=True)]
    assume(len(set(labels)) == max(labels) + 1)
    try:
        folds = folds_of(data_of(labels, units), seed)
    except HeadError:
        return

    for fit, held in folds:
        assert set(np.array(labels)[fit]) == set(labels)
        assert len(held)
        assert not set(np.array(units)[fit]) & set(np.array(units)[held])

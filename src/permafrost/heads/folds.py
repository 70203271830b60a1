"""Folds of the training rows for cross-validation: stratified, and without tearing images of one unit apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from sklearn.model_selection import StratifiedKFold

from permafrost.errors import HeadError
from permafrost.heads.head import HeadData
from permafrost.images.splitting.units import unit_classes

FOLDS: Final = 5

Folds = list[tuple[np.ndarray, np.ndarray]]
"""For each fold, the rows to fit to and the rows that are held out."""


def make_folds(data: HeadData, seed: int, *, purpose: str, do: str = "add images of it") -> Folds:
    """Return five stratified folds, or as many as the smallest class has units: images, copies counted once, or groups.

    All views of an image share a fold, and so do all images of a unit, so none leaks into another.

    Args:
        data: the rows to divide.
        seed: random seed of the folds.
        purpose: what the folds are for, for the error message.
        do: what to do if there can be no folds, for the error message.

    Raises:
        HeadError: a class has a single unit, or the units permit no folds without a class in one fold only.
    """
    count = len(data.y) // data.views
    y = data.y[:count]
    if data.units is None:
        number = _fold_count(data, np.bincount(y, minlength=len(data.class_names)), "training images", purpose, do)
        held_out = [held for _, held in StratifiedKFold(number, shuffle=True, random_state=seed).split(y, y)]
    else:
        units = np.unique(data.units[:count], return_inverse=True)[1]
        contents = unit_classes(units, y)
        counts = np.bincount([label for unit in contents for label, _ in unit], minlength=len(data.class_names))
        number = _fold_count(data, counts, "separate training images", purpose, do)
        folds = np.array(_Division(contents, number, len(data.class_names)).run(seed))[units]
        held_out = [np.flatnonzero(folds == fold) for fold in range(number)]
        _require_every_class(data, y, held_out, purpose, do)
    starts = count * np.arange(data.views)[:, None]
    every = np.arange(count)
    return [((starts + np.setdiff1d(every, held)).reshape(-1), (starts + held).reshape(-1)) for held in held_out]


def _fold_count(data: HeadData, counts: np.ndarray, what: str, purpose: str, do: str) -> int:
    """Return the number of folds, given how many units each class has."""
    smallest = int(counts.min())
    if smallest < 2:
        name = data.class_names[int(counts.argmin())]
        raise HeadError(
            f"class {name} has too few {what} to {purpose} by cross-validation",
            expected="at least 2",
            found=smallest if data.units is None else f"{smallest}, as copies and images of one group count once",
            do=do,
        )
    return min(FOLDS, smallest)


def _require_every_class(data: HeadData, y: np.ndarray, held_out: list[np.ndarray], purpose: str, do: str) -> None:
    """Refuse folds of which one holds out all images of a class."""
    counts = np.bincount(y, minlength=len(data.class_names))
    for held in held_out:
        without = np.flatnonzero(np.bincount(y[held], minlength=len(counts)) == counts)
        if len(without):
            raise HeadError(
                f"class {data.class_names[int(without[0])]} shares its groups of images with others, so that no folds "
                f"divide it to {purpose} by cross-validation",
                do=do,
            )


class _Division:
    """Divides units into folds in which each class has about the same number of images.

    scikit-learn's `StratifiedGroupKFold` takes a minute for 100,000 units, and can hold out all images of a class.

    Args:
        contents: for each unit its classes, each with the number of its images.
        number: the number of folds.
        classes: the number of classes.
    """

    def __init__(self, contents: list[list[tuple[int, int]]], number: int, classes: int) -> None:
        self._contents = contents
        self._counts = [[0] * classes for _ in range(number)]
        self._totals = [0] * number
        self._folds = [-1] * len(contents)

    def run(self, seed: int) -> list[int]:
        """Return the fold of each unit. Large units are placed first, those of one size in random order."""
        order = np.random.default_rng(seed).permutation(len(self._contents)).tolist()
        order.sort(key=lambda unit: -sum(count for _, count in self._contents[unit]))
        for unit in order:
            self._place(unit, self._best(unit, range(len(self._totals))))
        for label in range(len(self._counts[0])):
            self._spread(label, order)
        return self._folds

    def _best(self, unit: int, folds: Iterable[int]) -> int:
        """Return the fold with the fewest images of the unit's classes, and of those the one with the fewest images."""

        def rank(fold: int) -> tuple[int, int]:
            return sum(self._counts[fold][label] for label, _ in self._contents[unit]), self._totals[fold]

        return min(folds, key=rank)

    def _place(self, unit: int, fold: int) -> None:
        for sign, place in ((-1, self._folds[unit]), (1, fold)):
            for label, count in self._contents[unit] if place >= 0 else ():
                self._counts[place][label] += sign * count
                self._totals[place] += sign * count
        self._folds[unit] = fold

    def _spread(self, label: int, order: list[int]) -> None:
        """Move the smallest unit of a class that is in one fold only, as units of several classes may leave it."""
        used = [fold for fold, counts in enumerate(self._counts) if counts[label]]
        if len(used) == 1:
            unit = next(unit for unit in reversed(order) if any(each == label for each, _ in self._contents[unit]))
            self._place(unit, self._best(unit, (fold for fold in range(len(self._totals)) if fold not in used)))

"""The assignment of images to splits: decided by content or group, and corrected for classes that are far off.

A unit (`units`) has a position from 0 to 1 that follows from its key alone, and the fractions are thresholds on it: so
images that come and go move no others. Only where a class would be far off are some of its units moved.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Container, Iterable, Sequence
from typing import Final

import numpy as np

from permafrost.images.splits import (
    SPLITS,
    TEST,
    TEST_FRACTION,
    TRAIN,
    VALIDATION,
    VALIDATION_FRACTION,
    check_fractions,
)
from permafrost.images.splitting.units import Units, unit_classes

MIN_TRAINING: Final = 2
"""A class has this many units for training if it has them at all: cross-validation needs two."""

SLACK: Final = (1, 1 / 3)
"""A class may have this many held-out images more or fewer than its fraction of them: a number, and a part of them."""


def assign_splits(
    units: Units,
    given: Sequence[str | None],
    labels: Sequence[int] | np.ndarray,
    *,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
) -> np.ndarray:
    """Return the split of each image, (n,) uint8, indices into `SPLITS`: the given one, or else that of its unit.

    All images of a unit without a given split share one. If other images of the unit have a given split, they follow
    these: train first, then validation, then test. Otherwise the unit's position decides. Of each class, the number
    of such images in validation and in test differs from its fraction by at most 1 and a third of it, and at least two
    units are for training, as far as moving whole units permits; the units nearest to the thresholds are moved.

    The order of the images does not matter, and a class that needs no correction keeps its splits whatever else there
    is, unless it shares units with one that does.

    Args:
        units: the units of the images.
        given: names of splits, or None for images without one.
        labels: the class of each image, a number from 0.
        validation_fraction: fraction of the images without a given split that go to validation, 0 to 1.
        test_fraction: likewise for test.

    Raises:
        OptionError: a fraction is out of range, or the two leave nothing to train on.
    """
    check_fractions(validation_fraction, test_fraction)
    numbers = np.array([-1 if name is None else SPLITS.index(name) for name in given], np.int8)
    followed = _followed(units, numbers)
    decided = splits_at(
        unit_positions(units.keys), validation_fraction=validation_fraction, test_fraction=test_fraction
    )
    splits = np.where(followed >= 0, followed, decided)
    labels = np.asarray(labels, np.int64)
    classes = _Classes(units, numbers, labels, followed, splits)
    _correct_test(classes, test_fraction, validation_fraction)
    _correct_validation(classes, validation_fraction)
    _train_each_class(classes)
    found: np.ndarray = np.where(numbers >= 0, numbers, np.array(classes.splits, np.int8)[units.numbers])
    return found.astype(np.uint8)


def hold_out_images(units: Units, labels: np.ndarray, fraction: float) -> np.ndarray:
    """Return which training images a fit holds out to validate on: (n,) bool.

    They are chosen as `assign_splits` does, from other positions than those that decided the splits, and there is at
    least one if that leaves something to train on in each class.

    Args:
        units: the units of the training images.
        labels: (n,) int64, their classes.
        fraction: fraction of each class to hold out.
    """
    units = units.rehashed()
    splits = assign_splits(units, [None] * len(labels), labels, validation_fraction=fraction, test_fraction=0)
    held_out: np.ndarray = splits == VALIDATION
    if not held_out.any():
        sizes, contents = np.bincount(labels).tolist(), unit_classes(units.numbers, labels)
        for unit in np.argsort(unit_positions(units.keys), kind="stable").tolist():
            if all(count < sizes[label] for label, count in contents[unit]):
                return np.asarray(units.numbers == unit)
    return held_out


def unit_positions(keys: np.ndarray) -> np.ndarray:
    """Map the keys of units, (u, 32) uint8, to numbers from 0 to 1: (u,) float64, uniformly distributed."""
    heads = np.ascontiguousarray(keys[:, :8]).view(">u8").reshape(-1)
    positions: np.ndarray = heads.astype(np.float64) / 2.0**64
    return positions


def splits_at(positions: np.ndarray, *, validation_fraction: float, test_fraction: float) -> np.ndarray:
    """Return the split at each position, uncorrected: (u,) int8, indices into `SPLITS`."""
    held_out = np.where(positions < test_fraction, TEST, VALIDATION)
    splits: np.ndarray = np.where(positions < test_fraction + validation_fraction, held_out, TRAIN).astype(np.int8)
    return splits


def _followed(units: Units, given: np.ndarray) -> np.ndarray:
    """Return the split that units follow, the first one given to any of their images: (u,) int8; -1 for none."""
    followed = np.full(len(units.keys), -1, np.int8)
    for split in (TEST, VALIDATION, TRAIN):
        followed[units.numbers[given == split]] = split
    return followed


class _Classes:
    """The images of each class whose split is decided: those of units without a given split.

    Attributes:
        splits: the split of each unit; `move` changes it.
        sizes: the number of images in each class.
        counts: for each split, the number of images in each class.
        units: likewise the number of units.
        trained: the number of units of each class that are for training besides these.

    Args:
        units: the units of all images.
        given: (n,) int8, the given split of each image, or -1.
        labels: (n,) int64.
        followed: (u,) int8, the split that each unit follows, or -1.
        splits: (u,) int8, the split of each unit.
    """

    def __init__(
        self, units: Units, given: np.ndarray, labels: np.ndarray, followed: np.ndarray, splits: np.ndarray
    ) -> None:
        self._count = int(labels.max(initial=-1)) + 1
        self.splits: list[int] = splits.tolist()
        self._keys = units.keys
        free = followed[units.numbers] < 0
        fixed = np.where(given >= 0, given, followed[units.numbers])[~free]
        self.trained = self._count_units(units.numbers[~free][fixed == TRAIN], labels[~free][fixed == TRAIN])
        of_image, of_label = units.numbers[free], labels[free]
        self.sizes: list[int] = np.bincount(of_label, minlength=self._count).tolist()
        in_split = [splits[of_image] == split for split in range(len(SPLITS))]
        self.counts: list[list[int]] = [
            np.bincount(of_label[rows], minlength=self._count).tolist() for rows in in_split
        ]
        self.units = [self._count_units(of_image[rows], of_label[rows]) for rows in in_split]
        self._of_image, self._of_label = of_image, of_label

    def _count_units(self, numbers: np.ndarray, labels: np.ndarray) -> list[int]:
        """Return the number of units in each class."""
        pairs = np.unique(numbers * max(self._count, 1) + labels)
        counts: list[int] = np.bincount(pairs % max(self._count, 1), minlength=self._count).tolist()
        return counts

    @functools.cached_property
    def contents(self) -> list[list[tuple[int, int]]]:
        """For each unit its classes, each with the number of its images."""
        return unit_classes(self._of_image, self._of_label)

    @functools.cached_property
    def _members(self) -> list[list[int]]:
        """For each class its units, by position."""
        count = max(self._count, 1)
        units, labels = np.divmod(np.unique(self._of_image * count + self._of_label), count)
        words = np.ascontiguousarray(self._keys[units]).view(">u8").T
        order = np.lexsort((*words[::-1], labels))
        edges = np.searchsorted(labels[order], np.arange(1, self._count))
        return [part.tolist() for part in np.split(units[order], edges)]

    def units_in(self, label: int, splits: Container[int]) -> list[int]:
        """Return the units of a class that are in some splits, by position."""
        return [unit for unit in self._members[label] if self.splits[unit] in splits]

    def move(self, unit: int, split: int) -> None:
        """Move a unit to another split."""
        for label, count in self.contents[unit]:
            self.counts[self.splits[unit]][label] -= count
            self.counts[split][label] += count
            self.units[self.splits[unit]][label] -= 1
            self.units[split][label] += 1
        self.splits[unit] = split


@dataclasses.dataclass(frozen=True)
class _Correction:
    """Moves units where a class has too many images in a split, or too few.

    Attributes:
        classes: the images.
        split: validation or test.
        limits: for each class the minimum and maximum number of images.
        next: the split on the other side of the threshold.
    """

    classes: _Classes
    split: int
    limits: list[tuple[int, int]]
    next: int

    def run(self) -> None:
        """Correct each class in turn."""
        for label, (low, high) in enumerate(self.limits):
            if self._now(label) > high:
                inside = self.classes.units_in(label, (self.split,))
                self._move(label, reversed(inside), self.next, -1)
            if self._now(label) < low:
                beyond = range(self.split)  # The splits with higher positions have lower numbers.
                self._move(label, self.classes.units_in(label, beyond), self.split, 1)

    def _now(self, label: int) -> int:
        return self.classes.counts[self.split][label]

    def _move(self, label: int, candidates: Iterable[int], split: int, sign: int) -> None:
        """Move units, unless that makes things worse, until the class is within its limits."""
        low, high = self.limits[label]
        for unit in candidates:
            if low <= self._now(label) <= high:
                return
            change = sum(
                self._excess(each, self._now(each) + sign * count) - self._excess(each, self._now(each))
                for each, count in self.classes.contents[unit]
            )
            if change < 0:
                self.classes.move(unit, split)

    def _excess(self, label: int, count: int) -> int:
        """Return how far a number of images is from the limits; rather half of the class than none."""
        low, high = self.limits[label]
        if count == 0 < low:
            return max(low, self.classes.sizes[label] // 2 - high + 1)
        return max(low - count, count - high, 0)


def _correct_test(classes: _Classes, fraction: float, validation_fraction: float) -> None:
    limits = []
    for size, trained in zip(classes.sizes, classes.trained, strict=True):
        low, high = _limits(size, fraction)
        reserved = _limits(size, validation_fraction)[0] + max(0, MIN_TRAINING - trained)
        limits.append((low, max(low, min(high, size - reserved))))
    _Correction(classes, TEST, limits, next=VALIDATION if validation_fraction else TRAIN).run()


def _correct_validation(classes: _Classes, fraction: float) -> None:
    limits = []
    for size, trained, tested in zip(classes.sizes, classes.trained, classes.counts[TEST], strict=True):
        low, high = _limits(size, fraction)
        limits.append((low, max(low, min(high, size - tested - max(0, MIN_TRAINING - trained)))))
    _Correction(classes, VALIDATION, limits, next=TRAIN).run()


def _limits(size: int, fraction: float) -> tuple[int, int]:
    """Return the minimum and maximum number of images of a class in a split that should have a fraction of them."""
    if not fraction:
        return 0, 0
    number, part = SLACK
    wanted = fraction * size
    slack = number + part * wanted
    # A class that has a whole image for the split occurs in it.
    low = max(int(wanted + 1e-9 >= 1), math.ceil(wanted - slack - 1e-9))
    return low, math.floor(wanted + slack + 1e-9)


def _train_each_class(classes: _Classes) -> None:
    """Move the units with the highest positions of each class that has too few for training."""
    for label, trained in enumerate(classes.trained):
        missing = MIN_TRAINING - trained - classes.units[TRAIN][label]
        if missing > 0 and (classes.units[VALIDATION][label] or classes.units[TEST][label]):
            for unit in classes.units_in(label, (VALIDATION, TEST))[-missing:]:
                classes.move(unit, TRAIN)

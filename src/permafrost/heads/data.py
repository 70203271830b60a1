"""The data of a fit: one feature set with its splits, its labels and the memory that its features may take."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from permafrost.errors import HeadError, OptionError
from permafrost.heads.head import HeadData, identical_features
from permafrost.images.splits import SPLITS
from permafrost.images.splitting.assignment import hold_out_images
from permafrost.images.splitting.units import NO_GROUP, connect_images
from permafrost.store.feature_set import FeatureSet, open_features
from permafrost.store.run_images import RunImages
from permafrost.store.streaming import FeatureRows
from permafrost.units import size

if TYPE_CHECKING:
    from permafrost.heads.head import FittedHead

Features = FeatureSet | str | os.PathLike[str]

COPIES: Final = 4
"""Copies of the features that fitting in memory makes: as stored, in double precision, scaled, and of a fold."""

IMAGE_BYTES: Final = 200
"""Bytes of memory per image besides its features: its position, digest, label, name, orders and metrics."""

SAMPLE_DIVISOR: Final = 24
"""A sample of features on disk may take the memory limit divided by this, because fitting copies it."""

HELD_OUT_FRACTION: Final = 0.1
"""Fraction of the training images that is held out if a head monitors validation images and the set has none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitData:
    """A feature set, loaded to fit a head to it and to evaluate the head.

    Attributes:
        features: the set.
        rows: the rows of each split, which may hold out training rows for validation.
        training: the features that the head is fitted to.
        memory_limit: maximum bytes of features that are read together.
    """

    features: FeatureSet
    rows: dict[str, np.ndarray]
    training: HeadData
    memory_limit: int

    @property
    def name(self) -> str:
        """The name of the set in a comparison of several."""
        return set_name(self.features)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes."""
        return tuple(self.features.class_names)

    @functools.cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """The labels (n,) int64 of each split."""
        every = self.features.labels()
        return {split: every[selected] for split, selected in self.rows.items()}

    def outputs(self, head: FittedHead, split: str) -> np.ndarray:
        """Return the head's probabilities (n, classes) float32 for a split, whose features are read in blocks."""
        rows = self.rows[split]
        outputs = np.empty((len(rows), len(self.class_names)), np.float32)
        for numbers, block in FeatureRows(self.features, rows, memory_limit=self.memory_limit).blocks():
            outputs[numbers] = head.outputs(block)
        return outputs


def load_fit_data(
    sets: Sequence[FeatureSet],
    *,
    views: int | None,
    several_views: bool,
    hold_out: bool,
    memory_limit: int,
    seed: int,
) -> list[FitData]:
    """Load the data of a fit from feature sets of the same images.

    Features that exceed the memory limit stay on disk; only a sample is loaded.

    Args:
        sets: the sets, from `open_sets`.
        views: views of each training image; if None, all of them, or one if features stay on disk.
        several_views: whether the fit can use more than one view.
        hold_out: whether the fit needs validation images; features on disk always do.
        memory_limit: maximum bytes of memory for fitting.
        seed: random seed of the sample.

    Raises:
        HeadError: a class has no training images, or no head can be fitted to the features.
        OptionError: there are fewer views than requested.
    """
    count = count_views(sets, views, several=several_views)
    on_disk = needs_disk(sets, count, memory_limit)
    if on_disk and views is None:
        count = 1
    rows = split_rows(sets[0], hold_out=hold_out or on_disk)
    require_classes(sets[0].labels()[rows["train"]], sets[0].class_names)
    limit = bytes_for_rows(sets[0], memory_limit) if on_disk else memory_limit
    load = functools.partial(_load_from_disk, limit=limit, seed=seed) if on_disk else _load
    return [
        FitData(features=each, rows=rows, training=load(each, rows, views=count), memory_limit=limit) for each in sets
    ]


def open_sets(features: Features | Sequence[Features]) -> list[FeatureSet]:
    """Open feature sets and check that they hold the same images.

    Raises:
        HeadError: the images, labels, splits or classes differ.
        OptionError: no set is given, or two have the same name.
    """
    if isinstance(features, Iterable) and not isinstance(features, FeatureSet | str | bytes | os.PathLike):
        given = list(features)
    else:
        given = [features]
    if not given:
        raise OptionError("no feature set", expected="one, or several of the same images")
    sets = [found if isinstance(found, FeatureSet) else open_features(found) for found in given]
    first = sets[0]
    for other in sets[1:]:
        for what, same in (
            ("classes", other.class_names == first.class_names),
            ("images", np.array_equal(other.digests(), first.digests())),
            ("labels", np.array_equal(other.labels(), first.labels())),
            ("splits", all(np.array_equal(other.rows(split), first.rows(split)) for split in SPLITS)),
            ("groups", np.array_equal(_groups(other), _groups(first))),
        ):
            if not same:
                raise HeadError(
                    f"{other.path} and {first.path} cannot be compared: different {what}",
                    expected="sets of the same images",
                    do="extract both from the same data",
                )
    names = [set_name(found) for found in sets]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise OptionError(f"two feature sets are called {twice[0]}", expected="sets of different names")
    return sets


def _groups(features: FeatureSet) -> np.ndarray:
    groups = features.groups()
    return np.full(len(features), NO_GROUP) if groups is None else groups


def needs_disk(sets: Sequence[FeatureSet], views: int, limit: int) -> bool:
    """Return whether fitting to the training and validation features exceeds the memory limit."""
    images = views * len(sets[0].rows("train")) + len(sets[0].rows("validation"))
    return COPIES * images * sum(4 * math.prod(features.shape) for features in sets) > limit


def bytes_for_rows(features: FeatureSet, limit: int) -> int:
    """Return the bytes that a memory limit leaves for features, after the paths, labels and positions of all images.

    Raises:
        HeadError: the limit leaves next to nothing.
    """
    overhead = len(features) * (IMAGE_BYTES + 12 * len(features.class_names))
    if overhead > 0.9 * limit:
        raise HeadError(
            f"the list of {len(features):,} images alone takes nearly all of the memory limit",
            expected=f"a --memory-limit of {size(2 * overhead)} or more",
            found=size(limit),
        )
    return limit - overhead


def set_name(features: FeatureSet) -> str:
    """Return the name of a set in a comparison of several."""
    return features.path.stem


def split_rows(features: FeatureSet, *, hold_out: bool) -> dict[str, np.ndarray]:
    """Return the rows of each split.

    If `hold_out` and the set has no validation images, a tenth of the training images becomes validation, as
    `hold_out_images` chooses them. A copy of a training image is not a test image: content that is in several splits
    counts only in the first of them, and its copies in the others are left out.

    Raises:
        HeadError: there are no training images.
    """
    digests = features.digests()
    given = {split: features.rows(split) for split in SPLITS}
    rows = RunImages.of_rows(digests, given).own_rows(digests, given)
    if not len(rows["train"]):
        raise HeadError(
            f"no training images in {features.path}",
            found="other splits for all, as the dataset gives them",
            do="give some images the split train",
        )
    if hold_out and not len(rows["validation"]):
        units = connect_images(features.digests("train"), features.groups("train"))
        held_out = hold_out_images(units, features.labels("train"), HELD_OUT_FRACTION)
        rows["train"], rows["validation"] = rows["train"][~held_out], rows["train"][held_out]
    return rows


def left_out_notes(features: FeatureSet, rows: dict[str, np.ndarray]) -> list[str]:
    """Return a line that says how many images of a set are in none of the rows by split, if any."""
    count = len(features) - sum(map(len, rows.values()))
    return [f"{count:,} copies of images of an earlier split are left out"] if count else []


def require_classes(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Check that every class occurs among the training labels.

    Raises:
        HeadError: a class has no training images; the message names it.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if not counts.all():
        raise HeadError(
            f"class {class_names[int(counts.argmin())]} has no training images",
            expected="at least one in each class",
            do="add some, or leave the class out",
        )


def require_features(x: np.ndarray, name_of: Callable[[int], str]) -> None:
    """Check that a head can be fitted to features.

    Args:
        x: (n, *shape) float32.
        name_of: returns the name of the image with a given number.

    Raises:
        HeadError: a feature is not finite, or all images have the same features.
    """
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise HeadError(
            f"the features of {name_of(int(finite.argmin()))} are not finite",
            expected="numbers",
            found=f"NaN or infinity in {int((~finite).sum())} of {len(x)} images",
            do="extract again with sound weights, or in float32",
        )
    if len(x) > 1 and (x == x[0]).all():
        raise identical_features()


def count_views(sets: Sequence[FeatureSet], wanted: int | None, *, several: bool) -> int:
    """Return the number of views of each training image to fit to.

    Args:
        sets: the feature sets.
        wanted: the requested number; all cached views if None.
        several: whether the fit can use more than one view.

    Raises:
        OptionError: there are fewer views than requested, or the fit can use only one.
    """
    cached = sets[0].views if several and len(sets) == 1 else 1
    if wanted is not None and not 1 <= wanted <= cached:
        raise OptionError(
            f"cannot fit to this number of views of {sets[0].path}",
            expected=f"1 to {cached}" if cached > 1 else "1",
            found=wanted,
            do="extract with more --views, and fit one head to one set",
        )
    return wanted or cached


def _load(features: FeatureSet, rows: dict[str, np.ndarray], *, views: int) -> HeadData:
    """Load the training and validation features."""
    x = _training_features(features, rows["train"])
    more = [features.features(rows["train"], view=view) for view in range(1, views)]
    return _head_data(features, np.concatenate([x, *more]) if more else x, rows, views=views)


def _load_from_disk(
    features: FeatureSet, rows: dict[str, np.ndarray], *, views: int, limit: int, seed: int
) -> HeadData:
    """Load a sample of the training and validation features; all training rows stay on disk as a stream."""
    streams = {split: FeatureRows(features, rows[split], memory_limit=limit) for split in ("train", "validation")}
    sample = {
        split: rows[split][stream.sample(limit // SAMPLE_DIVISOR, seed=seed)] for split, stream in streams.items()
    }
    x = _training_features(features, sample["train"])
    # Several views cannot be streamed; the fit refuses them by this number.
    return dataclasses.replace(_head_data(features, x, sample, views=1), views=views, stream=streams["train"])


def _training_features(features: FeatureSet, rows: np.ndarray) -> np.ndarray:
    x: np.ndarray = features.features(rows)
    names = features.content.names
    require_features(x, lambda number: names[rows[number]])
    return x


def _head_data(features: FeatureSet, x: np.ndarray, rows: dict[str, np.ndarray], *, views: int) -> HeadData:
    validated = len(rows["validation"]) > 0
    labels = features.labels()
    return HeadData(
        x=x,
        y=np.tile(labels[rows["train"]], views),
        validation_x=features.features(rows["validation"]) if validated else None,
        validation_y=labels[rows["validation"]] if validated else None,
        class_names=tuple(features.class_names),
        views=views,
        units=_units(features, rows["train"], views),
    )


def _units(features: FeatureSet, rows: np.ndarray, views: int) -> np.ndarray | None:
    """Return the units of rows and their views, as `HeadData` has them."""
    groups = features.groups()
    units = connect_images(features.digests()[rows], None if groups is None else groups[rows])
    return np.tile(units.numbers, views) if len(units.keys) < len(rows) else None

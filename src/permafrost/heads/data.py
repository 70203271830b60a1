"""What a head is fitted to: feature sets of the same images, their splits, and features that are fit for it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from permafrost.errors import HeadError, OptionError
from permafrost.heads.head import HeadData
from permafrost.heads.options import HeadOptions
from permafrost.images.decoding import content_digest
from permafrost.images.splits import SPLITS, content_position
from permafrost.store.feature_set import FeatureSet, open_features
from permafrost.store.streaming import COPIES, FeatureRows

Features = FeatureSet | str | os.PathLike[str]

SAMPLE_FRACTION: Final = 24
"""Of the memory limit, what a sample of features that stay on disk may take: copies of it are made."""

HELD_OUT_FRACTION: Final = 0.1
"""Of the training images, the fraction that is held out where a head has to watch validation images and has none."""


def open_sets(features: Features | Sequence[Features]) -> list[FeatureSet]:
    """The sets, made sure to be of the same images.

    Raises:
        HeadError: they are not.
    """
    given = [features] if isinstance(features, FeatureSet | str | os.PathLike) else list(features)
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
        ):
            if not same:
                raise HeadError(
                    f"{other.path} and {first.path} cannot be compared: other {what}",
                    expected="sets of the same images",
                    do="extract both from the same data",
                )
    if len({set_name(found) for found in sets}) < len(sets):
        raise OptionError("a feature set is given twice", expected="each once")
    return sets


def needs_disk(sets: Sequence[FeatureSet], views: int, limit: int) -> bool:
    """Whether the features to fit to and to choose on take more memory than fitting may."""
    images = views * len(sets[0].rows("train")) + len(sets[0].rows("validation"))
    return COPIES * images * sum(4 * math.prod(features.shape) for features in sets) > limit


def set_name(features: FeatureSet) -> str:
    """What a set is called where several are compared."""
    return features.path.stem


def split_rows(features: FeatureSet, *, hold_out: bool) -> dict[str, np.ndarray]:
    """Rows of each split; where there is no validation and `hold_out`, a tenth of training, chosen by content, is it.

    Raises:
        HeadError: there is nothing to train on.
    """
    rows = {split: features.rows(split) for split in SPLITS}
    if not len(rows["train"]):
        raise HeadError(f"no training images in {features.path}", do="extract with smaller --validation-fraction")
    if hold_out and not len(rows["validation"]):
        # A second hash: where splits were drawn from the digest itself, its leading bits are no longer uniform.
        digests = features.digests("train")
        held = np.array(
            [content_position(content_digest(digest.tobytes())) < HELD_OUT_FRACTION for digest in digests], bool
        )
        rows["train"], rows["validation"] = rows["train"][~held], rows["train"][held]
    return rows


def require_classes(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Refuse training data in which a class does not occur.

    Raises:
        HeadError: the class is named.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if not counts.all():
        raise HeadError(
            f"class {class_names[int(counts.argmin())]} has no training images",
            expected="at least one in each class",
            do="add some, or leave the class out",
        )


def require_features(x: np.ndarray, name_of: Callable[[int], str]) -> None:
    """Refuse features that nothing can be fitted to.

    Args:
        x: (n, *shape) float32.
        name_of: given a number, the image's name.

    Raises:
        HeadError: one is not finite, or they are the same for all images.
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
        raise HeadError(
            "all images have the same features", expected="features that differ", do="extract at another cut"
        )


def count_views(sets: Sequence[FeatureSet], wanted: int | None, *, alone: bool) -> int:
    """How many views to fit to.

    Args:
        sets: the feature sets.
        wanted: how many were asked for; all that there are if None.
        alone: whether one head is fitted, and nothing compared.

    Raises:
        OptionError: more than there are, or several where heads or sets are compared.
    """
    kept = sets[0].views if alone and len(sets) == 1 else 1
    if wanted is not None and not 1 <= wanted <= kept:
        raise OptionError(
            f"no such number of views of {sets[0].path} can be fitted to",
            expected=f"1 to {kept}" if kept > 1 else "1",
            found=wanted,
            do="extract with more --views, and fit one head to one set",
        )
    return wanted or kept


def head_data(
    features: FeatureSet,
    rows: dict[str, np.ndarray],
    views: int,
    memory_limit: int | None,
    options: HeadOptions,
) -> HeadData:
    """What a head is fitted to: the rows of two splits, made sure to be fit for it.

    With a memory limit the training rows stay on disk, and a sample of both splits is loaded.

    Args:
        features: the set.
        rows: of each split.
        views: how many of each training image.
        memory_limit: bytes that features may take; they are loaded whole if None.
        options: the head's.

    Raises:
        HeadError: as `require_features`.
    """
    parts = dict(rows)
    stream = None
    if memory_limit is not None:
        stream = FeatureRows(features, rows["train"], memory_limit=memory_limit)
        for split in ("train", "validation"):
            kept = FeatureRows(features, rows[split], memory_limit=memory_limit)
            parts[split] = rows[split][kept.sample(memory_limit // SAMPLE_FRACTION, seed=options.training.seed)]
    x = features.features(parts["train"])
    names = features.content.names
    require_features(x, lambda number: names[parts["train"][number]])
    more = [features.features(parts["train"], view=view) for view in range(1, views)]
    validated = len(rows["validation"]) > 0
    every = features.labels()
    return HeadData(
        x=np.concatenate([x, *more]) if more else x,
        y=np.tile(every[parts["train"]], views),
        validation_x=features.features(parts["validation"]) if validated else None,
        validation_y=every[parts["validation"]] if validated else None,
        class_names=tuple(features.class_names),
        views=views,
        stream=stream,
    )

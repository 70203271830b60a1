"""Evaluate a head that is fitted to few images per class: mean and spread over several random draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import keras
import numpy as np

from permafrost.errors import HeadError
from permafrost.heads.head import Head, HeadData
from permafrost.heads.options import HeadOptions
from permafrost.training.metrics import accuracies

SINGLE: Final = {"regularization": 0.01, "neighbours": 1}
"""Default settings for a single image per class, where cross-validation is impossible."""


def require_shots(data: HeadData, shots: Sequence[int]) -> None:
    """Check that each class has enough images for the largest draw, and one to evaluate on without validation images.

    Copies count once, and so do images of one group.

    Raises:
        HeadError: a class has too few; the message names it.
    """
    counts = np.array([len(_one_per_unit(data, label)) for label in range(len(data.class_names))])
    available = counts.min() - (data.validation_x is None)
    if max(shots) > available:
        raise HeadError(
            f"class {data.class_names[int(counts.argmin())]} has too few training images for this many shots",
            expected=f"at most {available}",
            found=max(shots),
            do="request fewer",
        )


def few_shots(
    head: Head, data: HeadData, options: HeadOptions, *, shots: Sequence[int], draws: int
) -> list[dict[str, float]]:
    """Fit a head to a few random training images of each class, and evaluate it on other images.

    It is evaluated on the validation images or, without them, on the training images that were not drawn. Test images
    are left for the final metrics.

    Args:
        head: the head.
        data: the images to draw from.
        options: the head's options, with the seed of the draws.
        shots: numbers of images per class, checked by `require_shots`.
        draws: draws per number.

    Returns:
        For each number: `shots`, `draws`, and the mean and standard deviation over the draws of `accuracy` and
        `balanced_accuracy`.
    """
    random = np.random.default_rng(options.training.seed)
    return [_curve_point(head, data, options, count, draws, random) for count in shots]


def _curve_point(
    head: Head, data: HeadData, options: HeadOptions, count: int, draws: int, random: np.random.Generator
) -> dict[str, float]:
    if count == 1:
        settings = {name: value for name, value in SINGLE.items() if getattr(options, name) is None}
        options = dataclasses.replace(options, **settings)  # type: ignore[arg-type]
    drawn = [_one_draw(head, data, options, count, random) for _ in range(draws)]
    found: dict[str, float] = {"shots": count, "draws": draws}
    for name in ("accuracy", "balanced_accuracy"):
        values = np.array([each[name] for each in drawn])
        found |= {name: float(values.mean()), f"{name}_spread": float(values.std(ddof=min(1, draws - 1)))}
    return found


def _one_draw(
    head: Head, data: HeadData, options: HeadOptions, count: int, random: np.random.Generator
) -> dict[str, float]:
    """Return the accuracies of one draw."""
    rows = [_one_per_unit(data, label, random) for label in range(len(data.class_names))]
    drawn = np.concatenate([random.choice(of_class, count, replace=False) for of_class in rows])
    x, y = data.validation_x, data.validation_y
    if x is None or y is None:
        units = np.arange(len(data.y)) if data.units is None else data.units
        rest = np.flatnonzero(~np.isin(units, units[drawn]))
        if not len(rest):
            raise HeadError("too few training images for this many shots and others to evaluate on", do="request fewer")
        x, y = data.x[rest], data.y[rest]
    few = dataclasses.replace(data, x=data.x[drawn], y=data.y[drawn], units=None, stream=None)
    fitted = head.fit(few, options, labels_only=True)
    # `predict` would compile the head of each draw, which would take most of the time.
    parts = (x[start : start + 1024] for start in range(0, len(x), 1024))
    predicted = [keras.ops.convert_to_numpy(fitted.model(part, training=False)).argmax(axis=1) for part in parts]
    return accuracies(y, np.concatenate(predicted))


def _one_per_unit(data: HeadData, label: int, random: np.random.Generator | None = None) -> np.ndarray:
    """Return the rows of a class, one of each unit: a random one, or the first without `random`."""
    rows = np.flatnonzero(data.y == label)
    if data.units is None:
        return rows
    rows = rows if random is None else random.permutation(rows)
    return rows[np.unique(data.units[rows], return_index=True)[1]]

"""How well a head does with few images: for each number of them several draws, their mean and spread."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import keras
import numpy as np

from permafrost.errors import HeadError
from permafrost.heads.head import Fit, HeadData
from permafrost.heads.options import HeadOptions

SINGLE: Final = {"regularization": 0.01, "neighbours": 1}
"""Settings with a single image a class, which cannot be cross-validated, where none are given."""


def require_shots(data: HeadData, shots: Sequence[int]) -> None:
    """Refuse to draw more images a class than there are, or so many that none is left to judge on.

    Raises:
        HeadError: the class is named.
    """
    counts = np.bincount(data.y, minlength=len(data.class_names))
    if max(shots) > counts.min() - (data.validation_x is None):
        raise HeadError(
            f"class {data.class_names[int(counts.argmin())]} has too few training images for so many shots",
            expected=f"{counts.min() - (data.validation_x is None)} at most",
            found=max(shots),
            do="ask for fewer",
        )


def few_shots(
    fit: Fit, data: HeadData, options: HeadOptions, *, shots: Sequence[int], draws: int
) -> list[dict[str, float]]:
    """Fit a head to few training images of each class, drawn at random, and judge it on others.

    It is evaluated on the validation images, or where there are none on the training images that were not drawn; test
    images are left for the final figure.

    Args:
        fit: how the head is fitted.
        data: what is drawn from.
        options: of the head; its seed is that of the draws.
        shots: images a class, 1 or more, let pass by `require_shots`.
        draws: of each number.

    Returns:
        For each number `shots`, `draws`, and the mean and the standard deviation over the draws of `accuracy` and
        `balanced_accuracy`.
    """
    random = np.random.default_rng(options.training.seed)
    return [_curve_point(fit, data, options, count, draws, random) for count in shots]


def _curve_point(
    fit: Fit, data: HeadData, options: HeadOptions, count: int, draws: int, random: np.random.Generator
) -> dict[str, float]:
    if count == 1:
        settings = {name: value for name, value in SINGLE.items() if getattr(options, name) is None}
        options = dataclasses.replace(options, **settings)  # type: ignore[arg-type]
    figures = np.array([_one_draw(fit, data, options, count, random) for _ in range(draws)])
    (accuracy, balanced), (spread, balanced_spread) = figures.mean(axis=0), figures.std(axis=0, ddof=min(1, draws - 1))
    return {
        "shots": count,
        "draws": draws,
        "accuracy": float(accuracy),
        "accuracy_spread": float(spread),
        "balanced_accuracy": float(balanced),
        "balanced_accuracy_spread": float(balanced_spread),
    }


def _one_draw(
    fit: Fit, data: HeadData, options: HeadOptions, count: int, random: np.random.Generator
) -> tuple[float, float]:
    """Accuracy and balanced accuracy of one draw."""
    drawn = np.concatenate(
        [random.choice(np.flatnonzero(data.y == label), count, replace=False) for label in range(len(data.class_names))]
    )
    x, y = data.validation_x, data.validation_y
    if x is None or y is None:
        rest = np.setdiff1d(np.arange(len(data.y)), drawn)
        x, y = data.x[rest], data.y[rest]
    fitted = fit(dataclasses.replace(data, x=data.x[drawn], y=data.y[drawn], stream=None), options)
    # Called, not `predict`: to compile each draw's head would take longer than all else.
    parts = (x[start : start + 1024] for start in range(0, len(x), 1024))
    guesses = [keras.ops.convert_to_numpy(fitted.model(part, training=False)).argmax(axis=1) for part in parts]
    right = np.concatenate(guesses) == y
    return float(right.mean()), float(np.mean([right[y == label].mean() for label in np.unique(y)]))

"""What a head is fitted to, and what a fitted one is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from permafrost.heads.options import HeadOptions

if TYPE_CHECKING:
    import keras

    from permafrost.store.streaming import FeatureRows


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadData:
    """Features to fit a head to.

    Attributes:
        x: (n, *shape) float32.
        y: (n,) int64, each class at least once.
        validation_x, validation_y: the same for validation; None where there is none.
        class_names: the classes.
        views: of each image, n being a multiple: the rows of view 0 come first, then those of view 1, and so on.
        stream: all training rows, where they stay on disk; `x` and `y` are a sample of them then.
    """

    x: np.ndarray
    y: np.ndarray
    validation_x: np.ndarray | None
    validation_y: np.ndarray | None
    class_names: tuple[str, ...]
    views: int = 1
    stream: FeatureRows | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A fitted head.

    Attributes:
        model: from features (n, *shape) float32 to probabilities (n, classes).
        history: a row for each epoch, or for each setting that was compared.
        details: what was chosen in fitting, for `run.json`.
        held_out_logits: (n, classes) float64, where the head was cross-validated: for each training row the logits of a
            head that was not fitted to it.
    """

    model: keras.Model
    history: list[dict[str, float]]
    details: dict[str, Any]
    held_out_logits: np.ndarray | None = None


Fit = Callable[[HeadData, HeadOptions], FittedHead]

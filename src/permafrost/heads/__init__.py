"""Heads: what is fitted on kept features. Each becomes a Keras model from features to probabilities.

A head is a function from `HeadData` and `HeadOptions` to a `FittedHead`; `HEADS` names them all.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from permafrost.errors import OptionError, nearest

if TYPE_CHECKING:
    import keras
    import numpy as np

    from permafrost.training_options import TrainingOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadData:
    """Features to fit a head to.

    Attributes:
        x: (n, *shape) float32.
        y: (n,) int64, each class at least once.
        validation_x, validation_y: the same for validation; None where there is none.
        class_names: the classes.
    """

    x: np.ndarray
    y: np.ndarray
    validation_x: np.ndarray | None
    validation_y: np.ndarray | None
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """How a head is fitted; each head reads what concerns it.

    Attributes:
        training: for heads that Keras trains.
        hidden: units of each hidden layer of `dense`.
        dropout: share of units that `dense` drops in training, before each layer but the first.
        regularization: the inverse strength `C` of `logistic`; None chooses it by cross-validation on training data.
        progress: whether to draw a progress bar where standard error is a terminal.
    """

    training: TrainingOptions
    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.0
    regularization: float | None = None
    progress: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A fitted head.

    Attributes:
        model: from features (n, *shape) float32 to probabilities (n, classes).
        history: a row for each epoch, or for each setting that was compared.
        details: what was chosen in fitting, for `run.json`.
    """

    model: keras.Model
    history: list[dict[str, float]]
    details: dict[str, Any]


Fit = Callable[[HeadData, HeadOptions], FittedHead]

HEADS: Final = {
    "dense": ("permafrost.heads.keras_heads", "fit_dense"),
    "logistic": ("permafrost.heads.sklearn_heads", "fit_logistic"),
}
"""For each head its module and function, which are loaded when it is asked for."""

NEEDS_VALIDATION: Final = frozenset({"dense"})
"""Heads that watch validation pictures while they are trained."""


def find_head(name: str) -> Fit:
    """The function that fits the head called `name`.

    Raises:
        OptionError: there is none.
    """
    if name not in HEADS:
        raise OptionError(f"unknown head {name}", expected=nearest(name, HEADS))
    module, function = HEADS[name]
    fit: Fit = getattr(importlib.import_module(module), function)
    return fit

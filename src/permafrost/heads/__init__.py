"""Heads: what is fitted on kept features. Each becomes a Keras model from features to probabilities.

A head is a function from `HeadData` and `HeadOptions` to a `FittedHead`; `HEADS` names them all, `find_head` finds one.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from permafrost.errors import OptionError, nearest
from permafrost.training_options import HEAD_TRAINING, TrainingOptions, TrainingSettings, with_settings

if TYPE_CHECKING:
    import keras
    import numpy as np

    from permafrost.feature_rows import FeatureRows


SCALINGS: Final = ("standard", "centred")
CALIBRATIONS: Final = ("none", "temperature")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadData:
    """Features to fit a head to.

    Attributes:
        x: (n, *shape) float32.
        y: (n,) int64, each class at least once.
        validation_x, validation_y: the same for validation; None where there is none.
        class_names: the classes.
        views: of each picture, n being a multiple: the rows of view 0 come first, then those of view 1, and so on.
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
class HeadOptions:
    """How a head is fitted; each head reads what concerns it.

    Attributes:
        training: for heads that Keras trains.
        hidden: units of each hidden layer of `dense`, `conv` and `mlp`.
        dropout: share of units of each hidden layer that `dense` and `conv` drop in training.
        batch_norm: whether hidden layers and convolutions of `dense` and `conv` are normalised over each batch.
        l2: the penalty of squared weights of `linear`, `dense` and `conv`.
        filters: of each convolution of `conv`; each is followed by pooling.
        kernel_size: of the convolutions, in rows and columns.
        pool_size: of the pooling, in rows and columns.
        filter_dropout: share of features dropped after each pooling: one for all, or one for each.
        regularization: the setting of the heads of `families.FAMILIES`; None chooses it by cross-validation on training
            data.
        neighbours: of `knn`; None chooses it likewise.
        scaling: how those heads scale features: `standard`, each to variance 1, or `centred`, all by one number, which
            leaves features that are nearly always zero as small as they are.
        pca: principal components to which those heads reduce the features, or below 1 the share of the variance to
            keep; None for all features.
        calibrate: `temperature` divides the fitted head's logits by the temperature that suits the validation pictures;
            `none` leaves them.
        progress: whether to draw a progress bar where standard error is a terminal.
    """

    training: TrainingOptions
    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.0
    batch_norm: bool = False
    l2: float = 0.0
    filters: tuple[int, ...] = (32, 64)
    kernel_size: int = 3
    pool_size: int = 2
    filter_dropout: tuple[float, ...] = (0.0,)
    regularization: float | None = None
    neighbours: int | None = None
    pca: float | None = None
    scaling: str = "standard"
    calibrate: str = "none"
    progress: bool = True

    def __post_init__(self) -> None:
        for name, known in (("scaling", SCALINGS), ("calibrate", CALIBRATIONS)):
            if getattr(self, name) not in known:
                raise OptionError(f"unknown {name}", expected=", ".join(known), found=getattr(self, name))


class HeadSettings(TrainingSettings, total=False):
    """Any of the fields of `HeadOptions` and of `TrainingOptions`, as keywords of `fit_head`."""

    hidden: int | Sequence[int]
    dropout: float
    batch_norm: bool
    l2: float
    filters: int | Sequence[int]
    kernel_size: int
    pool_size: int
    filter_dropout: float | Sequence[float]
    regularization: float | None
    neighbours: int | None
    pca: float | None
    scaling: str
    calibrate: str


SEVERAL: Final = frozenset({"hidden", "filters", "filter_dropout"})
"""Settings that are one number for each layer; one number alone will do."""


def options_from(settings: HeadSettings, *, progress: bool) -> HeadOptions:
    """The options that these keywords say.

    Raises:
        OptionError: a value out of range.
        TypeError: a keyword that is no setting.
    """
    own = {field.name for field in dataclasses.fields(HeadOptions)} - {"training", "progress"}
    chosen: dict[str, Any] = {
        name: (tuple(value) if isinstance(value, Sequence) else (value,)) if name in SEVERAL else value
        for name, value in settings.items()
        if name in own
    }
    training: Any = {name: value for name, value in settings.items() if name not in own}
    return HeadOptions(training=with_settings(HEAD_TRAINING, training), progress=progress, **chosen)


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

KERAS_HEADS: Final = ("dense", "linear", "conv")
"""Heads that Keras trains; they watch validation pictures meanwhile."""

CLASSICAL_HEADS: Final = ("logistic", "ridge", "svm", "lda", "knn", "nb", "mlp")
"""Heads that scikit-learn or a closed form fits: those of `families.FAMILIES`."""

HEADS: Final = (*KERAS_HEADS, *CLASSICAL_HEADS)
"""All heads. Each is loaded when it is asked for."""


WITHOUT_GRADIENT: Final = frozenset({"knn"})
"""Heads through which no useful gradient passes, so that nothing below them can be trained."""


def find_head(name: str) -> Fit:
    """The function that fits the head called `name`.

    Raises:
        OptionError: there is none.
    """
    if name not in HEADS:
        raise OptionError(f"unknown head {name}", expected=nearest(name, HEADS, n=len(HEADS)))
    if name in CLASSICAL_HEADS:
        module = importlib.import_module("permafrost.heads.sklearn_heads")
        return functools.partial(module.fit_family, name)
    fit: Fit = getattr(importlib.import_module("permafrost.heads.keras_heads"), f"fit_{name}")
    return fit


def needs_validation(name: str) -> bool:
    """Whether the head watches validation pictures while it is trained."""
    return name in KERAS_HEADS

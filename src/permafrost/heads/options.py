"""Options of heads, and their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from permafrost.errors import OptionError
from permafrost.training.options import HEAD_TRAINING, TrainingOptions, TrainingSettings, with_settings

if TYPE_CHECKING:
    pass


SCALINGS: Final = ("standard", "centred")


CALIBRATIONS: Final = ("none", "temperature")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """How a head is fitted; each head reads what concerns it.

    Attributes:
        training: for heads that Keras trains.
        hidden: units of each hidden layer of `dense`, `conv` and `mlp`.
        dropout: fraction of units of each hidden layer that `dense` and `conv` drop in training.
        batch_norm: whether hidden layers and convolutions of `dense` and `conv` are normalised over each batch.
        l2: the penalty of squared weights of `linear`, `dense` and `conv`.
        filters: of each convolution of `conv`; each is followed by pooling.
        kernel_size: of the convolutions, in rows and columns.
        pool_size: of the pooling, in rows and columns.
        filter_dropout: fraction of features dropped after each pooling: one for all, or one for each.
        regularization: the setting of the heads of `families.FAMILIES`; None chooses it by cross-validation on training
            data.
        neighbours: of `knn`; None chooses it likewise.
        scaling: how those heads scale features: `standard`, each to variance 1, or `centred`, all by one number, which
            leaves features that are nearly always zero as small as they are.
        pca: principal components to which those heads reduce the features, or below 1 the fraction of the variance to
            keep; None for all features.
        calibrate: `temperature` divides the fitted head's logits by the temperature that suits the validation images;
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


PER_LAYER: Final = frozenset({"hidden", "filters", "filter_dropout"})
"""Settings that are one number for each layer; one number alone will do."""


def options_from(settings: HeadSettings, *, progress: bool) -> HeadOptions:
    """The options that these keywords say.

    Raises:
        OptionError: a value out of range.
        TypeError: a keyword that is no setting.
    """
    own = {field.name for field in dataclasses.fields(HeadOptions)} - {"training", "progress"}
    chosen: dict[str, Any] = {
        name: (tuple(value) if isinstance(value, Sequence) else (value,)) if name in PER_LAYER else value
        for name, value in settings.items()
        if name in own
    }
    training: Any = {name: value for name, value in settings.items() if name not in own}
    return HeadOptions(training=with_settings(HEAD_TRAINING, training), progress=progress, **chosen)


KERAS_HEADS: Final = ("dense", "linear", "conv")
"""Heads that Keras trains; they watch validation images meanwhile."""


CLASSICAL_HEADS: Final = ("logistic", "ridge", "svm", "lda", "knn", "nb", "mlp")
"""Heads that scikit-learn or a closed form fits: those of `families.FAMILIES`."""


HEADS: Final = (*KERAS_HEADS, *CLASSICAL_HEADS)
"""All heads. Each is loaded when it is asked for."""


WITHOUT_GRADIENT: Final = frozenset({"knn"})
"""Heads through which no useful gradient passes, so that nothing below them can be trained."""

"""Options for a fit and for its head. Loads neither Keras nor scikit-learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from permafrost.errors import OptionError
from permafrost.options import check, option
from permafrost.training.options import HEAD_TRAINING, TrainingOptions, TrainingSettings, with_settings
from permafrost.units import parse_size

SCALINGS: Final = ("standard", "centred")
CALIBRATIONS: Final = ("none", "temperature")

KERAS_HEADS: Final = ("dense", "linear", "conv")
"""Heads that Keras trains, monitoring validation images."""

CLASSICAL_HEADS: Final = ("logistic", "ridge", "svm", "lda", "knn", "nb", "mlp")
"""Heads that scikit-learn or a closed form fits."""

HEADS: Final = (*KERAS_HEADS, *CLASSICAL_HEADS)
"""All heads. Each is the `HEAD` of its module in `permafrost.heads.kinds`, which is loaded on first use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Options for a head; each head reads those that concern it. The fields describe themselves.

    Attributes:
        training: options of heads that Keras trains, with the random seed and the class weights of all heads.
        progress: whether to draw a progress bar on a terminal or in a notebook.

    Raises:
        OptionError: a value is not permitted.
    """

    training: TrainingOptions = HEAD_TRAINING
    hidden: tuple[int, ...] = option(
        (256,), "dense, conv, mlp: units of each hidden layer, e.g. 512,128; 0 for no hidden layer.", metavar="N[,...]"
    )
    dropout: float = option(
        0.0, "dense, conv: fraction of hidden units dropped in each training step.", minimum=0, below=1
    )
    batch_norm: bool = option(False, "dense, conv: normalise hidden layers and convolutions over each batch.")
    l2: float = option(0.0, "linear, dense, conv: L2 penalty of the weights.", minimum=0)
    filters: tuple[int, ...] = option((32, 64), "conv: filters of each convolution.", metavar="N[,...]")
    kernel_size: int = option(3, "conv: height and width of the convolution kernels.", minimum=1)
    pool_size: int = option(2, "conv: height and width of the pooling after each convolution.", minimum=1)
    filter_dropout: tuple[float, ...] = option(
        (0.0,),
        "conv: fraction of features dropped after each pooling: one for all, or one per convolution.",
        metavar="F[,...]",
    )
    regularization: float | None = option(
        None,
        "logistic, svm: C, the inverse strength; ridge, mlp: alpha; lda: shrinkage; nb: smoothing.",
        shown="chosen by cross-validation; 1e-4 for mlp",
    )
    neighbours: int | None = option(None, "knn: number of neighbours.", shown="chosen by cross-validation")
    scaling: str = option(
        "standard",
        "Scaling of features for heads that Keras does not train: standard gives each feature variance 1; centred "
        "divides all by one number, so that features that are nearly always zero stay small.",
        choices=SCALINGS,
    )
    pca: float | None = option(
        None,
        "Reduce the features to this many principal components, or to those that explain this fraction of the "
        "variance, for heads that Keras does not train.",
        shown="all features",
    )
    calibrate: str = option(
        "none",
        "temperature divides the logits by the best temperature for the validation images, which calibrates the "
        "probabilities.",
        choices=CALIBRATIONS,
    )
    progress: bool = True

    def __post_init__(self) -> None:
        check(self)
        for what, sizes in (("hidden layer needs units", self.hidden), ("convolution needs filters", self.filters)):
            if any(size < 1 for size in sizes):
                raise OptionError(f"a {what}", expected="1 or more", found=min(sizes))
        for fraction in self.filter_dropout:
            if not 0 <= fraction < 1:
                raise OptionError("filter_dropout is out of range", expected="at least 0, less than 1", found=fraction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options for a fit that are not those of its head. The fields describe themselves.

    Raises:
        OptionError: a value is not permitted.
    """

    candidates: tuple[str, ...] | None = option(
        None,
        "auto: the heads to compare, e.g. logistic,ridge.",
        shown="all that Keras does not train",
        metavar="HEAD[,...]",
    )
    shots: tuple[int, ...] | None = option(
        None,
        "Also fit the head to this many random training images per class, e.g. 1,2,5,10, and evaluate it on the "
        "validation images or, without them, on the other training images.",
        shown="none",
        metavar="N[,...]",
    )
    draws: int = option(5, "Random draws per number of --shots.", minimum=1)
    views: int | None = option(
        None,
        "Views of each training image to fit to, the image itself included. Heads that Keras trains use one per "
        "epoch, other heads all at once. auto, several sets and --shots use the image alone.",
        shown="all cached views",
        metavar="K",
    )
    memory_limit: int | str | None = option(
        None,
        "Maximum memory for fitting, e.g. 2GB; larger features are read from disk as needed.",
        shown="half of the available memory",
        metavar="SIZE",
    )

    def __post_init__(self) -> None:
        check(self)
        for name in self.candidates or ():
            if name not in CLASSICAL_HEADS:
                raise OptionError(f"auto cannot compare {name}", expected=", ".join(CLASSICAL_HEADS))
        if self.candidates == ():
            raise OptionError("no heads to compare", expected=", ".join(CLASSICAL_HEADS))
        if any(count < 1 for count in self.shots or ()):
            raise OptionError("shots is out of range", expected="at least 1", found=min(self.shots or ()))
        if self.memory_limit is not None:
            parse_size(self.memory_limit)


class HeadSettings(TrainingSettings, total=False):
    """The fields of `HeadOptions` and of `TrainingOptions` as keywords, for type checkers."""

    hidden: int | str | Sequence[int]
    dropout: float
    batch_norm: bool
    l2: float
    filters: int | str | Sequence[int]
    kernel_size: int
    pool_size: int
    filter_dropout: float | str | Sequence[float]
    regularization: float | None
    neighbours: int | None
    scaling: str
    pca: float | None
    calibrate: str


class FitSettings(HeadSettings, total=False):
    """The fields of `FitOptions` and of `HeadSettings` as keywords of `fit_head`, for type checkers."""

    candidates: str | Sequence[str] | None
    shots: str | Sequence[int] | None
    draws: int
    views: int | None
    memory_limit: int | str | None


PER_LAYER: Final = frozenset({"hidden", "filters", "filter_dropout"})
"""Options with one number per layer; a single number or text such as "512,128" is accepted too."""


def options_from(settings: HeadSettings, *, progress: bool = True) -> HeadOptions:
    """Return the head's options for these settings.

    Raises:
        OptionError: a value is not permitted.
        TypeError: an unknown setting.
    """
    own, training = _divide(settings, HeadOptions)
    chosen: dict[str, Any] = {
        name: parse_numbers(name, value) if name in PER_LAYER else value for name, value in own.items()
    }
    return HeadOptions(training=with_settings(HEAD_TRAINING, training), progress=progress, **chosen)  # type: ignore[arg-type]


def fit_options_from(settings: FitSettings, *, progress: bool) -> tuple[FitOptions, HeadOptions]:
    """Return the options of a fit and those of its head for these settings.

    Raises:
        OptionError: a value is not permitted.
        TypeError: an unknown setting.
    """
    own, rest = _divide(settings, FitOptions)
    candidates, shots = own.get("candidates"), own.get("shots")
    if candidates is not None:
        own["candidates"] = candidates.split(",") if isinstance(candidates, str) else _listed(candidates)
    if shots is not None:
        own["shots"] = parse_numbers("shots", shots)
    return FitOptions(**own), options_from(rest, progress=progress)  # type: ignore[arg-type]


def _divide(settings: Mapping[str, Any], record: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide settings into those of a record and the rest."""
    names = {field.name for field in dataclasses.fields(record)} - {"training", "progress"}
    own = {name: value for name, value in settings.items() if name in names}
    return own, {name: value for name, value in settings.items() if name not in names}


def _listed(value: Any) -> tuple[Any, ...]:
    """Return several values as a tuple, or a single one as a tuple of one."""
    return tuple(value) if isinstance(value, Iterable) else (value,)


def parse_numbers(name: str, value: float | str | Iterable[float]) -> tuple[Any, ...]:
    """Return a tuple from a number, numbers, or text such as "512,128"; for `hidden`, "0" means no hidden layer.

    Raises:
        OptionError: the text is not a list of numbers.
    """
    if not isinstance(value, str):
        return _listed(value)
    kind: type[float] = float if name == "filter_dropout" else int
    try:
        numbers = tuple(kind(part) for part in value.split(","))
    except ValueError as error:
        examples = {"filter_dropout": "0.25, or 0.25,0", "shots": "5, or 1,2,5", "filters": "32, or 32,64"}
        expected = examples.get(name, "256, or 512,128, or 0")
        raise OptionError(f"cannot parse --{name.replace('_', '-')}", expected=expected, found=value) from error
    return () if name == "hidden" and numbers == (0,) else numbers

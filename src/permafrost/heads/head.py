"""The interface of heads: the data that they are fitted to, and the result of a fit."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from permafrost.errors import HeadError, OptionError
from permafrost.heads.options import HeadOptions

if TYPE_CHECKING:
    import keras

    from permafrost.store.streaming import FeatureRows


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadData:
    """The features and labels that a head is fitted to.

    Attributes:
        x: (n, *shape) float32.
        y: (n,) int64; each class occurs.
        validation_x, validation_y: the same for validation; None without validation images.
        class_names: the classes.
        views: views per image, a divisor of n: all rows of view 0 come first, then those of view 1, and so on.
        units: (n,) int64, equal for rows that must not be divided: views, exact copies and groups of images; None if
            only the views of an image must not.
        stream: all training rows, if they stay on disk; `x` and `y` are then a sample of them.
    """

    x: np.ndarray
    y: np.ndarray
    validation_x: np.ndarray | None
    validation_y: np.ndarray | None
    class_names: tuple[str, ...]
    views: int = 1
    units: np.ndarray | None = None
    stream: FeatureRows | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A fitted head.

    Attributes:
        model: maps features (n, *shape) float32 to probabilities (n, classes).
        history: one row per epoch, or per value of the setting that was compared.
        details: what the fit chose, for `run.json`.
        held_out_logits: (n, classes) float64 if the head was cross-validated: the logits of each training row by a
            head that was not fitted to it.
    """

    model: keras.Model
    history: list[dict[str, float]]
    details: dict[str, Any]
    held_out_logits: np.ndarray | None = None

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """Return the probabilities (n, classes) float32 for features x (n, *shape)."""
        from permafrost.training.loop import predict_arrays

        # Batches have one size, because starting `predict` takes longer than computing a block of features.
        return predict_arrays(self.model, x, batch_size=256)


def identical_features() -> HeadError:
    """Return the error for features that are the same for all images."""
    return HeadError("all images have the same features", expected="features that differ", do="extract at another cut")


def too_many_neighbours(count: int, images: int) -> OptionError:
    """Return the error for more neighbours than there are training images."""
    return OptionError("more neighbours than training images", expected=f"at most {images}", found=count)


class Head(abc.ABC):
    """A kind of head.

    Attributes:
        name: its name in commands and runs.
        monitors_validation: whether it needs validation images to monitor while it is trained.
        passes_gradient: whether it passes a useful gradient, so that layers below it can be trained.
    """

    name: str
    monitors_validation: bool = False
    passes_gradient: bool = True

    @property
    def streams(self) -> bool:
        """Whether the head can be fitted to features that stay on disk."""
        return False

    @abc.abstractmethod
    def fit(self, data: HeadData, options: HeadOptions, *, labels_only: bool = False) -> FittedHead:
        """Fit the head to features in memory.

        Args:
            data: the features.
            options: the options; each head reads those that concern it.
            labels_only: whether only the order of the probabilities matters, so that calibrating them can be skipped.

        Raises:
            HeadError: the head cannot be fitted to these features.
            OptionError: an option does not suit them.
        """

    def fit_from_disk(self, data: HeadData, options: HeadOptions) -> FittedHead:
        """Fit the head to `data.stream`; `data.x` is a sample of it. Call this only if the head `streams`."""
        raise NotImplementedError

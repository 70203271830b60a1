"""The images and views that fine-tuning uses."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from permafrost.errors import RunError
from permafrost.images.augmentation import Views
from permafrost.images.splits import SPLITS
from permafrost.machine import available_memory
from permafrost.store.feature_set import FeatureSet
from permafrost.training.loop import Examples

Load = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSelection:
    """The images and views that fine-tuning uses.

    Attributes:
        features: the feature set that the images belong to.
        rows: the rows of each split, (n,) int64.
        views: which views of training images are used; other images have no views.
    """

    features: FeatureSet
    rows: dict[str, np.ndarray]
    views: Views

    @functools.cached_property
    def digests(self) -> list[bytes]:
        """The SHA-256 of the content of each image of the set."""
        return [row.tobytes() for row in self.features.digests()]

    def labels(self, split: str) -> np.ndarray:
        """Return the labels of a split, (n,) int64."""
        labels: np.ndarray = self.features.labels()[self.rows[split]]
        return labels

    def views_by_row(self) -> dict[int, range]:
        """Return the views of each row that can be cached; 0 is the image itself."""
        train = {int(row): range(self.views.count or 1) for row in self.rows["train"]}
        return {int(row): range(1) for split in SPLITS[1:] for row in self.rows[split]} | train

    def count(self) -> int:
        """Return the number of images and views that can be cached."""
        return sum(len(views) for views in self.views_by_row().values())

    def examples(self, split: str, loader: Callable[[int], Load]) -> Examples:
        """Return a split for training or evaluation; epochs use the views of training images in turn.

        Args:
            split: `train`, `validation` or `test`.
            loader: takes the number of a view and returns a function from (k,) indices into the split to the model's
                input.
        """
        several = split == "train" and self.views.count != 1
        return Examples(
            self.labels(split),
            loader(0),
            of_epoch=(lambda epoch: loader(self.views.of_epoch(epoch))) if several else None,
        )


def unusable_image(features: FeatureSet, reason: str) -> RunError:
    """Return the error for an image that is gone or has changed."""
    return RunError(f"an image of {features.path} cannot be trained on: {reason}", do="extract and fit the head again")


def fits_memory(count: int) -> bool:
    """Return whether `count` bytes may be held in memory, at most half of the available memory."""
    return count <= available_memory() // 2

"""Train on images: the whole model runs in each epoch, as in ordinary fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from permafrost.errors import ImageError
from permafrost.extraction.originals import Originals
from permafrost.finetuning.selection import ImageSelection, Load, fits_memory, unusable_image
from permafrost.training.loop import Examples


class DecodedImages:
    """The images and their views, resized for the trunk. They are held in memory if they fit.

    Args:
        selection: the images and views.
        threads: the executor that reads, decodes and augments images.
    """

    def __init__(self, selection: ImageSelection, threads: Executor) -> None:
        self._selection, self._threads = selection, threads
        self._originals = Originals(selection.features)
        self._digests = selection.digests
        total = len(selection.features) * math.prod(selection.features.spec.image_size) * 3
        self._decoded: dict[int, np.ndarray] | None = {} if fits_memory(total) else None

    def examples(self, split: str) -> Examples:
        """Return the images of a split."""
        return self._selection.examples(split, self._loader(split))

    def rows(self, rows: np.ndarray, view: int = 0) -> np.ndarray:
        """Return a view of the images in (k,) rows of the set: (k, h, w, 3) float32, 0 to 255.

        Raises:
            RunError: an image is gone or has changed; the message names it.
        """

        def load(row: int) -> np.ndarray:
            augmentation = self._selection.views.augmentation
            return augmentation.view(self._pixels(row), self._digests[row], view)

        return np.stack(list(self._threads.map(load, rows.tolist()))).astype(np.float32)

    def _loader(self, split: str) -> Callable[[int], Load]:
        rows = self._selection.rows[split]
        return lambda view: lambda numbers: self.rows(rows[numbers], view)

    def _pixels(self, row: int) -> np.ndarray:
        if self._decoded is not None and row in self._decoded:
            return self._decoded[row]
        features = self._selection.features
        try:
            pixels = self._originals.pixels(row)
        except ImageError as error:
            raise unusable_image(features, str(error)) from error
        if self._decoded is not None:
            self._decoded[row] = pixels
        return pixels

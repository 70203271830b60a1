"""The original images of a feature set, read as extraction read them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from permafrost.errors import DatasetError, ImageError
from permafrost.images.arrays.ranges import PixelRange
from permafrost.images.dataset import Dataset, file_kind, path_of, paths_of, read_dataset
from permafrost.images.options import MAX_PIXELS
from permafrost.images.sources import ArrayImage, FileImage, ImageSource, LoadedImage
from permafrost.store.feature_set import FeatureSet


def max_pixels_of(about: Mapping[str, Any]) -> int:
    """Return the limit on pixels of an extraction, from the set's `about`: images are read again with the same one."""
    return int(about.get("max_pixels", MAX_PIXELS))


def pixels_of(about: Mapping[str, Any]) -> PixelRange | None:
    """Return what the values of an extraction's arrays meant, from the set's `about`; None if it had files."""
    return PixelRange.recorded(about.get("pixels"))


class Originals:
    """The original images of a feature set.

    An `.npz` file is read when its first image is loaded, and stays in memory. Threads may share one object.

    Args:
        features: the set.
    """

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        self._content = features.content
        self._max_pixels = max_pixels_of(features.about)
        self._in_arrays = file_kind(self._content.root) == "arrays"
        self._arrays: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def load(self, row: int) -> LoadedImage:
        """Read the image of a row, and check that it is still the one that its features were computed from.

        Raises:
            ImageError: it is gone, cannot be read, or has changed.
        """
        path = path_of(self._content.root, self._content.names[row])
        try:
            source: ImageSource = ArrayImage(self._array(row)) if self._in_arrays else FileImage(path)
            loaded = source.load(self._max_pixels)
        except ImageError as error:
            raise ImageError(f"cannot read {path}: {error}") from error
        if loaded.digest != self._content.digests[row].tobytes():
            raise ImageError(f"{path} has changed since its features were cached", do="extract again")
        return loaded

    def pixels(self, row: int) -> np.ndarray:
        """Return the image of a row as the trunk saw it, (h, w, 3) uint8.

        Raises:
            ImageError: as `load`, or it cannot be decoded.
        """
        return self.load(row).pixels(self._features.spec.image_size)

    def dataset(self, rows: np.ndarray) -> Dataset:
        """Return the images of some rows as a dataset without splits, named by their absolute paths.

        Args:
            rows: (k,) int64, indices of images.

        Raises:
            ImageError: the set's `.npz` file no longer has one of them.
        """
        content = self._content
        return Dataset(
            root="",
            names=tuple(paths_of(content.root, (content.names[row] for row in rows))),
            labels=tuple(content.labels[rows].tolist()),
            splits=(None,) * len(rows),
            class_names=content.class_names,
            arrays=tuple(self._array(row) for row in rows) if self._in_arrays else None,
        )

    def _array(self, row: int) -> np.ndarray:
        with self._lock:
            if not self._arrays:
                self._arrays = _read_arrays(self._content.root)
        name = self._content.names[row]
        array = self._arrays.get(name)
        if array is None:
            raise ImageError(f"{name} is no longer in {self._content.root}", do="extract again")
        return array


def _read_arrays(path: str) -> dict[str, np.ndarray]:
    """Return the images of an `.npz` file by name."""
    try:
        dataset = read_dataset(path)
    except DatasetError as error:
        raise ImageError(f"cannot read {path}: {error}") from error
    assert dataset.arrays is not None, "an .npz file holds arrays"
    return dict(zip(dataset.names, dataset.arrays, strict=True))

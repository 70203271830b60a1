"""A feature set: the rows of one dataset in one store, as arrays and batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from permafrost.errors import OptionError, StoreError
from permafrost.images.dataset import paths_of
from permafrost.images.splits import SPLITS
from permafrost.options import as_path
from permafrost.store.set_content import SetContent
from permafrost.store.set_reading import read_set
from permafrost.store.set_rows import SetRows
from permafrost.store.storage import ObjectPlace, StoredObject
from permafrost.store.store import Store
from permafrost.store.streaming import SHUFFLE_BYTES, FeatureRows, ShuffledRows
from permafrost.trunk.spec import canonical_json

STORE_FOLDER: Final = "store"
"""The folder of the stores, beside the sets: both can be moved together."""


class FeatureSet:
    """The cached features of one dataset. `permafrost.extract` makes one, `permafrost.open_features` opens one.

    Threads may share one object, and it can be sent to another process.

    Attributes:
        place: where the set's file is.
        spec: everything that a feature value depends on.
        class_names: the classes, in the order of the labels.
        skipped: name and reason of everything in the dataset that is not in the set.
        root: the absolute path of the dataset.
        about: how the set was made.
    """

    def __init__(self, place: ObjectPlace, content: SetContent) -> None:
        # A later os.chdir must not move it.
        self.place = place if isinstance(place, StoredObject) else StoredObject.at(os.path.abspath(place))
        self.spec = content.spec
        self.class_names = list(content.class_names)
        self.skipped = content.skipped
        self.root = content.root
        self.about = content.about
        self._rows = SetRows(self.place, content)

    def __len__(self) -> int:
        return len(self.content.labels)

    def __repr__(self) -> str:
        counts = ", ".join(f"{split} {len(self.rows(split))}" for split in SPLITS)
        return f"FeatureSet({str(self.place)!r}, {self.spec.base} {self.spec.cut}, shape {self.shape}, {counts})"

    @property
    def path(self) -> Path:
        """The absolute path of the set's file.

        Raises:
            StoreError: the set is not in a local folder.
        """
        if self.place.folder is None:
            raise StoreError(f"{self.place} is not a local file")
        return self.place.folder / self.place.name

    @property
    def content(self) -> SetContent:
        """The content of the set's file, with the places where its rows were last found."""
        return self._rows.content

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image's features, e.g. `(7, 7, 768)`."""
        return self.spec.shapes[0]

    @property
    def store(self) -> Store:
        """The store that holds the features.

        Raises:
            SetError: it is gone, or holds another trunk's features.
        """
        return self._rows.store(self.content)

    @property
    def views(self) -> int:
        """The number of views of each training image, including view 0, the image itself."""
        return self.content.view_count

    @property
    def augmentation(self) -> str:
        """The rule that made views above 0 (`augmentation.Augmentation.rule`); empty without such views."""
        return self.content.augmentation

    @property
    def digest(self) -> str:
        """SHA-256 of all that a head is fitted to: the trunk, the images' contents, labels, splits and groups."""
        content, hasher = self.content, hashlib.sha256(self.spec.digest.encode())
        hasher.update(canonical_json(self.class_names))
        for array in (content.digests, content.labels, content.splits, content.groups):
            hasher.update(b"" if array is None else array.tobytes())
        return hasher.hexdigest()

    def rows(self, split: str | None = None) -> np.ndarray:
        """Return the indices of the images of a split, or of all images: (n,) int64, ascending.

        Raises:
            OptionError: there is no such split.
        """
        if split is None:
            return np.arange(len(self))
        if split not in SPLITS:
            raise OptionError("no such split", expected=", ".join(SPLITS), found=split)
        return np.flatnonzero(self.content.splits == SPLITS.index(split))

    def labels(self, split: str | None = None) -> np.ndarray:
        """Return the labels of a split, or of all images: (n,) int64, indices into `class_names`."""
        labels: np.ndarray = self.content.labels[self.rows(split)]
        return labels

    def digests(self, split: str | None = None) -> np.ndarray:
        """Return the SHA-256 of each image's content, of a split or of all images: (n, 32) uint8."""
        digests: np.ndarray = self.content.digests[self.rows(split)]
        return digests

    def groups(self, split: str | None = None) -> np.ndarray | None:
        """Return the group of each image, of a split or of all images: (n,) int64, as in `SetContent`; None if none."""
        return None if self.content.groups is None else self.content.groups[self.rows(split)]

    def names(self, split: str | None = None) -> list[str]:
        """Return the images' paths relative to the dataset, in the order of `arrays`."""
        return [self.content.names[row] for row in self.rows(split)]

    def paths(self, split: str | None = None) -> list[str]:
        """Return the images' absolute paths, in the order of `arrays`; undecodable bytes are surrogates (PEP 383)."""
        return paths_of(self.root, self.names(split))

    def arrays(self, split: str | None = None, *, view: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the features and labels of a split, or of all images.

        Args:
            split: `train`, `validation` or `test`; all images if None.
            view: the view of each image; only training images have views above 0.

        Returns:
            X, (n, *shape) float32, and y, (n,) int64.

        Raises:
            OptionError: there is no such split, or an image does not have this view.
            ShardError: a shard is missing or damaged.
            StoreError: the features do not fit into memory.
        """
        rows = self.rows(split)
        return self.features(rows, view=view), self.content.labels[rows]

    def features(self, rows: np.ndarray, *, view: int = 0) -> np.ndarray:
        """Return the features of one view of some images, (k, *shape) float32.

        Args:
            rows: (k,) int64, indices of images in any order.
            view: the view of each image.

        Raises:
            OptionError, ShardError, StoreError: as `arrays`.
        """
        return self._rows.read(rows, view)

    def disk_order(self, rows: np.ndarray, *, view: int = 0) -> np.ndarray:
        """Return the order in which the features of some images are stored: (k,) int64, indices into `rows`."""
        return self._rows.disk_order(rows, view)

    def batches(
        self, split: str | None = None, *, view: int = 0, batch_size: int = 32, shuffle: bool = False, seed: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the features and labels of a split, or of all images, in batches.

        Without shuffling, batches have the order of `paths`, and one is in memory at a time. Shuffled batches are read
        in large pieces, two of which are in memory at a time: at most half a gigabyte.

        Args:
            split: `train`, `validation` or `test`; all images if None.
            view: the view of each image, as for `arrays`.
            batch_size: images per batch, 1 or more; the last batch may be smaller.
            shuffle: whether to shuffle the images. Larger sets are shuffled in parts.
            seed: the seed of the shuffled order.

        Yields:
            X, (k, *shape) float32, and y, (k,) int64.

        Raises:
            OptionError: the batch size is below 1; or as `arrays`.
            ShardError: a shard is missing or damaged.
        """
        if batch_size < 1:
            raise OptionError("a batch has at least one image", expected="1 or more", found=batch_size)
        rows = self.rows(split)
        # A constant limit: the order must not depend on the memory of the machine.
        on_disk = FeatureRows(self, rows, memory_limit=SHUFFLE_BYTES, view=view)
        order, load = np.arange(len(rows)), on_disk.load
        if shuffle:
            shuffled = ShuffledRows(on_disk)
            order, load = shuffled.order(np.random.default_rng(seed)), shuffled.load
        for start in range(0, len(rows), batch_size):
            numbers = order[start : start + batch_size]
            yield load(numbers), on_disk.labels[numbers]


def open_features(path: ObjectPlace) -> FeatureSet:
    """Open a cached feature set.

    Args:
        path: the set's file, e.g. `features/photos-inception_v3-mixed7.h5`, or an object in another place. Its store is
            beside it, in `store/`.

    Raises:
        OptionError: `path` is not a path.
        SetError: the file is not a feature set, or is damaged; or its store is gone, or holds another trunk's features.
        VersionError: the set or its store is of another format version.
    """
    if not isinstance(path, StoredObject):
        path = as_path(path, "a feature set")
    features = FeatureSet(path, read_set(path))
    _ = features.store  # Refuse a set without its store now, not when its first row is read.
    return features

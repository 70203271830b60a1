"""A feature set: a dataset's rows in one store, as arrays and batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from permafrost.errors import OptionError, SetError, StoreError
from permafrost.images.dataset import path_of
from permafrost.images.splits import SPLITS
from permafrost.store.row_reader import LocatedRows, read_rows, relocate
from permafrost.store.set_content import SetContent, ViewRows, parts, with_part
from permafrost.store.set_reading import read_set
from permafrost.store.store import Store
from permafrost.trunk.spec import TrunkSpec, canonical_json, first_difference

STORE_FOLDER: Final = "store"
"""Below the folder of the sets, so that both can be moved together."""


class FeatureSet:
    """Kept features of one dataset. Made by `permafrost.extract`, opened by `permafrost.open_features`.

    Attributes:
        path: the absolute path of the set's file.
        spec: what decides the features.
        class_names: the classes, in the order of the labels.
        skipped: what was found and is not in the set, with the reason.
    """

    def __init__(self, path: Path, content: SetContent) -> None:
        self.path = Path(os.path.abspath(path))  # A later os.chdir must not move it.
        self.spec = content.spec
        self.class_names = list(content.class_names)
        self.skipped = content.skipped
        self.root = content.root
        self.about = content.about
        self._content = content

    def __len__(self) -> int:
        return len(self._content.labels)

    def __repr__(self) -> str:
        counts = ", ".join(f"{split} {len(self.rows(split))}" for split in SPLITS)
        return f"FeatureSet({str(self.path)!r}, {self.spec.base} {self.spec.cut}, shape {self.shape}, {counts})"

    @property
    def content(self) -> SetContent:
        """All that its file says."""
        return self._content

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image's features, e.g. `(7, 7, 768)`; of its first tensor where it has several."""
        return self.spec.shapes[0]

    @property
    def store(self) -> Store:
        """The store that holds the features.

        Raises:
            SetError: it is gone, or holds another trunk's features now.
        """
        return self._open_store(self._content.store, self.spec)

    def _open_store(self, folder: str, spec: TrunkSpec) -> Store:
        try:
            store = Store(self.path.parent / folder)
        except StoreError as error:
            raise SetError(
                f"the store of {self.path} cannot be opened: {error.what}",
                do="move the set and the folder `store` together, or run extract again",
            ) from error
        difference = first_difference(spec, store.spec)
        if difference is None and spec.shapes != store.spec.shapes:
            difference = "shapes", spec.shapes, store.spec.shapes
        if difference:
            field, expected, found = difference
            raise SetError(f"the store of {self.path} has changed: {field}", expected=expected, found=found)
        return store

    @property
    def views(self) -> int:
        """How many views each training image has, the image itself, view 0, among them: 1 or more."""
        return 1 if self._content.views is None else 1 + len(self._content.views.places)

    @property
    def augmentation(self) -> str:
        """How views above 0 were made (`augmentation.Augmentation.rule`); empty where there are none."""
        return "" if self._content.views is None else self._content.views.spec.augmentation

    @property
    def digest(self) -> str:
        """SHA-256 of the trunk, the images' contents, the labels and the splits: what a head is fitted to."""
        hasher = hashlib.sha256(self.spec.digest.encode())
        hasher.update(canonical_json(self.class_names))
        for array in (self._content.digests, self._content.labels, self._content.splits):
            hasher.update(array.tobytes())
        return hasher.hexdigest()

    def rows(self, split: str | None = None) -> np.ndarray:
        """Indices of the images of `split`, or of all: (n,) int64, ascending.

        Raises:
            OptionError: there is no such split.
        """
        if split is None:
            return np.arange(len(self))
        if split not in SPLITS:
            raise OptionError("no such split", expected=", ".join(SPLITS), found=split)
        return np.flatnonzero(self._content.splits == SPLITS.index(split))

    def labels(self, split: str | None = None) -> np.ndarray:
        """The labels of the images of `split`, or of all: (n,) int64, indices into `class_names`."""
        labels: np.ndarray = self._content.labels[self.rows(split)]
        return labels

    def digests(self, split: str | None = None) -> np.ndarray:
        """The content digests of the images of `split`, or of all: (n, 32) uint8."""
        digests: np.ndarray = self._content.digests[self.rows(split)]
        return digests

    def names(self, split: str | None = None) -> list[str]:
        """The images' paths relative to the dataset."""
        return [self._content.names[row] for row in self.rows(split)]

    def paths(self, split: str | None = None) -> list[str]:
        """The images' paths, in the order of `arrays`. Bytes that are no UTF-8 are surrogates (PEP 383)."""
        return [path_of(self.root, name) for name in self.names(split)]

    def arrays(self, split: str | None = None, *, view: int = 0) -> tuple[Any, np.ndarray]:
        """Features and labels of `split`, or of all.

        Args:
            split: `train`, `validation` or `test`; all images if None.
            view: which view of each image; only training images have views above 0.

        Returns:
            X, (n, *shape) float32, or a tuple of such arrays where the cut crosses several tensors; and y, (n,) int64.

        Raises:
            OptionError: the images have no such view.
            ShardError: a shard is missing or damaged.
        """
        rows = self.rows(split)
        return self.features(rows, view=view), self._content.labels[rows]

    def features(self, rows: np.ndarray, *, view: int = 0) -> Any:
        """Features of one view of the images with these indices, in this order: as `arrays` returns them."""
        store, located = self._locate(rows, view)
        tensors, found = read_rows(store, located)
        if found is not located:
            self._relocate()
        return tensors if len(tensors) > 1 else tensors[0]

    def _locate(self, rows: np.ndarray, view: int) -> tuple[Store, LocatedRows]:
        if view == 0:
            store, shards, places = self.store, self._content.shards, self._content.places[rows]
        else:
            content, places = self._view_places(rows, view)
            store, shards = self._open_store(content.store, content.spec), content.shards
        views = np.full(len(places), view, np.int64)
        return store, LocatedRows(shards=shards, places=places, digests=self._content.digests[rows], views=views)

    def _relocate(self) -> None:
        """Look for all rows whose shards were joined with others, so that no later batch has to."""
        for part in parts(self._content):
            moved = relocate(part, self._open_store(part.store, part.spec))
            if moved is not None:
                self._content = with_part(self._content, moved)

    def _view_places(self, rows: np.ndarray, view: int) -> tuple[ViewRows, np.ndarray]:
        views = self._content.views
        if views is None or not 0 < view < self.views:
            raise OptionError(
                f"{self.path} has no view {view}",
                expected=f"0 to {self.views - 1}" if views else "0 only",
                found=view,
                do="extract with more --views",
            )
        places: np.ndarray = views.places[view - 1, rows]
        if (places < 0).any():
            raise OptionError("only training images have views", expected="training images, or view 0", found=view)
        return views, places

    def batches(
        self, split: str | None = None, *, view: int = 0, batch_size: int = 32, shuffle: bool = False, seed: int = 0
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Features and labels in batches, once through; never more than one batch in memory.

        Args:
            split: `train`, `validation` or `test`; all images if None.
            view: which view of each image, as for `arrays`.
            batch_size: images a batch; the last one may be smaller.
            shuffle: whether in an order drawn from `seed` rather than that of `paths`.
            seed: of the order.

        Yields:
            X and y, as `arrays` returns them.
        """
        if batch_size < 1:
            raise OptionError("a batch has at least one image", expected="1 or more", found=batch_size)
        rows = self.rows(split)
        if shuffle:
            rows = np.random.default_rng(seed).permutation(rows)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            yield self.features(batch, view=view), self._content.labels[batch]


def open_features(path: str | os.PathLike[str]) -> FeatureSet:
    """Open a kept feature set.

    Args:
        path: the set's file, e.g. `features/photos.h5`. Its store lies beside it, in `store/`.

    Raises:
        SetError: the file is no feature set, is damaged, or its store is gone or holds another trunk's features.
    """
    path = Path(path)
    features = FeatureSet(path, read_set(path))
    _ = features.store  # A set without its store is refused at once, not at the first row.
    return features

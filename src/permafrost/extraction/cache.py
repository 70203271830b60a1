"""The cached features of a trunk: find the rows that are cached, and commit new ones."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from permafrost.errors import ShardError, WriteError
from permafrost.store.compaction import compact
from permafrost.store.row_index import RowAddress, RowIndex, place_rows
from permafrost.store.row_reader import LocatedRows, read_rows
from permafrost.store.shard import Rows, digest_rows
from permafrost.store.store import Store, store_folder
from permafrost.trunk.spec import TrunkSpec

if TYPE_CHECKING:
    from permafrost.trunk.cutting import Trunk

RowKey = tuple[bytes, int]
"""The key of a row: the content digest of an image, and the number of a view."""


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that compute features, as a record for people."""
    names = ("permafrost", "keras", "tensorflow", "numpy", "h5py", "pillow", "opencv-python-headless")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class CachedStore:
    """The rows of one store: those cached before, and those committed through this object.

    Attributes:
        spec: everything that a feature value depends on.
        folder: folder of the store; it exists once there are rows.

    Args:
        spec: everything that a feature value depends on.
        parent: folder of the stores, e.g. `features/store`.
        base_layers: names of all layers of the base, in order, to be recorded in a new store.

    Raises:
        StoreError: the store of that name is damaged, or holds another trunk's features.
    """

    def __init__(self, spec: TrunkSpec, parent: Path, base_layers: Sequence[str]) -> None:
        self.spec, self.folder = spec, store_folder(parent, spec)
        self._base_layers = list(base_layers)
        self._store = Store.find(parent, spec)
        self._index = RowIndex(self._store) if self._store else None
        self._new: dict[RowKey, RowAddress] = {}
        self._damaged: list[ShardError] = []

    @property
    def damaged(self) -> list[str]:
        """One message per shard whose rows are not used because it is damaged."""
        return sorted({str(error) for error in (*self._damaged, *(self._index.damaged if self._index else ()))})

    def has(self, keys: Sequence[RowKey]) -> list[bool]:
        """Return whether each row was cached before."""
        return [address is not None for address in self._before(keys)]

    def addresses(self, keys: Sequence[RowKey]) -> list[RowAddress]:
        """Return where each row is; all of them were cached before or committed through this object."""
        addresses = [self._new.get(key) or before for key, before in zip(keys, self._before(keys), strict=True)]
        assert None not in addresses, "all requested rows are cached or computed"
        return cast("list[RowAddress]", addresses)

    def _before(self, keys: Sequence[RowKey]) -> Sequence[RowAddress | None]:
        return self._index.find_all(keys) if self._index else [None] * len(keys)

    def commit(self, keys: Sequence[RowKey], tensors: tuple[np.ndarray, ...], engine: str) -> None:
        """Commit rows as one shard.

        The first commit creates the folder of the store, so a run that fails early does not leave one.

        Args:
            keys: the keys of the n rows.
            tensors: one array (n, *shape) per tensor of the trunk, in the dtype of the store.
            engine: the engine that computed them, for the record.

        Raises:
            WriteError: the disk is full, or similar; nothing was committed.
        """
        if self._store is None:
            about = {"libraries": library_versions(), "base_layers": self._base_layers}
            self._store = Store.create(self.folder.parent, self.spec, about=about, hold=True)
        rows = Rows(
            digest_rows(digest for digest, _ in keys),
            np.array([view for _, view in keys], np.int32),
            tensors,
        )
        shard = self._store.append(rows, engine=engine)
        self._new |= {key: RowAddress(shard, row) for row, key in enumerate(keys)}

    def compact(self) -> None:
        """Merge the small shards of the store if there are many and this object has committed rows."""
        if self._store is None or not self._new:
            return
        with contextlib.suppress(WriteError):  # All rows are committed; a later run may find more room.
            if compact(self._store):
                self._look_again()

    def gather(self, keys: Sequence[RowKey]) -> tuple[np.ndarray, ...]:
        """Return the features of these rows: one array (n, *shape) float32 per tensor of the trunk.

        Raises:
            ShardError: a shard is missing or damaged.
        """
        assert self._store is not None, "all requested rows are cached or computed"
        shards, places = place_rows(self.addresses(keys))
        digests, views = digest_rows(digest for digest, _ in keys), np.array([view for _, view in keys], np.int64)
        rows = LocatedRows(shards=shards, places=places, digests=digests, views=views)
        tensors, found = read_rows(self._store, rows)
        if found is not rows:  # Another process has merged shards.
            self._look_again()
        return tensors

    def _look_again(self) -> None:
        """Read again which rows the store holds, and where."""
        assert self._store is not None, "rows can only move in an existing store"
        self._damaged += self._index.damaged if self._index else []
        self._index, self._new = RowIndex(self._store), {}


class FeatureCache:
    """A trunk and the stores of its features: one for images, one for augmented views.

    There are two stores because only the key of views covers the augmentation: the cached features of images are cache
    hits with any augmentation.

    Attributes:
        trunk: the trunk.
        spec: everything that the features of images depend on.
        folder: folder of the store of images; it exists once there are rows.
        computed: number of rows committed through this object.

    Args:
        trunk: the trunk.
        parent: folder of the stores, e.g. `features/store`.
        augmentation: how views are made (`augmentation.Views.rule`); empty without augmented views.

    Raises:
        StoreError: a store of that name is damaged, or holds another trunk's features.
    """

    def __init__(self, trunk: Trunk, parent: Path, augmentation: str = "") -> None:
        self.trunk, self.spec = trunk, trunk.spec
        self.images = CachedStore(trunk.spec, parent, trunk.base_layers)
        self.folder = self.images.folder
        self.views: CachedStore | None = None
        if augmentation:
            spec = dataclasses.replace(trunk.spec, augmentation=augmentation)
            self.views = CachedStore(spec, parent, trunk.base_layers)
        self.computed = 0

    @property
    def stores(self) -> list[CachedStore]:
        """The store of images and, with augmented views, the store of those."""
        return [self.images] + ([self.views] if self.views else [])

    @property
    def damaged(self) -> list[str]:
        """One message per shard whose rows are not used because it is damaged."""
        return [message for store in self.stores for message in store.damaged]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, uncompressed, with its entry in the index."""
        values = sum(int(np.prod(shape)) for shape in self.spec.shapes)
        return values * np.dtype(self.spec.dtype).itemsize + 44

    def has(self, keys: Sequence[RowKey]) -> list[bool]:
        """Return whether the features of each image or view were cached before."""
        images = [key for key in keys if key[1] == 0]
        if len(images) == len(keys):
            return self.images.has(keys)
        views = [key for key in keys if key[1]]
        cached = dict(zip(images, self.images.has(images), strict=True))
        cached |= zip(views, self._store_of(1).has(views), strict=True)
        return [cached[key] for key in keys]

    def addresses(self, digests: Sequence[bytes], view: int = 0) -> list[RowAddress]:
        """Return where the features of one view of these images are."""
        return self._store_of(view).addresses([(digest, view) for digest in digests])

    def commit(self, keys: Sequence[RowKey], tensors: tuple[np.ndarray, ...], engine: str) -> None:
        """Commit the features of images and views; the arguments are those of `CachedStore.commit`."""
        for store, augmented in ((self.images, False), (self.views, True)):
            rows = [row for row, (_, view) in enumerate(keys) if (view > 0) == augmented]
            if rows:
                assert store is not None, "views need an augmentation"
                whole = len(rows) == len(keys)  # Then nothing is copied.
                part = tensors if whole else tuple(tensor[rows] for tensor in tensors)
                store.commit([keys[row] for row in rows], part, engine)
        self.computed += len(keys)

    def gather(self, digests: Sequence[bytes], view: int = 0) -> tuple[np.ndarray, ...]:
        """Return the features of one view of these images: one array (n, *shape) float32 per tensor of the trunk.

        Raises:
            ShardError: a shard is missing or damaged.
        """
        return self._store_of(view).gather([(digest, view) for digest in digests])

    def _store_of(self, view: int) -> CachedStore:
        if view == 0:
            return self.images
        assert self.views is not None, "views need an augmentation"
        return self.views

"""Where the features of a trunk are kept: which rows are there, and new ones to their stores."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from permafrost.errors import ShardError, WriteError
from permafrost.extraction.reader import RowKey
from permafrost.store.compaction import compact
from permafrost.store.row_index import RowAddress, RowIndex, place_rows
from permafrost.store.row_reader import LocatedRows, read_rows
from permafrost.store.shard import Rows, digest_rows
from permafrost.store.store import Store, store_folder
from permafrost.trunk.spec import TrunkSpec

if TYPE_CHECKING:
    from permafrost.trunk.cutting import Trunk


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide how features are computed, for people to read."""
    names = ("permafrost", "keras", "tensorflow", "numpy", "h5py", "pillow", "opencv-python-headless")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class CachedStore:
    """One store, and which rows are there: kept before, or committed through this.

    Attributes:
        spec: what decides the features.
        folder: the store's folder; it need not be there yet.

    Args:
        spec: what decides the features.
        parent: the folder that holds stores, e.g. `features/store`.

    Raises:
        StoreError: a store of that name is damaged, or holds another trunk's features.
    """

    def __init__(self, spec: TrunkSpec, parent: Path) -> None:
        self.spec, self.folder = spec, store_folder(parent, spec)
        self._store = Store.find(parent, spec, hold=True)
        self._index = RowIndex(self._store) if self._store else None
        self._new: dict[RowKey, RowAddress] = {}
        self._damaged: list[ShardError] = []

    @property
    def damaged(self) -> list[str]:
        """What is wrong with each shard whose rows cannot be used for that."""
        return sorted({str(error) for error in (*self._damaged, *(self._index.damaged if self._index else ()))})

    def has(self, keys: Sequence[RowKey]) -> list[bool]:
        """Of each row whether it was kept before."""
        return [address is not None for address in self._before(keys)]

    def addresses(self, keys: Sequence[RowKey]) -> list[RowAddress]:
        """Where the rows lie, which were kept before or committed through this."""
        addresses = [self._new.get(key) or before for key, before in zip(keys, self._before(keys), strict=True)]
        assert None not in addresses, "every row that is asked for has been kept or computed"
        return cast("list[RowAddress]", addresses)

    def _before(self, keys: Sequence[RowKey]) -> Sequence[RowAddress | None]:
        return self._index.find_all(keys) if self._index else [None] * len(keys)

    def commit(
        self, keys: Sequence[RowKey], tensors: tuple[np.ndarray, ...], engine: str, base_layers: Sequence[str]
    ) -> None:
        """Keep rows; the store's folder is made with the first of them, so a run that fails early leaves none."""
        if self._store is None:
            about = {"libraries": library_versions(), "base_layers": list(base_layers)}
            self._store = Store.create(self.folder.parent, self.spec, about=about, hold=True)
        rows = Rows(
            digest_rows(digest for digest, _ in keys),
            np.array([view for _, view in keys], np.int32),
            tensors,
        )
        shard = self._store.append(rows, engine=engine)
        self._new |= {key: RowAddress(shard, row) for row, key in enumerate(keys)}

    def compact(self) -> None:
        """Join the store's small shards where there are many, if rows have been committed through this."""
        if self._store is None or not self._new:
            return
        with contextlib.suppress(WriteError):  # All rows are kept; a later run may find more room.
            if compact(self._store):
                self._look_again()

    def gather(self, keys: Sequence[RowKey]) -> tuple[np.ndarray, ...]:
        """For each tensor of the trunk the features of these rows: (n, *shape) float32.

        Raises:
            ShardError: a shard is missing or damaged.
        """
        assert self._store is not None, "every row that is asked for has been kept or computed"
        shards, places = place_rows(self.addresses(keys))
        digests, views = digest_rows(digest for digest, _ in keys), np.array([view for _, view in keys], np.int64)
        rows = LocatedRows(shards=shards, places=places, digests=digests, views=views)
        tensors, found = read_rows(self._store, rows)
        if found is not rows:  # Another process has joined shards.
            self._look_again()
        return tensors

    def _look_again(self) -> None:
        """Forget where rows lay, and read which rows the store holds now."""
        assert self._store is not None, "rows move only in a store that is there"
        self._damaged += self._index.damaged if self._index else []
        self._index, self._new = RowIndex(self._store), {}


class FeatureCache:
    """A trunk, and the stores that keep its features: one for images, and one for their augmented views.

    Images and views have a store each, since only the key of views covers the augmentation: so images that are kept
    already are found again with any augmentation.

    Attributes:
        trunk: the trunk.
        spec: what decides the features of images.
        folder: of the store of images; it need not be there yet.
        computed: how many rows have been committed through this.

    Args:
        trunk: the trunk.
        parent: the folder that holds stores, e.g. `features/store`.
        augmentation: how views are made: `augmentation.Views.rule`; empty where there are none.

    Raises:
        StoreError: a store of that name is damaged, or holds another trunk's features.
    """

    def __init__(self, trunk: Trunk, parent: Path, augmentation: str = "") -> None:
        self.trunk, self.spec = trunk, trunk.spec
        self.images = CachedStore(trunk.spec, parent)
        self.folder = self.images.folder
        self.views = (
            CachedStore(dataclasses.replace(trunk.spec, augmentation=augmentation), parent) if augmentation else None
        )
        self.computed = 0

    @property
    def stores(self) -> list[CachedStore]:
        """The stores: that of images, and that of views where there are any."""
        return [self.images] + ([self.views] if self.views else [])

    @property
    def damaged(self) -> list[str]:
        """What is wrong with each shard whose rows cannot be used for that."""
        return [told for cached_store in self.stores for told in cached_store.damaged]

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes, uncompressed, with its index."""
        values = sum(int(np.prod(shape)) for shape in self.spec.shapes)
        return values * np.dtype(self.spec.dtype).itemsize + 44

    def has(self, keys: Sequence[RowKey]) -> list[bool]:
        """Of each image or view whether its features were kept before."""
        images = [key for key in keys if key[1] == 0]
        if len(images) == len(keys):
            return self.images.has(keys)
        views = [key for key in keys if key[1]]
        kept = dict(zip(images, self.images.has(images), strict=True))
        kept |= zip(views, self._store_of(1).has(views), strict=True)
        return [kept[key] for key in keys]

    def addresses(self, keys: Sequence[RowKey]) -> list[RowAddress]:
        """Where the features lie: of images, or of views, which have another store."""
        return self._store_of(max((view for _, view in keys), default=0)).addresses(keys)

    def commit(self, keys: Sequence[RowKey], tensors: tuple[np.ndarray, ...], engine: str) -> None:
        """Keep the features of images and views: for each tensor of the trunk (n, *shape)."""
        for cached_store, augmented in ((self.images, False), (self.views, True)):
            rows = [row for row, (_, view) in enumerate(keys) if (view > 0) == augmented]
            if rows:
                assert cached_store is not None, "views are computed only where there is an augmentation"
                chosen = [keys[row] for row in rows]
                cached_store.commit(chosen, tuple(tensor[rows] for tensor in tensors), engine, self.trunk.base_layers)
        self.computed += len(keys)

    def gather(self, digests: Sequence[bytes], view: int = 0) -> tuple[np.ndarray, ...]:
        """For each tensor of the trunk the features of one view of these images: (n, *shape) float32.

        Raises:
            ShardError: a shard is missing or damaged.
        """
        return self._store_of(view).gather([(digest, view) for digest in digests])

    def _store_of(self, view: int) -> CachedStore:
        if view == 0:
            return self.images
        assert self.views is not None, "views are asked for only where there is an augmentation"
        return self.views

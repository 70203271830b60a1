"""Read the rows of a feature set from its stores, wherever they are now."""

from __future__ import annotations

from typing import Any

import numpy as np

from permafrost.errors import OptionError, SetError, ShardError, StoreError, VersionError
from permafrost.store.row_reader import read_rows, relocate
from permafrost.store.set_content import Part, SetContent, ViewRows, parts, with_part
from permafrost.store.storage import StoredObject
from permafrost.store.store import Store
from permafrost.trunk.spec import TrunkSpec, first_difference


class SetRows:
    """The rows of a set. Stores and shards that were read stay open.

    Attributes:
        content: the content of the set, with the places where its rows were last found.

    Args:
        place: where the set's file is.
        content: the content of that file.
    """

    def __init__(self, place: StoredObject, content: SetContent) -> None:
        self.content = content
        self._place = place
        self._stores: dict[str, Store] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the stores: another process opens its own."""
        return vars(self) | {"_stores": {}}

    def store(self, source: SetContent | ViewRows | Part) -> Store:
        """Return the store of the images, of their augmented views, or of one of the set's `parts`.

        Raises:
            SetError: it is gone, damaged, or holds another trunk's features.
            VersionError: it is of another format version.
        """
        if source.store not in self._stores:
            self._stores[source.store] = self._open_store(source.store, source.spec)
        return self._stores[source.store]

    def read(self, rows: np.ndarray, view: int) -> np.ndarray:
        """Return the features of one view of some images, (k, *shape) float32.

        Args:
            rows: (k,) int64, indices of images.
            view: the view; 0 is the image itself.

        Raises:
            OptionError: an image does not have this view.
            SetError: the store is gone, or holds another trunk's features.
            ShardError: a shard is missing or damaged.
            StoreError: the rows do not fit into memory.
        """
        located = self._locate(rows, view)
        try:
            tensors = self.store(located).gather(located.shards, located.places, digests=located.digests)
        except ShardError:
            self._stores.clear()  # Another process may have removed the store, or merged shards.
            tensors, found = read_rows(self.store(located), located)
            if found is not located:
                self._relocate()
        (features,) = tensors
        return features

    def disk_order(self, rows: np.ndarray, view: int) -> np.ndarray:
        """Return the order of rows on disk: (k,) int64, indices into `rows`."""
        places = self._locate(rows, view).places
        return np.lexsort((places[:, 1], places[:, 0]))

    def _locate(self, rows: np.ndarray, view: int) -> Part:
        """Return the rows of one view of some images, with their store."""
        content = self.content  # Another thread may replace it.
        source: SetContent | ViewRows = content
        if view == 0:
            places = content.places[rows]
        else:
            source = views = self._views(view)
            places = views.places[view - 1, rows]
            if (places < 0).any():
                raise OptionError("only training images have views", expected="training images, or view 0", found=view)
        return Part(
            spec=source.spec,
            store=source.store,
            shards=source.shards,
            places=places,
            digests=content.digests[rows],
            views=np.full(len(places), view, np.int64),
        )

    def _views(self, view: int) -> ViewRows:
        views = self.content.views
        if views is None or not 0 < view <= len(views.places):
            raise OptionError(
                f"{self._place} has no view {view}",
                expected=f"0 to {len(views.places)}" if views else "0 only",
                found=view,
                do="extract with more --views",
            )
        return views

    def _relocate(self) -> None:
        """Find all rows whose shards are gone, so that later batches need not search again."""
        for part in parts(self.content):
            moved = relocate(part, self.store(part))
            if moved is not None:
                self.content = with_part(self.content, moved)

    def _open_store(self, folder: str, spec: TrunkSpec) -> Store:
        try:
            store = Store(self._place.storage.below(folder))
        except VersionError as error:
            raise VersionError(
                f"the store of {self._place} is of another version: {error.what}",
                expected=error.expected,
                found=error.found,
                do="run extract again, which makes a new store",
            ) from error
        except StoreError as error:
            raise SetError(
                f"the store of {self._place} cannot be opened: {error.what}",
                do="move the set and the folder `store` together, or run extract again",
            ) from error
        difference = first_difference(spec, store.spec)
        if difference is None and spec.shapes != store.spec.shapes:
            difference = "shapes", spec.shapes, store.spec.shapes
        if difference:
            field, expected, found = difference
            raise SetError(f"the store of {self._place} has changed: {field}", expected=expected, found=found)
        return store

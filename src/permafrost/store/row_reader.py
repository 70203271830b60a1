"""Read rows wherever they are now: another process may merge shards at any moment."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np

from permafrost.errors import ShardError
from permafrost.store.row_index import RowAddress, RowIndex, place_rows
from permafrost.store.store import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocatedRows:
    """Rows of one store, identified by their content, and the places where they were last found.

    Attributes:
        shards: names of the shards that held the rows.
        places: (n, 2) int64, for each row the index of its shard and its row there.
        digests: (n, 32) uint8, for each row the SHA-256 of its image's content.
        views: (n,) int64, for each row its view.
    """

    shards: tuple[str, ...]
    places: np.ndarray
    digests: np.ndarray
    views: np.ndarray


R = TypeVar("R", bound=LocatedRows)


def read_rows(store: Store, rows: R) -> tuple[tuple[np.ndarray, ...], R]:
    """Read rows, and look for them again if a shard is gone.

    Rows are read by their places only through this function, because shards may be merged meanwhile.

    Returns:
        One array per tensor of the trunk, each (n, *shape) float32, and the rows with the places where they were found:
        `rows` itself if they had not moved.

    Raises:
        ShardError: a row is no longer in any shard, or its shard is damaged or another trunk's.
        StoreError: the rows do not fit into memory.
    """
    while True:
        try:
            return store.gather(rows.shards, rows.places, digests=rows.digests), rows
        except ShardError:
            moved = relocate(rows, store)
            if moved is None:
                raise
            rows = moved


def relocate(rows: R, store: Store) -> R | None:
    """Look for the rows whose shards are gone.

    Returns:
        The rows with their new places; None if no shard is gone, or if a row is in no other shard.
    """
    gone = [number for number, name in enumerate(rows.shards) if not store.has_shard(name)]
    if not gone:
        return None
    addresses = [RowAddress(rows.shards[shard], place) for shard, place in rows.places.tolist()]
    lost = np.flatnonzero(np.isin(rows.places[:, 0], gone)).tolist()
    found = RowIndex(store).find_all([(rows.digests[row].tobytes(), int(rows.views[row])) for row in lost])
    for row, address in zip(lost, found, strict=True):
        if address is None:
            return None
        addresses[row] = address
    shards, places = place_rows(addresses)
    return dataclasses.replace(rows, shards=shards, places=places)

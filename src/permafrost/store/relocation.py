"""Find rows of a feature set again whose shards were merged into others."""

from __future__ import annotations

import dataclasses

import numpy as np

from permafrost.store.row_index import RowAddress, RowIndex, place_rows
from permafrost.store.set_content import Part
from permafrost.store.store import Store


def relocated(part: Part, store: Store) -> Part | None:
    """Return a part of a set with the places where its rows lie now.

    A set names its rows by content, and records where they lay when it was written. Compaction may have merged
    those shards since.

    Args:
        part: the part.
        store: its store.

    Returns:
        The part, or None if no shard is gone, or a row is in no other shard.
    """
    gone = [number for number, name in enumerate(part.shards) if not store.has_shard(name)]
    if not gone:
        return None
    addresses = [RowAddress(part.shards[shard], place) for shard, place in part.places.tolist()]
    lost = np.flatnonzero(np.isin(part.places[:, 0], gone)).tolist()
    found = RowIndex(store).find_all([(part.digests[row].tobytes(), int(part.views[row])) for row in lost])
    for row, address in zip(lost, found, strict=True):
        if address is None:
            return None
        addresses[row] = address
    shards, places = place_rows(addresses)
    return dataclasses.replace(part, shards=shards, places=places)

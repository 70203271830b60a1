"""Compaction: merge many small shards into few large ones.

Each run of `extract` leaves at least one shard, a long one two per second, and each takes a millisecond to open. So the
rows of many small shards are copied into large ones, and then the small ones are removed.

A crash may leave rows twice, but loses none: a small shard is removed only once each of its rows is in a shard that
this process has committed and read back, or in an intact one that is too large to be removed. So any number of
processes may merge at once. A reader whose shard is gone looks its rows up again by their content; see
`row_reader.read_rows`.
"""

from __future__ import annotations

import contextlib
from typing import Final

import numpy as np

from permafrost.errors import ShardError
from permafrost.store.row_index import RowIndex
from permafrost.store.shard import Rows
from permafrost.store.store import Store

SMALL_BYTES: Final = 2 * 2**20
"""Size in bytes below which a shard is small: opening it takes as long as reading it."""

FULL_BYTES: Final = 32 * 2**20
"""Size in bytes of a merged shard; merging takes three times as much memory."""

MANY: Final = 32
"""Number of small shards above which they are merged."""


def compact(store: Store) -> bool:
    """Merge the small shards of a store if there are many; leave damaged ones alone.

    Returns:
        Whether shards were merged.

    Raises:
        WriteError: the disk is full, or similar. Nothing is lost then.
    """
    small = _small_shards(store)
    if len(small) <= MANY:
        return False
    large = RowIndex(store, without=small)
    mergers: dict[str, _Merger] = {}
    for name in small:
        with contextlib.suppress(ShardError):
            rows, engine = store.load(name)
            merger = mergers.setdefault(engine, _Merger(store, engine, large))
            merger.add(name, rows)
            if merger.bytes >= FULL_BYTES:
                merger.commit()
                del mergers[engine]
    for merger in mergers.values():
        merger.commit()
    return True


class _Merger:
    """Collect the rows of several shards that one engine computed, and commit them as one shard."""

    def __init__(self, store: Store, engine: str, large: RowIndex) -> None:
        self.bytes = 0
        self._store, self._engine, self._large = store, engine, large
        self._names: list[str] = []
        self._parts: list[Rows] = []
        self._seen: set[tuple[bytes, int]] = set()

    def add(self, name: str, rows: Rows) -> None:
        """Add a shard's rows, except those that are already here or in a large shard."""
        keys = [(digest.tobytes(), int(view)) for digest, view in zip(rows.digests, rows.views, strict=True)]
        elsewhere = self._large.find_all(keys)
        wanted = np.array([self._is_new(key) and not there for key, there in zip(keys, elsewhere, strict=True)], bool)
        part = rows.take(wanted)
        self._names.append(name)
        self._parts.append(part)
        self.bytes += sum(tensor.nbytes for tensor in part.features)

    def commit(self) -> None:
        """Commit the rows as one shard, then delete the shards that they came from."""
        if len(self._names) < 2:
            return
        parts, self._parts, merged = self._parts, [], ""
        rows = Rows.concatenated(parts)
        del parts  # They take as much memory as `rows`, and so do the bytes that are written.
        if len(rows):
            merged = self._store.append(rows, engine=self._engine)
            self._store.verify(merged)
        for name in self._names:
            # If another process has merged the same shards, `merged` may be among them.
            if name != merged:
                with contextlib.suppress(OSError):
                    self._store.delete_shard(name)

    def _is_new(self, key: tuple[bytes, int]) -> bool:
        new = key not in self._seen
        self._seen.add(key)
        return new


def _small_shards(store: Store) -> list[str]:
    """Return the names of the small shards, oldest first: rows that were committed together stay together."""
    found = []
    for name in store.shard_names():
        info = store.stat_shard(name)
        if info is not None and info.size < SMALL_BYTES:
            found.append((info.modified, name))
    return [name for _, name in sorted(found)]

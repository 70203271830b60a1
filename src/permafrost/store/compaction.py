"""Many small shards, joined into few large ones.

A folder that grows by ten images a day leaves a shard a day; a long run two a second. Each takes a millisecond to
open. So where there are many small shards, their rows are copied into large ones, and only then are the small ones
removed.

A kill leaves rows twice, never not at all: a small shard is removed only when each of its rows lies in a shard that
this process has committed and read back, or in one that is whole and too large ever to be removed so. Therefore any
number of processes may do it at once. Whoever had an old name in hand looks the row up again by its content; see
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
"""A shard below this size is small: opening it takes as long as reading it. Joining larger ones does not pay."""

FULL_BYTES: Final = 32 * 2**20
"""So large joined shards become; joining takes three times as much memory."""

MANY: Final = 32
"""So many small shards may lie side by side."""


def compact(store: Store) -> bool:
    """Join the small shards of a store, if there are many; damaged ones stay as they are.

    Returns:
        Whether there were many.

    Raises:
        WriteError: the disk is full, or the like; nothing is lost then.
    """
    small = _small_shards(store)
    if len(small) <= MANY:
        return False
    large = RowIndex(store, without=small)
    joints: dict[str, _Joint] = {}
    for name in small:
        with contextlib.suppress(ShardError):
            rows, engine = store.load(name)
            joint = joints.setdefault(engine, _Joint(store, engine, large))
            joint.add(name, rows)
            if joint.bytes >= FULL_BYTES:
                joint.commit()
                del joints[engine]
    for joint in joints.values():
        joint.commit()
    return True


class _Joint:
    """Rows of several shards that one engine computed, to become one shard."""

    def __init__(self, store: Store, engine: str, large: RowIndex) -> None:
        self.bytes = 0
        self._store, self._engine, self._large = store, engine, large
        self._names: list[str] = []
        self._parts: list[Rows] = []
        self._seen: set[tuple[bytes, int]] = set()

    def add(self, name: str, rows: Rows) -> None:
        """Take a shard's rows, without those that are here, or in a large shard, already."""
        keys = [(digest.tobytes(), int(view)) for digest, view in zip(rows.digests, rows.views, strict=True)]
        elsewhere = self._large.find_all(keys)
        wanted = np.array([self._is_new(key) and not there for key, there in zip(keys, elsewhere, strict=True)], bool)
        part = Rows(rows.digests[wanted], rows.views[wanted], tuple(tensor[wanted] for tensor in rows.features))
        self._names.append(name)
        self._parts.append(part)
        self.bytes += sum(tensor.nbytes for tensor in part.features)

    def commit(self) -> None:
        """Keep the rows in one shard, then remove those that they came from."""
        if len(self._names) < 2:
            return
        parts, self._parts, joined = self._parts, [], ""
        rows = Rows(
            np.concatenate([part.digests for part in parts]),
            np.concatenate([part.views for part in parts]),
            tuple(np.concatenate(tensors) for tensors in zip(*(part.features for part in parts), strict=True)),
        )
        del parts  # They take as much memory as `rows`, and what is written as much again.
        if len(rows):
            joined = self._store.append(rows, engine=self._engine)
            self._store.verify(joined)
        for name in self._names:
            # Another process may have joined the same shards, and this one may have found the result among them.
            if name != joined:
                with contextlib.suppress(OSError):
                    (self._store.folder / name).unlink()

    def _is_new(self, key: tuple[bytes, int]) -> bool:
        new = key not in self._seen
        self._seen.add(key)
        return new


def _small_shards(store: Store) -> list[str]:
    """Names of the small shards, the oldest first, so that rows that were committed together stay together."""
    found = []
    for name in store.shard_names():
        with contextlib.suppress(FileNotFoundError):
            status = (store.folder / name).stat()
            if status.st_size < SMALL_BYTES:
                found.append((status.st_mtime_ns, name))
    return [name for _, name in sorted(found)]

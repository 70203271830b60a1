"""Shards that stay open between reads: opening one reads and checks its whole index."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from permafrost.store.shard import Shard

MAXIMUM_OPEN: Final = 64
"""Maximum number of open shards per store: systems allow a process as few as 256 open files."""

MAXIMUM_INDEX_BYTES: Final = 64 * 2**20
"""Maximum number of bytes of the indices of these shards."""


class OpenShards:
    """Open shards of one store; the least recently used ones are closed first.

    Threads may share one object: a shard that one thread reads is opened a second time for another. A shard that was
    removed since it was opened still has its rows, as shards never change.
    """

    def __init__(self) -> None:
        self._idle: OrderedDict[str, Shard] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[OpenShards], tuple[()]]:
        """Pickle without files: another process opens its own."""
        return OpenShards, ()

    @contextlib.contextmanager
    def borrow(self, name: str, open_shard: Callable[[str], Shard]) -> Iterator[Shard]:
        """Yield an open shard, and keep it open afterwards unless the block raises.

        Args:
            name: the shard's name.
            open_shard: opens and checks it.

        Raises:
            ShardError: as `open_shard`.
        """
        with self._lock:
            shard = self._idle.pop(name, None)
            self._bytes -= shard.index_bytes if shard else 0
        shard = shard or open_shard(name)
        try:
            yield shard
        except BaseException:
            shard.close()
            raise
        self._give_back(name, shard)

    def close(self) -> None:
        """Close all shards that are not in use."""
        with self._lock:
            while self._idle:
                self._close_oldest()

    def _give_back(self, name: str, shard: Shard) -> None:
        with self._lock:
            if name in self._idle:  # Another thread has returned its own.
                shard.close()
                return
            self._idle[name] = shard
            self._bytes += shard.index_bytes
            while len(self._idle) > MAXIMUM_OPEN or self._bytes > MAXIMUM_INDEX_BYTES:
                self._close_oldest()

    def _close_oldest(self) -> None:
        _, shard = self._idle.popitem(last=False)
        self._bytes -= shard.index_bytes
        shard.close()

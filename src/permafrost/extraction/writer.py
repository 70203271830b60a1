"""Commit finished features in a separate thread, as one shard whenever enough have accumulated."""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from permafrost.errors import FeatureError
from permafrost.extraction.batcher import Member
from permafrost.extraction.cache import RowKey
from permafrost.extraction.stopwatch import Stopwatch
from permafrost.trunk.spec import TrunkSpec

if TYPE_CHECKING:
    from permafrost.engines.engine import Engine

COMMIT_SECONDS: Final = 0.5
"""Seconds after which finished rows are committed: a kill loses no more than these."""

COMMIT_BYTES: Final = 64 * 2**20
"""Bytes of finished rows after which they are committed, if these accumulate sooner."""


class Cache(Protocol):
    """The part of a `FeatureCache` that the writer uses."""

    spec: TrunkSpec

    def commit(self, keys: Sequence[RowKey], tensors: tuple[np.ndarray, ...], engine: str) -> None:
        """Commit rows; when this returns, they are on disk."""
        ...


class Writer:
    """Commits the features that one engine computes to the caches of its trunks.

    When the `with` block ends, even by an error or Ctrl-C, all features that were added are committed.

    Args:
        caches: the caches, in the order of the model's outputs.
        engine: the engine, for the record.
        names: names of the dataset's images, for error messages.
        stopwatch: counts the time spent waiting for commits.
    """

    def __init__(self, caches: Sequence[Cache], engine: Engine, names: Sequence[str], stopwatch: Stopwatch) -> None:
        self._caches, self._engine, self._names, self._stopwatch = caches, engine, names, stopwatch
        self._rows: list[list[tuple[list[RowKey], tuple[np.ndarray, ...]]]] = [[] for _ in caches]
        self._bytes = 0
        self._last = time.perf_counter()
        self._thread = ThreadPoolExecutor(1, "commits")
        self._running: collections.deque[Future[None]] = collections.deque()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.finish()
        except Exception:
            if error is None:
                raise
        finally:
            self._thread.shutdown()

    def add(self, members: Sequence[Member], outputs: Sequence[np.ndarray]) -> None:
        """Add the features of a batch.

        Args:
            members: the n rows of the batch.
            outputs: one array (n, *shape) float32 per output of the model.

        Raises:
            FeatureError: features are not finite.
            WriteError: a commit failed.
        """
        remaining = iter(outputs)
        for number, (cache, rows) in enumerate(zip(self._caches, self._rows, strict=True)):
            wanted = [row for row, member in enumerate(members) if member.lacking[number]]
            chosen = slice(None) if len(wanted) == len(members) else wanted  # A slice copies nothing.
            names = [self._names[members[row].index] for row in wanted]
            tensors = tuple(as_stored(next(remaining)[chosen], cache.spec, names) for _ in cache.spec.shapes)
            if wanted:
                rows.append(([members[row].key for row in wanted], tensors))
                self._bytes += sum(tensor.nbytes for tensor in tensors)
        if self._bytes >= COMMIT_BYTES or time.perf_counter() - self._last >= COMMIT_SECONDS:
            self._commit()

    def finish(self) -> None:
        """Commit the remaining rows; when this returns, all of them are on disk."""
        self._commit()
        self._wait(0)

    def _commit(self) -> None:
        for cache, rows in zip(self._caches, self._rows, strict=True):
            if rows:
                keys = [key for part, _ in rows for key in part]
                tensors = tuple(np.concatenate(parts) for parts in zip(*(part for _, part in rows), strict=True))
                self._running.append(self._thread.submit(cache.commit, keys, tensors, self._engine.record))
                rows.clear()
        self._bytes, self._last = 0, time.perf_counter()
        self._wait(2 * len(self._caches))

    def _wait(self, maximum: int) -> None:
        """Wait until at most `maximum` commits are running; raise what one of them raised."""
        with self._stopwatch.waiting("write"):
            while len(self._running) > maximum or (self._running and self._running[0].done()):
                self._running.popleft().result()


def as_stored(features: np.ndarray, spec: TrunkSpec, names: Sequence[str]) -> np.ndarray:
    """Return features in the dtype in which they are stored.

    Args:
        features: (n, *shape) float32.
        spec: the spec of their trunk.
        names: the names of the n images.

    Raises:
        FeatureError: a value is not finite in that dtype; its image is named.
    """
    with np.errstate(over="ignore"):
        stored = features.astype(spec.dtype, copy=False)
    finite = np.isfinite(stored).all(axis=tuple(range(1, stored.ndim)))
    if not finite.all():
        row = int(np.argmin(finite))
        overflow = bool(np.isfinite(features[row]).all())
        raise FeatureError(
            f"features of {names[row]} are not finite",
            expected=f"numbers within {spec.dtype}",
            found="numbers too large for it" if overflow else "NaN or infinity",
            do="store them with --dtype float32" if overflow else "cut at another layer, or give other weights",
        )
    return stored

"""Finished features handed to the stores by a thread of its own, a shard whenever enough have come together."""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

import numpy as np

from permafrost.errors import FeatureError
from permafrost.extraction.reader import RowKey
from permafrost.extraction.stopwatch import Stopwatch
from permafrost.trunk.spec import TrunkSpec

COMMIT_SECONDS: Final = 0.5
COMMIT_BYTES: Final = 64 * 2**20


class Keeper(Protocol):
    """What keeps rows."""

    def commit(self, keys: Sequence[RowKey], tensors: tuple[np.ndarray, ...], engine: str) -> None:
        """Keep rows, for each tensor (n, *shape); when this returns they are kept."""
        ...


class Committer:
    """Commits finished rows in a thread of its own, a shard whenever half a second or 64 MiB have come together.

    When the block that it guards ends, by an error or by Ctrl-C too, what is finished has been committed.

    Args:
        keepers: what keeps the rows.
        stopwatch: on which waiting for commits is counted.
    """

    def __init__(self, keepers: Sequence[Keeper], stopwatch: Stopwatch) -> None:
        self._rows: dict[int, list[tuple[list[RowKey], tuple[np.ndarray, ...]]]] = {
            id(keeper): [] for keeper in keepers
        }
        self._keepers, self._stopwatch = keepers, stopwatch
        self._engine = ""
        self._bytes = 0
        self._last = time.perf_counter()
        self._thread = ThreadPoolExecutor(1, "commits")
        self._running: collections.deque[Future[None]] = collections.deque()

    def __enter__(self) -> Committer:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.finish()
        except Exception:
            if error is None:
                raise
        finally:
            self._thread.shutdown()

    def add(self, keeper: Keeper, keys: list[RowKey], tensors: tuple[np.ndarray, ...], engine: str) -> None:
        """Hand over rows, for each tensor (n, *shape) in the dtype that is stored.

        Args:
            keeper: one of those that were given.
            keys: what the rows are of.
            tensors: the rows.
            engine: what computed them: the same for all.
        """
        self._engine = engine
        if keys:
            self._rows[id(keeper)].append((keys, tensors))
            self._bytes += sum(tensor.nbytes for tensor in tensors)
        if self._bytes >= COMMIT_BYTES or time.perf_counter() - self._last >= COMMIT_SECONDS:
            self._commit()

    def finish(self) -> None:
        """Commit what is left; when this returns, all is kept."""
        self._commit()
        self._wait(0)

    def _commit(self) -> None:
        for keeper in self._keepers:
            rows, self._rows[id(keeper)] = self._rows[id(keeper)], []
            if rows:
                keys = [key for part, _ in rows for key in part]
                tensors = tuple(np.concatenate(parts) for parts in zip(*(part for _, part in rows), strict=True))
                self._running.append(self._thread.submit(keeper.commit, keys, tensors, self._engine))
        self._bytes, self._last = 0, time.perf_counter()
        self._wait(2 * len(self._keepers))

    def _wait(self, most: int) -> None:
        """Wait until at most `most` commits are under way; raises what one of them raised."""
        with self._stopwatch.waiting("write"):
            while len(self._running) > most or (self._running and self._running[0].done()):
                self._running.popleft().result()


def as_stored(features: np.ndarray, spec: TrunkSpec, names: list[str]) -> np.ndarray:
    """Features in the dtype that they are stored in.

    Raises:
        FeatureError: one is not finite, in that dtype; its image is named.
    """
    with np.errstate(over="ignore"):
        stored = features.astype(spec.dtype, copy=False)
    finite = np.isfinite(stored).all(axis=tuple(range(1, stored.ndim)))  # Of no rows too: all may be kept already.
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

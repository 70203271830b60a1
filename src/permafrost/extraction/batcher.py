"""Gather rows into batches, compute several batches at once, and hand the features over in the order of the rows."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from permafrost.extraction.cache import RowKey
from permafrost.extraction.stopwatch import Stopwatch

if TYPE_CHECKING:
    from permafrost.engines.engine import Engine


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A row in a batch.

    Attributes:
        index: index of the image in the dataset.
        key: the image's digest and the view.
        lacking: for each cache, whether it lacks the row.
    """

    index: int
    key: RowKey
    lacking: tuple[bool, ...]


OnFeatures = Callable[[list[Member], list["np.ndarray"]], None]
"""Takes the rows of a batch, and their features: one array (n, *shape) float32 per output of the model."""


class Batcher:
    """Computes rows that are added one by one, in its own threads.

    Args:
        engine: the engine.
        on_features: called with each finished batch, in order, by the thread that adds rows.
        stopwatch: counts the time spent waiting for the engine.
    """

    def __init__(self, engine: Engine, on_features: OnFeatures, stopwatch: Stopwatch) -> None:
        self._engine, self._on_features, self._stopwatch = engine, on_features, stopwatch
        self._members: list[Member] = []
        self._pixels: list[np.ndarray] = []
        self._seen: set[RowKey] = set()
        self._threads = ThreadPoolExecutor(engine.streams, "engine")
        self._running: collections.deque[tuple[list[Member], Future[list[np.ndarray]]]] = collections.deque()

    def add(self, member: Member, pixels: np.ndarray) -> None:
        """Add a row, pixels (h, w, 3) uint8, unless a copy of it was added before."""
        if member.key in self._seen:
            return
        self._seen.add(member.key)
        self._members.append(member)
        self._pixels.append(pixels)
        if len(self._members) >= self._engine.batch_size:
            self._start()
            # For each batch being computed another one is ready, so that the engine never waits.
            self._hand_over(2 * self._engine.streams)

    def finish(self) -> None:
        """Compute the remaining rows, and hand over all features."""
        if self._members:
            self._start()
        self._hand_over(0)

    def close(self) -> None:
        """End the threads and drop batches that have not been started."""
        self._threads.shutdown(cancel_futures=True)

    def _start(self) -> None:
        batch = np.stack(self._pixels)
        self._running.append((self._members, self._threads.submit(self._engine, batch)))
        self._members, self._pixels = [], []

    def _hand_over(self, maximum: int) -> None:
        """Hand over finished batches, and wait until at most `maximum` are being computed."""
        while len(self._running) > maximum or (self._running and self._running[0][1].done()):
            members, future = self._running.popleft()
            with self._stopwatch.waiting("compute"):
                features = future.result()
            self._on_features(members, features)

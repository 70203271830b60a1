"""Images gathered into batches, several batches in an engine at once, features out in the order of the images."""

from __future__ import annotations

import collections
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from permafrost.extraction.reader import RowKey
from permafrost.extraction.stopwatch import Stopwatch

if TYPE_CHECKING:
    from permafrost.engines.selection import Engine

Member = tuple[int, RowKey]
"""An image in a batch: its index in the dataset, and the row that it will be."""

OnFeatures = Callable[[list[Member], list["np.ndarray"]], None]
"""Takes the images of a batch, and for each of the model's outputs their features (n, *shape) float32."""


class Batcher:
    """Has an engine compute images that are added one by one, in threads of its own.

    Args:
        engine: what computes.
        on_features: called with each finished batch, by the thread that adds images, in the order of these.
        stopwatch: on which waiting for the engine is counted.
    """

    def __init__(self, engine: Engine, on_features: OnFeatures, stopwatch: Stopwatch) -> None:
        self._engine, self._on_features, self._stopwatch = engine, on_features, stopwatch
        self._members: list[Member] = []
        self._pixels: list[np.ndarray] = []
        self._seen: set[RowKey] = set()
        self._threads = ThreadPoolExecutor(engine.streams, "engine")
        self._running: collections.deque[tuple[list[Member], Future[list[np.ndarray]]]] = collections.deque()

    def add(self, index: int, key: RowKey, pixels: np.ndarray) -> None:
        """Add a view of an image, (h, w, 3) uint8, unless a copy of it was added before."""
        if key in self._seen:
            return
        self._seen.add(key)
        self._members.append((index, key))
        self._pixels.append(pixels)
        if len(self._members) >= self._engine.batch_size:
            self._start()
            # One batch waits for each that is computed, so that the engine never waits.
            self._hand_over(2 * self._engine.streams)

    def finish(self) -> None:
        """Compute what is left, and hand everything over."""
        if self._members:
            self._start()
        self._hand_over(0)

    def close(self) -> None:
        """End the threads; what has not been started is dropped."""
        self._threads.shutdown(cancel_futures=True)

    def _start(self) -> None:
        batch = np.stack(self._pixels)
        self._running.append((self._members, self._threads.submit(self._engine, batch)))
        self._members, self._pixels = [], []

    def _hand_over(self, most: int) -> None:
        """Hand over finished batches, and wait until at most `most` are under way."""
        while len(self._running) > most or (self._running and self._running[0][1].done()):
            members, future = self._running.popleft()
            with self._stopwatch.waiting("compute"):
                features = future.result()
            self._on_features(members, features)

"""Stream rows that need not fit into memory, in the order of the disk or shuffled in large pieces.

Both read sequentially, and one thread reads ahead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from permafrost.threads import in_order

BLOCK_BYTES: Final = 32 * 2**20
"""Bytes read at once in the order of the disk."""

CHUNK_BYTES: Final = 2**20
"""Bytes of neighbouring rows that stay together in a shuffle: enough for a disk to read at full speed."""

SHUFFLE_BYTES: Final = 2**30
"""The memory limit of shuffled reading for callers without a limit of their own."""

Made = TypeVar("Made")


class RowSource(Protocol):
    """What `FeatureRows` reads from: a feature set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image's features."""

    def labels(self) -> np.ndarray:
        """Return the labels of all images, (n,) int64."""

    def features(self, rows: np.ndarray, *, view: int) -> np.ndarray:
        """Return the features of some images, (k, *shape) float32."""

    def disk_order(self, rows: np.ndarray, *, view: int) -> np.ndarray:
        """Return the order of features on disk, (k,) int64."""


class RowsOnDisk(Protocol):
    """What `ShuffledRows` reads from.

    Attributes:
        disk_order: (n,) int64, the numbers of all rows in the order in which they are stored.
        row_bytes: bytes that one row takes in memory.
        memory_limit: bytes that all rows held in memory may take.
    """

    disk_order: np.ndarray
    memory_limit: int

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes in memory."""

    def load(self, numbers: np.ndarray) -> Any:
        """Return the rows with these numbers, (k, ...), or a tuple of such arrays."""


class FeatureRows:
    """Some rows of a feature set, on disk.

    Attributes:
        labels: (n,) int64.
        shape: the shape of one image's features.
        memory_limit: bytes that all rows held in memory may take.
        disk_order: (n,) int64, the numbers of all rows in the order in which they are stored.

    Args:
        features: the set.
        rows: (n,) int64, indices of its images.
        memory_limit: bytes that all rows held in memory may take.
        view: the view of each image.
    """

    def __init__(self, features: RowSource, rows: np.ndarray, *, memory_limit: int, view: int = 0) -> None:
        self.labels = features.labels()[rows]
        self.shape = features.shape
        self.memory_limit = memory_limit
        self.disk_order = features.disk_order(rows, view=view)
        self._features, self._rows, self._view = features, rows, view

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes in memory, in float32."""
        return 4 * math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take in memory, in float32."""
        return len(self) * self.row_bytes

    def load(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers (k,): (k, *shape) float32."""
        return self._features.features(self._rows[numbers], view=self._view)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield every row once, in the order of the disk. The next block is read meanwhile.

        Yields:
            Numbers (k,), and rows (k, *shape) float32.
        """
        return self.over_blocks(lambda numbers, rows: (numbers, rows), threads=1)

    def over_blocks(self, function: Callable[[np.ndarray, np.ndarray], Made], *, threads: int) -> Iterator[Made]:
        """Yield the result of a function for each block, in the order of the disk.

        One thread reads: HDF5 admits one at a time, and several threads lose more by waiting than they gain.

        Args:
            function: is called with a block's numbers (k,) and rows (k, *shape) float32. It may change the rows; memory
                stays bounded unless it keeps them.
            threads: threads that call the function. Their blocks, and the one being read, take an eighth of the
                memory limit.
        """
        size = max(1, min(BLOCK_BYTES, self.memory_limit // (8 * (threads + 1))) // self.row_bytes)
        parts = (self.disk_order[start : start + size] for start in range(0, len(self), size))
        with ThreadPoolExecutor(1, "reading") as reader, ThreadPoolExecutor(threads, "blocks") as pool:

            def start(part: np.ndarray) -> Future[Made]:
                loaded = reader.submit(self.load, part)
                return pool.submit(lambda: function(part, loaded.result()))

            yield from in_order(map(start, parts), ahead=threads)

    def sample(self, nbytes: int, *, seed: int) -> np.ndarray:
        """Draw rows at random, from each class in proportion to its size.

        Args:
            nbytes: bytes that they may take; but at least two rows of each class are drawn.
            seed: the seed of the draw.

        Returns:
            Numbers of rows, (k,) int64, ascending.
        """
        count = nbytes // self.row_bytes
        if count >= len(self):
            return np.arange(len(self))
        random = np.random.default_rng(seed)
        drawn = []
        for label in np.unique(self.labels):
            members = np.flatnonzero(self.labels == label)
            wanted = max(2, count * len(members) // len(self))
            drawn.append(random.choice(members, min(wanted, len(members)), replace=False))
        return np.sort(np.concatenate(drawn))


class ShuffledRows:
    """Rows in a new order each epoch, without random access to the disk.

    Neighbouring rows form chunks. As many shuffled chunks as fit into a quarter of the memory limit are read as one
    group, and the rows of a group are shuffled, while a thread reads the next group.

    Args:
        rows: the rows on disk.
    """

    def __init__(self, rows: RowsOnDisk) -> None:
        self._rows = rows
        self._chunk = max(1, CHUNK_BYTES // rows.row_bytes)
        self._per_group = max(1, rows.memory_limit // 4 // (self._chunk * rows.row_bytes))
        self._threads = ThreadPoolExecutor(1, "shuffled reading")
        self._groups: list[np.ndarray] = []
        self._buffers: dict[int, Future[Any]] = {}
        self._group_of = np.empty(len(rows.disk_order), np.int64)
        self._place_of = np.empty(len(rows.disk_order), np.int64)

    def order(self, random: np.random.Generator) -> np.ndarray:
        """Draw an epoch's order: (n,) int64.

        Rows that fit into one group have the order `random.permutation(n)`, wherever they are on disk.
        """
        on_disk = self._rows.disk_order
        chunks = [on_disk[start : start + self._chunk] for start in range(0, len(on_disk), self._chunk)]
        shuffled = random.permutation(len(chunks)) if len(chunks) > self._per_group else np.arange(len(chunks))
        self._buffers.clear()
        self._groups = []
        order = [np.empty(0, np.int64)]
        for start in range(0, len(chunks), self._per_group):
            # Sorted, so that a group is read in the order of the disk.
            group = np.concatenate([chunks[i] for i in np.sort(shuffled[start : start + self._per_group])])
            self._group_of[group] = len(self._groups)
            self._place_of[group] = np.arange(len(group))
            self._groups.append(group)
            order.append(random.permutation(np.sort(group)))
        return np.concatenate(order)

    def load(self, numbers: np.ndarray) -> Any:
        """Return the rows with these numbers (k,), which must come next in the order that was drawn last.

        Returns:
            (k, ...), or a tuple of such arrays, as `RowsOnDisk.load` does.
        """
        groups = self._group_of[numbers]
        for old in [number for number in self._buffers if number < groups.min()]:
            del self._buffers[old]
        pieces = []
        for group in np.unique(groups):
            rows, at = self._buffer(int(group)).result(), self._place_of[numbers[groups == group]]
            pieces.append(tuple(tensor[at] for tensor in rows) if isinstance(rows, tuple) else rows[at])
        # Only now that the group before has been dropped: two groups are in memory, never three.
        self._buffer(int(groups.min()) + 1)
        return pieces[0] if len(pieces) == 1 else _joined(pieces)

    def _buffer(self, group: int) -> Future[Any]:
        """Return the future rows of a group, and start to read them; past the last group they are empty."""
        if group not in self._buffers:
            wanted = self._groups[group] if group < len(self._groups) else np.empty(0, np.int64)
            self._buffers[group] = self._threads.submit(self._rows.load, wanted)
        return self._buffers[group]


def _joined(pieces: list[Any]) -> Any:
    if isinstance(pieces[0], tuple):
        return tuple(np.concatenate(tensors) for tensors in zip(*pieces, strict=True))
    return np.concatenate(pieces)

"""Rows of a feature set that need not fit into memory: read in the order of the disk, or shuffled by blocks.

Reading is sequential in both, and a thread reads ahead.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np

from permafrost.errors import HeadError
from permafrost.store.feature_set import FeatureSet

BLOCK_BYTES: Final = 32 * 2**20
"""What is read at once in the order of the disk."""

CHUNK_BYTES: Final = 2**20
"""Of rows that lie next to each other and stay together when they are shuffled: a disk reads as much at full speed."""

IMAGE_BYTES: Final = 200
"""Of memory an image takes beside its features: where they lie, digest, label, name; orders; what is said of it."""

COPIES: Final = 4
"""How often fitting in memory holds the features: as they are, in double precision, scaled, and a fold's."""


Made = TypeVar("Made")


class FeatureRows:
    """Some rows of a feature set, on disk.

    Attributes:
        labels: (n,) int64.
        shape: of one image's features.
        memory_limit: bytes that all that is held of them may take.
        disk_order: (n,) int64, their numbers as they lie on the disk.

    Args:
        features: the set.
        rows: (n,) int64, indices of its images.
        memory_limit: bytes that all that is held of them may take.
    """

    def __init__(self, features: FeatureSet, rows: np.ndarray, *, memory_limit: int) -> None:
        self.labels = features.labels()[rows]
        self.shape = features.shape
        self.memory_limit = memory_limit
        self._features, self._rows = features, rows
        places = features.content.places[rows]
        self.disk_order = np.lexsort((places[:, 1], places[:, 0]))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def row_bytes(self) -> int:
        """Of one row in memory, in float32."""
        return 4 * math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Of all rows in memory."""
        return len(self) * self.row_bytes

    def load(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of these numbers (k,): (k, *shape) float32."""
        loaded: np.ndarray = self._features.features(self._rows[numbers])
        return loaded

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every row once, in the order of the disk, the next block being read meanwhile.

        Yields:
            Numbers (k,), and rows (k, *shape) float32.
        """
        return self.over_blocks(lambda numbers, rows: (numbers, rows), threads=1)

    def over_blocks(self, function: Callable[[np.ndarray, np.ndarray], Made], *, threads: int) -> Iterator[Made]:
        """What a function makes of each block's numbers (k,) and rows (k, *shape) float32, in the order of the disk.

        One thread reads: HDF5 lets one in at a time, and several that wait for each other cost more than they bring.

        Args:
            function: may change the rows, and must not keep them if memory is to stay bounded.
            threads: how many call it; their blocks, and one that is read, take an eighth of the memory limit.
        """
        size = max(1, min(BLOCK_BYTES, self.memory_limit // (8 * (threads + 1))) // self.row_bytes)
        parts = (self.disk_order[start : start + size] for start in range(0, len(self), size))
        waiting: collections.deque[Future[Made]] = collections.deque()
        with ThreadPoolExecutor(1, "reading") as reader, ThreadPoolExecutor(threads, "blocks") as pool:
            try:
                for part in parts:
                    loaded = reader.submit(self.load, part)
                    waiting.append(pool.submit(lambda part, loaded: function(part, loaded.result()), part, loaded))
                    if len(waiting) > threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def sample(self, nbytes: int, *, seed: int) -> np.ndarray:
        """Numbers of rows drawn at random from each class by its share, which take no more than so many bytes.

        Each class has at least two, where it has as many.
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

    Rows that lie next to each other form chunks; the chunks are shuffled, as many as fit into a quarter of the memory
    limit are read, and their rows are shuffled among each other, while a thread reads the next.

    Args:
        rows: what is read.
    """

    def __init__(self, rows: FeatureRows) -> None:
        self._rows = rows
        self._chunk = max(1, CHUNK_BYTES // rows.row_bytes)
        self._per_group = max(1, rows.memory_limit // 4 // (self._chunk * rows.row_bytes))
        self._threads = ThreadPoolExecutor(1, "shuffled reading")
        self._groups: list[np.ndarray] = []
        self._buffers: dict[int, Future[np.ndarray]] = {}
        self._group_of = np.empty(len(rows), np.int64)
        self._place_of = np.empty(len(rows), np.int64)

    def order(self, random: np.random.Generator) -> np.ndarray:
        """Draw an epoch's order: (n,) int64."""
        on_disk = self._rows.disk_order
        chunks = [on_disk[start : start + self._chunk] for start in range(0, len(on_disk), self._chunk)]
        shuffled = random.permutation(len(chunks))
        self._buffers.clear()
        self._groups = []
        order = []
        for start in range(0, len(chunks), self._per_group):
            # As they lie on the disk, which is how they are read.
            together = np.concatenate([chunks[i] for i in np.sort(shuffled[start : start + self._per_group])])
            self._group_of[together] = len(self._groups)
            self._place_of[together] = np.arange(len(together))
            self._groups.append(together)
            order.append(random.permutation(together))
        return np.concatenate(order)

    def load(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of these numbers (k,), which follow each other in the order that was drawn last."""
        groups = self._group_of[numbers]
        for old in [number for number in self._buffers if number < groups.min()]:
            del self._buffers[old]
        loaded = np.empty((len(numbers), *self._rows.shape), np.float32)
        for group in np.unique(groups):
            mine = groups == group
            loaded[mine] = self._buffer(int(group)).result()[self._place_of[numbers[mine]]]
        # Not before the last one of this group has been given out: two groups are held, and never three.
        self._buffer(int(groups.min()) + 1)
        return loaded

    def _buffer(self, group: int) -> Future[np.ndarray]:
        """The rows of a group, which are being read at the latest from now on; after the last there is none."""
        if group not in self._buffers:
            wanted = self._groups[group] if group < len(self._groups) else np.empty(0, np.int64)
            self._buffers[group] = self._threads.submit(self._rows.load, wanted)
        return self._buffers[group]


def bytes_for_rows(features: FeatureSet, limit: int) -> int:
    """What is left of a memory limit for features, beside the list of images.

    Raises:
        HeadError: next to nothing.
    """
    listed = len(features) * (IMAGE_BYTES + 12 * len(features.class_names))
    if listed > 0.9 * limit:
        raise HeadError(
            f"the list of {len(features):,} images alone takes nearly all of the memory limit",
            expected=f"a --memory-limit of {2 * listed / 1e9:.3g} GB or more",
            found=f"{limit / 1e9:.3g} GB",
        )
    return limit - listed

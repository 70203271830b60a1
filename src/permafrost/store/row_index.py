"""The index of a store: which rows it holds, and where each of them is."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Sequence

import numpy as np

from permafrost.errors import ShardError
from permafrost.store.shard import DIGEST_BYTES, digest_rows
from permafrost.store.store import Store


@dataclasses.dataclass(frozen=True, slots=True)
class RowAddress:
    """The place of a row: the shard's name and the row's index in it."""

    shard: str
    row: int


class RowIndex:
    """An index of rows by content digest and view. It takes about 45 bytes per row. Threads may share one object.

    Shards that are damaged or another trunk's are left out: their rows are missing, to be computed again. The index of
    a shard is checked at once, and all of its rows when one of them is first found.

    An address is valid when it is returned, but another process may merge the shard with others at any time. To read
    rows, use `row_reader.read_rows`, which looks again.

    Attributes:
        damaged: one error per shard that was left out.

    Args:
        store: the store.
        without: names of shards to leave out.
    """

    def __init__(self, store: Store, *, without: Iterable[str] = ()) -> None:
        self.damaged: list[ShardError] = []
        self._store = store
        self._without = frozenset(without)
        self._lock = threading.Lock()
        self._intact: dict[tuple[str, bool], bool] = {}
        self._load()

    def __len__(self) -> int:
        return len(self._digests)

    def find(self, digest: bytes, view: int = 0) -> RowAddress | None:
        """Return the address of the row of an image's view; None if there is no such row."""
        return self.find_all([(digest, view)])[0]

    def find_all(self, keys: Sequence[tuple[bytes, int]]) -> list[RowAddress | None]:
        """Return the addresses of many rows, as `find` does, in little more time than for one.

        Args:
            keys: for each row the SHA-256 of the image's content, and the view.
        """
        with self._lock:
            while True:
                copies = self._addresses(keys)
                found = [self._first_intact(addresses) for addresses in copies]
                lost = [addresses for address, addresses in zip(found, copies, strict=True) if address is None]
                if all(self._store.has_shard(address.shard) for addresses in lost for address in addresses):
                    return found
                self._load()

    def shards_with_copies(self) -> dict[str, int]:
        """Count the rows of each shard that are also in a shard with an earlier name; other shards are left out."""
        keys = np.column_stack([self._digests, self._views.astype("<i4").view(np.uint8).reshape(-1, 4)])
        _, first = np.unique(np.ascontiguousarray(keys).view(f"V{keys.shape[1]}").reshape(-1), return_index=True)
        again = np.ones(len(keys), bool)
        again[first] = False
        counts = np.bincount(self._places[again, 0], minlength=len(self._shards))
        return {name: int(count) for name, count in zip(self._shards, counts, strict=True) if count}

    def _load(self) -> None:
        """Read the indices of all shards; start again if one is removed meanwhile, as its rows may be in a new one."""
        gone = True
        while gone:
            gone, shards, self.damaged = False, list[str](), []
            digests, views = [np.empty((0, DIGEST_BYTES), np.uint8)], [np.empty(0, np.int32)]
            places = [np.empty((0, 2), np.int64)]
            for name in filter(lambda name: name not in self._without, self._store.shard_names()):
                try:
                    shard_digests, shard_views = self._store.read_index(name)
                except ShardError as error:
                    gone = gone or not self._store.has_shard(name)
                    self.damaged.append(error)
                    continue
                place = np.empty((len(shard_digests), 2), np.int64)
                place[:, 0], place[:, 1] = len(shards), np.arange(len(place))
                shards.append(name)
                digests.append(shard_digests)
                views.append(shard_views)
                places.append(place)
        self._shards = shards
        self._digests, self._views = np.concatenate(digests), np.concatenate(views)
        self._places = np.concatenate(places)
        prefixes = _prefixes(self._digests)
        self._order = np.argsort(prefixes, kind="stable")
        self._prefixes = prefixes[self._order]

    def _addresses(self, keys: Sequence[tuple[bytes, int]]) -> list[list[RowAddress]]:
        """Return for each key the addresses of all copies of its row."""
        digests = digest_rows(digest for digest, _ in keys)
        views = np.array([view for _, view in keys], np.int64)
        prefixes = _prefixes(digests)
        starts = self._prefixes.searchsorted(prefixes)
        counts = self._prefixes.searchsorted(prefixes, "right") - starts
        # The rows that have the prefix of a key, one key after another; `owners` holds the number of each row's key.
        owners = np.repeat(np.arange(len(keys)), counts)
        rows = self._order[np.arange(len(owners)) + np.repeat(starts - (np.cumsum(counts) - counts), counts)]
        same = (self._views[rows] == views[owners]) & (self._digests[rows] == digests[owners]).all(axis=1)
        addresses: list[list[RowAddress]] = [[] for _ in keys]
        for key, (shard, row) in zip(owners[same].tolist(), self._places[rows[same]].tolist(), strict=True):
            addresses[key].append(RowAddress(self._shards[shard], row))
        return addresses

    def _first_intact(self, addresses: list[RowAddress]) -> RowAddress | None:
        alone = len(addresses) == 1
        return next((address for address in addresses if self._is_intact(address.shard, alone=alone)), None)

    def _is_intact(self, shard: str, *, alone: bool) -> bool:
        """Return whether a shard is intact.

        Unless it alone has the row that is looked for, its name is checked too: a renamed copy has the same rows.
        """
        if (shard, alone) not in self._intact:
            try:
                (self._store.check if alone else self._store.verify)(shard)
                self._intact[shard, alone] = True
            except ShardError as error:
                self.damaged.append(error)
                self._intact[shard, alone] = False
        return self._intact[shard, alone]


def place_rows(addresses: Sequence[RowAddress]) -> tuple[tuple[str, ...], np.ndarray]:
    """Convert addresses to the arrays that a feature set stores.

    Returns:
        Names of the shards, and (n, 2) int64: for each address the index of its shard and its row there.
    """
    numbers: dict[str, int] = {}
    places = np.empty((len(addresses), 2), np.int64)
    for i, address in enumerate(addresses):
        places[i] = numbers.setdefault(address.shard, len(numbers)), address.row
    return tuple(numbers), places


def _prefixes(digests: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(digests[:, :8]).view(">u8").reshape(-1).astype(np.uint64)

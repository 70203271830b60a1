"""Stores: the one place that writes and reads features. The format is written down in `features/README.md`.

A store is a folder with all features of one trunk: `trunk.json` and any number of shards. A shard is built in memory,
named by the SHA-256 of its bytes, written beside its name, synced and renamed, and never changed. So a kill leaves each
shard whole or absent, and two processes may write at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from permafrost.atomic import FolderLock, commit_bytes
from permafrost.errors import StoreError
from permafrost.store.shard import (
    Rows,
    Shard,
    damaged,
    is_shard_name,
    shard_bytes,
    unreadable,
)
from permafrost.trunk.spec import TrunkSpec, canonical_json, first_difference

DESCRIPTION_FILE: Final = "trunk.json"

STORE_VERSION: Final = 1
"""The format of a store: its `trunk.json`, and the shards beside it. `features/README.md` says how to raise it."""


class Store:
    """All features of one trunk that are kept under one folder.

    Attributes:
        folder: the folder.
        spec: what decides the features.
        about: what else its description says: `libraries`, the versions that computed the first of them, and
            `base_layers`, the names of all layers of the base, in their order.

    Args:
        folder: the store's folder, which has a `trunk.json`.

    Raises:
        StoreError: the folder is no store.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.spec, self.about = _read_description(self.folder)

    @classmethod
    def create(cls, parent: str | os.PathLike[str], spec: TrunkSpec, *, about: dict[str, Any]) -> Store:
        """Open the store of the trunk `spec` below `parent`, and make it where there is none.

        Args:
            parent: the folder that holds stores, e.g. `features/store`.
            spec: what decides the features.
            about: what else to record, as the attribute of that name.

        Raises:
            StoreError: a store of that name holds another trunk's features.
            WriteError: the folder cannot be written.
        """
        folder = Path(parent) / spec.folder_name
        if not (folder / DESCRIPTION_FILE).exists():
            description = {"format": "permafrost trunk", "version": STORE_VERSION, "digest": spec.digest}
            description |= {"trunk": spec.to_json(), "about": about}
            description["checksum"] = _description_checksum(description)
            commit_bytes(folder / DESCRIPTION_FILE, json.dumps(description, indent=2).encode() + b"\n")
        store = cls(folder)
        store.require(spec)
        return store

    def hold(self) -> None:
        """Keep `features prune` from this store for as long as this object lives; waits while it is at work.

        Nothing else needs a lock: shards are written whole, and found by what they hold.
        """
        self._lock = FolderLock(self.folder, exclusive=False)

    def require(self, spec: TrunkSpec) -> None:
        """Refuse a store that holds another trunk's features.

        Raises:
            StoreError: it does; the first field that differs is named, with both values.
        """
        difference = first_difference(spec, self.spec)
        if difference:
            field, expected, found = difference
            raise StoreError(f"{self.folder} holds another trunk's features: {field}", expected=expected, found=found)

    def shard_names(self) -> list[str]:
        """File names of all shards committed so far, sorted."""
        return sorted(filter(is_shard_name, os.listdir(self.folder)))

    def append(self, rows: Rows, *, engine: str) -> str:
        """Commit `rows` as one shard: when this returns, they are kept.

        Returns:
            The shard's file name.

        Raises:
            WriteError: the disk is full, the folder is read-only, or the like; nothing was kept then.
        """
        image = shard_bytes(rows, self.spec, engine=engine)
        name = hashlib.sha256(image).hexdigest()[:32] + ".h5"
        commit_bytes(self.folder / name, image)
        return name

    def read_index(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Which rows a shard holds.

        Returns:
            Digests (n, 32) uint8, and views (n,) int32.

        Raises:
            ShardError: the shard is missing, damaged, or another trunk's.
        """
        with self._open(name) as shard:
            return shard.digests, shard.views

    def read(
        self,
        name: str,
        rows: np.ndarray,
        out: Sequence[np.ndarray],
        *,
        at: np.ndarray,
        digests: np.ndarray | None = None,
    ) -> None:
        """Read rows of one shard.

        Args:
            name: the shard's file name.
            rows: (k,) int64, indices of rows in the shard, ascending.
            out: for each tensor an array (m, *shape), which is filled.
            at: (k,) int64, for each row its index in `out`.
            digests: (k, 32) uint8, of the images whose rows these have to be; not checked if None.

        Raises:
            ShardError: the shard is missing, damaged, or another trunk's, or a row's checksum does not hold.
        """
        with self._open(name) as shard:
            shard.read(rows, out, at, digests)

    def gather(
        self, shards: Sequence[str], places: np.ndarray, *, digests: np.ndarray | None = None
    ) -> tuple[np.ndarray, ...]:
        """Read rows from any shards, in any order.

        Args:
            shards: file names.
            places: (n, 2) int64, for each row the index of its shard in `shards` and its row there.
            digests: (n, 32) uint8, of the images whose rows these have to be; not checked if None.

        Returns:
            For each tensor of the trunk (n, *shape) float32.

        Raises:
            ShardError: as `read`.
            StoreError: they do not fit into memory.
        """
        try:
            tensors = tuple(np.empty((len(places), *shape), np.float32) for shape in self.spec.shapes)
        except (MemoryError, ValueError) as error:
            raise StoreError(
                f"features of {len(places):,} rows do not fit into memory",
                found=f"shapes {list(self.spec.shapes)}",
                do="read them in batches",
            ) from error
        order = np.lexsort((places[:, 1], places[:, 0]))
        numbers, starts = np.unique(places[order, 0], return_index=True)
        for number, at in zip(numbers, np.split(order, starts)[1:], strict=True):  # Without rows there is no shard.
            known = None if digests is None else digests[at]
            self.read(shards[number], places[at, 1], tensors, at=at, digests=known)
        return tensors

    def load(self, name: str) -> tuple[Rows, str]:
        """Read and check all rows of one shard.

        Returns:
            The rows, in the dtype that they are stored in, and the name of the engine that computed them.

        Raises:
            ShardError: the shard is missing, damaged, or another trunk's.
        """
        with self._open(name) as shard:
            tensors = tuple(np.empty(tensor.shape, tensor.dtype) for tensor in shard.tensors)
            everything = np.arange(len(shard))
            shard.read(everything, tensors, everything, None)
            return Rows(shard.digests, shard.views, tensors), shard.engine

    def check(self, name: str) -> None:
        """Read all rows of one shard, and see that their checksums hold: at the speed of reading them.

        Raises:
            ShardError: the shard is missing, damaged, or another trunk's.
        """
        with self._open(name) as shard:
            shard.check()

    def verify(self, name: str) -> int:
        """Read a whole shard and check it: its name, its index, and every row.

        Returns:
            The number of rows.

        Raises:
            ShardError: it is missing, damaged, or another trunk's.
        """
        path = self.folder / name
        try:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()[:32] + ".h5"
        except OSError as error:
            raise unreadable(path, error) from error
        with self._open(name) as shard:
            shard.check()
            if found != name:
                raise damaged(path, "its bytes are not those of its name")
            return len(shard)

    def has_shard(self, name: str) -> bool:
        """Whether there is a file of this name, whole or not."""
        return (self.folder / name).exists()

    def _open(self, name: str) -> Shard:
        return Shard(self.folder / name, self.spec)


def _read_description(folder: Path) -> tuple[TrunkSpec, dict[str, Any]]:
    path = folder / DESCRIPTION_FILE
    try:
        description = json.loads(path.read_bytes())
        whole = description.pop("checksum") == _description_checksum(description)
        spec = TrunkSpec.from_json(description["trunk"])
        digest, about = description["digest"], dict(description["about"])
    except FileNotFoundError as error:
        raise StoreError(f"no store at {folder}: {DESCRIPTION_FILE} is missing", do="run extract again") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"damaged description {path}", found=repr(error), do="remove it and run extract again"
        ) from error
    if not whole:
        raise StoreError(
            f"damaged description {path}: its checksum does not hold", do="remove it and run extract again"
        )
    if digest != spec.digest:
        raise StoreError(f"damaged description {path}: digest", expected=spec.digest, found=digest)
    return spec, about


def _description_checksum(description: dict[str, Any]) -> str:
    """SHA-256 of all else that a store's description says: the trunk's digest does not cover what is for people."""
    return hashlib.sha256(canonical_json(description)).hexdigest()

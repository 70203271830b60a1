"""A store: all cached features of one trunk. `features/README.md` describes the format.

A store holds a description, `trunk.json`, and any number of shards. A shard is built in memory, named by the SHA-256 of
its bytes, written atomically, and never changed. So after a crash each shard is there whole or not at all, and any
number of processes may write at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from permafrost.errors import StoreError, VersionError
from permafrost.store.open_shards import OpenShards
from permafrost.store.shard import Rows, Shard, damaged, is_shard_name, shard_bytes, unreadable
from permafrost.store.storage import Hold, LocalStorage, ObjectInfo, Storage
from permafrost.trunk.spec import TrunkSpec, canonical_json, first_difference

DESCRIPTION_FILE: Final = "trunk.json"

FORMAT: Final = "permafrost trunk"
STORE_VERSION: Final = 1
"""The format of a store: its `trunk.json`, and the shards beside it. `features/README.md` says how to raise it."""

_OTHER_VERSION: Final = "leave it to the version of permafrost that wrote it, or remove it"


def store_folder(parent: str | os.PathLike[str], spec: TrunkSpec) -> Path:
    """Return the folder of a trunk's store below `parent`; from version 2 on its name ends with the version."""
    return Path(parent) / (spec.folder_name + ("" if STORE_VERSION == 1 else f"-v{STORE_VERSION}"))


class Store:
    """All cached features of one trunk.

    Attributes:
        storage: where it is.
        spec: everything the features depend on.
        about: the rest of its description: `libraries`, the versions that computed the first features, and
            `base_layers`, the names of all layers of the base in their order.

    Args:
        place: its folder, or another place that holds a `trunk.json`.

    Raises:
        VersionError: the store is of another format version.
        StoreError: the place is not a store, or its description is damaged.
    """

    def __init__(self, place: str | os.PathLike[str] | Storage) -> None:
        self.storage = place if isinstance(place, Storage) else LocalStorage(place)
        self._hold: Hold | None = None
        self._open_shards = OpenShards()
        self.spec, self.about = _read_description(self.storage)

    @classmethod
    def create(
        cls, parent: str | os.PathLike[str], spec: TrunkSpec, *, about: dict[str, Any], hold: bool = False
    ) -> Store:
        """Open the store of a trunk below `parent`; make it if it is missing.

        Args:
            parent: the folder that holds stores, e.g. `features/store`.
            spec: everything the features depend on.
            about: what else to record in a new description; see the attribute.
            hold: lock the store against `features prune` for as long as this object lives.

        Raises:
            StoreError: the store holds another trunk's features, or its description is damaged.
            WriteError: the folder cannot be written.
        """
        return cls.create_at(LocalStorage(store_folder(parent, spec)), spec, about=about, hold=hold)

    @classmethod
    def create_at(cls, storage: Storage, spec: TrunkSpec, *, about: dict[str, Any], hold: bool = False) -> Store:
        """Open the store of a trunk in `storage`; make it if it is missing.

        The arguments and errors are those of `create`.
        """
        held = storage.hold(exclusive=False) if hold else None  # First, or the new description could be pruned.
        description = {"format": FORMAT, "version": STORE_VERSION, "digest": spec.digest}
        description |= {"trunk": spec.to_json(), "about": about}
        description["checksum"] = _description_checksum(description)
        if not storage.exists(DESCRIPTION_FILE):
            storage.put_if_absent(DESCRIPTION_FILE, json.dumps(description, indent=2).encode() + b"\n")
        store = cls(storage)
        store._hold = held
        store.require(spec)
        return store

    @classmethod
    def find(cls, parent: str | os.PathLike[str], spec: TrunkSpec) -> Store | None:
        """Open the store of a trunk below `parent`, and hold it as `create` can; return None if it does not exist.

        The arguments and errors are those of `create`.
        """
        storage = LocalStorage(store_folder(parent, spec))
        if not storage.exists(DESCRIPTION_FILE):
            return None
        held = storage.hold(exclusive=False)
        if not storage.exists(DESCRIPTION_FILE):  # It was pruned while this waited.
            return None
        store = cls(storage)
        store._hold = held
        store.require(spec)
        return store

    @property
    def folder(self) -> Path:
        """The store's folder.

        Raises:
            StoreError: the store is not in a local folder.
        """
        if not isinstance(self.storage, LocalStorage):
            raise StoreError(f"{self.storage.location()} is not a local folder")
        return self.storage.folder

    def require(self, spec: TrunkSpec) -> None:
        """Refuse a store that holds another trunk's features.

        Raises:
            StoreError: it does; the first field that differs is named, with both values.
        """
        difference = first_difference(spec, self.spec)
        if difference:
            field, expected, found = difference
            raise StoreError(
                f"{self.storage.location()} holds another trunk's features: {field}", expected=expected, found=found
            )

    def shard_names(self) -> list[str]:
        """Return the names of all shards committed so far, sorted."""
        return list(filter(is_shard_name, self.storage.list()))

    def has_shard(self, name: str) -> bool:
        """Return whether there is a shard of this name, intact or not."""
        return self.storage.exists(name)

    def stat_shard(self, name: str) -> ObjectInfo | None:
        """Return the size and time of a shard; None if it is gone."""
        try:
            return self.storage.stat(name)
        except FileNotFoundError:
            return None

    def size(self) -> int:
        """Return the total size of the store in bytes."""
        infos = map(self.stat_shard, self.storage.list())
        return sum(info.size for info in infos if info is not None)

    def append(self, rows: Rows, *, engine: str) -> str:
        """Commit `rows` as one shard; when this returns, they survive a power cut.

        Returns:
            The shard's name.

        Raises:
            WriteError: the disk is full, the folder is read-only, or similar. Nothing has changed then.
        """
        data = shard_bytes(rows, self.spec, engine=engine)
        name = hashlib.sha256(data).hexdigest()[:32] + ".h5"
        self.storage.put(name, data)
        return name

    def delete_shard(self, name: str) -> None:
        """Delete a shard; do nothing if it is gone.

        Raises:
            OSError: it cannot be deleted.
        """
        self.storage.delete(name)

    def read_index(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Read which rows a shard holds.

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
            name: the shard's name.
            rows: (k,) int64, indices of rows in the shard, ascending.
            out: for each tensor an array (m, *shape) to write to.
            at: (k,) int64, for each row its index in `out`.
            digests: (k, 32) uint8, the digests that these rows must have; not checked if None.

        Raises:
            ShardError: the shard is missing, damaged, or another trunk's, or a row has another checksum.
        """
        with self._open_shards.borrow(name, self._open) as shard:
            shard.read(rows, out, at, digests)

    def gather(
        self, shards: Sequence[str], places: np.ndarray, *, digests: np.ndarray | None = None
    ) -> tuple[np.ndarray, ...]:
        """Read rows from any shards, in any order.

        If a shard was merged with others meanwhile, this raises; `row_reader.read_rows` then looks again.

        Args:
            shards: names of shards.
            places: (n, 2) int64, for each row the index of its shard in `shards` and its row there.
            digests: (n, 32) uint8, the digests that these rows must have; not checked if None.

        Returns:
            One array per tensor of the trunk, each (n, *shape) float32.

        Raises:
            ShardError: as `read`.
            StoreError: the rows do not fit into memory.
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
        for number, at in zip(numbers, np.split(order, starts)[1:], strict=True):  # Without rows there are no shards.
            known = None if digests is None else digests[at]
            self.read(shards[number], places[at, 1], tensors, at=at, digests=known)
        return tensors

    def load(self, name: str) -> tuple[Rows, str]:
        """Read and check all rows of one shard.

        Returns:
            The rows in their stored dtype, and the name of the engine that computed them.

        Raises:
            ShardError: the shard is missing, damaged, or another trunk's.
        """
        with self._open(name) as shard:
            tensors = tuple(np.empty(tensor.shape, tensor.dtype) for tensor in shard.tensors)
            everything = np.arange(len(shard))
            shard.read(everything, tensors, everything, None)
            return Rows(shard.digests, shard.views, tensors), shard.engine

    def check(self, name: str) -> None:
        """Read all rows of one shard and check their checksums, about as fast as reading them.

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
        try:
            with self.storage.open(name) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()[:32] + ".h5"
        except OSError as error:
            raise unreadable(self.storage, name, error) from error
        with self._open(name) as shard:
            shard.check()
            if found != name:
                raise damaged(self.storage.location(name), "its content does not match its name")
            return len(shard)

    def _open(self, name: str) -> Shard:
        return Shard(self.storage, name, self.spec)


def _read_description(storage: Storage) -> tuple[TrunkSpec, dict[str, Any]]:
    path, remedy = storage.location(DESCRIPTION_FILE), "remove it and run extract again"
    try:
        description = json.loads(storage.get(DESCRIPTION_FILE))
        _require_version(description)
        intact = description.pop("checksum") == _description_checksum(description)
        digest, about = description["digest"], dict(description["about"])
        spec = TrunkSpec.from_json(description["trunk"], digest=digest)
    except FileNotFoundError as error:
        what = f"no store at {storage.location()}: {DESCRIPTION_FILE} is missing"
        raise StoreError(what, do="run extract again") from error
    except VersionError as error:
        what = f"{storage.location()} is a store of another version: {error.what}"
        raise VersionError(what, expected=error.expected, found=error.found, do=_OTHER_VERSION) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"damaged description {path}", found=repr(error), do=remedy) from error
    if not intact:
        raise StoreError(f"damaged description {path}: its checksum does not match", do=remedy)
    if digest != spec.digest:
        raise StoreError(f"damaged description {path}: digest", expected=spec.digest, found=digest)
    return spec, about


def _require_version(description: dict[str, Any]) -> None:
    if description["format"] != FORMAT:
        raise ValueError(f"format {description['format']!r}")
    if description["version"] != STORE_VERSION:
        raise VersionError("format version", expected=STORE_VERSION, found=description["version"])


def _description_checksum(description: dict[str, Any]) -> str:
    """Return the SHA-256 of a store's description; the trunk's digest does not cover all of it."""
    return hashlib.sha256(canonical_json(description)).hexdigest()

"""Shards: the one place that writes and reads features in HDF5. The format is written down in `features/README.md`.

A store is a folder with all features of one trunk: `trunk.json` and any number of shards. A shard holds rows, each the
features of one picture, found by the SHA-256 of the picture's content and the view. It is built in memory, named by the
SHA-256 of its bytes, written beside its name, synced and renamed, and never changed. So a kill leaves each shard whole
or absent, two processes may write at once, and damage is noticed: its index and each of its rows have checksums.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from permafrost.errors import ShardError, StoreError
from permafrost.files import FolderLock, commit_bytes, write_errors
from permafrost.trunk_spec import TrunkSpec, canonical_json, first_difference

if TYPE_CHECKING:
    import h5py
    import numpy as np

FORMAT: Final = "permafrost shard"
VERSION: Final = 1
DESCRIPTION_FILE: Final = "trunk.json"
DIGEST_BYTES: Final = 32


@dataclasses.dataclass(frozen=True)
class Rows:
    """Features of some pictures, in memory.

    Attributes:
        digests: (n, 32) uint8, the SHA-256 of each picture's content.
        views: (n,) int32, 0 for the picture itself.
        features: one array a tensor of the trunk, each (n, *shape) in the trunk's stored dtype.
    """

    digests: np.ndarray
    views: np.ndarray
    features: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.digests)


@dataclasses.dataclass(frozen=True, slots=True)
class RowAddress:
    """Where a row lies: the shard's file name and the row's index in it."""

    shard: str
    row: int


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
            description = {"format": "permafrost trunk", "version": VERSION, "digest": spec.digest}
            description |= {"trunk": spec.to_json(), "about": about}
            description["checksum"] = _description_checksum(description)
            with write_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
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
        image = _shard_image(rows, self.spec, engine=engine)
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
            digests: (k, 32) uint8, of the pictures whose rows these have to be; not checked if None.

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
            digests: (n, 32) uint8, of the pictures whose rows these have to be; not checked if None.

        Returns:
            For each tensor of the trunk (n, *shape) float32.

        Raises:
            ShardError: as `read`.
            StoreError: they do not fit into memory.
        """
        import numpy as np

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
        import numpy as np

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
            raise _unreadable(path, error) from error
        with self._open(name) as shard:
            shard.check()
            if found != name:
                raise ShardError(f"damaged shard {path}: its bytes are not those of its name", do=_HEAL)
            return len(shard)

    def has_shard(self, name: str) -> bool:
        """Whether there is a file of this name, whole or not."""
        return (self.folder / name).exists()

    def _open(self, name: str) -> _Shard:
        return _Shard(self.folder / name, self.spec)


_HEAL: Final = "run the same extract again: it computes what is missing"
_SPAN_BYTES: Final = 4 * 2**20
"""So much of a shard is read at once."""
_GAP_BYTES: Final = 32 * 2**10
"""Between two rows that are read at once at most."""


class RowIndex:
    """Finds rows by content digest and view: sorted arrays, about 45 bytes a row. Threads may share one.

    Shards that are damaged or another trunk's are left out: their rows are missing rows, to be computed again. Indices
    are checked at once; the rows of a shard, all of them, when one of them is first found. A shard that has gone since,
    because another process joined it with others, has its rows looked for anew.

    Attributes:
        damaged: the shards that were left out, each with what is wrong.

    Args:
        store: whose rows.
        without: names of shards to leave out.
    """

    def __init__(self, store: Store, *, without: Iterable[str] = ()) -> None:
        self.damaged: list[ShardError] = []
        self._store = store
        self._without = frozenset(without)
        self._lock = threading.Lock()
        self._whole: dict[tuple[str, bool], bool] = {}
        self._load()

    def __len__(self) -> int:
        return len(self._digests)

    def find(self, digest: bytes, view: int = 0) -> RowAddress | None:
        """Where the row of a picture's view lies, or None where it is not kept."""
        return self.find_all([(digest, view)])[0]

    def find_all(self, keys: Sequence[tuple[bytes, int]]) -> list[RowAddress | None]:
        """The same of many rows, each given by a picture's digest and the view: it takes little longer than of one."""
        with self._lock:
            while True:
                copies = self._addresses(keys)
                found = [self._first_whole(addresses) for addresses in copies]
                lost = [addresses for address, addresses in zip(found, copies, strict=True) if address is None]
                if all(self._store.has_shard(address.shard) for addresses in lost for address in addresses):
                    return found
                self._load()

    def shards_with_copies(self) -> dict[str, int]:
        """For each shard how many of its rows another shard, before it in the order of their names, holds too."""
        import numpy as np

        keys = np.column_stack([self._digests, self._views.astype("<i4").view(np.uint8).reshape(-1, 4)])
        _, first = np.unique(np.ascontiguousarray(keys).view(f"V{keys.shape[1]}").reshape(-1), return_index=True)
        again = np.ones(len(keys), bool)
        again[first] = False
        counts = np.bincount(self._places[again, 0], minlength=len(self._shards))
        return {name: int(count) for name, count in zip(self._shards, counts, strict=True) if count}

    def _load(self) -> None:
        """Read the indices of all shards; again where one has gone meanwhile, since its rows may be in a new one."""
        import numpy as np

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
        """For each key where all copies of its row lie."""
        import numpy as np

        digests = np.frombuffer(b"".join(digest for digest, _ in keys), np.uint8).reshape(-1, DIGEST_BYTES)
        views = np.array([view for _, view in keys], np.int64)
        prefixes = _prefixes(digests)
        starts = self._prefixes.searchsorted(prefixes)
        counts = self._prefixes.searchsorted(prefixes, "right") - starts
        # The rows with the prefix of each key, one key after another: `asked` says whose each is.
        asked = np.repeat(np.arange(len(keys)), counts)
        rows = self._order[np.arange(len(asked)) + np.repeat(starts - (np.cumsum(counts) - counts), counts)]
        same = (self._views[rows] == views[asked]) & (self._digests[rows] == digests[asked]).all(axis=1)
        addresses: list[list[RowAddress]] = [[] for _ in keys]
        for key, (shard, row) in zip(asked[same].tolist(), self._places[rows[same]].tolist(), strict=True):
            addresses[key].append(RowAddress(self._shards[shard], row))
        return addresses

    def _first_whole(self, addresses: list[RowAddress]) -> RowAddress | None:
        alone = len(addresses) == 1
        return next((address for address in addresses if self._is_whole(address.shard, alone=alone)), None)

    def _is_whole(self, shard: str, *, alone: bool) -> bool:
        """Whether a shard can be relied on; one whose rows others have too may be a copy under another's name."""
        if (shard, alone) not in self._whole:
            try:
                (self._store.check if alone else self._store.verify)(shard)
                self._whole[shard, alone] = True
            except ShardError as error:
                self.damaged.append(error)
                self._whole[shard, alone] = False
        return self._whole[shard, alone]


def is_shard_name(name: object) -> bool:
    """Whether `name` is one that a shard can have: 32 hex digits and `.h5`."""
    return isinstance(name, str) and re.fullmatch(r"[0-9a-f]{32}\.h5", name) is not None


def place_rows(addresses: Sequence[RowAddress]) -> tuple[tuple[str, ...], np.ndarray]:
    """Addresses as a set keeps them.

    Returns:
        Names of the shards, and (n, 2) int64: for each address the index of its shard and its row there.
    """
    import numpy as np

    numbers: dict[str, int] = {}
    places = np.empty((len(addresses), 2), np.int64)
    for i, address in enumerate(addresses):
        places[i] = numbers.setdefault(address.shard, len(numbers)), address.row
    return tuple(numbers), places


def _prefixes(digests: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(digests[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


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


def _shard_image(rows: Rows, spec: TrunkSpec, *, engine: str) -> bytes:
    """The bytes of a shard file."""
    import numpy as np

    def fill(file: h5py.File) -> None:
        file["digests"] = np.ascontiguousarray(rows.digests, np.uint8)
        file["view"] = np.asarray(rows.views, np.int32)
        file["checksums"] = np.stack([row_checksums(tensor) for tensor in rows.features], axis=1)
        for name, tensor in zip(tensor_names(len(rows.features)), rows.features, strict=True):
            file[name] = np.ascontiguousarray(tensor)
        file.attrs["version"] = VERSION
        write_text(file, "format", FORMAT)
        write_text(file, "trunk", spec.digest)
        write_text(file, "engine", engine)
        write_text(file, "index_checksum", _index_checksum(file))

    return hdf5_bytes(fill)


def hdf5_bytes(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of an HDF5 file, built in memory: no HDF5 file is ever open on the disk for writing.

    Equal content gives equal bytes, and metadata has checksums, from HDF5 1.10's layout on.

    Args:
        fill: puts the content into the open file.
    """
    import h5py

    buffer = io.BytesIO()
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)  # Else the root group says when it was made, which `h5py.File` cannot be told.
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, buffer)
    name = repr(buffer).encode("ascii")
    with h5py.File(h5py.h5f.create(name, h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access)) as file:
        fill(file)
    return buffer.getvalue()


def write_text(file: h5py.File, name: str, text: str) -> None:
    """Keep `text` as an attribute of fixed length, which lies in the object header, under its checksum.

    Strings of variable length lie in a heap that has none: a flipped bit there can make HDF5 read for ever.
    """
    import numpy as np

    file.attrs[name] = np.bytes_(text.encode("utf-8"))


def read_text(file: h5py.File, name: str) -> str:
    """The attribute that `write_text` kept.

    Raises:
        KeyError: there is none.
        ValueError: it is something else, which is not read.
    """
    if file.attrs.get_id(name).dtype.kind != "S":
        raise ValueError(f"attribute {name} is no string of fixed length")
    return str(file.attrs[name].decode("utf-8"))


def read_version(file: h5py.File) -> int:
    """The attribute `version`, a whole number.

    Raises:
        KeyError: there is none.
        ValueError: it is something else, which is not read.
    """
    attribute = file.attrs.get_id("version")
    if attribute.dtype.kind not in "iu" or attribute.shape != ():
        raise ValueError("attribute version is no whole number")
    return int(file.attrs["version"])


def plain_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A data set whose values lie in this very file, in one piece, as they are.

    Links, external and virtual data could read anything else; filters could run a plug-in or unpack without end; what
    was never written would read as zeros.

    Raises:
        ValueError: it is something else.
    """
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is no plain data set: missing, or a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} is no plain data set: a group, or outside this file")
    if dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        raise ValueError(f"{name} is no plain data set: in chunks, which may have filters")
    claimed = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
    held = max(0, file.id.get_filesize() - (dataset.id.get_offset() or 0))
    if dataset.shape is None or dataset.dtype.kind not in "iuf":
        raise ValueError(f"{name} is no plain data set: no numbers")
    if dataset.id.get_storage_size() != claimed or claimed > held:
        raise ValueError(f"{name} claims more than the file holds")
    return dataset


def tensor_names(count: int) -> list[str]:
    """Names of the data sets that hold `count` tensors: `features`, `features_1`, ..."""
    return ["features" if i == 0 else f"features_{i}" for i in range(count)]


def row_checksums(tensor: np.ndarray) -> np.ndarray:
    """XXH3 (64 bits) of each row's bytes, little-endian, in C order: (n,) uint64."""
    import numpy as np
    import xxhash

    little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
    rows = np.ascontiguousarray(little).reshape(len(tensor), -1).view(np.uint8)
    return np.fromiter((xxhash.xxh3_64_intdigest(row.data) for row in rows), np.uint64, len(rows))


def _index_checksum(file: h5py.File) -> str:
    """XXH3 (128 bits) of all that says what the rows are: shapes, dtypes, trunk, digests, views, row checksums."""
    import xxhash

    names = sorted(file)
    layout: list[Any] = [[name, list(file[name].shape), file[name].dtype.str] for name in names]
    form, trunk, engine = (read_text(file, name) for name in ("format", "trunk", "engine"))
    attributes = [form, str(read_version(file)), trunk, engine]
    hasher = xxhash.xxh3_128(canonical_json([layout, attributes]))
    for name in ("digests", "view", "checksums"):
        hasher.update(file[name][...].tobytes())
    return hasher.hexdigest()


class _Shard:
    """An open shard whose index has been checked."""

    def __init__(self, path: Path, spec: TrunkSpec) -> None:
        import h5py

        self.path = path
        try:
            self._file = h5py.File(path, "r", locking=False)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            self._check(spec)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> _Shard:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.digests)

    def read(self, rows: np.ndarray, out: Sequence[np.ndarray], at: np.ndarray, digests: np.ndarray | None) -> None:
        """As `Store.read`."""
        import numpy as np

        if len(rows) and not 0 <= rows[0] <= rows[-1] < len(self):
            raise self._damaged(f"it has no rows {rows[0]} to {rows[-1]}, only {len(self)}")
        if digests is not None and not np.array_equal(self.digests[rows], digests):
            raise self._damaged("it holds other pictures' rows")
        for number, tensor in enumerate(self.tensors):
            row_bytes = tensor.nbytes // max(1, len(self))
            for start, stop in _spans(rows, row_bytes):
                out[number][_together(at[start:stop])] = self._values(number, rows[start:stop])

    def check(self) -> None:
        """As `Store.check`."""
        import numpy as np

        rows = np.arange(len(self))
        for number, tensor in enumerate(self.tensors):
            for start, stop in _spans(rows, tensor.nbytes // max(1, len(self))):
                self._values(number, rows[start:stop])

    def _values(self, number: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a tensor, read in one go from the first to the last of them, their checksums checked."""
        import numpy as np

        tensor, first, last = self.tensors[number], int(rows[0]), int(rows[-1])
        try:
            values: np.ndarray = tensor[first : last + 1]
        except (OSError, RuntimeError) as error:
            raise self._damaged(f"rows {first} to {last} cannot be read: {error}") from error
        if (np.diff(rows) != 1).any():
            values = values[rows - first]
        wrong = np.flatnonzero(row_checksums(values) != self.checksums[rows, number])
        if len(wrong):
            raise self._damaged(f"the checksum of row {rows[wrong[0]]} of {tensor.name[1:]} does not hold")
        return values

    def _check(self, spec: TrunkSpec) -> None:
        file = self._file
        try:
            self.tensors = [self._dataset(name) for name in tensor_names(len(spec.shapes))]
            expected = {"digests", "view", "checksums", *(tensor.name[1:] for tensor in self.tensors)}
            if set(file) != expected:
                raise self._damaged(f"holds {sorted(file)} in place of {sorted(expected)}")
            self._require_shapes(spec, len(self._dataset("digests")))
            self.digests: np.ndarray = file["digests"][...]
            self.views: np.ndarray = file["view"][...]
            self.checksums: np.ndarray = file["checksums"][...]
            checksum, trunk = read_text(file, "index_checksum"), read_text(file, "trunk")
            self.engine = read_text(file, "engine")
            if trunk != spec.digest:
                raise ShardError(f"foreign shard {self.path}: trunk", expected=spec.digest, found=trunk)
            if read_text(file, "format") != FORMAT or read_version(file) != VERSION:
                raise self._damaged("it is of another format or version")
            if checksum != _index_checksum(file):
                raise self._damaged("the checksum of its index does not hold")
        except ShardError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
            raise self._damaged(str(error)) from error

    def _dataset(self, name: str) -> h5py.Dataset:
        try:
            return plain_dataset(self._file, name)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _require_shapes(self, spec: TrunkSpec, count: int) -> None:
        import numpy as np

        wanted: list[tuple[h5py.Dataset, tuple[int, ...], str]] = [
            (self._dataset("digests"), (count, DIGEST_BYTES), "|u1"),
            (self._dataset("view"), (count,), "<i4"),
            (self._dataset("checksums"), (count, len(spec.shapes)), "<u8"),
        ]
        dtype = np.dtype(spec.dtype).newbyteorder("<").str
        wanted += [(tensor, (count, *shape), dtype) for tensor, shape in zip(self.tensors, spec.shapes, strict=True)]
        for dataset, shape, kind in wanted:
            if dataset.shape != shape or dataset.dtype.str != kind:
                raise self._damaged(
                    f"{dataset.name[1:]} is {dataset.dtype.str} {dataset.shape} in place of {kind} {shape}"
                )

    def _damaged(self, how: str) -> ShardError:
        return ShardError(f"damaged shard {self.path}: {how}", do=_HEAL)


def _unreadable(path: Path, error: OSError) -> ShardError:
    if not path.exists():
        return ShardError(f"missing shard {path}", do=_HEAL)
    return ShardError(f"damaged shard {path}: {error}", do=_HEAL)


def _together(indices: np.ndarray) -> np.ndarray | slice:
    """Indices, as a slice where they follow each other: copying there is three times as fast."""
    first, last = int(indices[0]), int(indices[-1])
    if last - first + 1 == len(indices) and (indices[1:] > indices[:-1]).all():
        return slice(first, last + 1)
    return indices


def _spans(rows: np.ndarray, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Start and stop in `rows`, which ascend, of pieces that are best read in one go, gaps and all.

    A call costs as much as reading some tens of kilobytes, so rows that are close together are read with what lies
    between them; and no piece is large.
    """
    import numpy as np

    breaks = np.flatnonzero(np.diff(rows) * row_bytes > row_bytes + _GAP_BYTES) + 1
    most = max(1, _SPAN_BYTES // max(1, row_bytes))
    for start, stop in itertools.pairwise([0, *breaks.tolist(), len(rows)]):
        while start < stop:
            end = min(stop, start + int(np.searchsorted(rows[start:stop], rows[start] + most)))
            yield start, end
            start = end

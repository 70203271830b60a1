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
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from permafrost.errors import ShardError, StoreError
from permafrost.files import commit_bytes, write_errors
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


@dataclasses.dataclass(frozen=True)
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
        return sorted(
            entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".h5") and entry.name[0] != "."
        )

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
        """
        import numpy as np

        tensors = tuple(np.empty((len(places), *shape), np.float32) for shape in self.spec.shapes)
        order = np.lexsort((places[:, 1], places[:, 0]))
        numbers, starts = np.unique(places[order, 0], return_index=True)
        for number, at in zip(numbers, np.split(order, starts)[1:], strict=True):  # Without rows there is no shard.
            known = None if digests is None else digests[at]
            self.read(shards[number], places[at, 1], tensors, at=at, digests=known)
        return tensors

    def verify(self, name: str) -> int:
        """Read a whole shard and check it: its name, its index, and every row.

        Returns:
            The number of rows.

        Raises:
            ShardError: it is missing, damaged, or another trunk's.
        """
        import numpy as np

        path = self.folder / name
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()[:32] + ".h5"
        except OSError as error:
            raise _unreadable(path, error) from error
        if found != name:
            raise ShardError(f"damaged shard {path}: its bytes are not those of its name", do=_HEAL)
        with self._open(name) as shard:
            everything = np.arange(len(shard))
            out = [np.empty((len(shard), *tensor.shape[1:]), tensor.dtype) for tensor in shard.tensors]
            shard.read(everything, out, everything, None)
            return len(shard)

    def _open(self, name: str) -> _Shard:
        return _Shard(self.folder / name, self.spec)


_HEAL: Final = "run the same extract again: it computes what is missing"


class RowIndex:
    """Finds rows by content digest and view: sorted arrays, about 45 bytes a row.

    Shards that are damaged or another trunk's are left out: their rows are missing rows, to be computed again. Indices
    are checked at once; the rows of a shard, when one of them is first found.

    Args:
        store: whose rows.
    """

    def __init__(self, store: Store) -> None:
        import numpy as np

        self.damaged: list[ShardError] = []
        self._store = store
        self._whole: dict[str, bool] = {}
        self._shards: list[str] = []
        digests, views, places = [np.empty((0, 32), np.uint8)], [np.empty(0, np.int32)], [np.empty((0, 2), np.int64)]
        for name in store.shard_names():
            try:
                shard_digests, shard_views = store.read_index(name)
            except ShardError as error:
                self.damaged.append(error)
                continue
            place = np.empty((len(shard_digests), 2), np.int64)
            place[:, 0], place[:, 1] = len(self._shards), np.arange(len(place))
            self._shards.append(name)
            digests.append(shard_digests)
            views.append(shard_views)
            places.append(place)
        self._digests, self._views, self._places = (
            np.concatenate(digests),
            np.concatenate(views),
            np.concatenate(places),
        )
        prefixes = _prefixes(self._digests)
        self._order = np.argsort(prefixes, kind="stable")
        self._prefixes = prefixes[self._order]

    def __len__(self) -> int:
        return len(self._digests)

    def find(self, digest: bytes, view: int = 0) -> RowAddress | None:
        """Where the row of a picture's view lies, or None where it is not kept."""
        import numpy as np

        prefix = np.frombuffer(digest[:8], ">u8")[0].astype(np.uint64)
        start = int(np.searchsorted(self._prefixes, prefix))
        while start < len(self._prefixes) and self._prefixes[start] == prefix:
            row = self._order[start]
            if self._views[row] == view and self._digests[row].tobytes() == digest:
                shard, place = self._places[row]
                if self._is_whole(self._shards[shard]):
                    return RowAddress(self._shards[shard], int(place))
            start += 1
        return None

    def _is_whole(self, shard: str) -> bool:
        if shard not in self._whole:
            try:
                self._store.verify(shard)
                self._whole[shard] = True
            except ShardError as error:
                self.damaged.append(error)
                self._whole[shard] = False
        return self._whole[shard]


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
            for start, stop in _runs(rows):
                first, last = int(rows[start]), int(rows[stop - 1]) + 1
                try:
                    values = tensor[first:last]
                except (OSError, RuntimeError) as error:
                    raise self._damaged(f"rows {first} to {last - 1} cannot be read: {error}") from error
                wrong = np.flatnonzero(row_checksums(values) != self.checksums[first:last, number])
                if len(wrong):
                    raise self._damaged(f"the checksum of row {first + wrong[0]} of {tensor.name[1:]} does not hold")
                out[number][at[start:stop]] = values

    def _check(self, spec: TrunkSpec) -> None:
        file = self._file
        try:
            self.tensors = [self._dataset(name) for name in tensor_names(len(spec.shapes))]
            expected = {"digests", "view", "checksums", *(tensor.name[1:] for tensor in self.tensors)}
            if set(file) != expected:
                raise self._damaged(f"holds {sorted(file)} in place of {sorted(expected)}")
            count = len(self._dataset("digests"))
            if count * DIGEST_BYTES > self.path.stat().st_size:
                raise self._damaged(f"claims {count} rows, more than it can hold")
            self._require_shapes(spec, count)
            self.digests: np.ndarray = file["digests"][...]
            self.views: np.ndarray = file["view"][...]
            self.checksums: np.ndarray = file["checksums"][...]
            checksum, trunk = read_text(file, "index_checksum"), read_text(file, "trunk")
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
        import h5py

        # Only plain data inside this very file: links and external or virtual data could read anything else.
        if not isinstance(self._file.get(name, getlink=True), h5py.HardLink):
            raise self._damaged(f"{name} is missing or a link")
        dataset = self._file[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
            raise self._damaged(f"{name} is no plain data set")
        return dataset

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


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of consecutive numbers in `rows`."""
    import numpy as np

    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *breaks.tolist(), len(rows)]
    return ((start, stop) for start, stop in itertools.pairwise(edges) if stop > start)

"""A shard: one immutable HDF5 file of features. `features/README.md` describes the format.

A shard holds rows, each the features of one view of one image. A row's key is the SHA-256 of the image's content and
the view. The index and each row have checksums, so that damage is detected.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from permafrost.errors import ShardError
from permafrost.store.hdf5 import READ_ERRORS, hdf5_bytes, plain_dataset, read_text, read_version, write_text
from permafrost.store.storage import Storage
from permafrost.trunk.spec import TrunkSpec, canonical_json

if TYPE_CHECKING:
    import h5py

FORMAT: Final = "permafrost shard"
SHARD_VERSION: Final = 1
"""The format of a shard. `features/README.md` says how to raise it."""

DIGEST_BYTES: Final = 32
INDEX: Final = ("digests", "view", "checksums")
"""The datasets that identify the rows."""

_REMEDY: Final = "run the same extract again: it computes what is missing"
_SPAN_BYTES: Final = 4 * 2**20
"""Maximum bytes of a shard that are read at once."""

_GAP_BYTES: Final = 32 * 2**10
"""Maximum number of bytes between two rows that are read together."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Features of some images, in memory.

    Attributes:
        digests: (n, 32) uint8, the SHA-256 of each image's content.
        views: (n,) int32, 0 for the image itself.
        features: one array (n, *shape) in the stored dtype per tensor of the trunk.
    """

    digests: np.ndarray
    views: np.ndarray
    features: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, chosen: slice | np.ndarray) -> Rows:
        """Return some of the rows, chosen by a slice, a mask or indices."""
        return Rows(self.digests[chosen], self.views[chosen], tuple(tensor[chosen] for tensor in self.features))

    @classmethod
    def concatenated(cls, parts: Sequence[Rows]) -> Rows:
        """Return the rows of several parts, one after the other."""
        return cls(
            np.concatenate([part.digests for part in parts]),
            np.concatenate([part.views for part in parts]),
            tuple(np.concatenate(tensors) for tensors in zip(*(part.features for part in parts), strict=True)),
        )


def digest_rows(digests: Iterable[bytes]) -> np.ndarray:
    """Return digests as shards and sets hold them: (n, 32) uint8."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def is_shard_name(name: object) -> bool:
    """Return whether `name` is 32 hex digits and `.h5`, as the names of shards are."""
    return isinstance(name, str) and re.fullmatch(r"[0-9a-f]{32}\.h5", name) is not None


def shard_bytes(rows: Rows, spec: TrunkSpec, *, engine: str) -> bytes:
    """Return the bytes of a shard.

    Args:
        rows: the rows.
        spec: their trunk.
        engine: the name of the engine that computed them.
    """
    arrays: dict[str, np.ndarray] = {
        "digests": np.ascontiguousarray(rows.digests, np.uint8),
        "view": np.asarray(rows.views, np.int32),
        "checksums": np.stack([row_checksums(tensor) for tensor in rows.features], axis=1),
    }
    arrays |= zip(tensor_names(len(rows.features)), map(np.ascontiguousarray, rows.features), strict=True)

    def fill(file: h5py.File) -> None:
        for name, array in arrays.items():
            file[name] = array
        file.attrs["version"] = SHARD_VERSION
        write_text(file, "format", FORMAT)
        write_text(file, "trunk", spec.digest)
        write_text(file, "engine", engine)
        write_text(file, "index_checksum", _index_checksum(arrays, spec.digest, engine))

    return hdf5_bytes(fill)


def tensor_names(count: int) -> list[str]:
    """Return the names of the datasets of `count` tensors: `features`, `features_1`, ..."""
    return ["features" if i == 0 else f"features_{i}" for i in range(count)]


def row_checksums(tensor: np.ndarray) -> np.ndarray:
    """Return the XXH3 (64 bits) of each row's bytes, little-endian, in C order: (n,) uint64."""
    import xxhash

    little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
    rows: Iterable[Any] = np.ascontiguousarray(little).reshape(len(tensor), -1).view(np.uint8)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, rows), np.uint64, len(tensor))


def _index_checksum(data: Mapping[str, np.ndarray | h5py.Dataset], trunk: str, engine: str) -> str:
    """Return the XXH3 (128 bits) of what identifies the rows: shapes, dtypes, trunk, digests, views, row checksums."""
    import xxhash

    layout: list[Any] = [[name, list(data[name].shape), data[name].dtype.str] for name in sorted(data)]
    hasher = xxhash.xxh3_128(canonical_json([layout, [FORMAT, str(SHARD_VERSION), trunk, engine]]))
    for name in INDEX:
        hasher.update(data[name][...].tobytes())
    return hasher.hexdigest()


class Shard:
    """An open shard whose index has been checked.

    Attributes:
        tensors: the open datasets, one for each tensor of the trunk, each (n, *shape).
        digests: (n, 32) uint8.
        views: (n,) int32.
        checksums: (n, tensors) uint64.
        engine: the name of the engine that computed the rows.

    Args:
        storage: where the shard is.
        name: its name there.
        spec: the trunk whose rows it must hold.

    Raises:
        ShardError: the shard is missing, damaged, or another trunk's.
    """

    def __init__(self, storage: Storage, name: str, spec: TrunkSpec) -> None:
        import h5py

        self._location = storage.location(name)
        try:
            self._file = h5py.File(storage.readable(name), "r", locking=False)
        except OSError as error:
            raise unreadable(storage, name, error) from error
        try:
            self._check(spec)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def index_bytes(self) -> int:
        """Bytes that the index takes in memory."""
        return int(self.digests.nbytes + self.views.nbytes + self.checksums.nbytes)

    def __len__(self) -> int:
        return len(self.digests)

    def read(self, rows: np.ndarray, out: Sequence[np.ndarray], at: np.ndarray, digests: np.ndarray | None) -> None:
        """Read rows; see `Store.read`."""
        if len(rows) and not 0 <= rows[0] <= rows[-1] < len(self):
            raise self._damaged(f"it has no rows {rows[0]} to {rows[-1]}, only {len(self)}")
        if digests is not None and not np.array_equal(self.digests[rows], digests):
            raise self._damaged("it holds other images' rows")
        for number, tensor in enumerate(self.tensors):
            row_bytes = tensor.nbytes // max(1, len(self))
            for start, stop in _spans(rows, row_bytes):
                where = _as_slice(at[start:stop])
                if isinstance(where, slice) and out[number].dtype == tensor.dtype:  # No further copy is needed.
                    self._values(number, rows[start:stop], out=out[number][where])
                else:
                    out[number][where] = self._values(number, rows[start:stop])

    def check(self) -> None:
        """Check all rows; see `Store.check`."""
        rows = np.arange(len(self))
        for number, tensor in enumerate(self.tensors):
            for start, stop in _spans(rows, tensor.nbytes // max(1, len(self))):
                self._values(number, rows[start:stop])

    def _values(self, number: int, rows: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """Read rows of a tensor at once, from the first to the last of them, and verify their checksums.

        With `out`, (k, *shape) of the tensor's dtype, they are copied there.
        """
        tensor, first, last = self.tensors[number], int(rows[0]), int(rows[-1])
        try:
            block: np.ndarray = tensor[first : last + 1]
        except (OSError, RuntimeError) as error:
            raise self._damaged(f"rows {first} to {last} cannot be read: {error}") from error
        # Without "clip", `take` makes another copy.
        values = block[_as_slice(rows - first)] if out is None else np.take(block, rows - first, 0, out, "clip")
        wrong = np.flatnonzero(row_checksums(values) != self.checksums[rows, number])
        if len(wrong):
            raise self._damaged(f"the checksum of row {rows[wrong[0]]} of {tensor.name[1:]} does not match")
        return values

    def _check(self, spec: TrunkSpec) -> None:
        file, names = self._file, tensor_names(len(spec.shapes))
        try:
            self._require_version()
            datasets = {name: plain_dataset(file, name) for name in (*INDEX, *names)}
            if set(file) != set(datasets):
                raise self._damaged(f"it holds {sorted(file)} instead of {sorted(datasets)}")
            self._require_shapes(datasets, dict(zip(names, spec.shapes, strict=True)), np.dtype(spec.dtype))
            index = {name: datasets[name][...] for name in INDEX}
            trunk, self.engine = read_text(file, "trunk"), read_text(file, "engine")
            if trunk != spec.digest:
                raise ShardError(f"foreign shard {self._location}: trunk", expected=spec.digest, found=trunk)
            if read_text(file, "format") != FORMAT:
                raise self._damaged("it is of another format")
            if read_text(file, "index_checksum") != _index_checksum(datasets | index, trunk, self.engine):
                raise self._damaged("the checksum of its index does not match")
        except READ_ERRORS as error:
            raise self._damaged(str(error)) from error
        self.digests, self.views, self.checksums = (index[name] for name in INDEX)
        self.tensors = [datasets[name] for name in names]

    def _require_version(self) -> None:
        version = read_version(self._file)
        if version != SHARD_VERSION:
            raise ShardError(
                f"foreign shard {self._location}: format version", expected=SHARD_VERSION, found=version, do=_REMEDY
            )

    def _require_shapes(
        self, datasets: Mapping[str, h5py.Dataset], shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype
    ) -> None:
        count = datasets["digests"].len()
        wanted: dict[str, tuple[tuple[int, ...], str]] = {
            "digests": ((count, DIGEST_BYTES), "|u1"),
            "view": ((count,), "<i4"),
            "checksums": ((count, len(shapes)), "<u8"),
        }
        wanted |= {name: ((count, *shape), dtype.newbyteorder("<").str) for name, shape in shapes.items()}
        for name, (shape, kind) in wanted.items():
            dataset = datasets[name]
            if dataset.shape != shape or dataset.dtype.str != kind:
                raise self._damaged(f"{name} is {dataset.dtype.str} {dataset.shape} instead of {kind} {shape}")

    def _damaged(self, how: str) -> ShardError:
        return damaged(self._location, how)


def damaged(location: str, how: object) -> ShardError:
    """Return the error for a shard that cannot be trusted."""
    return ShardError(f"damaged shard {location}: {how}", do=_REMEDY)


def unreadable(storage: Storage, name: str, error: OSError) -> ShardError:
    """Return the error for a shard that cannot be opened, or is missing."""
    if not storage.exists(name):
        return ShardError(f"missing shard {storage.location(name)}", do=_REMEDY)
    return damaged(storage.location(name), error)


def _as_slice(indices: np.ndarray) -> np.ndarray | slice:
    """Return indices as a slice if they are consecutive: it copies nothing, or three times as fast."""
    return slice(int(indices[0]), int(indices[-1]) + 1) if (np.diff(indices) == 1).all() else indices


def _spans(rows: np.ndarray, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop, in the ascending `rows`, of the pieces to read at once, gaps included.

    A call costs as much as reading some tens of kilobytes, so rows that are close together are read along with the gap
    between them, up to `_SPAN_BYTES` at once.
    """
    breaks = np.flatnonzero(np.diff(rows) * row_bytes > row_bytes + _GAP_BYTES) + 1
    maximum = max(1, _SPAN_BYTES // max(1, row_bytes))
    for start, stop in itertools.pairwise([0, *breaks.tolist(), len(rows)]):
        while start < stop:
            end = min(stop, start + int(np.searchsorted(rows[start:stop], rows[start] + maximum)))
            yield start, end
            start = end

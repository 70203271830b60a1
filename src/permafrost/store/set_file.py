"""The file of a feature set: what it says, written whole and read with suspicion.

It holds the dataset (paths, content digests, labels, splits, class names), a copy of the trunk's description, and
where each row lies. It is small; the features themselves stay in the store.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from permafrost.atomic import commit_bytes
from permafrost.errors import SetError
from permafrost.images.splits import SPLITS
from permafrost.store.hdf5 import hdf5_bytes, plain_dataset, read_text, read_version, write_text
from permafrost.store.row_index import RowAddress, RowIndex, place_rows
from permafrost.store.shard import is_shard_name
from permafrost.store.store import Store
from permafrost.trunk.spec import TrunkSpec, canonical_json

if TYPE_CHECKING:
    import h5py
FORMAT: Final = "permafrost feature set"
SET_VERSION: Final = 2
"""The format of a feature set's file. `features/README.md` says how to raise it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewRows:
    """Where the features of augmented views lie.

    Attributes:
        spec: what decides them: the set's trunk, with the augmentation.
        store: their store's folder, relative to the set file's folder.
        shards: names of the shards that hold the rows.
        places: (views, n, 2) int64, of view 1 first; for each image the index of its shard and its row there, -1
            where it has no views.
    """

    spec: TrunkSpec
    store: str
    shards: tuple[str, ...]
    places: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetContent:
    """All that a set file says.

    Attributes:
        spec: the trunk.
        store: the store's folder, relative to the set file's folder.
        root: the dataset's absolute path.
        names: for each image its path relative to the root's folder; undecodable bytes as surrogates (PEP 383).
            Read from a file they are decoded one by one: as text, those of a million images take 150 MB.
        digests: (n, 32) uint8.
        labels: (n,) int64.
        splits: (n,) uint8, indices into `dataset.SPLITS`.
        class_names: the classes.
        shards: names of the shards that hold the rows.
        places: (n, 2) int64, for each image the index of its shard and its row there.
        skipped: what was found and is not in the set, with the reason.
        about: what the set was made with: the base and the weights as they were asked for, versions.
        views: where the features of augmented views lie; None where there are none.
    """

    spec: TrunkSpec
    store: str
    root: str
    names: Sequence[str]
    digests: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    class_names: tuple[str, ...]
    shards: tuple[str, ...]
    places: np.ndarray
    skipped: tuple[tuple[str, str], ...]
    about: dict[str, Any]
    views: ViewRows | None = None


def read_set(path: Path) -> SetContent:
    """All that a set's file says, whether its store is there or not.

    Raises:
        SetError: the file is no feature set, or is damaged.
    """
    import h5py

    if not path.is_file():
        raise SetError(f"no feature set at {path}", do="make one with extract, or list them with `features list`")
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _read_content(path, file)
    except SetError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise SetError(f"not a feature set: {path}", found=str(error), do="run extract again") from error


def h5_files(folder: Path) -> list[Path]:
    """The files in `folder` that may be feature sets by their names, sorted."""
    return sorted(path for path in folder.glob("*.h5") if not path.name.startswith("."))


def is_feature_set(path: Path) -> bool | None:
    """Whether a file says that it is a feature set; None where it cannot say so, being damaged, or no HDF5 file."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            return "format" in file.attrs and read_text(file, "format") == FORMAT
    except (OSError, RuntimeError, KeyError, ValueError):
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a set that lie in one store: those of its images, or those of their augmented views.

    Attributes:
        spec: what decides them.
        store: the store's folder, relative to the set file's folder.
        shards: names of the shards that held the rows when the set was written.
        places: (m, 2) int64, for each row the index of its shard and its row there.
        digests: (m, 32) uint8, for each row its image's content.
        views: (m,) int64, for each row its view.
    """

    spec: TrunkSpec
    store: str
    shards: tuple[str, ...]
    places: np.ndarray
    digests: np.ndarray
    views: np.ndarray


def parts(content: SetContent) -> list[Part]:
    """Where all rows of a set lie, a store each."""
    zeros = np.zeros(len(content.labels), np.int64)
    found = [
        Part(
            spec=content.spec,
            store=content.store,
            shards=content.shards,
            places=content.places,
            digests=content.digests,
            views=zeros,
        )
    ]
    views = content.views
    if views is not None:
        numbers, images = np.nonzero(views.places[:, :, 0] >= 0)
        places, digests = views.places[numbers, images], content.digests[images]
        found.append(
            Part(
                spec=views.spec,
                store=views.store,
                shards=views.shards,
                places=places,
                digests=digests,
                views=numbers + 1,
            )
        )
    return found


def located(part: Part, store: Store) -> Part | None:
    """A part of a set with the places where its rows lie now; None if nothing is to be mended so.

    A set names its rows by content, and says where they lay when it was written. Shards may have been joined since.
    """
    gone = [number for number, name in enumerate(part.shards) if not store.has_shard(name)]
    if not gone:
        return None
    addresses = [RowAddress(part.shards[shard], place) for shard, place in part.places.tolist()]
    lost = np.flatnonzero(np.isin(part.places[:, 0], gone)).tolist()
    found = RowIndex(store).find_all([(part.digests[row].tobytes(), int(part.views[row])) for row in lost])
    for row, address in zip(lost, found, strict=True):
        if address is None:
            return None
        addresses[row] = address
    shards, places = place_rows(addresses)
    return dataclasses.replace(part, shards=shards, places=places)


def with_part(content: SetContent, part: Part) -> SetContent:
    """What a set says, with the places of one of its `parts` changed."""
    if part.store == content.store:
        return dataclasses.replace(content, shards=part.shards, places=part.places)
    assert content.views is not None, "a set's parts are its images and its views"
    places = content.views.places.copy()
    places[places[:, :, 0] >= 0] = part.places
    return dataclasses.replace(content, views=dataclasses.replace(content.views, shards=part.shards, places=places))


def write_set(path: str | os.PathLike[str], content: SetContent) -> None:
    """Write a set's file, whole or not at all.

    Raises:
        WriteError: it cannot be written.
    """
    blob, offsets = _pack_names(content.names)
    arrays: dict[str, np.ndarray] = {
        "digests": np.ascontiguousarray(content.digests, np.uint8).reshape(-1, 32),
        "labels": np.asarray(content.labels, np.int64),
        "splits": np.asarray(content.splits, np.uint8),
        "places": np.asarray(content.places, np.int64).reshape(-1, 2),
        "path_bytes": blob,
        "path_offsets": offsets,
        "description": np.frombuffer(json.dumps(_description(content)).encode("ascii"), np.uint8),
    }
    if content.views is not None:
        arrays[OPTIONAL] = np.asarray(content.views.places, np.int64).reshape(-1, len(content.labels), 2)

    def fill(file: h5py.File) -> None:
        for name, array in arrays.items():
            file[name] = array
        file.attrs["version"] = SET_VERSION
        write_text(file, "format", FORMAT)
        write_text(file, "checksum", _checksum(arrays))

    commit_bytes(Path(path), hdf5_bytes(fill))


_DATASETS: Final = {
    "digests": "|u1",
    "labels": "<i8",
    "splits": "|u1",
    "places": "<i8",
    "view_places": "<i8",
    "path_bytes": "|u1",
    "path_offsets": "<i8",
    "description": "|u1",
}
OPTIONAL: Final = "view_places"
"""Only in sets with augmented views, so that those without are as they always were."""


def _description(content: SetContent) -> dict[str, Any]:
    views = content.views
    described = {"trunk": views.spec.to_json(), "store": views.store, "shards": list(views.shards)} if views else None
    return ({"views": described} if described else {}) | {
        "trunk": content.spec.to_json(),
        "store": content.store,
        "root": content.root,
        "class_names": list(content.class_names),
        "shards": list(content.shards),
        "skipped": [list(entry) for entry in content.skipped],
        "about": content.about,
    }


def _read_content(path: Path, file: h5py.File) -> SetContent:
    form = read_text(file, "format") if "format" in file.attrs else "no format"
    if form != FORMAT:
        raise SetError(f"not a feature set: {path}", expected=FORMAT, found=form)
    if read_version(file) != SET_VERSION:
        raise SetError(f"{path} is of another version", expected=SET_VERSION, found=read_version(file))
    arrays = {name: _read_array(path, file, name) for name in _datasets(file)}
    if read_text(file, "checksum") != _checksum(arrays):
        raise _damaged(path, "its checksum does not hold")
    _require_sense(path, arrays)
    description = json.loads(arrays["description"].tobytes())
    content = SetContent(
        spec=TrunkSpec.from_json(description["trunk"]),
        store=description["store"],
        root=description["root"],
        names=_Names(arrays["path_bytes"], arrays["path_offsets"]),
        digests=arrays["digests"],
        labels=arrays["labels"],
        splits=arrays["splits"],
        class_names=tuple(description["class_names"]),
        shards=tuple(description["shards"]),
        places=arrays["places"],
        skipped=tuple((name, reason) for name, reason in description["skipped"]),
        about=description["about"],
        views=_read_views(arrays, description.get("views")),
    )
    _require_names(path, content)
    return content


def _read_views(arrays: dict[str, np.ndarray], described: dict[str, Any] | None) -> ViewRows | None:
    if described is None:
        return None
    return ViewRows(
        spec=TrunkSpec.from_json(described["trunk"]),
        store=described["store"],
        shards=tuple(described["shards"]),
        places=arrays[OPTIONAL],
    )


def _datasets(present: Container[str]) -> dict[str, str]:
    """The datasets that a set's file has to have, each with its dtype."""
    return {name: dtype for name, dtype in _DATASETS.items() if name != OPTIONAL or name in present}


def _read_array(path: Path, file: h5py.File, name: str) -> np.ndarray:
    try:
        dataset = plain_dataset(file, name)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if dataset.dtype.str != _DATASETS[name]:
        raise SetError(f"damaged feature set {path}: {name}", expected=_DATASETS[name], found=dataset.dtype.str)
    array: np.ndarray = dataset[...]
    return array


def _require_sense(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Refuse a file whose checksum holds and whose arrays do not belong together: it was made by hand."""
    count, bounds, size = len(arrays["labels"]), arrays["path_offsets"], len(arrays["path_bytes"])
    shapes: dict[str, tuple[int, ...]] = {"digests": (count, 32), "labels": (count,), "splits": (count,)}
    shapes |= {"places": (count, 2), "path_offsets": (count + 1,), "path_bytes": (size,)}
    if OPTIONAL in arrays:
        shapes[OPTIONAL] = (len(arrays[OPTIONAL]), count, 2)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise _damaged(path, f"{name} is of shape {arrays[name].shape} in place of {shape}")
    if bounds[0] != 0 or bounds[-1] != size or (bounds[1:] < bounds[:-1]).any():
        raise _damaged(path, "path_offsets do not divide path_bytes")
    if (arrays["splits"] >= len(SPLITS)).any():
        raise _damaged(path, "splits has others than " + ", ".join(SPLITS))


def _require_names(path: Path, content: SetContent) -> None:
    """Refuse numbers for which there is no name, and names that lead out of the set's own folder."""
    numbered = [("labels", content.labels, content.class_names)]
    numbered += [("places", part.places[:, 0], part.shards) for part in parts(content)]
    for what, numbers, names in numbered:
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(names):
            raise _damaged(path, f"{what} has numbers outside 0 to {len(names) - 1}")
    for part in parts(content):
        for name in part.shards:
            if not is_shard_name(name):
                raise _damaged(path, f"{name!r} is no name of a shard")
        if os.path.isabs(part.store) or os.pardir in Path(part.store).parts:
            raise _damaged(path, f"its store {part.store!r} lies outside its folder")


def _damaged(path: Path, how: str) -> SetError:
    return SetError(f"damaged feature set {path}: {how}", do="run extract again")


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    """XXH3 (128 bits) of names, shapes, dtypes and bytes of all datasets."""
    import xxhash

    hasher = xxhash.xxh3_128()
    for name, dtype in _datasets(arrays).items():
        array = np.ascontiguousarray(arrays[name])
        hasher.update(canonical_json([name, list(array.shape), dtype]))
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


class _Names(Sequence[str]):
    """Names that lie in one array of bytes, decoded when they are asked for: file names need not be UTF-8.

    Args:
        data: (bytes,) uint8, the names one after the other.
        bounds: (n + 1,) int64, where each begins, and where the last ends.
    """

    def __init__(self, data: np.ndarray, bounds: np.ndarray) -> None:
        self._data, self._bounds = data, bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, stop = self._bounds[: len(self)][index], self._bounds[1:][index]
        return os.fsdecode(self._data[start:stop].tobytes())


def _pack_names(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Names as `_Names` has them."""
    encoded = [os.fsencode(name) for name in names]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(name) for name in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets

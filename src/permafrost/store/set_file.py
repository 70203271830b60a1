"""Write the file of a feature set, and define its layout; `set_reading` reads and checks it.

The file is small: features stay in the store. `features/README.md` describes the format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from permafrost.store.hdf5 import arrays_checksum, hdf5_bytes, write_text
from permafrost.store.set_content import SetContent
from permafrost.store.storage import ObjectPlace, StoredObject

if TYPE_CHECKING:
    from pathlib import Path

    import h5py

FORMAT: Final = "permafrost feature set"
SET_VERSION: Final = 3
"""The format of a feature set's file. `features/README.md` says how to raise it."""

DATASETS: Final = {
    "digests": "|u1",
    "labels": "<i8",
    "splits": "|u1",
    "groups": "<i8",
    "places": "<i8",
    "view_places": "<i8",
    "path_bytes": "|u1",
    "path_offsets": "<i8",
    "description": "|u1",
}
"""The datasets of a set's file, each with its dtype, in the order of the checksum."""

GROUPS: Final = "groups"
"""The dataset that only sets with groups have."""

VIEW_PLACES: Final = "view_places"
"""The dataset that only sets with augmented views have."""


def datasets(present: Container[str]) -> dict[str, str]:
    """Return the datasets, each with its dtype, that a file needs if it has those in `present`."""
    return {name: dtype for name, dtype in DATASETS.items() if name not in (GROUPS, VIEW_PLACES) or name in present}


def write_set(place: ObjectPlace, content: SetContent) -> None:
    """Write a set's file atomically.

    Args:
        place: the path of the file, or an object in another place.
        content: the content to write.

    Raises:
        WriteError: the disk is full, the folder is read-only, or similar.
    """
    place = StoredObject.at(place)
    path_bytes, path_offsets = pack_names(content.names)
    arrays: dict[str, np.ndarray] = {
        "digests": np.ascontiguousarray(content.digests, np.uint8).reshape(-1, 32),
        "labels": np.asarray(content.labels, np.int64),
        "splits": np.asarray(content.splits, np.uint8),
        "places": np.asarray(content.places, np.int64).reshape(-1, 2),
        "path_bytes": path_bytes,
        "path_offsets": path_offsets,
        "description": np.frombuffer(json.dumps(_description(content, place.folder)).encode("ascii"), np.uint8),
    }
    if content.groups is not None:
        arrays[GROUPS] = np.asarray(content.groups, np.int64)
    if content.views is not None:
        arrays[VIEW_PLACES] = np.asarray(content.views.places, np.int64).reshape(-1, len(content.labels), 2)

    def fill(file: h5py.File) -> None:
        for name, array in arrays.items():
            file[name] = array
        file.attrs["version"] = SET_VERSION
        write_text(file, "format", FORMAT)
        write_text(file, "checksum", checksum(arrays))

    place.storage.put(place.name, hdf5_bytes(fill))


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the XXH3 (128 bits) of the names, shapes, dtypes and bytes of a file's datasets."""
    return arrays_checksum(arrays, datasets(arrays))


class PackedNames(Sequence[str]):
    """Names in one array of bytes, each decoded on access: file names need not be UTF-8.

    Args:
        data: (bytes,) uint8, the names one after the other.
        bounds: (n + 1,) int64, where each name begins, and where the last one ends.
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


def pack_names(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return names as `PackedNames` takes them: their bytes, (bytes,) uint8, and bounds, (n + 1,) int64."""
    encoded = [os.fsencode(name) for name in names]
    bounds = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(name) for name in encoded], out=bounds[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), bounds


def _description(content: SetContent, folder: Path | None) -> dict[str, Any]:
    description = {
        "trunk": content.spec.to_json(),
        "store": content.store,
        "root": content.root,
        "root_relative": None if folder is None else os.path.relpath(content.root, folder),
        "class_names": list(content.class_names),
        "shards": list(content.shards),
        "skipped": [list(entry) for entry in content.skipped],
        "about": content.about,
    }
    views = content.views
    if views is None:
        return description
    return {
        "views": {"trunk": views.spec.to_json(), "store": views.store, "shards": list(views.shards)},
        **description,
    }

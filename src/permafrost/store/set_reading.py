"""Read the file of a feature set. Nothing in it is trusted before it is checked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from permafrost.errors import SetError, VersionError
from permafrost.images.splits import SPLITS
from permafrost.images.splitting.units import NO_GROUP
from permafrost.store.hdf5 import READ_ERRORS, plain_dataset, read_text, read_version
from permafrost.store.set_content import SetContent, ViewRows, parts
from permafrost.store.set_file import (
    DATASETS,
    FORMAT,
    GROUPS,
    SET_VERSION,
    VIEW_PLACES,
    PackedNames,
    checksum,
    datasets,
)
from permafrost.store.shard import is_shard_name
from permafrost.store.storage import ObjectPlace, Storage, StoredObject
from permafrost.trunk.spec import TrunkSpec

if TYPE_CHECKING:
    import h5py


def read_set(place: ObjectPlace) -> SetContent:
    """Read a set's file. Its store need not exist.

    Args:
        place: the path of the file, or an object in another place.

    Raises:
        SetError: the file is not a feature set, or is damaged.
        VersionError: the feature set is of another format version.
    """
    import h5py

    place = StoredObject.at(place)
    if not place.exists():
        raise SetError(f"no feature set at {place}", do="make one with extract, or list them with `features list`")
    try:
        with h5py.File(place.readable(), "r", locking=False) as file:
            return _read_content(place, file)
    except READ_ERRORS as error:
        raise SetError(f"not a feature set: {place}", found=str(error), do="run extract again") from error


def set_names(storage: Storage) -> list[str]:
    """Return the names of the objects that are feature sets, or may be damaged ones, sorted.

    Raises:
        SetError: the place cannot be listed.
    """
    try:
        names = [name for name in storage.list() if name.endswith(".h5")]
    except OSError as error:
        raise SetError(f"cannot list the feature sets in {storage.location()}: {error.strerror or error}") from error
    return [name for name in names if may_be_feature_set(StoredObject(storage, name))]


def may_be_feature_set(place: ObjectPlace) -> bool:
    """Return whether a file declares itself a feature set, or cannot be read and may be a damaged one."""
    import h5py

    try:
        with h5py.File(StoredObject.at(place).readable(), "r", locking=False) as file:
            return "format" in file.attrs and read_text(file, "format") == FORMAT
    except (OSError, RuntimeError, KeyError, ValueError):
        return True


def _read_content(place: StoredObject, file: h5py.File) -> SetContent:
    _require_version(place, file)
    arrays = {name: _read_array(place, file, name) for name in datasets(file)}
    if read_text(file, "checksum") != checksum(arrays):
        raise _damaged(place, "its checksum does not match")
    _require_shapes(place, arrays)
    description = json.loads(arrays["description"].tobytes())
    content = SetContent(
        spec=_read_spec(place, description["trunk"]),
        store=description["store"],
        root=_root(place, description),
        names=PackedNames(arrays["path_bytes"], arrays["path_offsets"]),
        digests=arrays["digests"],
        labels=arrays["labels"],
        splits=arrays["splits"],
        class_names=tuple(description["class_names"]),
        shards=tuple(description["shards"]),
        places=arrays["places"],
        skipped=tuple((name, reason) for name, reason in description["skipped"]),
        about=description["about"],
        views=_read_views(place, arrays, description.get("views")),
        groups=arrays.get(GROUPS),
    )
    _require_names(place, content)
    return content


def _root(place: StoredObject, description: dict[str, Any]) -> str:
    """Return where the dataset is: at its absolute path, or beside a set that has moved with it."""
    root, relative = str(description["root"]), description.get("root_relative")
    if relative is None or place.folder is None or os.path.exists(root):
        return root
    moved = os.path.normpath(os.path.join(os.path.abspath(place.folder), str(relative)))
    return moved if os.path.exists(moved) else root


def _require_version(place: StoredObject, file: h5py.File) -> None:
    """Refuse a file of another format, or of another version of this one."""
    form = read_text(file, "format") if "format" in file.attrs else "no format"
    if form != FORMAT:
        raise SetError(f"not a feature set: {place}", expected=FORMAT, found=form)
    version = read_version(file)
    if version != SET_VERSION:
        older = version < SET_VERSION
        do = "run extract again, which writes a new one" if older else "update permafrost"
        age = "an older" if older else "a newer"
        what = f"{place} is a feature set of {age} version"
        raise VersionError(what, expected=SET_VERSION, found=version, do=do)


def _read_spec(place: StoredObject, fields: dict[str, Any]) -> TrunkSpec:
    try:
        return TrunkSpec.from_json(fields)
    except VersionError as error:
        what = f"{place} is a feature set of another version: {error.what}"
        do = "run extract again, which writes a new one"
        raise VersionError(what, expected=error.expected, found=error.found, do=do) from error


def _read_views(
    place: StoredObject, arrays: dict[str, np.ndarray], description: dict[str, Any] | None
) -> ViewRows | None:
    if description is None:
        return None
    return ViewRows(
        spec=_read_spec(place, description["trunk"]),
        store=description["store"],
        shards=tuple(description["shards"]),
        places=arrays[VIEW_PLACES],
    )


def _read_array(place: StoredObject, file: h5py.File, name: str) -> np.ndarray:
    try:
        dataset = plain_dataset(file, name)
    except ValueError as error:
        raise _damaged(place, str(error)) from error
    if dataset.dtype.str != DATASETS[name]:
        raise SetError(f"damaged feature set {place}: {name}", expected=DATASETS[name], found=dataset.dtype.str)
    array: np.ndarray = dataset[...]
    return array


def _require_shapes(place: StoredObject, arrays: dict[str, np.ndarray]) -> None:
    """Refuse arrays that do not fit together: a file that was made by hand may have a valid checksum."""
    count, bounds, size = len(arrays["labels"]), arrays["path_offsets"], len(arrays["path_bytes"])
    shapes: dict[str, tuple[int, ...]] = {"digests": (count, 32), "labels": (count,), "splits": (count,)}
    shapes |= {"places": (count, 2), "path_offsets": (count + 1,), "path_bytes": (size,)}
    if GROUPS in arrays:
        shapes[GROUPS] = (count,)
    if VIEW_PLACES in arrays:
        shapes[VIEW_PLACES] = (len(arrays[VIEW_PLACES]), count, 2)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise _damaged(place, f"{name} has shape {arrays[name].shape} instead of {shape}")
    if bounds[0] != 0 or bounds[-1] != size or (bounds[1:] < bounds[:-1]).any():
        raise _damaged(place, "path_offsets do not divide path_bytes")
    if (arrays["splits"] >= len(SPLITS)).any():
        raise _damaged(place, "splits has values other than " + ", ".join(SPLITS))
    if GROUPS in arrays and (arrays[GROUPS] < NO_GROUP).any():
        raise _damaged(place, f"groups has numbers below {NO_GROUP}")


def _require_names(place: StoredObject, content: SetContent) -> None:
    """Refuse indices of classes and shards that have no name, and names that lead out of the set's folder."""
    stored = parts(content)
    numbered = [("labels", content.labels, content.class_names)]
    numbered += [("places", part.places[:, 0], part.shards) for part in stored]
    for what, numbers, names in numbered:
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(names):
            raise _damaged(place, f"{what} has numbers outside 0 to {len(names) - 1}")
    for part in stored:
        if len(part.spec.shapes) != 1:
            raise _damaged(place, f"its trunk has {len(part.spec.shapes)} tensors per image instead of one")
        for name in part.shards:
            if not is_shard_name(name):
                raise _damaged(place, f"{name!r} is not the name of a shard")
        if os.path.isabs(part.store) or os.pardir in Path(part.store).parts:
            raise _damaged(place, f"its store {part.store!r} is outside its folder")


def _damaged(place: StoredObject, how: str) -> SetError:
    return SetError(f"damaged feature set {place}: {how}", do="run extract again")

"""A feature set: a listing's rows in one store, as arrays and batches.

The set's file holds the listing (paths, content digests, labels, splits, class names), a copy of the trunk's
description, and where each row lies. It is small; the features themselves stay in the store.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload

from permafrost.errors import OptionError, PictureError, SetError, ShardError, StoreError
from permafrost.files import commit_bytes
from permafrost.listing import SPLITS, FilePicture, Listing, LoadedPicture, path_of, read_listing
from permafrost.store import (
    RowAddress,
    RowIndex,
    Store,
    hdf5_bytes,
    is_shard_name,
    place_rows,
    plain_dataset,
    read_text,
    read_version,
    write_text,
)
from permafrost.trunk_spec import TrunkSpec, canonical_json, first_difference

if TYPE_CHECKING:
    import h5py
    import numpy as np

FORMAT: Final = "permafrost feature set"
VERSION: Final = 1
STORE_FOLDER: Final = "store"
"""Below the folder of the sets, so that both can be moved together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewRows:
    """Where the features of augmented views lie.

    Attributes:
        spec: what decides them: the set's trunk, with the augmentation.
        store: their store's folder, relative to the set file's folder.
        shards: names of the shards that hold the rows.
        places: (views, n, 2) int64, of view 1 first; for each picture the index of its shard and its row there, -1
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
        root: the data set's absolute path.
        names: for each picture its path relative to the root's folder; undecodable bytes as surrogates (PEP 383).
            Read from a file they are decoded one by one: as text, those of a million pictures take 150 MB.
        digests: (n, 32) uint8.
        labels: (n,) int64.
        splits: (n,) uint8, indices into `listing.SPLITS`.
        class_names: the classes.
        shards: names of the shards that hold the rows.
        places: (n, 2) int64, for each picture the index of its shard and its row there.
        set_aside: what was found and is not in the set, with the reason.
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
    set_aside: tuple[tuple[str, str], ...]
    about: dict[str, Any]
    views: ViewRows | None = None


class FeatureSet:
    """Kept features of one data set. Made by `permafrost.extract`, opened by `permafrost.open_features`.

    Attributes:
        path: the set's file.
        spec: what decides the features.
        class_names: the classes, in the order of the labels.
        set_aside: what was found and is not in the set, with the reason.
        summary: of the extraction that made it, where it has just been made: what `extract --json` prints.
    """

    def __init__(self, path: Path, content: SetContent, *, summary: dict[str, Any] | None = None) -> None:
        self.path = path
        self.spec = content.spec
        self.class_names = list(content.class_names)
        self.set_aside = content.set_aside
        self.root = content.root
        self.about = content.about
        self.summary = summary
        self._content = content

    def __len__(self) -> int:
        return len(self._content.labels)

    def __repr__(self) -> str:
        counts = ", ".join(f"{split} {len(self.rows(split))}" for split in SPLITS)
        return f"FeatureSet({str(self.path)!r}, {self.spec.base} {self.spec.cut}, shape {self.shape}, {counts})"

    @property
    def content(self) -> SetContent:
        """All that its file says."""
        return self._content

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture's features, e.g. `(7, 7, 768)`; of its first tensor where it has several."""
        return self.spec.shapes[0]

    @property
    def store(self) -> Store:
        """The store that holds the features.

        Raises:
            SetError: it is gone, or holds another trunk's features now.
        """
        return self._open_store(self._content.store, self.spec)

    def _open_store(self, folder: str, spec: TrunkSpec) -> Store:
        try:
            store = Store(self.path.parent / folder)
        except StoreError as error:
            raise SetError(
                f"the store of {self.path} cannot be opened: {error.what}",
                do="move the set and the folder `store` together, or run extract again",
            ) from error
        difference = first_difference(spec, store.spec)
        if difference is None and spec.shapes != store.spec.shapes:
            difference = "shapes", spec.shapes, store.spec.shapes
        if difference:
            field, expected, found = difference
            raise SetError(f"the store of {self.path} has changed: {field}", expected=expected, found=found)
        return store

    @property
    def views(self) -> int:
        """How many views each training picture has, the picture itself, view 0, among them: 1 or more."""
        return 1 if self._content.views is None else 1 + len(self._content.views.places)

    @property
    def augmentation(self) -> str:
        """How views above 0 were made (`augmentation.Augmentation.rule`); empty where there are none."""
        return "" if self._content.views is None else self._content.views.spec.augmentation

    @property
    def digest(self) -> str:
        """SHA-256 of the trunk, the pictures' contents, the labels and the splits: what a head is fitted to."""
        hasher = hashlib.sha256(self.spec.digest.encode())
        hasher.update(canonical_json(self.class_names))
        for array in (self._content.digests, self._content.labels, self._content.splits):
            hasher.update(array.tobytes())
        return hasher.hexdigest()

    def rows(self, split: str | None = None) -> np.ndarray:
        """Indices of the pictures of `split`, or of all: (n,) int64, ascending.

        Raises:
            OptionError: there is no such split.
        """
        import numpy as np

        if split is None:
            return np.arange(len(self))
        if split not in SPLITS:
            raise OptionError("no such split", expected=", ".join(SPLITS), found=split)
        return np.flatnonzero(self._content.splits == SPLITS.index(split))

    def labels(self, split: str | None = None) -> np.ndarray:
        """The labels of the pictures of `split`, or of all: (n,) int64, indices into `class_names`."""
        labels: np.ndarray = self._content.labels[self.rows(split)]
        return labels

    def digests(self, split: str | None = None) -> np.ndarray:
        """The content digests of the pictures of `split`, or of all: (n, 32) uint8."""
        digests: np.ndarray = self._content.digests[self.rows(split)]
        return digests

    def names(self, split: str | None = None) -> list[str]:
        """The pictures' paths relative to the data set."""
        return [self._content.names[row] for row in self.rows(split)]

    def paths(self, split: str | None = None) -> list[str]:
        """The pictures' paths, in the order of `arrays`. Bytes that are no UTF-8 are surrogates (PEP 383)."""
        return [path_of(self.root, name) for name in self.names(split)]

    def copies(self) -> list[np.ndarray]:
        """Pictures that are the same, byte for byte: for each content listed more than once its rows, (k,) int64."""
        import numpy as np

        digests = self._content.digests
        # Of a million pictures the first eight bytes are sorted in a tenth of the time that all of them take.
        rows = _repeated(digests[:, :8].copy().view(np.uint64).reshape(-1))
        rows = rows[_repeated(digests[rows].view("V32").reshape(-1))]
        numbers = np.unique(digests[rows].view("V32").reshape(-1), return_inverse=True)[1]
        rows = rows[np.argsort(numbers, kind="stable")]
        edges = np.flatnonzero(np.diff(np.sort(numbers))) + 1
        return sorted(np.split(rows, edges), key=lambda group: int(group[0])) if len(rows) else []

    def describe_copies(self) -> dict[str, Any]:
        """What `extract` reports of copies: how many, and those in two splits or under two labels with their paths."""
        content, groups = self._content, self.copies()
        splits = [group for group in groups if len(set(content.splits[group].tolist())) > 1]
        labels = [group for group in groups if len(set(content.labels[group].tolist())) > 1]
        told = {int(group[0]): group for group in (*splits, *labels)}
        return {
            "pictures": sum(len(group) - 1 for group in groups),
            "across_splits": len(splits),
            "across_labels": len(labels),
            "groups": [[self._describe_picture(row) for row in told[first].tolist()] for first in sorted(told)],
        }

    def _describe_picture(self, row: int) -> dict[str, str]:
        content = self._content
        split, label = SPLITS[content.splits[row]], self.class_names[content.labels[row]]
        return {"path": content.names[row], "split": split, "label": label}

    def listing(self, rows: np.ndarray) -> Listing:
        """The pictures with these indices as a data set, named by their whole paths.

        Raises:
            PictureError: pictures are arrays in a file, which lacks one now.
        """
        wanted, arrays = [self._content.names[row] for row in rows], None
        if self._listing is not None and self._listing.arrays is not None:
            there = dict(zip(self._listing.names, self._listing.arrays, strict=True))
            gone = next((name for name in wanted if name not in there), None)
            if gone is not None:
                raise PictureError(f"{gone} is no longer in {self.root}", do="extract again")
            arrays = tuple(there[name] for name in wanted)
        return Listing(
            root="",
            names=tuple(path_of(self.root, name) for name in wanted),
            labels=tuple(self._content.labels[rows].tolist()),
            splits=(None,) * len(wanted),
            class_names=tuple(self.class_names),
            arrays=arrays,
        )

    def load_picture(self, row: int) -> LoadedPicture:
        """Read the picture with this index, and make sure that its content is still what its features came from.

        Raises:
            PictureError: it is gone, cannot be read, or has changed.
        """
        name = self._content.names[row]
        picture = self._listing.picture(self._listing.names.index(name)) if self._listing else None
        try:
            loaded = (picture or FilePicture(path_of(self.root, name))).load()
        except PictureError as error:
            raise PictureError(f"cannot read {path_of(self.root, name)}: {error}") from error
        if loaded.digest != self._content.digests[row].tobytes():
            raise PictureError(
                f"{path_of(self.root, name)} has changed since its features were kept", do="extract again"
            )
        # What the extraction took is taken again.
        return dataclasses.replace(loaded, max_pixels=self.about.get("max_pixels", loaded.max_pixels))

    @functools.cached_property
    def _listing(self) -> Listing | None:
        """Where pictures are arrays in a file: that file, read."""
        return read_listing(self.root) if self.root.endswith(".npz") else None

    def arrays(self, split: str | None = None, *, view: int = 0) -> tuple[Any, np.ndarray]:
        """Features and labels of `split`, or of all.

        Args:
            split: `train`, `validation` or `test`; all pictures if None.
            view: which view of each picture; only training pictures have views above 0.

        Returns:
            X, (n, *shape) float32, or a tuple of such arrays where the cut crosses several tensors; and y, (n,) int64.

        Raises:
            OptionError: the pictures have no such view.
            ShardError: a shard is missing or damaged.
        """
        rows = self.rows(split)
        return self.features(rows, view=view), self._content.labels[rows]

    def features(self, rows: np.ndarray, *, view: int = 0) -> Any:
        """Features of one view of the pictures with these indices, in this order: as `arrays` returns them."""
        while True:
            store, shards, places = self._places(rows, view)
            try:
                tensors = store.gather(shards, places, digests=self._content.digests[rows])
                return tensors if len(tensors) > 1 else tensors[0]
            except ShardError:
                if not self._relocate():
                    raise

    def _places(self, rows: np.ndarray, view: int) -> tuple[Store, tuple[str, ...], np.ndarray]:
        if view == 0:
            return self.store, self._content.shards, self._content.places[rows]
        views, places = self._view_places(rows, view)
        return self._open_store(views.store, views.spec), views.shards, places

    def _relocate(self) -> bool:
        """Look where rows lie now whose shards have been joined with others; whether there are any."""
        found = False
        for part in parts(self._content):
            moved = located(part, self._open_store(part.store, part.spec))
            if moved is not None:
                self._content, found = with_part(self._content, moved), True
        return found

    def _view_places(self, rows: np.ndarray, view: int) -> tuple[ViewRows, np.ndarray]:
        views = self._content.views
        if views is None or not 0 < view < self.views:
            raise OptionError(
                f"{self.path} has no view {view}",
                expected=f"0 to {self.views - 1}" if views else "0 only",
                found=view,
                do="extract with more --views",
            )
        places: np.ndarray = views.places[view - 1, rows]
        if (places < 0).any():
            raise OptionError("only training pictures have views", expected="training pictures, or view 0", found=view)
        return views, places

    def batches(
        self, split: str | None = None, *, view: int = 0, batch_size: int = 32, shuffle: bool = False, seed: int = 0
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Features and labels in batches, once through; never more than one batch in memory.

        Args:
            split: `train`, `validation` or `test`; all pictures if None.
            view: which view of each picture, as for `arrays`.
            batch_size: pictures a batch; the last one may be smaller.
            shuffle: whether in an order drawn from `seed` rather than that of `paths`.
            seed: of the order.

        Yields:
            X and y, as `arrays` returns them.
        """
        import numpy as np

        if batch_size < 1:
            raise OptionError("a batch has at least one picture", expected="1 or more", found=batch_size)
        rows = self.rows(split)
        if shuffle:
            rows = np.random.default_rng(seed).permutation(rows)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            yield self.features(batch, view=view), self._content.labels[batch]

    def describe(self) -> dict[str, Any]:
        """What the set is, as `features show --json` prints it."""
        content = self._content
        counts = {
            split: {name: int((self.labels(split) == i).sum()) for i, name in enumerate(self.class_names)}
            for split in SPLITS
        }
        return {
            "set": str(self.path),
            "store": str(self.path.parent / content.store),
            "data": self.root,
            "pictures": len(self),
            "classes": self.class_names,
            "splits": {split: {"n": sum(classes.values()), "classes": classes} for split, classes in counts.items()},
            "shape": list(self.shape),
            "views": self.views,
            "augmentation": self.augmentation,
            "trunk": self.spec.to_json(),
            "key": self.spec.key,
            "shards": len(content.shards),
            "set_aside": [{"path": name, "reason": reason} for name, reason in content.set_aside],
            "copies": self.describe_copies(),
        }


def open_features(path: str | os.PathLike[str]) -> FeatureSet:
    """Open a kept feature set.

    Args:
        path: the set's file, e.g. `features/photos.h5`. Its store lies beside it, in `store/`.

    Raises:
        SetError: the file is no feature set, is damaged, or its store is gone or holds another trunk's features.
    """
    path = Path(path)
    features = FeatureSet(path, read_set(path))
    _ = features.store  # A set without its store is refused at once, not at the first row.
    return features


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
    """Rows of a set that lie in one store: those of its pictures, or those of their augmented views.

    Attributes:
        spec: what decides them.
        store: the store's folder, relative to the set file's folder.
        shards: names of the shards that held the rows when the set was written.
        places: (m, 2) int64, for each row the index of its shard and its row there.
        digests: (m, 32) uint8, for each row its picture's content.
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
    import numpy as np

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
        numbers, pictures = np.nonzero(views.places[:, :, 0] >= 0)
        places, digests = views.places[numbers, pictures], content.digests[pictures]
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
    import numpy as np

    gone = [number for number, name in enumerate(part.shards) if not store.has_shard(name)]
    if not gone:
        return None
    index = RowIndex(store)
    addresses = []
    for row, lost in enumerate(np.isin(part.places[:, 0], gone).tolist()):
        shard, place = part.places[row].tolist()
        address: RowAddress | None = RowAddress(part.shards[shard], place)
        if lost:
            address = index.find(part.digests[row].tobytes(), int(part.views[row]))
        if address is None:
            return None
        addresses.append(address)
    shards, places = place_rows(addresses)
    return dataclasses.replace(part, shards=shards, places=places)


def with_part(content: SetContent, part: Part) -> SetContent:
    """What a set says, with the places of one of its `parts` changed."""
    if part.store == content.store:
        return dataclasses.replace(content, shards=part.shards, places=part.places)
    assert content.views is not None, "a set's parts are its pictures and its views"
    places = content.views.places.copy()
    places[places[:, :, 0] >= 0] = part.places
    return dataclasses.replace(content, views=dataclasses.replace(content.views, shards=part.shards, places=places))


def write_set(path: str | os.PathLike[str], content: SetContent) -> None:
    """Write a set's file, whole or not at all.

    Raises:
        WriteError: it cannot be written.
    """
    import numpy as np

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
        file.attrs["version"] = VERSION
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
        "set_aside": [list(entry) for entry in content.set_aside],
        "about": content.about,
    }


def _read_content(path: Path, file: h5py.File) -> SetContent:
    form = read_text(file, "format") if "format" in file.attrs else "no format"
    if form != FORMAT:
        raise SetError(f"not a feature set: {path}", expected=FORMAT, found=form)
    if read_version(file) != VERSION:
        raise SetError(f"{path} is of another version", expected=VERSION, found=read_version(file))
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
        set_aside=tuple((name, reason) for name, reason in description["set_aside"]),
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
    """The data sets that a set's file has to have, each with its dtype."""
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
    """XXH3 (128 bits) of names, shapes, dtypes and bytes of all data sets."""
    import numpy as np
    import xxhash

    hasher = xxhash.xxh3_128()
    for name, dtype in _datasets(arrays).items():
        array = np.ascontiguousarray(arrays[name])
        hasher.update(canonical_json([name, list(array.shape), dtype]))
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


def _repeated(values: np.ndarray) -> np.ndarray:
    """Where the values lie that come more than once: (k,) int64, ascending."""
    import numpy as np

    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[numbers] > 1)


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
    import numpy as np

    encoded = [os.fsencode(name) for name in names]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(name) for name in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets

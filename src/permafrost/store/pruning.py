"""Prune cached features: remove what no feature set uses."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

from permafrost.errors import SetError, StoreError, VersionError
from permafrost.options import as_path
from permafrost.store.hdf5 import plain_dataset
from permafrost.store.row_reader import relocate
from permafrost.store.set_content import Part, parts
from permafrost.store.set_reading import read_set
from permafrost.store.shard import is_shard_name
from permafrost.store.storage import LocalStorage, Storage
from permafrost.store.store import DESCRIPTION_FILE, Store
from permafrost.store.verification import TRUNK_FILES, set_files, store_folders


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal:
    """Something that can be removed.

    Attributes:
        path: the file or folder.
        why: why it can be removed.
        bytes: its size.
    """

    path: str
    why: str
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spared:
    """A store or set that is left alone.

    Attributes:
        path: the folder or file.
        why: the reason.
    """

    path: str
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruning:
    """What can be removed from a folder of feature sets.

    Attributes:
        removals: shards, stores and temporary files that nothing uses.
        spared: what is left alone: stores that an extraction is using, and files of other format versions.
    """

    removals: list[Removal]
    spared: list[Spared]

    @property
    def bytes(self) -> int:
        """The total size of the removals."""
        return sum(removal.bytes for removal in self.removals)


_Deletion = tuple[Removal, Callable[[], None]]


def prune(folder: str | os.PathLike[str], *, confirm: Callable[[Pruning], bool]) -> tuple[Pruning, bool]:
    """Remove the shards and stores that no set in `folder` uses, and the temporary files of crashed processes.

    These stores are locked against extraction until the removals have been found, confirmed and done. Sets and
    stores of other format versions are left alone, and so are the stores that such sets use.

    Args:
        folder: the folder of the sets, e.g. `features`.
        confirm: called with what would be removed; returns whether to remove it.

    Returns:
        What could be removed, and whether it was.

    Raises:
        OptionError: `folder` is not a path, or is empty.
        SetError: the folder does not exist, or has a damaged set, which may use anything.
        StoreError: the store of a set is damaged, or something cannot be removed.
    """
    folder = as_path(folder, "a folder of feature sets")
    if not folder.is_dir():
        raise SetError(f"no such folder: {folder}", expected="the folder of the feature sets")
    with contextlib.ExitStack() as stack:
        folders = store_folders(folder)
        # The locks come first: a process that is about to write a set holds the set's stores.
        locks = {each: LocalStorage(each).hold(exclusive=True) for each in folders}
        for held in filter(None, locks.values()):
            stack.enter_context(held)
        sets = _read_sets(folder)
        spared = [Spared(path=str(path), why="a feature set of another format version") for path in sets.others]
        deletions = _leftovers(LocalStorage(folder))
        for each, lock in locks.items():
            why = "an extraction is using it" if lock is None else sets.reason_to_spare(each)
            if why:
                spared.append(Spared(path=str(each), why=why))
            else:
                deletions += _deletions(each, sets.needs.get(os.path.realpath(each), []))
        pruning = Pruning(removals=[removal for removal, _ in deletions], spared=spared)
        confirmed = confirm(pruning)
        for removal, delete in deletions if confirmed else []:
            try:
                delete()
            except OSError as error:
                what = f"cannot remove {removal.path}: {error.strerror}"
                raise StoreError(what, do="everything listed before it has been removed") from error
    return pruning, confirmed


@dataclasses.dataclass(frozen=True)
class _Sets:
    """What the sets in a folder use.

    Attributes:
        needs: the parts of sets, by the real path of their store.
        others: sets of other format versions, each with the real paths of their stores; None if they cannot be read.
    """

    needs: dict[str, list[Part]]
    others: dict[Path, list[str] | None]

    def reason_to_spare(self, store: Path) -> str | None:
        """Return why a store is left alone; None if it is not."""
        try:
            Store(store)
        except VersionError as error:
            return str(error)
        except StoreError:
            pass  # A damaged one is removed if no set uses it.
        for path, stores in self.others.items():
            if stores is None or os.path.realpath(store) in stores:
                return f"{path}, a feature set of another format version, may use it"
        return None


def _read_sets(folder: Path) -> _Sets:
    sets = _Sets({}, {})
    for path in set_files(folder):
        try:
            for part in parts(read_set(path)):
                sets.needs.setdefault(os.path.realpath(folder / part.store), []).append(part)
        except VersionError:
            sets.others[path] = _stores_of_other_version(path)
        except SetError as error:
            raise SetError(
                f"nothing can be removed, because it is unknown what {path} uses: {error.what}",
                do="run its extract again, or remove it",
            ) from error
    return sets


def _stores_of_other_version(path: Path) -> list[str] | None:
    """Return the real paths of the stores that a set of another version names; None if this cannot be read."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            description = json.loads(plain_dataset(file, "description")[...].tobytes())
        stores = [description["store"]]
        if description.get("views"):
            stores.append(description["views"]["store"])
        return [os.path.realpath(path.parent / store) for store in stores]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):
        return None


def _deletions(folder: Path, needs: list[Part]) -> list[_Deletion]:
    """Return what can be removed from a store that holds these parts of sets."""
    storage = LocalStorage(folder)
    if not needs:
        names = [name for name in storage.list() if is_shard_name(name) or TRUNK_FILES.fullmatch(name)]
        names.append(DESCRIPTION_FILE)  # Last, so that an interrupted removal leaves a store.
        size = sum(storage.stat(name).size for name in names) + sum(each.size for each in storage.leftovers())
        removal = Removal(path=str(folder), why="a store that no set uses", bytes=size)
        return [(removal, functools.partial(_delete_store, storage, names))]
    store = Store(storage)
    needed = {name for part in needs for name in (relocate(part, store) or part).shards}
    unused = [name for name in store.shard_names() if name not in needed]
    shards = [
        Removal(path=storage.location(name), why="a shard that no set uses", bytes=storage.stat(name).size)
        for name in unused
    ]
    deletions = [functools.partial(store.delete_shard, name) for name in unused]
    return [*zip(shards, deletions, strict=True), *_leftovers(storage)]


def _delete_store(storage: LocalStorage, names: list[str]) -> None:
    for leftover in storage.leftovers():
        leftover.remove()
    for name in names:
        storage.delete(name)
    with contextlib.suppress(OSError):  # Leave a folder with unknown files.
        storage.folder.rmdir()


def _leftovers(storage: Storage) -> list[_Deletion]:
    """Return what crashed processes left in a folder of sets or in a store."""
    return [
        (Removal(path=each.location, why="left by a crashed process", bytes=each.size), each.remove)
        for each in storage.leftovers()
    ]

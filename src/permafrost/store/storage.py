"""The place where sets and stores are: their files are accessed only through this interface.

Only the files of a trunk, and `verify` and `prune`, which search a folder for stores, need a local folder.

Another place, such as a bucket of an object store, is another subclass of `Storage`. A test class that inherits
`storage_suite.StorageSuite` shows that it keeps the promises made here.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from permafrost.atomic import commit_bytes, create_bytes, leftovers, make_folders, path_size, remove_path
from permafrost.errors import StoreError
from permafrost.locks import FolderLock


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """Size and time of an object.

    Attributes:
        size: in bytes.
        modified: when it was put, in nanoseconds since 1970.
    """

    size: int
    modified: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """An unfinished object that a crashed process left behind.

    Attributes:
        location: a path or a URL.
        size: in bytes.
        remove: removes it; raises `OSError` if it cannot be removed.
    """

    location: str
    size: int
    remove: Callable[[], None]


class Hold(abc.ABC):
    """A shared or exclusive lock on a place, held until it is closed or garbage-collected, or the process ends."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the lock; do nothing if it is released already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Storage(abc.ABC):
    """A place that holds objects: bytes under a name, without folders.

    Any number of threads and processes may use one place at once. Each object is there whole or not at all: a reader
    never sees a part of one, not even after a crash. A name is a plain file name; methods raise `ValueError` for names
    with separators and for those that begin with a dot.
    """

    @abc.abstractmethod
    def location(self, name: str = "") -> str:
        """Return the path or URL of an object, or of the place itself, for error messages."""

    @abc.abstractmethod
    def readable(self, name: str) -> Path | io.BufferedIOBase:
        """Return what `h5py.File` opens to read an object: the path of a local file, or an open binary file.

        A local path may be returned before it is known whether there is such an object.

        Raises:
            OSError: the object cannot be read. `FileNotFoundError`: it does not exist.
        """

    @abc.abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Write an object atomically and durably; an existing one is replaced, and a missing place is made.

        When this returns, the object survives a power cut.

        Raises:
            WriteError: the disk is full, the place is read-only, or similar. Nothing has changed then.
        """

    @abc.abstractmethod
    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write an object as `put` does, unless it exists.

        Returns:
            Whether this call wrote it: of several concurrent calls exactly one does.

        Raises:
            WriteError: as `put`.
        """

    @abc.abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object; do nothing if it does not exist.

        Raises:
            OSError: it cannot be deleted.
        """

    @abc.abstractmethod
    def list(self) -> list[str]:
        """Return the names of all complete objects, sorted; an empty list if the place is missing."""

    @abc.abstractmethod
    def stat(self, name: str) -> ObjectInfo:
        """Return the size and time of an object.

        Raises:
            FileNotFoundError: it does not exist.
        """

    @abc.abstractmethod
    def hold(self, *, exclusive: bool) -> Hold | None:
        """Lock the place, so that objects that others need are not removed.

        Reading and writing objects needs no lock. Code that is about to refer to objects takes a shared lock, which
        makes a missing place and waits until no exclusive lock is held. Code that removes objects takes an exclusive
        lock.

        Returns:
            The lock; None if an exclusive one cannot be obtained now.

        Raises:
            WriteError: the place cannot be made.
            StoreError: the place cannot be locked.
        """

    @abc.abstractmethod
    def below(self, path: str) -> Storage:
        """Return the place at a relative path without `..`. It need not exist, and `list` does not show its objects."""

    def leftovers(self) -> Sequence[Leftover]:
        """Return the unfinished objects that crashed processes left here, sorted by location."""
        return []

    def get(self, name: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            OSError: as `readable`.
        """
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> io.BufferedIOBase:
        """Open an object for reading.

        Raises:
            OSError: as `readable`.
        """
        source = self.readable(name)
        return source.open("rb") if isinstance(source, Path) else source

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True


class LocalStorage(Storage):
    """A folder of the local file system. `features/README.md` describes its files.

    Attributes:
        folder: the folder; it need not exist.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"LocalStorage({str(self.folder)!r})"

    def location(self, name: str = "") -> str:
        """Return the path."""
        return str(self.folder / name)

    def readable(self, name: str) -> Path:
        """Return the path, whether there is such a file or not."""
        return self._path(name)

    def put(self, name: str, data: bytes) -> None:
        """Write a file; it, its folder and new parents are synced."""
        commit_bytes(self._path(name), data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write a file as `put` does, unless it exists."""
        return create_bytes(self._path(name), data)

    def delete(self, name: str) -> None:
        """Delete a file."""
        self._path(name).unlink(missing_ok=True)

    def list(self) -> list[str]:
        """Return the names of all files and folders except hidden ones: a folder in a store is a foreign file."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not name.startswith("."))

    def stat(self, name: str) -> ObjectInfo:
        """Return the size and time of a file."""
        status = self._path(name).stat()
        return ObjectInfo(size=status.st_size, modified=status.st_mtime_ns)

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        return self._path(name).is_file()

    def hold(self, *, exclusive: bool) -> Hold | None:
        """Lock the folder; an exclusive lock needs it to exist."""
        while True:
            if not exclusive:
                make_folders(self.folder)
            try:
                lock = FolderLock(self.folder, exclusive=exclusive)
            except StoreError:
                if self.folder.exists():
                    raise
                if exclusive:
                    return None
                continue  # The folder has just been removed.
            if exclusive and not lock.held:
                return None
            # The previous holder may have removed the folder, and another process may have made a new one.
            if lock.is_at(self.folder):
                return _LocalHold(lock)

    def below(self, path: str) -> LocalStorage:
        """Return a folder in this one."""
        return LocalStorage(self.folder / path)

    def leftovers(self) -> Sequence[Leftover]:
        """Return the temporary files and folders that no running process is writing."""
        return [
            Leftover(location=str(path), size=path_size(path), remove=functools.partial(remove_path, path))
            for path in leftovers(self.folder)
        ]

    def _path(self, name: str) -> Path:
        require_plain_name(name)
        return self.folder / name


class _LocalHold(Hold):
    def __init__(self, lock: FolderLock) -> None:
        self._lock = lock

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """The address of an object, which need not exist; `str` gives its location for error messages.

    Attributes:
        storage: the place that holds the object.
        name: the object's name there.
    """

    storage: Storage
    name: str

    @classmethod
    def at(cls, place: ObjectPlace) -> StoredObject:
        """Return the object at a local path; return a stored object unchanged."""
        if isinstance(place, StoredObject):
            return place
        path = Path(place)
        return cls(LocalStorage(path.parent), path.name)

    def __str__(self) -> str:
        return self.storage.location(self.name)

    @property
    def folder(self) -> Path | None:
        """The folder of a local file; None for an object elsewhere."""
        return self.storage.folder if isinstance(self.storage, LocalStorage) else None

    def exists(self) -> bool:
        """Return whether the object exists; False if no object may have its name."""
        return is_plain_name(self.name) and self.storage.exists(self.name)

    def readable(self) -> Path | io.BufferedIOBase:
        """Return what `h5py.File` opens; see `Storage.readable`."""
        return self.storage.readable(self.name)


ObjectPlace = str | os.PathLike[str] | StoredObject
"""A local path, or an object in any place."""


def is_plain_name(name: str) -> bool:
    """Return whether a name neither leads out of its place nor looks like a temporary file."""
    return bool(name) and name[0] != "." and not any(separator in name for separator in "/\\\0")


def require_plain_name(name: str) -> None:
    """Refuse a name that could lead out of its place, or look like a temporary file.

    Raises:
        ValueError: the name is empty, begins with a dot, or has a separator.
    """
    if not is_plain_name(name):
        raise ValueError(f"not the name of an object: {name!r}")

"""Storage in the memory of this process."""

from __future__ import annotations

import io
import threading
import time
from pathlib import PurePosixPath

from permafrost.store.storage import Hold, ObjectInfo, Storage, require_plain_name


class MemoryStorage(Storage):
    """A place in this process's memory, for tests and for features that need not last."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, int]] = {}
        self._places: dict[str, MemoryStorage] = {}
        self._changed = threading.Condition()
        self._holders = 0
        """Number of shared locks that are held; -1 for an exclusive one."""

    def location(self, name: str = "") -> str:
        """Return a made-up URL."""
        return f"memory://{id(self):x}/{name}"

    def readable(self, name: str) -> io.BufferedIOBase:
        """Return the bytes as an open file."""
        return io.BytesIO(self._object(name)[0])

    def put(self, name: str, data: bytes) -> None:
        """Store the bytes."""
        require_plain_name(name)
        with self._changed:
            self._objects[name] = bytes(data), time.time_ns()

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Store the bytes, unless the object exists."""
        with self._changed:
            if name in self._objects:
                return False
            self.put(name, data)
            return True

    def delete(self, name: str) -> None:
        """Drop the bytes."""
        require_plain_name(name)
        with self._changed:
            self._objects.pop(name, None)

    def list(self) -> list[str]:
        """Return all names."""
        with self._changed:
            return sorted(self._objects)

    def stat(self, name: str) -> ObjectInfo:
        """Return the size and time."""
        data, modified = self._object(name)
        return ObjectInfo(size=len(data), modified=modified)

    def hold(self, *, exclusive: bool) -> Hold | None:
        """Lock the place for threads of this process."""
        with self._changed:
            if exclusive:
                if self._holders:
                    return None
                self._holders = -1
            else:
                self._changed.wait_for(lambda: self._holders >= 0)
                self._holders += 1
        return _MemoryHold(self, exclusive=exclusive)

    def below(self, path: str) -> MemoryStorage:
        """Return a place in this one."""
        place = self
        for part in PurePosixPath(path).parts:
            require_plain_name(part)
            with place._changed:
                place = place._places.setdefault(part, MemoryStorage())
        return place

    def _object(self, name: str) -> tuple[bytes, int]:
        require_plain_name(name)
        try:
            return self._objects[name]
        except KeyError:
            raise FileNotFoundError(f"no object {self.location(name)}") from None

    def _release(self, *, exclusive: bool) -> None:
        with self._changed:
            self._holders = 0 if exclusive else self._holders - 1
            self._changed.notify_all()


class _MemoryHold(Hold):
    def __init__(self, storage: MemoryStorage, *, exclusive: bool) -> None:
        self._storage: MemoryStorage | None = storage
        self._exclusive = exclusive

    def close(self) -> None:
        """Release the lock."""
        storage, self._storage = self._storage, None
        if storage is not None:
            storage._release(exclusive=self._exclusive)

"""Locks on files and folders, which the system releases when their process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from permafrost.errors import StoreError


def try_lock(handle: int, *, exclusive: bool, wait: bool = False) -> bool:
    """Lock an open file or folder until it is closed.

    Args:
        handle: the open file's descriptor.
        exclusive: exclude all other locks; otherwise only exclusive ones.
        wait: wait until no other process excludes this lock.

    Returns:
        Whether the lock is held. It is not if another process excludes it, or the file system has no locks.
    """
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class FolderLock:
    """A lock on a folder, held until it is closed or garbage-collected, or the process ends.

    Attributes:
        held: whether the lock was obtained. A shared lock is waited for, an exclusive one is not.

    Args:
        folder: the folder.
        exclusive: exclude all other locks; otherwise only exclusive ones.

    Raises:
        StoreError: the folder does not exist, or cannot be opened.
    """

    def __init__(self, folder: Path, *, exclusive: bool) -> None:
        self._handle: int | None = None
        try:
            self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreError(f"cannot lock the folder {folder}: {error.strerror or error}") from error
        self.held = try_lock(self._handle, exclusive=exclusive, wait=not exclusive)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def is_at(self, folder: Path) -> bool:
        """Return whether `folder` still names the locked folder, and not a new one in its place."""
        return self._handle is not None and is_at(self._handle, folder)

    def close(self) -> None:
        """Release the lock; do nothing if it is released already."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """Return whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False

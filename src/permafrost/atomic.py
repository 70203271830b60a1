"""Files written whole or not at all.

Bytes go to a temporary file beside their final name, are synced, renamed over it, and the folder is synced: after
a kill or a power cut the name holds the old file or the new one, never a part. Pillai et al. 2014, "All File Systems
Are Not Created Equal", show why both syncs are needed.

What a process that died had begun is cleared by the next one. A temporary file is locked for as long as it is being
written, and the system drops a lock with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from permafrost.errors import WriteError

TEMPORARY_PREFIX: Final = ".tmp-"


_TEMPORARY: Final = re.compile(r"\.tmp-(\d+)-[0-9a-f]{8}-.+", re.DOTALL)


_CLOCK_SLACK: Final = 5.0
"""Seconds by which the time of a file and that of a process may differ, though they come from one clock."""


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process uses: `.tmp-<pid>-<random>-<name>`."""
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write at `path` into one clear line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(
            f"cannot write {path}: {reason}",
            do="free some space or choose another folder; what was committed before is whole",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def commit_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, whole or not at all, replacing what was there.

    Raises:
        WriteError: the disk is full, the folder is read-only, or the like.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`; what was written there takes the place of `path` when all went well.

    Raises:
        WriteError: the disk is full, the folder is read-only, or the like.
    """
    temporary = temporary_name(path)
    try:
        with write_errors(path), open(temporary, "xb") as held:
            try_lock(held.fileno(), exclusive=True)
            yield temporary
            handle = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside `path`; it is gone when the block ends, unless it was renamed.

    Raises:
        WriteError: the folder cannot be made.
    """
    temporary = temporary_name(path)
    with write_errors(path):
        temporary.mkdir(parents=True)
        handle = os.open(temporary, os.O_RDONLY)
    try:
        try_lock(handle, exclusive=True)
        yield temporary
    finally:
        os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` that processes left behind when they died.

    Those that are locked, or whose process still runs, are being written and stay. What cannot be removed stays too.
    """
    for path in leftovers(folder):
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def leftovers(folder: Path) -> list[Path]:
    """The temporary files and folders directly in `folder` that no living process is writing."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(TEMPORARY_PREFIX)]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if _is_left_over(folder / name)]


def _is_left_over(path: Path) -> bool:
    named = _TEMPORARY.fullmatch(path.name)
    if not named:
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        # A lock on a network file system may be seen on its own machine only; the number of the process likewise.
        free = try_lock(handle, exclusive=False)
        return free and not _is_running(int(named[1]), since=os.fstat(handle).st_mtime)
    finally:
        os.close(handle)


def try_lock(handle: int, *, exclusive: bool, wait: bool = False) -> bool:
    """Lock an open file or folder until it is closed; False where others hold it, or the file system has no locks."""
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class FolderLock:
    """A lock on a folder, held until this is closed or no longer used, or the process ends.

    Attributes:
        held: whether it could be had. One that is not exclusive is waited for.

    Args:
        folder: the folder.
        exclusive: whether nobody else may hold one.
    """

    def __init__(self, folder: Path, *, exclusive: bool) -> None:
        self._handle: int | None = os.open(folder, os.O_RDONLY)
        self.held = try_lock(self._handle, exclusive=exclusive, wait=not exclusive)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock up."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def _is_running(process: int, *, since: float) -> bool:
    """Whether the process of this number runs, and is the one that had it at the time `since`."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    started = _start_time(process)
    return started is None or started <= since + _CLOCK_SLACK


def _start_time(process: int) -> float | None:
    """When a process was started, in seconds since 1970; None where the system does not say (`man 5 proc`)."""
    try:
        ticks = int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_bytes().splitlines() if line.startswith(b"btime "))
        return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None

"""Write files atomically.

Bytes go to a temporary file beside the final name. The file is synced and renamed, then its folder is synced: after a
kill or a power cut the name holds the old file or the new one, never a part. Pillai et al. 2014, "All File Systems Are
Not Created Equal", show why both syncs are needed.

Temporary files of crashed processes are removed by the next run. A temporary file stays locked while it is written, and
the system releases a lock when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from permafrost.errors import WriteError
from permafrost.locks import is_at, try_lock

TEMPORARY_PREFIX: Final = ".tmp-"
_TEMPORARY: Final = re.compile(r"\.tmp-(\d+)-[0-9a-f]{8}-.+", re.DOTALL)

_CLOCK_SLACK: Final = 5.0
"""Seconds by which a file may seem older than the process that wrote it: the two times are rounded differently."""


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that no other process uses: `.tmp-<pid>-<random>-<name>`."""
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `WriteError` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(
            f"cannot write {path}: {reason}",
            do="free some space or choose another folder; everything committed before is intact",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make creations, renames and removals in `folder` durable."""
    _sync(folder)


def make_folders(folder: Path) -> None:
    """Make a folder, and those above it, durably; do nothing if it exists.

    Raises:
        WriteError: it cannot be made.
    """
    with write_errors(folder):
        _make_folders(folder)


def commit_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` atomically and durably; an existing file is replaced, missing folders are made.

    Raises:
        WriteError: the disk is full, the folder is read-only, or similar.
    """
    with write_errors(path):
        _make_folders(path.parent)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def create_bytes(path: Path, data: bytes | memoryview) -> bool:
    """Write `data` to `path` atomically and durably, unless the file exists; missing folders are made.

    Returns:
        Whether this call wrote it: of several concurrent calls exactly one does.

    Raises:
        WriteError: the disk is full, the folder is read-only, or similar.
    """
    with write_errors(path):
        _make_folders(path.parent)
    with _temporary_file(path) as temporary:
        temporary.write_bytes(data)
        _sync(temporary)
        if not _link(temporary, path):
            return False
        sync_folder(path.parent)
        return True


def _link(temporary: Path, path: Path) -> bool:
    """Link a temporary file to `path` unless that name is taken; return whether it was free."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # A file system without hard links: two concurrent writers may both find the name free.
        if path.exists():
            return False
        os.replace(temporary, path)
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`, and rename it to `path` if the block succeeds.

    The block writes to this file. It must not replace it with another one, which would not be locked.

    Raises:
        WriteError: the disk is full, the folder is read-only, or similar.
    """
    with _temporary_file(path) as temporary:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it is removed when the block ends, unless it was renamed.

    Raises:
        WriteError: the folder cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with write_errors(path):
            _make_folders(path.parent)
            temporary = stack.enter_context(_locked_temporary(path, _make_temporary_folder))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` that crashed processes left behind.

    Those that are locked, or whose process still runs, are in use and stay. So does everything that cannot be removed.
    """
    for path in _left_over(folder):
        with contextlib.suppress(OSError):
            remove_path(path)


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files and folders directly in `folder` that no running process is writing, sorted."""
    return list(_left_over(folder))


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with everything in it.

    Raises:
        OSError: it cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def path_size(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder; 0 if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            return sum(path_size(each) for each in path.iterdir())
        return path.lstat().st_size
    return 0


def _make_folders(folder: Path) -> None:
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync_folder(each.parent)


def _sync(path: Path) -> None:
    """Force the content of a file or folder to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        full_sync = getattr(fcntl, "F_FULLFSYNC", None)  # On macOS `fsync` leaves the content in the disk's own cache.
        if full_sync is not None:
            try:
                fcntl.fcntl(handle, full_sync)
                return
            except OSError:  # Network file systems do not have it.
                pass
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """Yield an empty, locked temporary file beside `path`; it is removed when the block ends, unless it was renamed."""
    with write_errors(path), _locked_temporary(path, _make_file) as temporary:
        try:
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked_temporary(path: Path, make: Callable[[Path], int]) -> Iterator[Path]:
    """Make a temporary file or folder beside `path` with `make`, and keep it locked for the length of the block."""
    while True:
        temporary = temporary_name(path)
        handle = make(temporary)
        try:
            # Another process may be looking for leftovers: it takes a shared lock for a moment, and removes the file
            # if it is not locked yet. Then this starts again with a new file.
            try_lock(handle, exclusive=True, wait=True)
            if is_at(handle, temporary):
                yield temporary
                return
        finally:
            os.close(handle)


def _make_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _make_temporary_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _left_over(folder: Path) -> Iterator[Path]:
    """Yield the temporary files and folders in `folder` that no running process is writing, sorted.

    No process can lock one until the next is asked for.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for match in filter(None, map(_TEMPORARY.fullmatch, names)):
        path = folder / match[0]
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            # On a network file system a lock may not be visible to other machines; a process ID never is.
            free = try_lock(handle, exclusive=False)
            if free and not _is_running(int(match[1]), since=os.fstat(handle).st_mtime):
                yield path
        finally:
            os.close(handle)


def _is_running(process: int, *, since: float) -> bool:
    """Return whether the process with this ID is running, and was at the time `since`."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    started = _start_time(process)
    return started is None or started <= since + _CLOCK_SLACK


def _start_time(process: int) -> float | None:
    """Return when a process started, in seconds since 1970; None if the system does not show it (`man 5 proc`)."""
    try:
        ticks = int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_bytes().splitlines() if line.startswith(b"btime "))
        return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None


_AT_FDCWD: Final = -100
_SWAP: Final = 2
"""Flag of `renameat2` on Linux and of `renamex_np` on macOS."""


def exchange(left: Path, right: Path) -> None:
    """Swap the names of two files or folders in one atomic step.

    Raises:
        OSError: one of them is missing, or the file system cannot do it.
    """
    system = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(left), os.fsencode(right)
    if hasattr(system, "renameat2"):
        failed = system.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _SWAP)
    elif hasattr(system, "renamex_np"):
        failed = system.renamex_np(*names, _SWAP)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(left))
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(left), None, str(right))

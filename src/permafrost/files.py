"""Files written whole or not at all.

Bytes go to a temporary file beside their final name, are synced, renamed over it, and the folder is synced: after
a kill or a power cut the name holds the old file or the new one, never a part. Pillai et al. 2014, "All File Systems
Are Not Created Equal", show why both syncs are needed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from permafrost.errors import WriteError

TEMPORARY_PREFIX = ".tmp-"


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
    """Give a temporary name beside `path`; what was written there takes the place of `path` when all went well.

    Raises:
        WriteError: the disk is full, the folder is read-only, or the like.
    """
    temporary = temporary_name(path)
    try:
        with write_errors(path):
            yield temporary
            handle = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)

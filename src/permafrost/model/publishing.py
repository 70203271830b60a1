"""The folder of a run: assembled beside its place, and moved there in one step."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Container, Iterator
from pathlib import Path

from permafrost.atomic import (
    TEMPORARY_PREFIX,
    clear_leftovers,
    exchange,
    sync_folder,
    temporary_folder,
    write_errors,
)


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Make a temporary folder beside `folder` in which a run is assembled; remove it when the block ends.

    The staging folders of processes that died are removed first.
    """
    folder = _resolved(folder)
    clear_leftovers(folder.parent)
    with temporary_folder(folder) as stage:
        yield stage


def _resolved(folder: Path) -> Path:
    """Return `folder` without symbolic links, so that a link to a run stays and its target is replaced."""
    return Path(os.path.realpath(folder))


def publish(stage: Path, folder: Path, *, own_files: Container[str], replace: bool) -> Path:
    """Move `stage` to `folder` in one step.

    Args:
        stage: the folder from `staging(folder)`.
        folder: the run's folder.
        own_files: names of the files that belong to a run; other files of a replaced run stay.
        replace: whether to replace a run in `folder`; if False, the run goes to the next free name.

    Returns:
        The folder that the run is in.

    Raises:
        WriteError: the run cannot be written.
    """
    with write_errors(folder):
        while True:
            target = _resolved(folder)
            try:
                os.rename(stage, target)  # Replaces an empty folder too.
                break
            except OSError:
                if not target.is_dir():
                    raise
            if replace:
                _carry_over(target, stage, own_files)
                _replace(stage, target)
                break
            # Another process took the name after `free_folder` found it free.
            folder = folder.with_name(f"{folder.name}-2")
        sync_folder(target.parent)
    return folder


def _carry_over(folder: Path, stage: Path, own_files: Container[str]) -> None:
    """Put the files of `folder` that do not belong to the run into `stage` as well."""
    for path in folder.iterdir():
        if path.name in own_files or path.name.startswith(TEMPORARY_PREFIX):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, stage / path.name, symlinks=True, copy_function=_link)
        else:
            _link(path, stage / path.name)
    sync_folder(stage)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # The file system has no hard links.
        shutil.copy2(source, target, follow_symlinks=False)


def _replace(stage: Path, folder: Path) -> None:
    """Swap `stage` and `folder`; `staging` then removes the old run with `stage`."""
    try:
        exchange(stage, folder)
    except OSError:
        # Not every file system swaps folders in one step. A kill between the first two renames leaves the old run
        # whole under a name that says so.
        old = folder.with_name(f"{folder.name}.replaced-{os.getpid()}")
        os.rename(folder, old)
        try:
            os.rename(stage, folder)
        except OSError:
            os.rename(old, folder)
            raise
        os.rename(old, stage)

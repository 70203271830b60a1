"""Looking after what is kept: reading all of it, and removing what no feature set refers to."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from permafrost.atomic import TEMPORARY_PREFIX, FolderLock, leftovers
from permafrost.errors import SetError, ShardError, StoreError, VersionError
from permafrost.store.feature_set import STORE_FOLDER, open_features
from permafrost.store.row_index import RowIndex
from permafrost.store.row_reader import relocate
from permafrost.store.set_content import Part, parts
from permafrost.store.set_reading import h5_files, is_feature_set, read_set
from permafrost.store.shard import is_shard_name
from permafrost.store.store import DESCRIPTION_FILE, Store

_TRUNK_FILES: Final = re.compile(r"trunk\.keras|trunk(-[0-9a-f]{12})?\.openvino")
"""Files beside a store's shards: the trunk, and what an engine has made of it. All are zip files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        kind: `damaged`, `missing`, `foreign`: features cannot be read; or `duplicate`: they are kept twice, which only
            takes room.
        path: of the file.
        told: what about it, in one line.
    """

    kind: str
    path: str
    told: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """What reading everything has found.

    Attributes:
        sets, shards, rows, bytes: how much was read.
        findings: what is not as it should be.
    """

    sets: int
    shards: int
    rows: int
    bytes: int
    findings: list[Finding]

    @property
    def faults(self) -> int:
        """How many findings mean that features cannot be read."""
        return sum(finding.kind != "duplicate" for finding in self.findings)


def verify(path: str | os.PathLike[str]) -> Verification:
    """Read every byte that is kept, and check it.

    Args:
        path: a folder of sets and their stores, one set (and its store), or one store.

    Raises:
        SetError, StoreError: there is none.
    """
    paths, stores = _found(Path(path))
    findings: list[Finding] = []
    for each in paths:
        findings += _verify_set(each)
    shards = rows = size = 0
    for store in stores:
        opened = _opened(store, findings)
        if opened is None:
            continue
        for name in opened.shard_names():
            shards += 1
            size += (opened.folder / name).stat().st_size
            try:
                rows += opened.verify(name)
            except ShardError as error:
                findings.append(Finding(kind=error.kind, path=str(opened.folder / name), told=str(error)))
        findings += _verify_files(opened)
    return Verification(sets=len(paths), shards=shards, rows=rows, bytes=size, findings=findings)


def _found(path: Path) -> tuple[list[Path], list[Path]]:
    """The files of sets and the folders of stores that `path` stands for."""
    if path.is_file():
        return [path], [open_features(path).store.folder]
    if (path / DESCRIPTION_FILE).exists():
        return [], [path]
    if not path.is_dir():
        raise SetError(f"no feature set, store or folder of them at {path}", do="make a feature set with extract")
    return _set_files(path), _store_folders(path)


def _set_files(folder: Path) -> list[Path]:
    """The files in `folder` that are feature sets, or may be damaged ones; other HDF5 files are left out."""
    return [path for path in h5_files(folder) if is_feature_set(path) is not False]


def _store_folders(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / STORE_FOLDER).glob(f"*/{DESCRIPTION_FILE}"))


def _opened(folder: Path, findings: list[Finding]) -> Store | None:
    try:
        return Store(folder)
    except StoreError as error:
        kind = "damaged" if (folder / DESCRIPTION_FILE).exists() else "missing"
        findings.append(Finding(kind=kind, path=str(folder / DESCRIPTION_FILE), told=str(error)))
        return None


def _verify_set(path: Path) -> Iterator[Finding]:
    """The set's own file, and whether each of its rows has a place."""
    try:
        features = open_features(path)
    except (SetError, VersionError) as error:
        yield Finding(kind="damaged", path=str(path), told=str(error))
        return
    for part in parts(features.content):
        store = Store(path.parent / part.store)
        for name in (relocate(part, store) or part).shards:
            if not store.has_shard(name):
                told = f"missing shard {store.folder / name}, of which {path} has rows. Run the same extract again"
                yield Finding(kind="missing", path=str(store.folder / name), told=told)


def _verify_files(store: Store) -> Iterator[Finding]:
    """What else lies in a store's folder, and what is kept twice."""
    index = RowIndex(store)
    for name, count in index.shards_with_copies().items():
        told = f"duplicate shard {store.folder / name}: {count:,} of its rows are in other shards too"
        yield Finding(kind="duplicate", path=str(store.folder / name), told=told)
    for entry in sorted(os.listdir(store.folder)):
        path = store.folder / entry
        if _TRUNK_FILES.fullmatch(entry):
            fault = _zip_fault(path)
            if fault:
                told = f"damaged trunk {path}: {fault}. Remove it and run the same extract again"
                yield Finding(kind="damaged", path=str(path), told=told)
        elif not is_shard_name(entry) and entry != DESCRIPTION_FILE and not entry.startswith(TEMPORARY_PREFIX):
            yield Finding(kind="foreign", path=str(path), told=f"foreign file {path}: it is no part of a store")


def _zip_fault(path: Path) -> str | None:
    """What is wrong with a zip file, whose parts have checksums; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as file:
            part = file.testzip()
            return f"the checksum of {part} in it does not hold" if part else None
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        return str(error)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal:
    """Something that can go.

    Attributes:
        path: the file or folder.
        why: what it is.
        bytes: that it takes.
    """

    path: str
    why: str
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruning:
    """What can go from a folder of feature sets.

    Attributes:
        removals: what no set refers to.
        busy: stores that were left alone, because an extraction is at work in them.
    """

    removals: list[Removal]
    busy: list[str]

    @property
    def bytes(self) -> int:
        """How much room there will be."""
        return sum(removal.bytes for removal in self.removals)


def prune(folder: str | os.PathLike[str], *, confirm: Callable[[Pruning], bool]) -> tuple[Pruning, bool]:
    """Remove the shards and stores that no set in `folder` refers to, and what dead processes left behind.

    While it works, nobody else can extract into these stores: what would go is found, shown and removed under a lock.

    Args:
        folder: the folder of the sets, e.g. `features`.
        confirm: is shown what would go, and says whether it goes.

    Returns:
        What could go, and whether it went.

    Raises:
        SetError: no such folder, or a file in it may be a damaged set, so that nobody knows what it refers to.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SetError(f"no folder {folder}", expected="the folder of the feature sets")
    with contextlib.ExitStack() as stack:
        locks = {store: stack.enter_context(FolderLock(store, exclusive=True)) for store in _store_folders(folder)}
        needs = _needs(folder)
        removals = _removals_of(leftovers(folder), "left over by a process that died")
        for store in (store for store, lock in locks.items() if lock.held):
            removals += _removals(store, needs.get(os.path.realpath(store), []))
        busy = [str(store) for store, lock in locks.items() if not lock.held]
        pruning = Pruning(removals=removals, busy=busy)
        confirmed = confirm(pruning)
        if confirmed:
            for removal in removals:
                _remove(Path(removal.path))
    return pruning, confirmed


def _needs(folder: Path) -> dict[str, list[Part]]:
    """What the sets in `folder` need, by the store in which it lies."""
    needs: dict[str, list[Part]] = {}
    for path in _set_files(folder):
        try:
            content = read_set(path)
        except (SetError, VersionError) as error:
            raise SetError(
                f"nothing can be removed while it is not known what {path} refers to: {error.what}",
                do="run its extract again, or remove it",
            ) from error
        for part in parts(content):
            needs.setdefault(os.path.realpath(folder / part.store), []).append(part)
    return needs


def _removals(store: Path, needs: list[Part]) -> list[Removal]:
    """What can go from a store of which sets need these parts."""
    if not needs:
        return _removals_of([store], "a store to which no set refers")
    opened = Store(store)
    needed = {name for part in needs for name in (relocate(part, opened) or part).shards}
    unused = [store / name for name in opened.shard_names() if name not in needed]
    return [
        *_removals_of(unused, "a shard to which no set refers"),
        *_removals_of(leftovers(store), "left over by a process that died"),
    ]


def _removals_of(paths: list[Path], why: str) -> list[Removal]:
    return [Removal(path=str(path), why=why, bytes=sum(map(_bytes, _files(path)))) for path in paths]


def _remove(path: Path) -> None:
    try:
        for file in _files(path):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror}", do="what was removed before is gone") from error
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):  # Somebody has put a file of his own there, which stays.
                os.rmdir(folder)


def _files(path: Path) -> list[Path]:
    """The files that a removal removes: of a store those that are part of one, the description last."""
    if path.is_symlink() or not path.is_dir():
        return [path]
    if not (path / DESCRIPTION_FILE).exists():
        return [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    own = [path / name for name in sorted(os.listdir(path)) if is_shard_name(name) or _TRUNK_FILES.fullmatch(name)]
    return [*own, *leftovers(path), path / DESCRIPTION_FILE]


def _bytes(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_size
    return 0

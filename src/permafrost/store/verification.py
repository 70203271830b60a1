"""Verify cached features: read and check every byte of sets and stores."""

from __future__ import annotations

import dataclasses
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from permafrost.errors import SetError, ShardError, StoreError, VersionError
from permafrost.options import as_path
from permafrost.store.feature_set import STORE_FOLDER, open_features
from permafrost.store.row_index import RowIndex
from permafrost.store.row_reader import relocate
from permafrost.store.set_content import Part, parts
from permafrost.store.set_reading import read_set, set_names
from permafrost.store.set_rows import SetRows
from permafrost.store.shard import is_shard_name
from permafrost.store.storage import LocalStorage, Storage, StoredObject
from permafrost.store.store import DESCRIPTION_FILE, Store

TRUNK_FILES: Final = re.compile(r"trunk\.keras|trunk(-[0-9a-f]{12})?\.openvino")
"""Files beside a store's shards: the trunk, and its converted form. All are zip files."""

_NO_FAULTS: Final = ("duplicate", "version")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem that `verify` found.

    Attributes:
        kind: `damaged`, `missing`, `foreign`: features cannot be read; `duplicate`: they are cached twice, which costs
            only space; `version`: a store or set of another format version, which is left alone.
        path: the file.
        message: what is wrong with it, in one line.
    """

    kind: str
    path: str
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of `verify`.

    Attributes:
        sets, shards, rows, bytes: how much was read.
        findings: the problems.
    """

    sets: int
    shards: int
    rows: int
    bytes: int
    findings: list[Finding]

    @property
    def faults(self) -> int:
        """The number of findings that mean that features cannot be read."""
        return sum(finding.kind not in _NO_FAULTS for finding in self.findings)


def verify(path: str | os.PathLike[str]) -> Verification:
    """Read and check every byte of sets and stores. Other processes may extract into them meanwhile.

    Args:
        path: a folder of sets and their stores, one set, or one store.

    Raises:
        OptionError: `path` is not a path, or is empty.
        SetError: `path` is not one of these, or the set is damaged.
        VersionError: the set is of another format version.
    """
    sets, folders = _contents(as_path(path, "a feature set, a store or a folder of them"))
    findings: list[Finding] = []
    shards = rows = size = 0
    for folder in folders:
        store = _open(folder, findings)
        if store is not None:
            for shard_rows, shard_bytes in _verify_shards(store, findings):
                shards, rows, size = shards + 1, rows + shard_rows, size + shard_bytes
            findings += _verify_files(store)
    # Sets are verified last: their rows are looked for where they are after shards were merged meanwhile.
    findings[:0] = [finding for each in sets for finding in _verify_set(each)]
    return Verification(sets=len(sets), shards=shards, rows=rows, bytes=size, findings=findings)


def _contents(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of sets and the folders of stores that `path` stands for."""
    if path.is_file():
        return [path], [path.parent / part.store for part in parts(open_features(path).content)]
    if (path / DESCRIPTION_FILE).exists():
        return [], [path]
    if not path.is_dir():
        raise SetError(f"no feature set, store or folder of them at {path}", do="make a feature set with extract")
    return set_files(path), store_folders(path)


def set_files(folder: Path) -> list[Path]:
    """Return the files in `folder` that are feature sets, or may be damaged ones."""
    return [folder / name for name in set_names(LocalStorage(folder))]


def store_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of all stores that belong to a folder of sets, sorted."""
    return sorted(path.parent for path in (Path(folder) / STORE_FOLDER).glob(f"*/{DESCRIPTION_FILE}"))


def stores_of_other_versions(folder: str | os.PathLike[str]) -> Iterator[tuple[Path, VersionError]]:
    """Yield the stores below a folder of sets that are of another format version, each with its error."""
    for path in store_folders(folder):
        try:
            Store(path)
        except VersionError as error:
            yield path, error
        except StoreError:
            pass


def _open(folder: Path, findings: list[Finding]) -> Store | None:
    path = folder / DESCRIPTION_FILE
    try:
        return Store(folder)
    except StoreError as error:
        kind = "version" if isinstance(error, VersionError) else "damaged" if path.exists() else "missing"
        findings.append(Finding(kind=kind, path=str(path), message=str(error)))
        return None


def _verify_shards(store: Store, findings: list[Finding]) -> Iterator[tuple[int, int]]:
    """Read all shards; yield the numbers of rows and bytes of each. Those removed meanwhile are not reported."""
    read: set[str] = set()
    gone = True
    while gone:
        gone = False
        for name in store.shard_names():
            if name in read:
                continue
            read.add(name)
            info = store.stat_shard(name)
            try:
                rows = store.verify(name)
            except ShardError as error:
                if store.has_shard(name):
                    path = store.storage.location(name)
                    findings.append(Finding(kind=error.kind, path=path, message=str(error)))
                else:  # It was merged with others, and its rows may be in a new shard.
                    gone = True
                    continue
                rows = 0
            yield rows, info.size if info is not None else 0


def _verify_set(path: Path) -> Iterator[Finding]:
    """Check a set's own file, and that each of its rows is in a shard."""
    try:
        content = read_set(path)
        rows = SetRows(StoredObject.at(path), content)
        stores = [(part, rows.store(part)) for part in parts(content)]
    except StoreError as error:
        kind = "version" if isinstance(error, VersionError) else "damaged"
        yield Finding(kind=kind, path=str(path), message=str(error))
        return
    for part, store in stores:
        for name in _missing_shards(part, store):
            location = store.storage.location(name)
            message = f"missing shard {location}: {path} has rows in it. Run the same extract again"
            yield Finding(kind="missing", path=location, message=message)


def _missing_shards(part: Part, store: Store) -> list[str]:
    """Return the missing shards of a part of a set; none if its rows are in other shards."""
    while any(not store.has_shard(name) for name in part.shards):
        moved = relocate(part, store)
        if moved is None:
            return [name for name in part.shards if not store.has_shard(name)]
        part = moved
    return []


def _verify_files(store: Store) -> Iterator[Finding]:
    """Check the other files of a store, and find rows that are cached twice."""
    for name, count in RowIndex(store).shards_with_copies().items():
        location = store.storage.location(name)
        message = f"duplicate shard {location}: {count:,} of its rows are in other shards too"
        yield Finding(kind="duplicate", path=location, message=message)
    for name in store.storage.list():
        location = store.storage.location(name)
        if TRUNK_FILES.fullmatch(name):
            fault = _zip_fault(store.storage, name)
            if fault:
                message = f"damaged trunk {location}: {fault}. Remove it and run the same extract again"
                yield Finding(kind="damaged", path=location, message=message)
        elif not is_shard_name(name) and name != DESCRIPTION_FILE:
            message = f"foreign file {location}: it is not part of a store"
            yield Finding(kind="foreign", path=location, message=message)


def _zip_fault(storage: Storage, name: str) -> str | None:
    """Check the checksums of a zip file; return what is wrong, or None if it is intact or gone."""
    try:
        with storage.open(name) as opened, zipfile.ZipFile(opened) as file:
            part = file.testzip()
            return f"the checksum of {part} in it does not match" if part else None
    except FileNotFoundError:
        return None
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        return str(error)

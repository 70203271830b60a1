"""Pictures through an engine into stores: read, decode, compute, commit, all at once.

Threads read, hash and decode; the caller's thread computes; one more thread commits. A picture is known by its content:
where its features are kept already it is neither decoded nor computed. What is finished is committed at least twice a
second, so a kill costs no more than that, and the same request goes on from there.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from permafrost.compaction import compact
from permafrost.errors import FeatureError, OptionError, PictureError, ShardError, WriteError
from permafrost.files import clear_leftovers
from permafrost.listing import Listing
from permafrost.pictures import quiet_decoding
from permafrost.store import DESCRIPTION_FILE, RowAddress, RowIndex, Rows, Store, place_rows
from permafrost.trunk_spec import TrunkSpec

if TYPE_CHECKING:
    import numpy as np

    from permafrost.augmentation import Augmentation
    from permafrost.cutting import Trunk
    from permafrost.engines import Engine

BATCH_SIZE: Final = 32
COMMIT_SECONDS: Final = 0.5
COMMIT_BYTES: Final = 64 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """How pictures are run.

    Attributes:
        engine: a name in `engines.ENGINES`.
        batch_size: pictures computed at once.
        workers: threads that read and decode; as many as there are processors if None.
        fail_on_bad: whether the first picture that cannot be decoded is an error, rather than set aside.
        progress: whether to draw a progress bar where standard error is a terminal.
    """

    engine: str = "auto"
    batch_size: int = BATCH_SIZE
    workers: int | None = None
    fail_on_bad: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for what, value in (("batch size", self.batch_size), ("number of workers", self.workers)):
            if value is not None and value < 1:
                raise OptionError(f"the {what} is too small", expected="1 or more", found=value)

    @property
    def threads(self) -> int:
        """Threads that read and decode."""
        return self.workers or os.cpu_count() or 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a listing's pictures.

    Attributes:
        kept: index in the listing and content digest of each picture whose features are kept now.
        aside: index and reason of each that could not be decoded.
        engine: the name of the engine.
        seconds: for which the computing thread waited for pictures (`read`), for the engine (`compute`) and for
            commits (`write`).
    """

    kept: list[tuple[int, bytes]]
    aside: list[tuple[int, str]]
    engine: str
    seconds: dict[str, float]


RowKey = tuple[bytes, int]
"""What a row is of: a picture's content digest, and a view."""

ViewsOf = Callable[[int, bytes], Sequence[int]]
"""Given a picture's index in the listing and its digest, which of its views are wanted."""


def only_pictures(index: int, digest: bytes) -> Sequence[int]:  # noqa: ARG001 - a `ViewsOf`
    """No views but the pictures themselves."""
    return (0,)


@dataclasses.dataclass(frozen=True)
class Found:
    """What came of one picture of a listing.

    Attributes:
        digest: of its content; None where it cannot be decoded.
        missing: for each view that is not kept its pixels (h, w, 3) uint8; None where nothing was to be decoded.
        reason: why it cannot be decoded.
    """

    digest: bytes | None = None
    missing: dict[int, np.ndarray | None] = dataclasses.field(default_factory=dict)
    reason: str | None = None


class Shelf:
    """One store, and which rows are there: kept before, or committed through this.

    Attributes:
        spec: what decides the features.
        folder: the store's folder; it need not be there yet.

    Args:
        spec: what decides the features.
        parent: the folder that holds stores, e.g. `features/store`.

    Raises:
        StoreError: a store of that name is damaged, or holds another trunk's features.
    """

    def __init__(self, spec: TrunkSpec, parent: Path) -> None:
        self.spec, self.folder = spec, parent / spec.folder_name
        self._store = _open_store(self.folder)
        if self._store:
            self._store.require(spec)
        self._index = RowIndex(self._store) if self._store else None
        self._new: dict[RowKey, RowAddress] = {}
        self._damaged: list[ShardError] = []

    @property
    def damaged(self) -> list[str]:
        """What is wrong with each shard whose rows cannot be used for that."""
        return sorted({str(error) for error in (*self._damaged, *(self._index.damaged if self._index else ()))})

    def has(self, key: RowKey) -> bool:
        """Whether the row was kept before."""
        return self._index is not None and self._index.find(*key) is not None

    def address(self, key: RowKey) -> RowAddress:
        """Where the row lies, which was kept before or committed through this."""
        address = self._new.get(key) or (self._index.find(*key) if self._index else None)
        assert address is not None, "every row that is asked for has been kept or computed"
        return address

    def commit(
        self, keys: Sequence[RowKey], tensors: tuple[np.ndarray, ...], engine: str, base_layers: Sequence[str]
    ) -> None:
        """Keep rows; the store's folder is made with the first of them, so a run that fails early leaves none."""
        import numpy as np

        if self._store is None:
            about = {"libraries": library_versions(), "base_layers": list(base_layers)}
            self._store = Store.create(self.folder.parent, self.spec, about=about)
            self._store.hold()
        rows = Rows(
            np.frombuffer(b"".join(digest for digest, _ in keys), np.uint8).reshape(-1, 32),
            np.array([view for _, view in keys], np.int32),
            tensors,
        )
        shard = self._store.append(rows, engine=engine)
        self._new |= {key: RowAddress(shard, row) for row, key in enumerate(keys)}

    def compact(self) -> None:
        """Join the store's small shards where there are many, if rows have been committed through this."""
        if self._store is None or not self._new:
            return
        with contextlib.suppress(WriteError):  # All rows are kept; a later run may find more room.
            if compact(self._store):
                self._damaged += self._index.damaged if self._index else []
                self._index, self._new = RowIndex(self._store), {}

    def gather(self, keys: Sequence[RowKey]) -> tuple[np.ndarray, ...]:
        """For each tensor of the trunk the features of these rows: (n, *shape) float32.

        Raises:
            ShardError: a shard is missing or damaged.
        """
        import numpy as np

        assert self._store is not None, "every row that is asked for has been kept or computed"
        shards, places = place_rows([self.address(key) for key in keys])
        known = np.frombuffer(b"".join(digest for digest, _ in keys), np.uint8).reshape(-1, 32)
        return self._store.gather(shards, places, digests=known)


class Target:
    """A trunk, and the stores that keep its features: one for pictures, and one for their augmented views.

    Pictures and views have a store each, since only the key of views covers the augmentation: so pictures that are kept
    already are found again with any augmentation.

    Attributes:
        trunk: the trunk.
        spec: what decides the features of pictures.
        folder: of the store of pictures; it need not be there yet.
        computed: how many rows have been committed through this.

    Args:
        trunk: the trunk.
        parent: the folder that holds stores, e.g. `features/store`.
        augmentation: how views are made: `augmentation.Views.rule`; empty where there are none.

    Raises:
        StoreError: a store of that name is damaged, or holds another trunk's features.
    """

    def __init__(self, trunk: Trunk, parent: Path, augmentation: str = "") -> None:
        self.trunk, self.spec = trunk, trunk.spec
        self.pictures = Shelf(trunk.spec, parent)
        self.folder = self.pictures.folder
        self.views = Shelf(dataclasses.replace(trunk.spec, augmentation=augmentation), parent) if augmentation else None
        self.computed = 0

    @property
    def shelves(self) -> list[Shelf]:
        """The stores: that of pictures, and that of views where there are any."""
        return [self.pictures] + ([self.views] if self.views else [])

    @property
    def damaged(self) -> list[str]:
        """What is wrong with each shard whose rows cannot be used for that."""
        return [told for shelf in self.shelves for told in shelf.damaged]

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes, uncompressed, with its index."""
        import numpy as np

        values = sum(int(np.prod(shape)) for shape in self.spec.shapes)
        return values * np.dtype(self.spec.dtype).itemsize + 44

    def has(self, digest: bytes, view: int = 0) -> bool:
        """Whether the features of a picture's view were kept before."""
        return self._shelf(view).has((digest, view))

    def address(self, digest: bytes, view: int = 0) -> RowAddress:
        """Where they lie, in the store of pictures or in that of views."""
        return self._shelf(view).address((digest, view))

    def commit(self, keys: Sequence[RowKey], tensors: tuple[np.ndarray, ...], engine: str) -> None:
        """Keep the features of pictures and views: for each tensor of the trunk (n, *shape)."""
        for shelf, augmented in ((self.pictures, False), (self.views, True)):
            rows = [row for row, (_, view) in enumerate(keys) if (view > 0) == augmented]
            if rows:
                assert shelf is not None, "views are computed only where there is an augmentation"
                chosen = [keys[row] for row in rows]
                shelf.commit(chosen, tuple(tensor[rows] for tensor in tensors), engine, self.trunk.base_layers)
        self.computed += len(keys)

    def gather(self, digests: Sequence[bytes], view: int = 0) -> tuple[np.ndarray, ...]:
        """For each tensor of the trunk the features of one view of these pictures: (n, *shape) float32.

        Raises:
            ShardError: a shard is missing or damaged.
        """
        return self._shelf(view).gather([(digest, view) for digest in digests])

    def _shelf(self, view: int) -> Shelf:
        if view == 0:
            return self.pictures
        assert self.views is not None, "views are asked for only where there is an augmentation"
        return self.views


def _open_store(folder: Path) -> Store | None:
    """The store in `folder`, kept from being pruned; None where there is none."""
    if not (folder / DESCRIPTION_FILE).exists():
        return None
    store = Store(folder)
    store.hold()
    # While this waited for the lock it may have been removed.
    return store if (folder / DESCRIPTION_FILE).exists() else None


def run_pictures(
    listing: Listing,
    targets: list[Target],
    options: PipelineOptions,
    *,
    augmentation: Augmentation | None = None,
    views_of: ViewsOf = only_pictures,
) -> Outcome:
    """Compute and commit the features of the pictures of a listing that a target does not have.

    Args:
        listing: the pictures.
        targets: trunks of one base, made together; one pass serves all.
        options: how.
        augmentation: how views are made, where any are wanted.
        views_of: which views of each picture are wanted.

    Raises:
        PictureError: one cannot be decoded, and that is to be an error.
        FeatureError: features are not finite; the picture is named.
        WriteError: the disk is full, or the like; what was committed before is whole.
    """
    from tqdm import tqdm

    shelves = [shelf for target in targets for shelf in target.shelves]
    for shelf in shelves:
        clear_leftovers(shelf.folder)
    seconds = {"read": 0.0, "compute": 0.0, "write": 0.0}
    engine = engine_for(targets, options)
    kept: list[tuple[int, bytes]] = []
    aside: list[tuple[int, str]] = []
    hidden = None if options.progress else True
    with (
        _Committer(targets, engine.name, seconds) as committer,
        tqdm(total=len(listing), unit=" pictures", disable=hidden, leave=False) as bar,
    ):
        batch = _Batch(targets, engine, options.batch_size, listing, committer, seconds)
        waited = time.perf_counter()
        wanted = find_pictures(listing, targets, options, augmentation=augmentation, views_of=views_of)
        for index, found in enumerate(wanted):
            seconds["read"] += time.perf_counter() - waited
            if found.digest is None:
                aside.append((index, found.reason or ""))
            else:
                kept.append((index, found.digest))
                for view, pixels in found.missing.items():
                    assert pixels is not None, "what is missing has been decoded"
                    batch.add(index, (found.digest, view), pixels)
            bar.update()
            waited = time.perf_counter()
        batch.run()
    for shelf in shelves:
        shelf.compact()
    return Outcome(kept=kept, aside=aside, engine=engine.name, seconds=seconds)


def engine_for(targets: list[Target], options: PipelineOptions) -> Engine:
    """The engine that runs the trunks of all targets in one pass.

    Raises:
        OptionError: there is no such engine.
    """
    from permafrost.cutting import merge_trunks
    from permafrost.engines import make_engine

    model = merge_trunks([target.trunk for target in targets])
    return make_engine(options.engine, model, batch_size=options.batch_size)


def find_pictures(
    listing: Listing,
    targets: list[Target],
    options: PipelineOptions,
    *,
    decode: bool = True,
    augmentation: Augmentation | None = None,
    views_of: ViewsOf = only_pictures,
) -> Iterator[Found]:
    """What comes of each picture of a listing, in its order, read ahead by threads.

    Args:
        listing: the pictures.
        targets: whose features; pictures that all of them have are not decoded.
        options: how.
        decode: whether to decode at all, or only to look what is kept.
        augmentation: how views are made, where any are wanted.
        views_of: which views of each picture are wanted.

    Raises:
        PictureError: one cannot be decoded, and that is to be an error.
    """
    size = targets[0].spec.image_size

    def find(index: int) -> Found:
        try:
            loaded = listing.picture(index).load()
            digest = loaded.digest
            missing = [
                view for view in views_of(index, digest) if not all(target.has(digest, view) for target in targets)
            ]
            if not decode or not missing:
                return Found(digest, dict.fromkeys(missing))
            pixels = loaded.pixels(size)
            return Found(digest, {view: _view(pixels, augmentation, digest, view) for view in missing})
        except PictureError as error:
            if options.fail_on_bad:
                raise PictureError(
                    f"bad picture {listing.names[index]}: {error}",
                    do="remove it, or set such pictures aside with --on-bad skip",
                ) from error
            return Found(reason=str(error))

    ahead = 2 * options.batch_size + 4 * options.threads
    with quiet_decoding(), ThreadPoolExecutor(options.threads, "pictures") as threads:
        yield from _in_order(threads, find, len(listing), ahead)


def _view(pixels: np.ndarray, augmentation: Augmentation | None, digest: bytes, view: int) -> np.ndarray:
    if view == 0:
        return pixels
    assert augmentation is not None, "views are asked for only where there is an augmentation"
    return augmentation.view(pixels, digest, view)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide how features are computed, for people to read."""
    names = ("permafrost", "keras", "tensorflow", "numpy", "h5py", "pillow", "opencv-python-headless")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class _Batch:
    """Gathers pictures into batches, runs the engine on them, and hands the features over to be committed."""

    def __init__(
        self,
        targets: list[Target],
        engine: Engine,
        size: int,
        listing: Listing,
        committer: _Committer,
        clock: dict[str, float],
    ) -> None:
        self._targets, self._engine, self._size = targets, engine, size
        self._listing, self._committer, self._clock = listing, committer, clock
        self._waiting: list[tuple[int, RowKey, np.ndarray]] = []
        self._seen: set[RowKey] = set()

    def add(self, index: int, key: RowKey, pixels: np.ndarray) -> None:
        """Add a view of a picture, unless a copy of it was added before; run the batch if it is full now."""
        if key in self._seen:
            return
        self._seen.add(key)
        self._waiting.append((index, key, pixels))
        if len(self._waiting) == self._size:
            self.run()

    def run(self) -> None:
        """Compute and hand over what is waiting."""
        import numpy as np

        if not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        started = time.perf_counter()
        outputs = iter(self._engine(np.stack([pixels for _, _, pixels in batch])))
        self._clock["compute"] += time.perf_counter() - started
        for target in self._targets:
            wanted = [row for row, (_, key, _) in enumerate(batch) if not target.has(*key)]
            names = [self._listing.names[batch[row][0]] for row in wanted]
            tensors = tuple(_stored(next(outputs)[wanted], target.spec, names) for _ in target.spec.shapes)
            self._committer.add(target, [batch[row][1] for row in wanted], tensors)


class _Committer:
    """Commits finished rows in a thread of its own, a shard whenever half a second or 64 MiB have come together.

    When the block that it guards ends, by an error or by Ctrl-C too, what is finished has been committed.
    """

    def __init__(self, targets: list[Target], engine: str, clock: dict[str, float]) -> None:
        self._engine, self._clock = engine, clock
        self._rows: dict[int, list[tuple[list[RowKey], tuple[np.ndarray, ...]]]] = {
            id(target): [] for target in targets
        }
        self._targets = targets
        self._bytes = 0
        self._last = time.perf_counter()
        self._thread = ThreadPoolExecutor(1, "commits")
        self._running: collections.deque[Future[None]] = collections.deque()

    def __enter__(self) -> _Committer:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._commit()
            self._wait(0)
        except Exception:
            if error is None:
                raise
        finally:
            self._thread.shutdown()

    def add(self, target: Target, keys: list[RowKey], tensors: tuple[np.ndarray, ...]) -> None:
        if keys:
            self._rows[id(target)].append((keys, tensors))
            self._bytes += sum(tensor.nbytes for tensor in tensors)
        if self._bytes >= COMMIT_BYTES or time.perf_counter() - self._last >= COMMIT_SECONDS:
            self._commit()

    def _commit(self) -> None:
        import numpy as np

        for target in self._targets:
            rows, self._rows[id(target)] = self._rows[id(target)], []
            if rows:
                keys = [key for part, _ in rows for key in part]
                tensors = tuple(np.concatenate(parts) for parts in zip(*(part for _, part in rows), strict=True))
                self._running.append(self._thread.submit(target.commit, keys, tensors, self._engine))
        self._bytes, self._last = 0, time.perf_counter()
        self._wait(2 * len(self._targets))

    def _wait(self, most: int) -> None:
        """Wait until at most `most` commits are under way; raises what one of them raised."""
        started = time.perf_counter()
        while len(self._running) > most or (self._running and self._running[0].done()):
            self._running.popleft().result()
        self._clock["write"] += time.perf_counter() - started


def _in_order(threads: ThreadPoolExecutor, find: Callable[[int], Found], count: int, ahead: int) -> Iterator[Found]:
    """`find(0)`, `find(1)`, ... computed by threads, at most `ahead` of the one that is asked for."""
    running: collections.deque[Future[Found]] = collections.deque()
    try:
        for index in range(count):
            running.append(threads.submit(find, index))
            if len(running) > ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def _stored(features: np.ndarray, spec: TrunkSpec, names: list[str]) -> np.ndarray:
    """Features in the dtype that they are stored in.

    Raises:
        FeatureError: one is not finite, in that dtype; its picture is named.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        stored = features.astype(spec.dtype)
    finite = np.isfinite(stored).reshape(len(stored), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        overflow = bool(np.isfinite(features[row]).all())
        raise FeatureError(
            f"features of {names[row]} are not finite",
            expected=f"numbers within {spec.dtype}",
            found="numbers too large for it" if overflow else "NaN or infinity",
            do="store them with --dtype float32" if overflow else "cut at another layer, or give other weights",
        )
    return stored

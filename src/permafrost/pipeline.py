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
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from permafrost.errors import FeatureError, OptionError, PictureError
from permafrost.listing import Listing
from permafrost.pictures import quiet_decoding
from permafrost.store import DESCRIPTION_FILE, RowAddress, RowIndex, Rows, Store, place_rows
from permafrost.trunk_spec import TrunkSpec

if TYPE_CHECKING:
    import numpy as np

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


@dataclasses.dataclass(frozen=True)
class Found:
    """What came of one picture of a listing: its digest, and pixels where it has to be computed; or why not."""

    digest: bytes | None = None
    pixels: np.ndarray | None = None
    reason: str | None = None


class Target:
    """A trunk, its store, and which rows are there: kept before, or committed through this.

    Attributes:
        trunk: the trunk.
        spec: what decides its features.
        folder: the store's folder; it need not be there yet.
        computed: how many rows have been committed through this.

    Args:
        trunk: the trunk.
        parent: the folder that holds stores, e.g. `features/store`.

    Raises:
        StoreError: a store of that name is damaged, or holds another trunk's features.
    """

    def __init__(self, trunk: Trunk, parent: Path) -> None:
        self.trunk, self.spec = trunk, trunk.spec
        self.folder = parent / trunk.spec.folder_name
        self.computed = 0
        self._store = Store(self.folder) if (self.folder / DESCRIPTION_FILE).exists() else None
        if self._store:
            self._store.require(trunk.spec)
        self._index = RowIndex(self._store) if self._store else None
        self._new: dict[bytes, RowAddress] = {}

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes, uncompressed, with its index."""
        import numpy as np

        values = sum(int(np.prod(shape)) for shape in self.spec.shapes)
        return values * np.dtype(self.spec.dtype).itemsize + 44

    def has(self, digest: bytes) -> bool:
        """Whether the picture's features were kept before."""
        return self._index is not None and self._index.find(digest) is not None

    def address(self, digest: bytes) -> RowAddress:
        """Where the picture's features lie, which were kept before or committed through this."""
        address = self._new.get(digest) or (self._index.find(digest) if self._index else None)
        assert address is not None, "every picture of a set has been kept or computed"
        return address

    def commit(self, digests: list[bytes], features: np.ndarray, engine: str) -> None:
        """Keep rows; the store's folder is made with the first of them, so a run that fails early leaves none."""
        import numpy as np

        if self._store is None:
            about = {"libraries": library_versions(), "base_layers": list(self.trunk.base_layers)}
            self._store = Store.create(self.folder.parent, self.spec, about=about)
        rows = Rows(
            np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
            np.zeros(len(digests), np.int32),
            (features,),
        )
        shard = self._store.append(rows, engine=engine)
        self._new |= {digest: RowAddress(shard, row) for row, digest in enumerate(digests)}
        self.computed += len(digests)

    def gather(self, digests: list[bytes]) -> np.ndarray:
        """The features of these pictures: (n, *shape) float32.

        Raises:
            ShardError: a shard is missing or damaged.
        """
        import numpy as np

        assert self._store is not None, "every picture has been kept or computed"
        shards, places = place_rows([self.address(digest) for digest in digests])
        known = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        return self._store.gather(shards, places, digests=known)[0]


def run_pictures(listing: Listing, targets: list[Target], options: PipelineOptions) -> Outcome:
    """Compute and commit the features of the pictures of a listing that a target does not have.

    Args:
        listing: the pictures.
        targets: trunks of one base, made together; one pass serves all.
        options: how.

    Raises:
        PictureError: one cannot be decoded, and that is to be an error.
        FeatureError: features are not finite; the picture is named.
        WriteError: the disk is full, or the like; what was committed before is whole.
    """
    from tqdm import tqdm

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
        for index, found in enumerate(find_pictures(listing, targets, options)):
            seconds["read"] += time.perf_counter() - waited
            if found.digest is None:
                aside.append((index, found.reason or ""))
            else:
                kept.append((index, found.digest))
                if found.pixels is not None:
                    batch.add(index, found.digest, found.pixels)
            bar.update()
            waited = time.perf_counter()
        batch.run()
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
    listing: Listing, targets: list[Target], options: PipelineOptions, *, decode: bool = True
) -> Iterator[Found]:
    """What comes of each picture of a listing, in its order, read ahead by threads.

    Args:
        listing: the pictures.
        targets: whose features; pictures that all of them have are not decoded.
        options: how.
        decode: whether to decode at all, or only to look which pictures are kept.

    Raises:
        PictureError: one cannot be decoded, and that is to be an error.
    """
    size = targets[0].spec.image_size

    def find(index: int) -> Found:
        try:
            loaded = listing.picture(index).load()
            if not decode or all(target.has(loaded.digest) for target in targets):
                return Found(loaded.digest)
            return Found(loaded.digest, loaded.pixels(size))
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


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide how features are computed, for people to read."""
    names = ("permafrost", "keras", "tensorflow", "numpy", "h5py", "pillow")
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
        self._waiting: list[tuple[int, bytes, np.ndarray]] = []
        self._seen: set[bytes] = set()

    def add(self, index: int, digest: bytes, pixels: np.ndarray) -> None:
        """Add a picture, unless a copy of it was added before; run the batch if it is full now."""
        if digest in self._seen:
            return
        self._seen.add(digest)
        self._waiting.append((index, digest, pixels))
        if len(self._waiting) == self._size:
            self.run()

    def run(self) -> None:
        """Compute and hand over what is waiting."""
        import numpy as np

        if not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        started = time.perf_counter()
        outputs = self._engine(np.stack([pixels for _, _, pixels in batch]))
        self._clock["compute"] += time.perf_counter() - started
        for target, output in zip(self._targets, outputs, strict=True):
            wanted = [row for row, (_, digest, _) in enumerate(batch) if not target.has(digest)]
            features = _stored(output[wanted], target.spec, [self._listing.names[batch[row][0]] for row in wanted])
            self._committer.add(target, [batch[row][1] for row in wanted], features)


class _Committer:
    """Commits finished rows in a thread of its own, a shard whenever half a second or 64 MiB have come together.

    When the block that it guards ends, by an error or by Ctrl-C too, what is finished has been committed.
    """

    def __init__(self, targets: list[Target], engine: str, clock: dict[str, float]) -> None:
        self._engine, self._clock = engine, clock
        self._rows: dict[int, list[tuple[list[bytes], np.ndarray]]] = {id(target): [] for target in targets}
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

    def add(self, target: Target, digests: list[bytes], features: np.ndarray) -> None:
        if digests:
            self._rows[id(target)].append((digests, features))
            self._bytes += features.nbytes
        if self._bytes >= COMMIT_BYTES or time.perf_counter() - self._last >= COMMIT_SECONDS:
            self._commit()

    def _commit(self) -> None:
        import numpy as np

        for target in self._targets:
            rows, self._rows[id(target)] = self._rows[id(target)], []
            if rows:
                digests = [digest for part, _ in rows for digest in part]
                features = np.concatenate([part for _, part in rows])
                self._running.append(self._thread.submit(target.commit, digests, features, self._engine))
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

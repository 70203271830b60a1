"""Pictures through a trunk into a store: the pipeline behind `extract`.

Threads read, hash and decode; the main thread computes; one more thread commits. A picture is known by its content:
where its features are kept already it is neither decoded nor computed. What is finished is committed at least twice a
second, so a kill costs no more than that, and the same command goes on.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.metadata
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from permafrost.errors import FeatureError, ListingError, OptionError, PictureError
from permafrost.feature_set import FeatureSet, SetContent, place_rows, write_set
from permafrost.listing import Listing, assign_splits, read_listing
from permafrost.pictures import quiet_decoding
from permafrost.store import DESCRIPTION_FILE, RowAddress, RowIndex, Rows, Store
from permafrost.trunk_spec import TrunkSpec

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm

    from permafrost.cutting import Trunk
    from permafrost.engines import Engine

DEFAULT_FOLDER: Final = "features"
BATCH_SIZE: Final = 32
COMMIT_SECONDS: Final = 0.5
COMMIT_BYTES: Final = 64 * 2**20
ON_BAD: Final = ("skip", "fail")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What an extraction would do.

    Attributes:
        pictures: how many the data set lists.
        compute: how many would be run through the trunk.
        keep: how many are kept already, or are copies of others.
        bytes: that the new features would take on disk, uncompressed.
        seconds: that computing them would take, at the speed of one batch tried.
        shape: of one picture's features.
        store: where they would be kept.
    """

    set: str
    store: str
    pictures: int
    compute: int
    keep: int
    set_aside: int
    bytes: int
    seconds: float
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Found:
    """What came of one picture of a listing: its digest, and pixels where it has to be computed; or why not."""

    digest: bytes | None = None
    pixels: np.ndarray | None = None
    reason: str | None = None


def extract(
    data: str | os.PathLike[str],
    *,
    base: str | None = None,
    weights: str = "imagenet",
    cut: str | int | Sequence[str | int] | None = None,
    pool: str = "none",
    image_size: int | tuple[int, int] | None = None,
    preprocessing: str | None = None,
    dtype: str = "float32",
    precision: str = "float32",
    engine: str = "auto",
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    out: str | os.PathLike[str] | None = None,
    on_bad: str = "skip",
    progress: bool = True,
) -> Any:
    """Run the frozen trunk once over the pictures of a data set and keep its features.

    Pictures whose features are kept already are not run again, whatever they are called and wherever they lie.

    Args:
        data: a folder with one folder a class, or with `train`, `validation` and `test` folders of those; a CSV with
            the columns `path,label[,split]`; or an `.npz` with `X_train, y_train[, X_validation, y_validation, ...]`.
        base: a name from `keras.applications` in snake case, with its options behind a colon, or a `.keras` file.
        weights: `imagenet`, `none` (random, the same every time), or a file.
        cut: the layer whose output is kept, by name or index; a list of them to keep several in one pass; None for
            the last.
        pool: `avg` or `max` over height and width, or `none`.
        image_size: height and width in pixels, or one number for both; the base's default if None.
        preprocessing: what a `.keras` base wants as input: `none`, `tf`, `caffe` or `torch`.
        dtype: what features are stored in: `float32` or `float16`.
        precision: what the base computes in: `float32` or `bfloat16`.
        engine: what runs the trunk: `auto` or `keras`.
        batch_size: pictures a batch.
        workers: threads that read and decode; as many as there are processors if None.
        validation_fraction, test_fraction: shares of the pictures for which the data set names no split, which is then
            decided by their content. 0.15 each if None.
        out: the set's file; `features/<data>.h5` if None. Its store lies beside it, in `store/`.
        on_bad: `skip` sets pictures that cannot be decoded aside, with the reason; `fail` stops at the first.
        progress: whether to draw a progress bar where standard error is a terminal.

    Returns:
        A `FeatureSet`; a list of them where `cut` is a list.

    Raises:
        PermafrostError: something about the request or its input; see `permafrost.errors`.
    """
    extraction = Extraction(
        data,
        base=base,
        weights=weights,
        cut=cut,
        pool=pool,
        image_size=image_size,
        preprocessing=preprocessing,
        dtype=dtype,
        precision=precision,
        engine=engine,
        batch_size=batch_size,
        workers=workers,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        out=out,
        on_bad=on_bad,
        progress=progress,
    )
    sets = extraction.run()
    return sets if isinstance(cut, list | tuple) else sets[0]


class Extraction:
    """One extraction, prepared: the data set is listed, the trunks are built. Takes the arguments of `extract`."""

    def __init__(
        self,
        data: str | os.PathLike[str],
        *,
        base: str | None,
        weights: str,
        cut: str | int | Sequence[str | int] | None,
        pool: str,
        image_size: int | tuple[int, int] | None,
        preprocessing: str | None,
        dtype: str,
        precision: str,
        engine: str,
        batch_size: int,
        workers: int | None,
        validation_fraction: float | None,
        test_fraction: float | None,
        out: str | os.PathLike[str] | None,
        on_bad: str,
        progress: bool,
    ) -> None:
        _require_positive("batch size", batch_size)
        _require_positive("number of workers", 1 if workers is None else workers)
        if on_bad not in ON_BAD:
            raise OptionError("unknown way with bad pictures", expected=" or ".join(ON_BAD), found=on_bad)
        assign_splits([], [], validation_fraction=validation_fraction, test_fraction=test_fraction)
        self._started = time.perf_counter()
        self.listing = read_listing(data)
        self._fractions = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
        self._batch_size, self._workers = batch_size, workers or os.cpu_count() or 1
        self._on_bad, self._progress = on_bad, progress
        cuts = list(cut) if isinstance(cut, list | tuple) else [cut]
        if not cuts:
            raise OptionError("no layer to cut at", expected="one or more", found="an empty list")
        several = len(cuts) > 1
        path = _set_path(out, self.listing)
        self._trunks = _trunks(
            base, weights, cuts, pool=pool, size=image_size, preprocessing=preprocessing, dtype=dtype, precision=precision
        )
        self._targets = [
            _Target(trunk, path.with_stem(f"{path.stem}-{trunk.spec.cut}") if several else path)
            for trunk in self._trunks
        ]
        self._engine_name = engine
        self._seconds = {"start": time.perf_counter() - self._started}

    def plan(self) -> list[Plan]:
        """What `run` would do, without doing it; nothing is written."""
        size = self._trunks[0].spec.image_size
        missing: list[set[bytes]] = [set() for _ in self._targets]
        aside = len(self.listing.set_aside)
        listed = 0
        for found in self._find(decode=False):
            aside += found.digest is None
            listed += 1
            for target, digests in zip(self._targets, missing, strict=True):
                if found.digest is not None and not target.has(found.digest):
                    digests.add(found.digest)
        rate = _try_rate(self._engine(), size, self._batch_size) if any(missing) else float("inf")
        compute = len(set().union(*missing))
        return [
            Plan(
                set=str(target.path),
                store=str(target.folder),
                pictures=listed,
                compute=len(digests),
                keep=listed - len(digests),
                set_aside=aside,
                bytes=len(digests) * target.row_bytes,
                seconds=compute / rate,
                shape=target.spec.shapes[0],
            )
            for target, digests in zip(self._targets, missing, strict=True)
        ]

    def run(self) -> list[FeatureSet]:
        """Compute what is missing, and write the sets."""
        clock = {"read": 0.0, "compute": 0.0, "write": 0.0}
        engine = self._engine()
        kept: list[tuple[int, bytes]] = []
        aside = list(self.listing.set_aside)
        with _Committer(self._targets, engine.name, clock) as committer, self._bar() as bar:
            batch = _Batch(self._targets, engine, self._batch_size, self.listing, committer, clock)
            waited = time.perf_counter()
            for index, found in enumerate(self._find(decode=True)):
                clock["read"] += time.perf_counter() - waited
                if found.digest is None:
                    aside.append((self.listing.names[index], found.reason or ""))
                else:
                    kept.append((index, found.digest))
                    if found.pixels is not None:
                        batch.add(index, found.digest, found.pixels)
                bar.update()
                waited = time.perf_counter()
            batch.run()
        if not kept:
            raise ListingError(
                f"none of the {len(self.listing)} pictures in {self.listing.root} can be decoded",
                found=f"{aside[-1][0]}: {aside[-1][1]}",
            )
        self._seconds |= clock | {"total": time.perf_counter() - self._started}
        return [self._write_set(target, kept, aside, engine.name) for target in self._targets]

    def _engine(self) -> Engine:
        from permafrost.cutting import merge_trunks
        from permafrost.engines import make_engine

        return make_engine(self._engine_name, merge_trunks(self._trunks), batch_size=self._batch_size)

    def _bar(self) -> tqdm[None]:
        from tqdm import tqdm

        return tqdm(total=len(self.listing), unit=" pictures", disable=None if self._progress else True, leave=False)

    def _find(self, *, decode: bool) -> Iterator[_Found]:
        """What comes of each picture of the listing, in its order, read ahead by threads."""
        size = self._trunks[0].spec.image_size

        def find(index: int) -> _Found:
            try:
                loaded = self.listing.picture(index).load()
                if not decode or all(target.has(loaded.digest) for target in self._targets):
                    return _Found(loaded.digest)
                return _Found(loaded.digest, loaded.pixels(size))
            except PictureError as error:
                if self._on_bad == "fail":
                    name = self.listing.names[index]
                    raise PictureError(
                        f"bad picture {name}: {error}", do="remove it, or set such pictures aside with --on-bad skip"
                    ) from error
                return _Found(reason=str(error))

        ahead = 2 * self._batch_size + 4 * self._workers
        with quiet_decoding(), ThreadPoolExecutor(self._workers, "pictures") as threads:
            yield from _in_order(threads, find, len(self.listing), ahead)

    def _write_set(
        self, target: _Target, kept: list[tuple[int, bytes]], aside: list[tuple[str, str]], engine: str
    ) -> FeatureSet:
        import numpy as np

        from permafrost.cutting import save_trunk

        listing, digests = self.listing, [digest for _, digest in kept]
        splits = assign_splits(digests, (listing.splits[index] for index, _ in kept), **self._fractions)
        shards, places = place_rows([target.address(digest) for digest in digests])
        content = SetContent(
            spec=target.spec,
            store=os.path.relpath(target.folder, target.path.parent),
            root=listing.root,
            names=tuple(listing.names[index] for index, _ in kept),
            digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
            labels=np.array([listing.labels[index] for index, _ in kept], np.int64),
            splits=np.array([("train", "validation", "test").index(split) for split in splits], np.uint8),
            class_names=listing.class_names,
            shards=shards,
            places=places,
            set_aside=tuple(aside),
            about=library_versions(),
        )
        save_trunk(target.trunk, target.folder)  # Where the store was there but the trunk was not, too.
        write_set(target.path, content)
        summary = {
            "set": str(target.path),
            "store": str(target.folder),
            "pictures": len(kept),
            "computed": target.computed,
            "kept": len(kept) - target.computed,
            "set_aside": len(aside),
            "set_aside_paths": [{"path": name, "reason": reason} for name, reason in aside],
            "shape": list(target.spec.shapes[0]),
            "engine": engine,
            "seconds": {name: round(seconds, 3) for name, seconds in self._seconds.items()},
        }
        return FeatureSet(target.path, content, summary=summary)


class _Target:
    """One trunk's store and set file, and which rows are there: kept before, or committed by this extraction."""

    def __init__(self, trunk: Trunk, path: Path) -> None:
        self.trunk, self.spec, self.path = trunk, trunk.spec, path
        self.folder = path.parent / "store" / trunk.spec.folder_name
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
        return self._index is not None and self._index.find(digest) is not None

    def address(self, digest: bytes) -> RowAddress:
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


class _Batch:
    """Gathers pictures into batches, runs the engine on them, and hands the features over to be committed."""

    def __init__(
        self,
        targets: list[_Target],
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

    def __init__(self, targets: list[_Target], engine: str, clock: dict[str, float]) -> None:
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

    def add(self, target: _Target, digests: list[bytes], features: np.ndarray) -> None:
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


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide how features are computed, for people to read."""
    names = ("permafrost", "keras", "tensorflow", "numpy", "h5py", "pillow")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _trunks(
    base: str | None,
    weights: str,
    cuts: list[str | int | None],
    *,
    pool: str,
    size: int | tuple[int, int] | None,
    preprocessing: str | None,
    dtype: str,
    precision: str,
) -> list[Trunk]:
    from permafrost.bases import DEFAULT_BASE, load_base
    from permafrost.cutting import build_trunks

    pair = (size, size) if isinstance(size, int) else size
    loaded = load_base(base or DEFAULT_BASE, weights=weights, image_size=pair, preprocessing=preprocessing)
    return build_trunks(loaded, cuts, pool=pool, precision=precision, dtype=dtype)


def _in_order(threads: ThreadPoolExecutor, find: Any, count: int, ahead: int) -> Iterator[_Found]:
    """`find(0)`, `find(1)`, ... computed by threads, at most `ahead` of the one that is asked for."""
    running: collections.deque[Future[_Found]] = collections.deque()
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


def _try_rate(engine: Engine, size: tuple[int, int], batch_size: int) -> float:
    """Pictures a second that `engine` computes: one batch to warm up, one to time."""
    import numpy as np

    pixels = np.zeros((batch_size, *size, 3), np.uint8)
    engine(pixels)
    started = time.perf_counter()
    engine(pixels)
    return batch_size / (time.perf_counter() - started)


def _set_path(out: str | os.PathLike[str] | None, listing: Listing) -> Path:
    path = Path(DEFAULT_FOLDER) / f"{listing.name}.h5" if out is None else Path(out)
    if path.suffix != ".h5":
        raise OptionError("a feature set is an HDF5 file", expected="--out NAME.h5", found=str(path))
    return path


def _require_positive(what: str, value: int) -> None:
    if value < 1:
        raise OptionError(f"the {what} is too small", expected="1 or more", found=value)

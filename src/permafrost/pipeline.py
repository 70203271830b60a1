"""Pictures through an engine into stores: read, decode, compute, commit, all at once.

Threads read, hash and decode (`reading`); others compute (`computing`); one more commits (`committing`); the caller's
thread ties them together and keeps the order. A picture is known by its content: where its features are kept already it
is neither decoded nor computed. What is finished is committed at least twice a second, so a kill costs no more than
that, and the same request goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from permafrost.committing import Committer, as_stored
from permafrost.compaction import compact
from permafrost.computing import Batches, Member
from permafrost.errors import OptionError, PictureError, ShardError, WriteError
from permafrost.files import clear_leftovers
from permafrost.listing import Listing
from permafrost.pictures import MAX_PIXELS
from permafrost.reading import Found, Reader, RowKey, ViewsOf
from permafrost.shards import Rows
from permafrost.stopwatch import Stopwatch
from permafrost.store import DESCRIPTION_FILE, RowAddress, RowIndex, Store, place_rows
from permafrost.trunk_spec import TrunkSpec

if TYPE_CHECKING:
    import numpy as np

    from permafrost.augmentation import Augmentation
    from permafrost.cutting import Trunk
    from permafrost.engines import Engine
    from permafrost.engines.conversion import Converted, Place


CONVERTED_BYTES: Final = 64 * 2**20
"""An engine's form of a trunk may take so much more than twice its weights; what is larger is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """How pictures are run.

    Attributes:
        engine: a name in `engines.ENGINES`.
        batch_size: pictures computed at once; what suits the engine if None.
        workers: threads that read and decode; as many as there are processors if None.
        fail_on_bad: whether the first picture that cannot be decoded is an error, rather than set aside.
        max_pixels: a picture with more, by its header, is refused before it is decoded.
        progress: whether to draw a progress bar where standard error is a terminal.
    """

    engine: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    fail_on_bad: bool = False
    max_pixels: int = MAX_PIXELS
    progress: bool = True

    def __post_init__(self) -> None:
        for what, value in (
            ("batch size", self.batch_size),
            ("number of workers", self.workers),
            ("limit on pixels", self.max_pixels),
        ):
            if value is not None and value < 1:
                raise OptionError(f"the {what} is too small", expected="1 or more", found=value)

    @property
    def threads(self) -> int:
        """Threads that read and decode."""
        return self.workers or os.cpu_count() or 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineUsed:
    """The engine that computed.

    Attributes:
        name: e.g. `openvino` or `keras/tensorflow`.
        difference: from Keras, as a share of the largest feature; None where it is Keras.
        why: why it is this one, where that was left to `auto` and it is not the fastest on a processor.
    """

    name: str
    difference: float | None
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a listing's pictures.

    Attributes:
        kept: index in the listing and content digest of each picture whose features are kept now.
        aside: index and reason of each that could not be decoded.
        engine: the engine that computed, or None where nothing was to be computed.
        seconds: in `all`, of which making the `engine` and keeping its form of the trunk; and for which the thread that
            ties everything together waited for pictures (`read`), for the engine's features (`compute`) and for commits
            (`write`).
        limit: which of the three it waited for most: `reading`, `computing` or `writing`.
    """

    kept: list[tuple[int, bytes]]
    aside: list[tuple[int, str]]
    engine: EngineUsed | None
    seconds: dict[str, float]
    limit: str


def only_pictures(index: int, digest: bytes) -> Sequence[int]:  # noqa: ARG001 - a `ViewsOf`
    """No views but the pictures themselves."""
    return (0,)


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

    def has(self, keys: Sequence[RowKey]) -> list[bool]:
        """Of each row whether it was kept before."""
        return [address is not None for address in self._before(keys)]

    def addresses(self, keys: Sequence[RowKey]) -> list[RowAddress]:
        """Where the rows lie, which were kept before or committed through this."""
        addresses = [self._new.get(key) or before for key, before in zip(keys, self._before(keys), strict=True)]
        assert None not in addresses, "every row that is asked for has been kept or computed"
        return cast("list[RowAddress]", addresses)

    def _before(self, keys: Sequence[RowKey]) -> Sequence[RowAddress | None]:
        return self._index.find_all(keys) if self._index else [None] * len(keys)

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
        shards, places = place_rows(self.addresses(keys))
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

    def has(self, keys: Sequence[RowKey]) -> list[bool]:
        """Of each picture or view whether its features were kept before."""
        pictures = [key for key in keys if key[1] == 0]
        if len(pictures) == len(keys):
            return self.pictures.has(keys)
        views = [key for key in keys if key[1]]
        kept = dict(zip(pictures, self.pictures.has(pictures), strict=True))
        kept |= zip(views, self._shelf(1).has(views), strict=True)
        return [kept[key] for key in keys]

    def addresses(self, keys: Sequence[RowKey]) -> list[RowAddress]:
        """Where the features lie: of pictures, or of views, which have another store."""
        return self._shelf(max((view for _, view in keys), default=0)).addresses(keys)

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
    converted: Converted | None = None,
) -> Outcome:
    """Compute and commit the features of the pictures of a listing that a target does not have.

    Args:
        listing: the pictures.
        targets: trunks of one base, made together; one pass serves all.
        options: how.
        augmentation: how views are made, where any are wanted.
        views_of: which views of each picture are wanted.
        converted: the trunks in OpenVINO's form, where they have just been converted and are not kept yet.

    Raises:
        PictureError: one cannot be decoded, and that is to be an error.
        FeatureError: features are not finite; the picture is named.
        EngineError: the engine that was asked for cannot be had, or does not agree with Keras.
        WriteError: the disk is full, or the like; what was committed before is whole.
    """
    started = time.perf_counter()
    stopwatch = Stopwatch()
    shelves = [shelf for target in targets for shelf in target.shelves]
    for shelf in shelves:
        clear_leftovers(shelf.folder)
    kept: list[tuple[int, bytes]] = []
    aside: list[tuple[int, str]] = []
    pictures = find_pictures(listing, targets, options, augmentation=augmentation, views_of=views_of)
    with (
        contextlib.closing(pictures),
        Committer(targets, stopwatch) as committer,
        _Computation(listing, targets, options, committer, stopwatch, converted) as computation,
        _progress(len(listing), stopwatch, shown=options.progress) as picture_done,
    ):
        for index, found in enumerate(stopwatch.each("read", pictures)):
            if found.digest is None:
                aside.append((index, found.reason))
            else:
                kept.append((index, found.digest))
                computation.add(index, found)
            picture_done(bool(found.digest and not found.missing))
        computation.finish()
    for shelf in shelves:
        shelf.compact()
    seconds = stopwatch.seconds | {"engine": computation.engine_seconds, "all": time.perf_counter() - started}
    return Outcome(kept=kept, aside=aside, engine=computation.engine_used, seconds=seconds, limit=stopwatch.limit)


def engine_for(targets: list[Target], options: PipelineOptions, converted: Converted | None) -> Engine:
    """The engine that runs the trunks of all targets in one pass.

    Args:
        targets: the trunks.
        options: which engine, and how large its batches.
        converted: the trunks in OpenVINO's form; converted anew if None.

    Raises:
        OptionError: there is no such engine.
        EngineError: it was asked for by name and cannot be had here.
    """
    from permafrost.cutting import merge_trunks
    from permafrost.engines import make_engine

    return make_engine(
        options.engine,
        merge_trunks([target.trunk for target in targets]),
        batch_size=options.batch_size,
        precision=targets[0].spec.precision,
        converted=converted,
    )


def kept_conversion(targets: list[Target]) -> Converted | None:
    """The trunks of all targets in OpenVINO's form, where they are kept."""
    weights = sum(target.trunk.model.count_params() for target in targets)
    return conversion_place(targets).load(most=CONVERTED_BYTES + 8 * weights)  # Twice what float32 takes.


def conversion_place(targets: list[Target]) -> Place:
    """Where the conversion of the trunks of all targets is kept: beside the features of the first."""
    from permafrost.engines.conversion import Place

    return Place(targets[0].folder, tuple(target.spec.digest for target in targets))


def find_pictures(
    listing: Listing,
    targets: list[Target],
    options: PipelineOptions,
    *,
    decode: bool = True,
    augmentation: Augmentation | None = None,
    views_of: ViewsOf = only_pictures,
) -> Generator[Found]:
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
    reader = Reader(
        listing=listing,
        size=targets[0].spec.image_size,
        are_kept=lambda keys: [all(each) for each in zip(*(target.has(keys) for target in targets), strict=True)],
        views_of=views_of,
        augmentation=augmentation,
        decode=decode,
        max_pixels=options.max_pixels,
        threads=options.threads,
    )
    with contextlib.closing(reader.read()) as pictures:
        for index, found in enumerate(pictures):
            if found.digest is None and options.fail_on_bad:
                raise PictureError(
                    f"bad picture {listing.names[index]}: {found.reason}",
                    do="remove it, or set such pictures aside with --on-bad skip",
                )
            yield found


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide how features are computed, for people to read."""
    names = ("permafrost", "keras", "tensorflow", "numpy", "h5py", "pillow", "opencv-python-headless")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class _Computation:
    """Computes what is missing, with an engine that is made when the first picture is: a run may have none."""

    def __init__(
        self,
        listing: Listing,
        targets: list[Target],
        options: PipelineOptions,
        committer: Committer,
        stopwatch: Stopwatch,
        converted: Converted | None,
    ) -> None:
        self._converted = converted
        self._kept: Converted | None = None
        self._listing, self._targets, self._options = listing, targets, options
        self._committer, self._stopwatch = committer, stopwatch
        self._engine: Engine | None = None
        self._batches: Batches | None = None
        self.engine_seconds = 0.0

    def __enter__(self) -> _Computation:
        return self

    def __exit__(self, *_: object) -> None:
        if self._batches:
            self._batches.close()

    def add(self, index: int, found: Found) -> None:
        """Have the missing views of a picture computed."""
        if found.missing and self._batches is None:
            started = time.perf_counter()
            self._kept = kept_conversion(self._targets)
            self._engine = engine_for(self._targets, self._options, self._kept or self._converted)
            self._batches = Batches(self._engine, self._commit, self._stopwatch)
            self.engine_seconds = time.perf_counter() - started
        for view, pixels in found.missing.items():
            assert self._batches is not None and pixels is not None and found.digest is not None
            self._batches.add(index, (found.digest, view), pixels)

    def finish(self) -> None:
        """Compute what is left, and keep the engine's form of the trunk beside its features."""
        if self._batches and self._engine:
            self._batches.finish()
            self._committer.finish()
            started = time.perf_counter()
            if self._engine.converted and self._engine.converted is not self._kept:
                with contextlib.suppress(WriteError):  # All rows are kept; the next run converts again.
                    conversion_place(self._targets).save(self._engine.converted)
            self.engine_seconds += time.perf_counter() - started

    @property
    def engine_used(self) -> EngineUsed | None:
        """The engine; None where none was needed."""
        if self._engine is None:
            return None
        return EngineUsed(name=self._engine.name, difference=self._engine.difference, why=self._engine.why)

    def _commit(self, members: list[Member], outputs: list[np.ndarray]) -> None:
        assert self._engine is not None
        remaining = iter(outputs)
        for target in self._targets:
            kept = target.has([key for _, key in members])
            wanted = [row for row, was_kept in enumerate(kept) if not was_kept]
            names = [self._listing.names[members[row][0]] for row in wanted]
            chosen = slice(None) if len(wanted) == len(members) else wanted  # A slice copies nothing.
            tensors = tuple(as_stored(next(remaining)[chosen], target.spec, names) for _ in target.spec.shapes)
            self._committer.add(target, [members[row][1] for row in wanted], tensors, self._engine.record)


@contextlib.contextmanager
def _progress(count: int, stopwatch: Stopwatch, *, shown: bool) -> Iterator[Callable[[bool], None]]:
    """A progress bar, where standard error is a terminal; gives what to call with whether a picture was kept."""
    from tqdm import tqdm

    kept = 0
    with tqdm(total=count, unit=" pictures", disable=None if shown else True, leave=False, dynamic_ncols=True) as bar:

        def done(was_kept: bool) -> None:
            nonlocal kept
            kept += was_kept
            if bar.update():  # It has just been drawn: what it says next is found out now, and not for each picture.
                bar.set_postfix_str(f"{kept:,} kept already, limited by {stopwatch.limit_lately}", refresh=False)

        yield done

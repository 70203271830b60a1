"""Images through an engine into stores: read, decode, compute, commit, all at once.

Threads read, hash and decode (`reading`); others compute (`computing`); one more commits (`committing`); the caller's
thread ties them together and keeps the order. An image is known by its content: where its features are kept already it
is neither decoded nor computed. What is finished is committed at least twice a second, so a kill costs no more than
that, and the same request goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from permafrost.atomic import clear_leftovers
from permafrost.errors import ImageError, OptionError, WriteError
from permafrost.extraction import interrupts
from permafrost.extraction.batcher import Batcher, Member
from permafrost.extraction.cache import FeatureCache
from permafrost.extraction.interrupts import Interrupts
from permafrost.extraction.reader import Reader, ReadImage, ViewsOf
from permafrost.extraction.stopwatch import Stopwatch
from permafrost.extraction.writer import Committer, as_stored
from permafrost.images.dataset import Dataset
from permafrost.images.limits import MAX_PIXELS
from permafrost.machine import cpu_count

if TYPE_CHECKING:
    from permafrost.engines.conversion import ConversionFile, ConvertedModel
    from permafrost.engines.selection import Engine
    from permafrost.images.augmentation import Augmentation


CONVERTED_BYTES: Final = 64 * 2**20
"""An engine's form of a trunk may take so much more than twice its weights; what is larger is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """How images are run.

    Attributes:
        engine: a name in `engines.ENGINES`.
        batch_size: images computed at once; what suits the engine if None.
        workers: threads that read and decode; as many as there are processors if None.
        fail_on_bad: whether the first image that cannot be decoded is an error, rather than skipped.
        max_pixels: an image with more, by its header, is refused before it is decoded.
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
        return self.workers or cpu_count()


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
class PipelineResult:
    """What came of a dataset's images.

    Attributes:
        images: index in the dataset and content digest of each image whose features are cached now.
        skipped: index and reason of each that could not be decoded.
        engine: the engine that computed, or None where nothing was to be computed.
        seconds: in `all`, of which making the `engine` and keeping its form of the trunk; and for which the thread that
            ties everything together waited for images (`read`), for the engine's features (`compute`) and for commits
            (`write`).
        limit: which of the three it waited for most: `reading`, `computing` or `writing`.
    """

    images: list[tuple[int, bytes]]
    skipped: list[tuple[int, str]]
    engine: EngineUsed | None
    seconds: dict[str, float]
    limit: str


def only_images(index: int, digest: bytes) -> Sequence[int]:  # noqa: ARG001 - a `ViewsOf`
    """No views but the images themselves."""
    return (0,)


def run_images(
    dataset: Dataset,
    caches: list[FeatureCache],
    options: PipelineOptions,
    *,
    augmentation: Augmentation | None = None,
    views_of: ViewsOf = only_images,
    converted: ConvertedModel | None = None,
) -> PipelineResult:
    """Compute and commit the features of the images of a dataset that a cache does not have.

    Args:
        dataset: the images.
        caches: trunks of one base, made together; one pass serves all.
        options: how.
        augmentation: how views are made, where any are wanted.
        views_of: which views of each image are wanted.
        converted: the trunks in OpenVINO's form, where they have just been converted and are not kept yet.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; what was finished before is committed.
        ImageError: one cannot be decoded, and that is to be an error.
        FeatureError: features are not finite; the image is named.
        EngineError: the engine that was asked for cannot be had, or does not agree with Keras.
        WriteError: the disk is full, or the like; what was committed before is whole.
    """
    started = time.perf_counter()
    stopwatch = Stopwatch()
    stores = [cached_store for cache in caches for cached_store in cache.stores]
    for cached_store in stores:
        clear_leftovers(cached_store.folder)
    used: list[tuple[int, bytes]] = []
    skipped: list[tuple[int, str]] = []
    images = find_images(dataset, caches, options, augmentation=augmentation, views_of=views_of)
    with (
        interrupts.deferred() as interrupted,
        contextlib.closing(images),
        Committer(caches, stopwatch) as committer,
        _Computation(dataset, caches, options, committer, stopwatch, converted, interrupted) as computation,
        _progress(len(dataset), stopwatch, shown=options.progress) as image_done,
    ):
        for index, found in enumerate(stopwatch.each("read", images)):
            if found.digest is None:
                skipped.append((index, found.reason))
            else:
                used.append((index, found.digest))
                computation.add(index, found)
            image_done(bool(found.digest and not found.missing))
            interrupted.check()
        computation.finish()
    for cached_store in stores:
        cached_store.compact()
    seconds = stopwatch.seconds | {"engine": computation.engine_seconds, "all": time.perf_counter() - started}
    return PipelineResult(
        images=used, skipped=skipped, engine=computation.engine_used, seconds=seconds, limit=stopwatch.limit
    )


def engine_for(caches: list[FeatureCache], options: PipelineOptions, converted: ConvertedModel | None) -> Engine:
    """The engine that runs the trunks of all caches in one pass.

    Args:
        caches: the trunks.
        options: which engine, and how large its batches.
        converted: the trunks in OpenVINO's form; converted anew if None.

    Raises:
        OptionError: there is no such engine.
        EngineError: it was asked for by name and cannot be had here.
    """
    from permafrost.engines.selection import make_engine
    from permafrost.trunk.cutting import merge_trunks

    return make_engine(
        options.engine,
        merge_trunks([cache.trunk for cache in caches]),
        batch_size=options.batch_size,
        precision=caches[0].spec.precision,
        converted=converted,
    )


def cached_conversion(caches: list[FeatureCache]) -> ConvertedModel | None:
    """The trunks of all caches in OpenVINO's form, where they are kept."""
    weights = sum(cache.trunk.model.count_params() for cache in caches)
    return conversion_file(caches).load(max_bytes=CONVERTED_BYTES + 8 * weights)  # Twice what float32 takes.


def conversion_file(caches: list[FeatureCache]) -> ConversionFile:
    """Where the conversion of the trunks of all caches is kept: beside the features of the first."""
    from permafrost.engines.conversion import ConversionFile

    return ConversionFile(caches[0].folder, tuple(cache.spec.digest for cache in caches))


def find_images(
    dataset: Dataset,
    caches: list[FeatureCache],
    options: PipelineOptions,
    *,
    decode: bool = True,
    augmentation: Augmentation | None = None,
    views_of: ViewsOf = only_images,
) -> Generator[ReadImage]:
    """What comes of each image of a dataset, in its order, read ahead by threads.

    Args:
        dataset: the images.
        caches: whose features; images that all of them have are not decoded.
        options: how.
        decode: whether to decode at all, or only to look what is kept.
        augmentation: how views are made, where any are wanted.
        views_of: which views of each image are wanted.

    Raises:
        ImageError: one cannot be decoded, and that is to be an error.
    """
    reader = Reader(
        dataset=dataset,
        size=caches[0].spec.image_size,
        are_cached=lambda keys: [all(each) for each in zip(*(cache.has(keys) for cache in caches), strict=True)],
        views_of=views_of,
        augmentation=augmentation,
        decode=decode,
        max_pixels=options.max_pixels,
        threads=options.threads,
    )
    with contextlib.closing(reader.read()) as images:
        for index, found in enumerate(images):
            if found.digest is None and options.fail_on_bad:
                raise ImageError(
                    f"bad image {dataset.names[index]}: {found.reason}",
                    do="remove it, or use --on-bad skip",
                )
            yield found


class _Computation:
    """Computes what is missing, with an engine that is made when the first image is: a run may have none."""

    def __init__(
        self,
        dataset: Dataset,
        caches: list[FeatureCache],
        options: PipelineOptions,
        committer: Committer,
        stopwatch: Stopwatch,
        converted: ConvertedModel | None,
        interrupted: Interrupts,
    ) -> None:
        self._converted, self._interrupted = converted, interrupted
        self._kept: ConvertedModel | None = None
        self._dataset, self._caches, self._options = dataset, caches, options
        self._committer, self._stopwatch = committer, stopwatch
        self._engine: Engine | None = None
        self._batches: Batcher | None = None
        self.engine_seconds = 0.0

    def __enter__(self) -> _Computation:
        return self

    def __exit__(self, *_: object) -> None:
        if self._batches:
            self._batches.close()

    def add(self, index: int, found: ReadImage) -> None:
        """Have the missing views of an image computed."""
        if found.missing and self._batches is None:
            started = time.perf_counter()
            with self._interrupted.at_once():
                self._kept = cached_conversion(self._caches)
                self._engine = engine_for(self._caches, self._options, self._kept or self._converted)
            self._batches = Batcher(self._engine, self._commit, self._stopwatch)
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
                    conversion_file(self._caches).save(self._engine.converted)
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
        for cache in self._caches:
            kept = cache.has([key for _, key in members])
            wanted = [row for row, was_kept in enumerate(kept) if not was_kept]
            names = [self._dataset.names[members[row][0]] for row in wanted]
            chosen = slice(None) if len(wanted) == len(members) else wanted  # A slice copies nothing.
            tensors = tuple(as_stored(next(remaining)[chosen], cache.spec, names) for _ in cache.spec.shapes)
            self._committer.add(cache, [members[row][1] for row in wanted], tensors, self._engine.record)


@contextlib.contextmanager
def _progress(count: int, stopwatch: Stopwatch, *, shown: bool) -> Iterator[Callable[[bool], None]]:
    """A progress bar, where standard error is a terminal; gives what to call with whether an image was kept."""
    from tqdm import tqdm

    kept = 0
    with tqdm(total=count, unit=" images", disable=None if shown else True, leave=False, dynamic_ncols=True) as bar:

        def done(was_kept: bool) -> None:
            nonlocal kept
            kept += was_kept
            if bar.update():  # It has just been drawn: what it says next is found out now, and not for each image.
                bar.set_postfix_str(f"{kept:,} cached, limited by {stopwatch.limit_lately}", refresh=False)

        yield done

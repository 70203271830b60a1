"""Run images through an engine into stores: read, decode, compute and commit at the same time.

Threads read, hash and decode (`reader`); others compute (`batcher`); one commits (`writer`); the calling thread
connects them and keeps the order. An image is identified by its content: if its features are cached, it is neither
decoded nor computed. Finished features are committed at least twice a second, so a kill loses no more than that, and
the same request continues from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from permafrost.atomic import clear_leftovers
from permafrost.errors import WriteError
from permafrost.extraction import interrupts
from permafrost.extraction.batcher import Batcher, Member
from permafrost.extraction.cache import FeatureCache
from permafrost.extraction.interrupts import Interrupts
from permafrost.extraction.options import PipelineOptions
from permafrost.extraction.reader import Reader, ReadImage, ViewsOf
from permafrost.extraction.stopwatch import Stopwatch
from permafrost.extraction.writer import Writer
from permafrost.images.arrays.ranges import DARK
from permafrost.images.dataset import Dataset
from permafrost.progress import progress_bar

if TYPE_CHECKING:
    from permafrost.engines.conversion import ConversionFile, ConvertedModel
    from permafrost.engines.engine import Engine
    from permafrost.images.augmentation import Augmentation

CONVERTED_BYTES: Final = 64 * 2**20
"""A converted trunk may take this many bytes more than twice its weights; a larger file is ignored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineUsed:
    """The engine that computed.

    Attributes:
        name: e.g. `openvino` or `keras/tensorflow`.
        difference: difference from Keras, relative to the largest feature; None for Keras itself.
        why: why `auto` chose it, unless it is the fastest engine on a CPU.
    """

    name: str
    difference: float | None
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class UsedImage:
    """An image whose features are cached now.

    Attributes:
        index: its index in the dataset.
        digest: digest of its content.
        views: its views.
    """

    index: int
    digest: bytes
    views: Sequence[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineResult:
    """The result of `run_images`.

    Attributes:
        images: the images whose features are cached now.
        skipped: index and reason of each image that could not be decoded.
        engine: the engine that computed; None if everything was cached.
        seconds: `all` in total; `engine` to make the engine and store the converted trunk; and what the calling thread
            waited for images (`read`), features (`compute`) and commits (`write`).
        limit: what that thread waited for most: `reading`, `computing` or `writing`.
        dark: whether all images were decoded now, and all of them are nearly black.
    """

    images: list[UsedImage]
    skipped: list[tuple[int, str]]
    engine: EngineUsed | None
    seconds: dict[str, float]
    limit: str
    dark: bool = False

    def after(self, before: PipelineResult) -> PipelineResult:
        """Return this result with the time of an earlier pass, and what that one alone may know."""
        seconds = {name: value + before.seconds[name] for name, value in self.seconds.items()}
        engine, dark = self.engine or before.engine, self.dark or before.dark
        return dataclasses.replace(self, engine=engine, seconds=seconds, dark=dark)


def only_images(index: int, digest: bytes) -> Sequence[int]:  # noqa: ARG001 - a `ViewsOf`
    """Return view 0, the image itself, as the only wanted view."""
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
    """Compute and commit the features that are not cached.

    Args:
        dataset: the images.
        caches: caches of trunks of one base, built together; one pass serves all.
        options: how images are read and computed.
        augmentation: how views are made; None if only images themselves are wanted.
        views_of: the wanted views of each image.
        converted: the trunks in OpenVINO's format if they have just been converted and are not stored yet.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; finished features are committed.
        ImageError: an image cannot be decoded, and `options.on_bad` is `fail`.
        FeatureError: features are not finite; the image is named.
        EngineError: the requested engine is not available, or does not agree with Keras.
        WriteError: the disk is full, or similar; committed features are intact.
    """
    for cache in caches:
        for store in cache.stores:
            clear_leftovers(store.folder)
    reader = Reader(dataset=dataset, caches=caches, options=options, views_of=views_of, augmentation=augmentation)
    return _run(reader, converted)


def _run(reader: Reader, converted: ConvertedModel | None) -> PipelineResult:
    started, stopwatch = time.perf_counter(), Stopwatch()
    images: list[UsedImage] = []
    skipped: list[tuple[int, str]] = []
    dark = True
    with (
        interrupts.deferred() as interrupted,
        contextlib.closing(reader.read()) as results,
        _Computation(reader, stopwatch, converted, interrupted) as computation,
        _progress(len(reader.dataset), stopwatch, shown=reader.options.progress) as image_done,
    ):
        for index, image in enumerate(stopwatch.each("read", results)):
            if image.digest is None:
                skipped.append((index, image.reason))
            else:
                images.append(UsedImage(index, image.digest, image.views))
                computation.add(index, image)
                dark = dark and _is_dark(image)
            image_done(image.digest is not None and not image.missing)
            interrupted.check()
        computation.finish()
    for cache in reader.caches:
        for store in cache.stores:
            store.compact()
    seconds = stopwatch.seconds | {"engine": computation.engine_seconds, "all": time.perf_counter() - started}
    return PipelineResult(
        images=images,
        skipped=skipped,
        engine=computation.engine_used,
        seconds=seconds,
        limit=stopwatch.limit,
        dark=dark and bool(images),
    )


def _is_dark(image: ReadImage) -> bool:
    """Return whether an image was decoded now and is nearly black."""
    pixels = image.missing[0].pixels if image.missing else None
    return pixels is not None and int(pixels.max()) <= DARK


def engine_for(caches: Sequence[FeatureCache], options: PipelineOptions, converted: ConvertedModel | None) -> Engine:
    """Make the engine that runs the trunks of all caches in one pass.

    Args:
        caches: caches of trunks of one base, built together.
        options: which engine, and its batch size.
        converted: the trunks in OpenVINO's format; None converts them.

    Raises:
        EngineError: the requested engine is not available.
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


def cached_conversion(caches: Sequence[FeatureCache]) -> ConvertedModel | None:
    """Return the stored trunks of all caches in OpenVINO's format; None if they are not stored."""
    weights = sum(cache.trunk.model.count_params() for cache in caches)
    return conversion_file(caches).load(max_bytes=CONVERTED_BYTES + 8 * weights)  # Twice the size of float32.


def conversion_file(caches: Sequence[FeatureCache]) -> ConversionFile:
    """Return the file of the trunks of all caches in OpenVINO's format, in the store of the first."""
    from permafrost.engines.conversion import ConversionFile

    return ConversionFile(caches[0].folder, tuple(cache.spec.digest for cache in caches))


class _Computation:
    """Computes and commits missing rows. The engine is made for the first of them, as there may not be any."""

    def __init__(
        self, reader: Reader, stopwatch: Stopwatch, converted: ConvertedModel | None, interrupted: Interrupts
    ) -> None:
        self._reader, self._stopwatch, self._interrupted = reader, stopwatch, interrupted
        self._converted = converted
        self._stored: ConvertedModel | None = None
        self._engine: Engine | None = None
        self._batcher: Batcher | None = None
        self._running = contextlib.ExitStack()
        self.engine_seconds = 0.0

    def __enter__(self) -> _Computation:
        return self

    def __exit__(self, *error: object) -> None:
        self._running.__exit__(*error)  # type: ignore[arg-type]

    def add(self, index: int, image: ReadImage) -> None:
        """Add the missing rows of an image."""
        if not image.missing:
            return
        batcher = self._batcher or self._start()
        for row in image.missing:
            assert row.pixels is not None, "the reader decodes images"
            batcher.add(Member(index, row.key, row.lacking), row.pixels)

    def finish(self) -> None:
        """Compute and commit the remaining rows, and store the converted trunk beside its features."""
        if self._batcher is None or self._engine is None:
            return
        self._batcher.finish()
        self._writer.finish()
        started = time.perf_counter()
        if self._engine.converted and self._engine.converted is not self._stored:
            with contextlib.suppress(WriteError):  # All rows are committed; the next run converts again.
                conversion_file(self._reader.caches).save(self._engine.converted)
        self.engine_seconds += time.perf_counter() - started

    @property
    def engine_used(self) -> EngineUsed | None:
        """The engine; None if nothing had to be computed."""
        if self._engine is None:
            return None
        return EngineUsed(name=self._engine.name, difference=self._engine.difference, why=self._engine.why)

    def _start(self) -> Batcher:
        """Make the engine, and start the threads that compute and commit."""
        caches, started = self._reader.caches, time.perf_counter()
        with self._interrupted.immediate():
            self._stored = cached_conversion(caches)
            self._engine = engine_for(caches, self._reader.options, self._stored or self._converted)
        names = self._reader.dataset.names
        self._writer = self._running.enter_context(Writer(caches, self._engine, names, self._stopwatch))
        self._batcher = Batcher(self._engine, self._writer.add, self._stopwatch)
        self._running.callback(self._batcher.close)
        self.engine_seconds = time.perf_counter() - started
        return self._batcher


@contextlib.contextmanager
def _progress(count: int, stopwatch: Stopwatch, *, shown: bool) -> Iterator[Callable[[bool], None]]:
    """Show a progress bar; yield the function to call after each image with whether it was cached."""
    cached = 0
    with progress_bar(total=count, unit=" images", shown=shown) as bar:

        def done(was_cached: bool) -> None:
            nonlocal cached
            cached += was_cached
            if bar.update():  # Just redrawn: set the text of the next drawing now, not for each image.
                bar.set_postfix_str(f"{cached:,} cached, limited by {stopwatch.recent_limit}", refresh=False)

        yield done

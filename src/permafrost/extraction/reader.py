"""Read, hash, decode and resize images in threads, ahead of the engine and in the order of the dataset.

Threads are faster than processes here: reading, SHA-256, decoding and resizing all release the GIL, and pixels need not
be copied between processes. A task is a few images, since handing over a task costs as much as hashing a small image.
The number of images decoded ahead is limited, and so are the bytes of those being decoded.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

from permafrost.errors import ImageError
from permafrost.extraction.cache import FeatureCache, RowKey
from permafrost.extraction.options import PipelineOptions
from permafrost.images.dataset import Dataset
from permafrost.images.decoding import DecodingMemory
from permafrost.images.sources import LoadedImage

if TYPE_CHECKING:
    from permafrost.images.augmentation import Augmentation

TASK: Final = 8
"""Images per task if any image of the last finished task had to be decoded."""

CACHED_TASK: Final = 32
"""Images per task if none had to be."""

AHEAD: Final = 64
"""Minimum number of images decoded ahead, so that the engine need not wait: a few megabytes at common sizes."""

LOADED_BYTES: Final = 4 * 2**20
"""Approximate bytes of undecoded images that a thread holds while it looks their rows up."""

SERIALIZE_BELOW: Final = 0.00025
"""Below this many seconds per image, reads are serialized: an image of up to about 200 kB in the file cache."""

DECODING_BYTES: Final = 512 * 2**20
"""Maximum bytes of full-size images being decoded at the same time; a larger image is decoded alone."""

ViewsOf = Callable[[int, bytes], Sequence[int]]
"""Returns the wanted views of an image, given its index in the dataset and its digest."""


@dataclasses.dataclass(frozen=True, slots=True)
class MissingRow:
    """A row that has to be computed.

    Attributes:
        key: the image's digest and the view.
        lacking: for each cache, whether it lacks the row.
        pixels: (h, w, 3) uint8; None if images are not decoded.
    """

    key: RowKey
    lacking: tuple[bool, ...]
    pixels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ReadImage:
    """Result for one image of a dataset.

    Attributes:
        digest: digest of its content; None if the image is bad.
        views: its wanted views.
        missing: those of its rows that are not cached.
        reason: why the image is bad.
    """

    digest: bytes | None = None
    views: Sequence[int] = ()
    missing: Sequence[MissingRow] = ()
    reason: str = ""


class ReadLock:
    """Serializes reads while they are quick.

    Threads that read small files from the file cache mostly hand the GIL to each other, and get through fewer files
    than one thread alone. Reads that wait for a disk or a network, or hash megabytes, overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._quick = True

    @contextlib.contextmanager
    def reading(self, images: Sized) -> Iterator[None]:
        """Hold the lock in the block if the last reads were quick; the block fills `images`."""
        with self._lock if self._quick else contextlib.nullcontext():
            started = time.perf_counter()
            yield
            self._quick = time.perf_counter() - started < SERIALIZE_BELOW * len(images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the images of a dataset and finds out which of their rows are missing.

    Attributes:
        dataset: the images.
        caches: caches of trunks with the same input; an image whose rows they all have is not decoded.
        options: threads, limit on pixels, and what to do with bad images.
        views_of: the wanted views of each image.
        augmentation: how views are made; None if only images themselves are wanted.
        decode: False only looks the rows up.
    """

    dataset: Dataset
    caches: Sequence[FeatureCache]
    options: PipelineOptions
    views_of: ViewsOf
    augmentation: Augmentation | None = None
    decode: bool = True

    def read(self) -> Generator[ReadImage]:
        """Yield the result for each image, in the order of the dataset.

        Raises:
            ImageError: an image is bad, and `options.on_bad` is `fail`.
        """
        for index, image in enumerate(self._read_ahead()):
            if image.digest is None and self.options.on_bad == "fail":
                location = self.dataset.location(index)
                raise ImageError(f"bad image {location}: {image.reason}", do="remove it, or use --on-bad skip")
            yield image

    def _read_ahead(self) -> Generator[ReadImage]:
        memory, lock, ahead = DecodingMemory(DECODING_BYTES), ReadLock(), self.options.threads
        count, size, start, done = len(self.dataset), TASK, 0, 0
        with ThreadPoolExecutor(ahead, "images") as threads:
            running: collections.deque[Future[list[ReadImage]]] = collections.deque()
            try:
                while start < count or running:
                    while start < count and start < done + AHEAD + ahead * size:
                        indices = range(start, min(start + size, count))
                        running.append(threads.submit(self._task, indices, memory, lock))
                        start = indices.stop
                    images = running.popleft().result()
                    done += len(images)
                    size = TASK if self.decode and any(image.missing for image in images) else CACHED_TASK
                    yield from images
            finally:
                for future in running:
                    future.cancel()

    def _task(self, indices: range, memory: DecodingMemory, lock: ReadLock) -> list[ReadImage]:
        """Read some images in parts that fit into `LOADED_BYTES`."""
        images: list[ReadImage] = []
        while indices:
            with lock.reading(loaded := list[LoadedImage | ImageError]()):
                loaded += self._load(indices)
                found = self._look_up(indices, loaded)
            if self.decode:
                found = [
                    self._decoded(image, content, memory) if image.missing else image
                    for image, content in zip(found, loaded, strict=True)
                ]
            images += found
            indices = indices[len(loaded) :]
        return images

    def _load(self, indices: range) -> Iterator[LoadedImage | ImageError]:
        held = 0
        for index in indices:
            try:
                image = self.dataset.image(index).load(self.options.max_pixels)
            except ImageError as error:
                yield error
                continue
            yield image
            held += image.size
            if held > LOADED_BYTES:
                break

    def _look_up(self, indices: range, loaded: Sequence[LoadedImage | ImageError]) -> list[ReadImage]:
        """Return the results for images before they are decoded."""
        views = [
            () if isinstance(image, ImageError) else self.views_of(index, image.digest)
            for index, image in zip(indices, loaded, strict=False)
        ]
        keys = [
            (image.digest, view)
            for image, wanted in zip(loaded, views, strict=True)
            if not isinstance(image, ImageError)
            for view in wanted
        ]
        cached = zip(keys, *(cache.has(keys) for cache in self.caches), strict=True)
        images = []
        for image, wanted in zip(loaded, views, strict=True):
            if isinstance(image, ImageError):
                images.append(ReadImage(reason=str(image)))
                continue
            rows = [next(cached) for _ in wanted]
            missing = [MissingRow(key, tuple(not has for has in each)) for key, *each in rows if not all(each)]
            images.append(ReadImage(image.digest, wanted, missing))
        return images

    def _decoded(self, image: ReadImage, content: LoadedImage | ImageError, memory: DecodingMemory) -> ReadImage:
        """Return the result with pixels, or as bad if the image cannot be decoded."""
        assert isinstance(content, LoadedImage), "a bad image has no missing rows"
        try:
            pixels = content.pixels(self.caches[0].spec.image_size, memory=memory)
        except ImageError as error:
            return ReadImage(reason=str(error))
        rows = [dataclasses.replace(row, pixels=self._view(pixels, row.key)) for row in image.missing]
        return dataclasses.replace(image, missing=rows)

    def _view(self, pixels: np.ndarray, key: RowKey) -> np.ndarray:
        digest, view = key
        if view == 0:
            return pixels
        assert self.augmentation is not None, "views need an augmentation"
        return self.augmentation.view(pixels, digest, view)

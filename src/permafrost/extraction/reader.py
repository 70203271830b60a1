"""Images read, hashed, decoded and resized ahead by threads, in the order of their dataset.

Threads win over processes here: reading, SHA-256, decoding and resizing all release the interpreter's lock, and pixels
need not be copied from one process to another. A task is a handful of images, since handing over a task costs as much
as hashing a small image, and more of them where none has to be decoded. What is decoded ahead is bounded by count,
what is being decoded by bytes.
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
from permafrost.images.dataset import Dataset
from permafrost.images.decoding import DecodingMemory
from permafrost.images.sources import LoadedImage

if TYPE_CHECKING:
    from permafrost.images.augmentation import Augmentation

TASK: Final = 8
"""Images a task, where any of the last one had to be decoded."""

CACHED_TASK: Final = 32
"""Images a task, where none of the last one had to be."""

AHEAD: Final = 64
"""Images decoded ahead at least, so that batches need not wait: a few megabytes at the usual sizes."""

LOADED_BYTES: Final = 4 * 2**20
"""Of files' contents, about, that a thread holds while it looks up what is kept of them."""

SERIALIZE_BELOW: Final = 0.00025
"""Seconds in which a thread reads and hashes an image of up to about 200 kB that is in the file cache."""

DECODING_BYTES: Final = 512 * 2**20
"""Of full-size images, decoded at the same time; a larger one is decoded alone."""

RowKey = tuple[bytes, int]
"""What a row is of: an image's content digest, and a view."""

ViewsOf = Callable[[int, bytes], Sequence[int]]
"""Given an image's index in the dataset and its digest, which of its views are wanted."""


@dataclasses.dataclass(frozen=True)
class ReadImage:
    """What came of one image of a dataset.

    Attributes:
        digest: of its content; None where it cannot be decoded.
        missing: for each view that is not kept its pixels (h, w, 3) uint8; None where nothing was to be decoded.
        reason: why it cannot be decoded.
    """

    digest: bytes | None = None
    missing: dict[int, np.ndarray | None] = dataclasses.field(default_factory=dict)
    reason: str = ""


class ReadLock:
    """Lets one thread at a time read while that is quick, and all of them where it is not.

    Threads that read small files from the file cache do little but hand the interpreter's lock to each other, and get
    through fewer than one alone. Where a disk or a network lets them wait, or megabytes are hashed, they overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._quick = True

    @contextlib.contextmanager
    def turn(self, images: Sized) -> Iterator[None]:
        """Wait for a turn, where there are turns, and take it for the length of the block, which fills `images`."""
        with self._lock if self._quick else contextlib.nullcontext():
            started = time.perf_counter()
            yield
            self._quick = time.perf_counter() - started < SERIALIZE_BELOW * len(images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """What is to be found out about the images of a dataset.

    Attributes:
        dataset: the images.
        size: height and width in pixels to which they are resized.
        are_cached: of some images' views whether the features are kept already: they are not decoded then.
        views_of: which views of each image are wanted.
        augmentation: how views are made, where any are wanted.
        decode: whether to decode at all, or only to look what is kept.
        max_pixels: an image with more, by its header, is refused before it is decoded.
        threads: that do it.
    """

    dataset: Dataset
    size: tuple[int, int]
    are_cached: Callable[[Sequence[RowKey]], Sequence[bool]]
    views_of: ViewsOf
    augmentation: Augmentation | None
    decode: bool
    max_pixels: int
    threads: int

    def read(self) -> Generator[ReadImage]:
        """What comes of each image, in the order of the dataset, read ahead by threads."""
        memory, turns = DecodingMemory(DECODING_BYTES), ReadLock()
        count, size, start, done = len(self.dataset), TASK, 0, 0
        with ThreadPoolExecutor(self.threads, "images") as threads:
            running: collections.deque[Future[list[ReadImage]]] = collections.deque()
            try:
                while start < count or running:
                    while start < count and start < done + AHEAD + self.threads * size:
                        indices = range(start, min(start + size, count))
                        running.append(threads.submit(self._find, indices, memory, turns))
                        start = indices.stop
                    found = running.popleft().result()
                    done += len(found)
                    size = TASK if self.decode and any(each.missing for each in found) else CACHED_TASK
                    yield from found
            finally:
                for future in running:
                    future.cancel()

    def _find(self, indices: range, memory: DecodingMemory, turns: ReadLock) -> list[ReadImage]:
        """What comes of some images."""
        found: list[ReadImage] = []
        while indices:
            loaded = self._load(indices, turns)
            found += [self._found(image, missing, memory) for image, missing in loaded]
            indices = indices[len(loaded) :]
        return found

    def _load(self, indices: range, turns: ReadLock) -> list[tuple[LoadedImage | ImageError, list[int]]]:
        """The first of some images, as many as may be in memory together, and which views of each are not kept."""
        loaded: list[LoadedImage | ImageError] = []
        held = 0
        with turns.turn(loaded):
            for index in indices:
                image = self._image(index)
                loaded.append(image)
                held += 0 if isinstance(image, ImageError) else image.size
                if held > LOADED_BYTES:
                    break
            return list(zip(loaded, self._missing(indices, loaded), strict=True))

    def _image(self, index: int) -> LoadedImage | ImageError:
        try:
            return self.dataset.image(index).load(self.max_pixels)
        except ImageError as error:
            return error

    def _missing(self, indices: range, loaded: list[LoadedImage | ImageError]) -> list[list[int]]:
        wanted = [
            []
            if isinstance(image, ImageError)
            else [(image.digest, view) for view in self.views_of(index, image.digest)]
            for index, image in zip(indices, loaded, strict=False)
        ]
        kept = iter(self.are_cached([key for keys in wanted for key in keys]))
        return [[view for _, view in keys if not next(kept)] for keys in wanted]

    def _found(self, image: LoadedImage | ImageError, missing: list[int], memory: DecodingMemory) -> ReadImage:
        if isinstance(image, ImageError):
            return ReadImage(reason=str(image))
        if not self.decode or not missing:
            return ReadImage(image.digest, dict.fromkeys(missing))
        try:
            pixels = image.pixels(self.size, memory=memory)
            return ReadImage(image.digest, {view: self._view(pixels, image.digest, view) for view in missing})
        except ImageError as error:
            return ReadImage(reason=str(error))

    def _view(self, pixels: np.ndarray, digest: bytes, view: int) -> np.ndarray:
        if view == 0:
            return pixels
        assert self.augmentation is not None, "views are asked for only where there is an augmentation"
        return self.augmentation.view(pixels, digest, view)

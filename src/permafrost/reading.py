"""Pictures read, hashed, decoded and resized ahead by threads, in the order of their listing.

Threads win over processes here: reading, SHA-256, decoding and resizing all release the interpreter's lock, and pixels
need not be copied from one process to another. A task is a handful of pictures, since handing over a task costs as much
as hashing a small picture. What is decoded ahead is bounded by count, what is being decoded by bytes.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from permafrost.errors import PictureError
from permafrost.listing import Listing, LoadedPicture
from permafrost.pictures import DecodingMemory, quiet_decoding

if TYPE_CHECKING:
    import numpy as np

    from permafrost.augmentation import Augmentation

TASK: Final = 8
"""Pictures a task."""

AHEAD: Final = 64
"""Pictures decoded ahead at least, so that batches need not wait: a few megabytes at the usual sizes."""

LOADED_BYTES: Final = 4 * 2**20
"""Of files' contents, about, that a thread holds while it looks up what is kept of them."""

DECODING_BYTES: Final = 512 * 2**20
"""Of full-size pictures, decoded at the same time; a larger one is decoded alone."""

RowKey = tuple[bytes, int]
"""What a row is of: a picture's content digest, and a view."""

ViewsOf = Callable[[int, bytes], Sequence[int]]
"""Given a picture's index in the listing and its digest, which of its views are wanted."""


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
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """What is to be found out about the pictures of a listing.

    Attributes:
        listing: the pictures.
        size: height and width in pixels to which they are resized.
        are_kept: of some pictures' views whether the features are kept already: they are not decoded then.
        views_of: which views of each picture are wanted.
        augmentation: how views are made, where any are wanted.
        decode: whether to decode at all, or only to look what is kept.
        max_pixels: a picture with more, by its header, is refused before it is decoded.
        threads: that do it.
    """

    listing: Listing
    size: tuple[int, int]
    are_kept: Callable[[Sequence[RowKey]], Sequence[bool]]
    views_of: ViewsOf
    augmentation: Augmentation | None
    decode: bool
    max_pixels: int
    threads: int

    def read(self) -> Generator[Found]:
        """What comes of each picture, in the order of the listing, read ahead by threads."""
        memory = DecodingMemory(DECODING_BYTES)
        starts = range(0, len(self.listing), TASK)
        ahead = AHEAD // TASK + self.threads

        def task(start: int) -> list[Found]:
            return self._find(range(start, min(start + TASK, len(self.listing))), memory)

        with quiet_decoding(), ThreadPoolExecutor(self.threads, "pictures") as threads:
            running: collections.deque[Future[list[Found]]] = collections.deque()
            try:
                for start in starts:
                    running.append(threads.submit(task, start))
                    if len(running) > ahead:
                        yield from running.popleft().result()
                while running:
                    yield from running.popleft().result()
            finally:
                for future in running:
                    future.cancel()

    def _find(self, indices: range, memory: DecodingMemory) -> list[Found]:
        """What comes of some pictures; what is kept is looked up once for as many as may be in memory together."""
        found: list[Found] = []
        loaded: list[tuple[int, LoadedPicture | PictureError]] = []
        size = 0
        for index in indices:
            picture = self._load(index)
            loaded.append((index, picture))
            size += 0 if isinstance(picture, PictureError) else picture.size
            if size > LOADED_BYTES:
                found += self._decode(loaded, memory)
                loaded, size = [], 0
        return found + self._decode(loaded, memory)

    def _load(self, index: int) -> LoadedPicture | PictureError:
        try:
            loaded = self.listing.picture(index).load()
            return LoadedPicture(loaded.digest, loaded.content, self.max_pixels)
        except PictureError as error:
            return error

    def _decode(self, loaded: list[tuple[int, LoadedPicture | PictureError]], memory: DecodingMemory) -> list[Found]:
        wanted = [
            []
            if isinstance(picture, PictureError)
            else [(picture.digest, view) for view in self.views_of(index, picture.digest)]
            for index, picture in loaded
        ]
        kept = iter(self.are_kept([key for keys in wanted for key in keys]))
        missing = [[view for _, view in keys if not next(kept)] for keys in wanted]
        return [self._found(picture, views, memory) for (_, picture), views in zip(loaded, missing, strict=True)]

    def _found(self, picture: LoadedPicture | PictureError, missing: list[int], memory: DecodingMemory) -> Found:
        if isinstance(picture, PictureError):
            return Found(reason=str(picture))
        if not self.decode or not missing:
            return Found(picture.digest, dict.fromkeys(missing))
        try:
            pixels = picture.pixels(self.size, memory=memory)
            return Found(picture.digest, {view: self._view(pixels, picture.digest, view) for view in missing})
        except PictureError as error:
            return Found(reason=str(error))

    def _view(self, pixels: np.ndarray, digest: bytes, view: int) -> np.ndarray:
        if view == 0:
            return pixels
        assert self.augmentation is not None, "views are asked for only where there is an augmentation"
        return self.augmentation.view(pixels, digest, view)

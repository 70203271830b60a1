"""Where an image's content comes from: a file or an array."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np

from permafrost.images.decoding import (
    DecodingMemory,
    array_digest,
    as_pixels,
    content_digest,
    decode,
    decode_resized,
    decoded,
    read_file,
)
from permafrost.images.limits import MAX_PIXELS
from permafrost.images.resizing import resize


@dataclasses.dataclass(frozen=True)
class FileImage:
    """An image in a file.

    Attributes:
        path: where it is.
    """

    path: str

    def load(self, max_pixels: int = MAX_PIXELS) -> LoadedImage:
        """Read it; one with more than `max_pixels` is refused when it is to be decoded.

        Raises:
            ImageError: it cannot be read.
        """
        data = read_file(self.path)
        return LoadedImage(content_digest(data), data, max_pixels)


@dataclasses.dataclass(frozen=True)
class ArrayImage:
    """An image in memory.

    Attributes:
        array: what `images.as_pixels` takes.
    """

    array: np.ndarray

    def load(self, max_pixels: int = MAX_PIXELS) -> LoadedImage:
        """Bring it into the common form; `max_pixels` is for files.

        Raises:
            ImageError: it is no image.
        """
        pixels = as_pixels(self.array)
        return LoadedImage(array_digest(pixels), pixels, max_pixels)


ImageSource = FileImage | ArrayImage


@dataclasses.dataclass(frozen=True)
class LoadedImage:
    """An image's content before decoding.

    Attributes:
        digest: SHA-256 of the content, 32 bytes.
        content: a file's bytes, or pixels (h, w, 3) uint8.
        max_pixels: a file with more is refused before it is decoded.
    """

    digest: bytes
    content: bytes | np.ndarray
    max_pixels: int = MAX_PIXELS

    @property
    def size(self) -> int:
        """Bytes that the content takes."""
        return self.content.nbytes if hasattr(self.content, "nbytes") else len(self.content)

    def full_size(self) -> np.ndarray:
        """Decoded: (h, w, 3) uint8.

        Raises:
            ImageError: it cannot be decoded.
        """
        if isinstance(self.content, bytes):
            return decode(self.content, max_pixels=self.max_pixels)
        return self.content

    @contextlib.contextmanager
    def decoded(self, memory: DecodingMemory) -> Iterator[np.ndarray]:
        """Decode to (h, w, 3) uint8, and hold the image's part of `memory` for the length of the block.

        Raises:
            ImageError: it cannot be decoded.
        """
        if isinstance(self.content, bytes):
            with decoded(self.content, max_pixels=self.max_pixels, memory=memory) as pixels:
                yield pixels
        else:
            yield self.content

    def pixels(self, size: tuple[int, int], *, memory: DecodingMemory | None = None) -> np.ndarray:
        """Decoded and resized: (size[0], size[1], 3) uint8; `memory` is as for `images.decode_resized`.

        Raises:
            ImageError: it cannot be decoded.
        """
        if isinstance(self.content, bytes):
            return decode_resized(self.content, size, max_pixels=self.max_pixels, memory=memory)
        return resize(self.content, size)

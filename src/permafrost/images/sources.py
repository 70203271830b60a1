"""Images in files and in arrays, and their content before decoding."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np

from permafrost.errors import ImageError
from permafrost.images.arrays.ranges import AS_THEY_ARE, PixelRange
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
from permafrost.images.options import MAX_PIXELS
from permafrost.images.resizing import resize
from permafrost.images.tables.missing import MissingImages


@dataclasses.dataclass(frozen=True)
class FileImage:
    """An image in a file.

    Attributes:
        path: the file's path.
    """

    path: str

    def load(self, max_pixels: int = MAX_PIXELS) -> LoadedImage:
        """Read the file.

        Args:
            max_pixels: an image with more pixels is refused when it is decoded.

        Raises:
            ImageError: the file cannot be read.
        """
        data = read_file(self.path)
        return LoadedImage(content_digest(data), data, max_pixels)


@dataclasses.dataclass(frozen=True)
class ListedImage(FileImage):
    """An image in a file that a table lists.

    Attributes:
        name: the path in the table.
        missing: describes the table's missing images.
    """

    name: str
    missing: MissingImages = dataclasses.field(repr=False, compare=False)

    def load(self, max_pixels: int = MAX_PIXELS) -> LoadedImage:
        """Read the file.

        Args:
            max_pixels: as for `FileImage.load`.

        Raises:
            ImageError: the file cannot be read; where it may be if it is missing.
        """
        try:
            return super().load(max_pixels)
        except ImageError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise ImageError(self.missing.describe(self.name)) from error
            raise


@dataclasses.dataclass(frozen=True)
class ArrayImage:
    """An image in memory.

    Attributes:
        array: the pixels, in any form that `decoding.as_pixels` accepts.
        pixels: what their values mean, if that was decided by more images than this one.
    """

    array: np.ndarray
    pixels: PixelRange = AS_THEY_ARE

    def load(self, max_pixels: int = MAX_PIXELS) -> LoadedImage:
        """Convert the array to RGB bytes; `max_pixels` is for files only.

        Raises:
            ImageError: the array is not an image.
        """
        pixels = as_pixels(self.array, self.pixels)
        return LoadedImage(array_digest(pixels), pixels, max_pixels)


ImageSource = FileImage | ArrayImage


@dataclasses.dataclass(frozen=True)
class LoadedImage:
    """An image's content before decoding.

    Attributes:
        digest: SHA-256 of the content, 32 bytes.
        content: the file's bytes, or pixels (h, w, 3) uint8.
        max_pixels: a file with more pixels is refused before it is decoded.
    """

    digest: bytes
    content: bytes | np.ndarray
    max_pixels: int = MAX_PIXELS

    @property
    def size(self) -> int:
        """Number of bytes of the content."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.nbytes

    def full_size(self) -> np.ndarray:
        """Decode the image to (h, w, 3) uint8.

        Raises:
            ImageError: the image cannot be decoded.
        """
        if isinstance(self.content, bytes):
            return decode(self.content, max_pixels=self.max_pixels)
        return self.content

    @contextlib.contextmanager
    def decoded(self, memory: DecodingMemory) -> Iterator[np.ndarray]:
        """Decode to (h, w, 3) uint8, and hold the image's part of `memory` for the length of the block.

        Raises:
            ImageError: the image cannot be decoded.
        """
        if isinstance(self.content, bytes):
            with decoded(self.content, max_pixels=self.max_pixels, memory=memory) as pixels:
                yield pixels
        else:
            yield self.content

    def pixels(self, size: tuple[int, int], *, memory: DecodingMemory | None = None) -> np.ndarray:
        """Decode and resize the image to (size[0], size[1], 3) uint8; `memory` is as for `decoding.decode_resized`.

        Raises:
            ImageError: the image cannot be decoded.
        """
        if isinstance(self.content, bytes):
            return decode_resized(self.content, size, max_pixels=self.max_pixels, memory=memory)
        return resize(self.content, size)

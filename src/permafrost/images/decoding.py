"""Decode the bytes of image files to RGB pixels.

The decoding rule (`trunk.spec.DECODING`):

- The whole file is decoded, so a truncated file is an error and not an image with a grey lower half.
- The EXIF orientation is applied: pixels are as a viewer shows them. Metadata that cannot be read is ignored.
- Grey is repeated in three channels. Palettes are looked up. CMYK and other colour spaces are converted by Pillow
  without a colour profile. 16-bit grey is scaled to 8 bits (65,535 becomes 255), not clipped; of 16-bit colour the
  higher byte is used.
- Alpha is dropped, as `keras.utils.load_img` and TensorFlow do, so that training and inference agree.
- Only the first frame of an animation and the first page of a file with several is used.
- HEIC is decoded by pillow-heif, if it is installed.
- Floating-point and 32-bit integer pixels have no known range and are refused.

Decoding is thread-safe and changes no global state. Pillow's limit on pixels, which is process-wide, is never changed;
only a few formats, such as WebP, still apply it themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from permafrost.errors import DatasetError, ImageError
from permafrost.images.arrays.pixel_values import pixel_values
from permafrost.images.arrays.ranges import AS_THEY_ARE, PixelRange, pixel_range
from permafrost.images.arrays.shapes import channels_last
from permafrost.images.formats.opening import load, open_image, to_rgb, upright
from permafrost.images.formats.tiff import sound
from permafrost.images.options import MAX_PIXELS
from permafrost.images.resizing import resized_image

if TYPE_CHECKING:
    from PIL import Image


# fmt: off
EXTENSIONS: Final = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".heic", ".heif", ".hif",
})
# fmt: on
"""File name extensions of images. The format of a file is detected from its content alone."""


def read_file(path: str | bytes | os.PathLike[str]) -> bytes:
    """Return all bytes of a regular file.

    Raises:
        ImageError: the file is missing, unreadable or not regular. A FIFO is refused, not waited for.
    """
    try:
        # O_NONBLOCK: opening a FIFO without a writer would otherwise hang.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ImageError("not a regular file")
            return file.read()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    except ValueError as error:
        raise ImageError(f"no file can have this name: {error}") from error


def content_digest(data: bytes) -> bytes:
    """Return the SHA-256 of an image file's bytes, 32 bytes: the key of its cached features."""
    return hashlib.sha256(data).digest()


def array_digest(pixels: np.ndarray) -> bytes:
    """Return the SHA-256 of an image array (h, w, 3) uint8, 32 bytes: of its shape and its bytes."""
    header = f"permafrost array {pixels.dtype.str} {pixels.shape}\n".encode("ascii")
    return hashlib.sha256(header + np.ascontiguousarray(pixels).tobytes()).digest()


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file's bytes at full size.

    Args:
        data: the file's bytes.
        max_pixels: an image with more pixels is refused before it is decoded.

    Returns:
        (h, w, 3) uint8, 0 to 255.

    Raises:
        ImageError: the bytes are not an image, are damaged, or have too many pixels.
    """
    with decoded(data, max_pixels=max_pixels) as pixels:
        return pixels


def decode_resized(
    data: bytes, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS, memory: DecodingMemory | None = None
) -> np.ndarray:
    """Decode an image file's bytes and resize the image.

    Args:
        data: the file's bytes.
        size: the new height and width in pixels.
        max_pixels: an image with more pixels is refused before it is decoded.
        memory: bounds the memory of full-size images in all threads that share it; unbounded if None.

    Returns:
        (size[0], size[1], 3) uint8, 0 to 255.

    Raises:
        ImageError: as `decode`.
    """
    with _opened(data, max_pixels, memory) as image:
        return resized_image(image, size)


@contextlib.contextmanager
def decoded(data: bytes, *, max_pixels: int = MAX_PIXELS, memory: DecodingMemory | None = None) -> Iterator[np.ndarray]:
    """Decode as `decode`, and hold the image's part of `memory` for the length of the block.

    Raises:
        ImageError: as `decode`.
    """
    with _opened(data, max_pixels, memory) as image:
        yield np.asarray(image)


class DecodingMemory:
    """A bound on the memory of full-size images that several threads decode at the same time.

    Args:
        total: bytes. An image that needs more is decoded alone.
    """

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Hold `count` bytes for the length of the block; wait until they are free."""
        count = min(count, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


def as_pixels(array: np.ndarray, pixels: PixelRange = AS_THEY_ARE) -> np.ndarray:
    """Convert an image array to RGB bytes.

    Args:
        array: (h, w), (h, w, 1), (h, w, 3), (h, w, 4), or (c, h, w) with such a number of channels; numbers.
        pixels: what its values mean, if it was decided by more images than this one.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ImageError: the array has another shape, or values that are not finite, or that have no or no single meaning.
    """
    array = np.asarray(array)
    shaped = channels_last(array[None])
    if shaped is None:
        raise ImageError("not an image", expected="shape (h, w, 3)", found=f"shape {array.shape}")
    try:
        values = pixel_values("the array", shaped)
        if not values.finite.all():
            raise ImageError("NaN or infinity among its values", expected="numbers from 0 to 255")
        converted: np.ndarray = pixel_range([values], fitted=pixels).convert(shaped[0])
    except DatasetError as error:
        raise ImageError(error.what, expected=error.expected, found=error.found, do=error.do) from error
    if converted.ndim == 2:
        converted = converted[:, :, None]
    return np.repeat(converted, 3, axis=2) if converted.shape[2] == 1 else np.ascontiguousarray(converted[:, :, :3])


_PIXEL_BYTES: Final = 8
"""Maximum bytes per pixel while an image is decoded: Pillow stores RGB in four, and a rotated image twice."""


@contextlib.contextmanager
def _opened(data: bytes, max_pixels: int, memory: DecodingMemory | None) -> Iterator[Image.Image]:
    """Decode to a Pillow image, and hold its part of `memory` for the length of the block."""
    with contextlib.ExitStack() as held:

        def reserve(count: int) -> None:
            if memory:
                held.enter_context(memory.hold(count))

        yield _open(data, max_pixels, reserve)


def _open(data: bytes, max_pixels: int, reserve: Callable[[int], object]) -> Image.Image:
    """Decode to a Pillow image in mode RGB; call `reserve` with the bytes that it needs before it is decoded."""
    from PIL import Image

    if not data:
        raise ImageError("the file is empty")
    try:
        sound_data, tags = sound(data)
        with open_image(sound_data) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError("too many pixels", expected=f"at most {max_pixels:,}", found=f"{width} x {height}")
            reserve(_PIXEL_BYTES * width * height)
            load(image)
            return to_rgb(upright(image), image.format, tags)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        # WebP and a few formats with several images or sizes in a file check them against Pillow's own limit.
        raise ImageError("too many pixels in a part of the file", found=str(error)) from error
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except Exception as error:
        # Pillow's plugins raise whatever their parser meets: OSError, SyntaxError, ValueError, struct.error, KeyError.
        raise ImageError(f"cannot be decoded: {type(error).__name__}: {error}") from error

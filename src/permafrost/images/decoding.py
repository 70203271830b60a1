"""Decode the bytes of image files to RGB pixels.

The decoding rule (`trunk.spec.DECODING`):

- The whole file is decoded, so a truncated file is an error and not an image with a grey lower half.
- The EXIF orientation is applied: pixels are as a viewer shows them. Metadata that cannot be read is ignored.
- Grey is repeated in three channels. Palettes are looked up. CMYK and other colour spaces are converted by Pillow
  without a colour profile. 16-bit grey is scaled to 8 bits (65,535 becomes 255), not clipped.
- Alpha is dropped, as `keras.utils.load_img` and TensorFlow do, so that training and inference agree.
- Only the first frame of an animation is used.
- Floating-point and 32-bit integer pixels have no known range and are refused.

Decoding is thread-safe and changes no global state. Pillow's limit on pixels, which is process-wide, is never changed;
only a few formats, such as WebP, still apply it themselves. Pillow may issue warnings about damaged metadata.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from permafrost.errors import DatasetError, ImageError
from permafrost.images.options import MAX_PIXELS
from permafrost.images.ranges import AS_THEY_ARE, PixelRange, pixel_range, pixel_values
from permafrost.images.resizing import resized_image
from permafrost.images.shapes import channels_last

if TYPE_CHECKING:
    from PIL import Image, ImageFile


# fmt: off
EXTENSIONS: Final = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2",
})
# fmt: on
"""File name extensions of images. The format of a file is detected from its content alone."""


_SIXTEEN_BIT: Final = ("I;16", "I;16L", "I;16B", "I;16N")


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
        with _identified(data) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError("too many pixels", expected=f"at most {max_pixels:,}", found=f"{width} x {height}")
            reserve(_PIXEL_BYTES * width * height)
            _load(image)
            return _to_rgb(_upright(image), image.format)
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


def _identified(data: bytes) -> ImageFile.ImageFile:
    """Open an image file's bytes with the first of Pillow's formats that accepts them.

    This is `PIL.Image.open` without its limit on pixels, which can only be changed for the whole process.
    """
    from PIL import Image

    tried: set[str] = set()
    for load_plugins in (Image.preinit, Image.init):  # The common formats, then all of them.
        load_plugins()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            make, accepts = Image.OPEN[name]
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # It is not this format.
                accepted = accepts(data[:16]) if accepts else True
                if accepted and not isinstance(accepted, str):  # A string says why Pillow cannot read it.
                    return make(io.BytesIO(data), "")
    raise ImageError("not an image in any format that Pillow reads")


def _load(image: ImageFile.ImageFile) -> None:
    """Decode the pixels of an open image."""
    from PIL import Image, TiffImagePlugin

    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # `load` compares a TIFF's size with Pillow's own limit, unless it has memory for its pixels already.
        width, height = (image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH))
        image.im = Image.new(image.mode, (width, height)).im
    image.load()


def _upright(image: Image.Image) -> Image.Image:
    """Return an image turned upright according to its EXIF orientation."""
    from PIL import ExifTags, Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Warning:  # With `python -W error` a warning does not mean that the metadata cannot be read.
        raise
    except Exception:  # The pixels may be fine even if the metadata cannot be read.
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    from PIL import Image

    if image.mode == "RGB":
        return image
    # Pillow decodes 16-bit PGM to 32-bit integers from 0 to 65,535.
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and file_format == "PPM"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError("pixels of no known range", expected="8 or 16 bits per channel", found=f"mode {image.mode}")
    # Converted by way of RGBA, a palette keeps its colours if one of its entries is transparent.
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")

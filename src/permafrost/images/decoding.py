"""Bytes of an image file in, RGB pixels out: the one decoder and the one resize.

The decoding rule (`trunk_spec.DECODING`):

- the whole file is decoded, so one that was cut short is an error, not a grey lower half;
- EXIF orientation is applied: pixels are as a viewer shows them;
- grey is repeated in three channels; palettes are looked up; CMYK and other colour spaces are converted by Pillow
  without a colour profile; 16-bit grey is scaled to 8 (65,535 becomes 255), not clipped;
- alpha is dropped, as `keras.utils.load_img` and TensorFlow do, so that what is trained and what is served agree;
- of an animation, the first frame;
- floating-point and 32-bit integer pixels have no known range and are refused.

The resizing rule (`trunk_spec.RESIZING`): Pillow's antialiased `BILINEAR`, straight to the trunk's height and
width; the aspect ratio is not kept, as in `keras.layers.Resizing`. An image of that size already is not touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from permafrost.errors import ImageError
from permafrost.images.limits import MAX_PIXELS
from permafrost.images.resizing import resized_image

if TYPE_CHECKING:
    from PIL import Image


# fmt: off
EXTENSIONS: Final = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2",
})
# fmt: on
"""File names that end so are taken for images; what they hold is found out from their bytes."""


_SIXTEEN_BIT: Final = ("I;16", "I;16L", "I;16B", "I;16N")


def read_file(path: str | bytes | os.PathLike[str]) -> bytes:
    """All bytes of a regular file.

    Raises:
        ImageError: it is missing, unreadable, or no regular file. A FIFO is refused, not waited for.
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
    """The SHA-256 of an image file's bytes, 32 bytes: the name under which its features are kept."""
    return hashlib.sha256(data).digest()


def array_digest(pixels: np.ndarray) -> bytes:
    """The SHA-256 of an image given as an array (h, w, 3) uint8: of its shape and bytes, 32 bytes."""
    header = f"permafrost array {pixels.dtype.str} {pixels.shape}\n".encode("ascii")
    return hashlib.sha256(header + np.ascontiguousarray(pixels).tobytes()).digest()


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file's bytes by the rule above.

    Returns:
        (h, w, 3) uint8, 0 to 255, at full size.

    Raises:
        ImageError: the bytes are no image, or a damaged one, or one with more than `max_pixels` pixels.
    """
    return np.asarray(_open(data, max_pixels))


def decode_resized(
    data: bytes, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS, memory: DecodingMemory | None = None
) -> np.ndarray:
    """Decode an image file's bytes and resize to `size`, its height and width.

    Args:
        data: the file's bytes.
        size: height and width in pixels.
        max_pixels: the most that an image may have.
        memory: what the full-size image takes its memory from, shared by the threads that decode.

    Returns:
        (size[0], size[1], 3) uint8, 0 to 255.

    Raises:
        ImageError: as `decode`.
    """
    with _opened(data, max_pixels, memory) as image:
        return resized_image(image, size)


@contextlib.contextmanager
def decoded(data: bytes, *, max_pixels: int = MAX_PIXELS, memory: DecodingMemory | None = None) -> Iterator[np.ndarray]:
    """Decode as `decode`, and hold the image's part of `memory` for the length of the block."""
    with _opened(data, max_pixels, memory) as image:
        yield np.asarray(image)


class DecodingMemory:
    """Memory for full-size images that threads decode at the same time: few large ones, or many small ones.

    Args:
        total: bytes; an image that takes more than that is decoded while there is no other.
    """

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Take `count` bytes for the length of the block, and wait until they are free."""
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


def as_pixels(array: np.ndarray) -> np.ndarray:
    """An image given as an array, in the form that the rest works on.

    Args:
        array: (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); uint8, or any numbers from 0 to 255, which are rounded.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ImageError: another shape, or values outside 0 to 255. Values from 0 to 1 are told apart from nearly black
            images by being fractions, and refused rather than rounded to nothing.
    """
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError("not an image", expected="shape (h, w, 3)", found=f"shape {array.shape}")
    if array.dtype != np.uint8:
        if array.dtype.kind not in "uif":
            raise ImageError("not an image", expected="numbers from 0 to 255", found=f"dtype {array.dtype}")
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 255):
            raise ImageError("pixels out of range", expected="0 to 255", found=f"{low} to {high}")
        if high <= 1 and array.dtype.kind == "f" and np.any(array != np.round(array)):
            raise ImageError("pixels out of range", expected="0 to 255", found=f"fractions, {low} to {high}")
        array = np.round(array).astype(np.uint8)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.ascontiguousarray(array[:, :, :3])


@contextlib.contextmanager
def quiet_decoding() -> Iterator[None]:
    """Silence the decoder's warnings, and lift its own limit on pixels: here errors become verdicts, by our limit.

    To be entered by the main thread around the threads that decode, since both are shared by all threads.
    """
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_PIXEL_BYTES: Final = 8
"""What a pixel takes at most while it is decoded: Pillow keeps RGB in four bytes, twice where an image is turned."""


@contextlib.contextmanager
def _opened(data: bytes, max_pixels: int, memory: DecodingMemory | None) -> Iterator[Image.Image]:
    """Decode to a Pillow image, and hold its part of `memory` for the length of the block."""
    with contextlib.ExitStack() as held:

        def reserve(count: int) -> None:
            if memory:
                held.enter_context(memory.hold(count))

        yield _open(data, max_pixels, reserve)


def _open(data: bytes, max_pixels: int, reserve: Callable[[int], object] = lambda _: None) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise ImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError("too many pixels", expected=f"at most {max_pixels:,}", found=f"{width} x {height}")
            reserve(_PIXEL_BYTES * width * height)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image, image.format)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image in any format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too many pixels", expected=f"at most {max_pixels:,}", found=str(error)) from error
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except Exception as error:
        # Pillow's plugins raise whatever their parser meets: OSError, SyntaxError, ValueError, struct.error, KeyError.
        raise ImageError(f"cannot be decoded: {type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    from PIL import Image

    if image.mode == "RGB":
        return image
    # Pillow gives 16-bit PGM as 32-bit integers, scaled to 65,535.
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and file_format == "PPM"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError("pixels of no known range", expected="8 or 16 bits a channel", found=f"mode {image.mode}")
    # By way of RGBA, palettes keep their colours where an entry is transparent.
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")

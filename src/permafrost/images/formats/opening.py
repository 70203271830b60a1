"""Open image files with Pillow or pillow-heif, turn them upright and convert them to RGB, quietly.

Metadata is read without Pillow's own readers, which warn where it is damaged; nothing is changed in Pillow itself.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from permafrost.errors import ImageError
from permafrost.images.formats.kinds import is_heif, not_an_image
from permafrost.images.formats.tiff import ORIENTATION, PHOTOMETRIC, Directory, read_directory

if TYPE_CHECKING:
    from PIL import Image, ImageFile, JpegImagePlugin


_SIXTEEN_BIT: Final = ("I;16", "I;16L", "I;16B", "I;16N")

_UNUSED: Final = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow recognises and cannot decode without other programs, which it would run."""


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Open an image file's bytes with the first of the formats that accepts them.

    This is `PIL.Image.open` without its limit on pixels, which can only be changed for the whole process.
    """
    from PIL import Image

    if is_heif(data):
        return _heif(data)
    tried = set(_UNUSED)
    for load_plugins in (Image.preinit, Image.init):  # The common formats, then all of them.
        load_plugins()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            make, accepts = Image.OPEN[name]
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # It is not this format.
                accepted = accepts(data[:16]) if accepts else True
                if accepted and not isinstance(accepted, str):  # A string says why Pillow cannot read it.
                    return (_jpeg() if name == "JPEG" else make)(io.BytesIO(data), "")
    raise not_an_image(data)


def _heif(data: bytes) -> ImageFile.ImageFile:
    """Open a HEIC file. The decoder turns it upright as its container says, and its EXIF orientation is dropped."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(
            "HEIC, which needs another library", do="install pillow-heif (the extra heic), or convert it to JPEG"
        ) from error
    try:
        image: ImageFile.ImageFile = HeifImageFile(io.BytesIO(data), "")  # type: ignore[no-untyped-call]
    except SyntaxError as error:
        raise ImageError(f"a damaged HEIC image: {error}") from error
    return image


@functools.cache
def _jpeg() -> type[JpegImagePlugin.JpegImageFile]:
    """Return Pillow's class of JPEG images, which does not look at metadata: it would warn of damaged ones.

    A file with several images is read as its first one.
    """
    from PIL import JpegImagePlugin

    class PlainJpeg(JpegImagePlugin.JpegImageFile):
        def _read_dpi_from_exif(self) -> None:
            pass

    return PlainJpeg


def load(image: ImageFile.ImageFile) -> None:
    """Decode the pixels of an open image."""
    from PIL import Image, TiffImagePlugin

    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # `load` compares a TIFF's size with Pillow's own limit, unless it has memory for its pixels already.
        width, height = (image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH))
        image.im = Image.new(image.mode, (width, height)).im
    image.load()


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned upright according to its EXIF orientation."""
    from PIL import Image

    if image.format == "TIFF":  # Pillow turns it when it is loaded.
        return image
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    turn = turns.get(_orientation(image.info))
    return image if turn is None else image.transpose(turn)


def _orientation(info: Mapping[Any, Any]) -> int:
    """Return the orientation in an image's EXIF or XMP data, 1 if there is none that can be read.

    Pillow's own reader issues warnings.
    """
    exif = info.get("exif")
    if exif is None and isinstance(text := info.get("Raw profile type exif"), str):
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
    directory = read_directory(re.sub(rb"^(Exif\0\0){1,2}", b"", exif)) if isinstance(exif, bytes) else None
    if directory is not None and directory.values(ORIENTATION):
        return directory.first(ORIENTATION, 1)
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp.encode() if isinstance(xmp, str) else bytes(xmp))
    return int(match[1]) if match else 1


def to_rgb(image: Image.Image, file_format: str | None, tags: Directory | None) -> Image.Image:
    """Convert a Pillow image to mode RGB.

    Args:
        image: a loaded image.
        file_format: Pillow's name of its format.
        tags: the tags of a TIFF.

    Raises:
        ImageError: its pixels have no known range.
    """
    from PIL import Image

    if image.mode == "RGB":
        return image
    # Pillow decodes 16-bit PGM to 32-bit integers from 0 to 65,535.
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and file_format == "PPM"):
        # A TIFF of 12 bits is decoded to 16-bit values up to 4,095, and one in which 0 is white as if 0 were black.
        white = 4095 if tags and tags.bits == 12 else 65535
        grey = np.round(np.asarray(image) / (white / 255)).astype(np.uint8)
        return Image.fromarray(255 - grey if tags and tags.first(PHOTOMETRIC, 1) == 0 else grey).convert("RGB")
    if image.mode in ("I", "F"):
        found = "floating point" if image.mode == "F" else "signed or 32-bit integers"
        raise ImageError("pixels of no known range", expected="8 or 16 bits per channel", found=found)
    # Converted by way of RGBA, a palette keeps its colours if one of its entries is transparent.
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")

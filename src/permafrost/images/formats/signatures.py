"""The first bytes of image files, for files whose name has no extension."""

from __future__ import annotations

import os
import re
import stat
from typing import Final

from permafrost.images.formats.kinds import is_heif

_STARTS: Final = re.compile(
    rb"\xff\xd8\xff"  # JPEG
    rb"|\x89PNG\r\n\x1a\n"
    rb"|GIF8[79]a"
    rb"|BM.{4}\0\0\0\0.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"  # BMP: the sizes of its header
    rb"|II[\x2a\x2b]\0|MM\0[\x2a\x2b]"  # TIFF
    rb"|RIFF.{4}WEBP"
    rb"|.{4}ftyp(avif|avis|mif1|msf1)"  # AVIF
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"  # JPEG 2000
    rb"|P[1-6][ \t\r\n]+[#\d]",  # PNM
    re.DOTALL,
)
_LENGTH: Final = 64


def starts_as_image(path: str) -> bool:
    """Return whether the first bytes of a file are those of an image; False if it is not a regular file.

    Raises:
        OSError: the file cannot be read.
    """
    # O_NONBLOCK: opening a FIFO without a writer would otherwise hang.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return False
        start = os.read(handle, _LENGTH)
        return _STARTS.match(start) is not None or is_heif(start)
    finally:
        os.close(handle)

"""Limits and defaults for images that command-line options show; imports no NumPy."""

from __future__ import annotations

from typing import Final

MAX_PIXELS: Final = 178_956_970
"""Default maximum number of pixels of an image; Pillow refuses larger ones as decompression bombs."""

DEFAULT_AUGMENTATION: Final = "flip,shift,rotate,zoom"
"""Default augmentation of views."""

"""Limits on images."""

from __future__ import annotations

from typing import Final

MAX_PIXELS: Final = 178_956_970
"""Default maximum number of pixels of an image; Pillow refuses larger ones as decompression bombs."""

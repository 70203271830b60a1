"""Limits on images. Imports nothing, so that the command line can show them at once."""

from __future__ import annotations

from typing import Final

MAX_PIXELS: Final = 178_956_970
"""Images with more pixels are refused before decoding: Pillow's own limit against decompression bombs."""

"""Resize pixels with the rule that extraction and the exported model share (`trunk.spec.RESIZING`).

Pillow's antialiased bilinear filter resizes straight to the new height and width. The aspect ratio is not preserved, as
in `keras.layers.Resizing`. An image that has the new size already is returned unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w, 3) uint8 to `size`, the new height and width in pixels."""
    from PIL import Image

    return resized_image(Image.fromarray(pixels), size)


def resized_image(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Resize a Pillow image to `size`, the new height and width in pixels, and return (h, w, 3) uint8."""
    from PIL import Image

    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)

"""Pixels to another size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w, 3) uint8 to `size`, its height and width, by the rule above."""
    from PIL import Image

    return resized_image(Image.fromarray(pixels), size)


def resized_image(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Resize a Pillow image to `size`, its height and width: (h, w, 3) uint8."""
    from PIL import Image

    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)

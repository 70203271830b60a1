"""Shapes of image arrays."""

from __future__ import annotations

from typing import Final

import numpy as np

CHANNELS: Final = (1, 3, 4)
"""Numbers of channels: grey, RGB, RGB with alpha."""


def channels_last(images: np.ndarray) -> np.ndarray | None:
    """Return images with their channels last, or None if their shape is not that of images.

    Channels are first in (n, c, h, w) only where the last axis cannot hold them.

    Args:
        images: (n, h, w), (n, h, w, c) or (n, c, h, w), with c one of `CHANNELS`.
    """
    if 0 in images.shape[1:]:
        return None
    if images.ndim == 3 or (images.ndim == 4 and images.shape[3] in CHANNELS):
        return images
    if images.ndim == 4 and images.shape[1] in CHANNELS:
        return np.moveaxis(images, 1, 3)
    return None


def remedy(shape: tuple[int, ...]) -> str:
    """Return what to do about a shape (n, ...) that is not that of images."""
    if len(shape) == 2:
        for channels in CHANNELS:
            side = round((shape[1] / channels) ** 0.5)
            if side > 1 and side * side * channels == shape[1]:
                return f"give them back their height and width, such as X.reshape(-1, {side}, {side}, {channels})"
        return "give them back their height and width with X.reshape(-1, height, width, channels)"
    if len(shape) == 4:
        return "save the one or three channels that show the image, such as X[..., :3]"
    if len(shape) == 5:
        return "save single frames or slices as images"
    return "save them as (n, height, width, 3)"

"""Recognise features that hardly vary from image to image."""

from __future__ import annotations

from typing import Final

import numpy as np

MIN_VARIATION: Final = 0.02
"""The variation of features below which a warning is due. Ordinary images have 0.2 to 1; black ones 0.005."""

ROWS: Final = 512
"""The maximum number of images that the variation is computed from."""


def variation(x: np.ndarray) -> float:
    """Return how much features vary: the root mean square distance from their mean, relative to their size.

    Args:
        x: (n, *shape) float32, the features of n images; of many, some at even distances are used.
    """
    chosen = np.unique(np.linspace(0, len(x) - 1, ROWS).astype(int))
    rows = x[chosen].reshape(len(chosen), -1)
    mean = rows.mean(axis=0, dtype=np.float64)
    distance = sum(float(np.square(row - mean).sum()) for row in rows)
    size = sum(float(np.square(row, dtype=np.float64).sum()) for row in rows)
    return float(np.sqrt(distance / size)) if size else 0.0


def variation_warnings(x: np.ndarray) -> list[str]:
    """Return a warning if the features (n, *shape) of the training images hardly vary."""
    found = variation(x)
    if len(x) < 2 or found >= MIN_VARIATION:
        return []
    return [
        f"the features of the training images hardly vary: by {found:.1%} of their size, where {MIN_VARIATION:.0%} or "
        "more is usual. Check that the images are not all black or white, such as masks of 0 and 1 in files of 8 bits"
    ]

"""Duplicates in a feature set: images that are the same, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np

from permafrost.images.splits import SPLITS
from permafrost.store.set_content import SetContent


def find_duplicates(digests: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each content that occurs more than once.

    Args:
        digests: (n, 32) uint8, the SHA-256 of each image's content.

    Returns:
        One array (k,) int64 per such content, ascending; sorted by the first row.
    """
    # Sorting the first eight bytes of a million digests takes a tenth of the time that sorting whole digests takes.
    rows = _repeated(digests[:, :8].copy().view(np.uint64).reshape(-1))
    rows = rows[_repeated(digests[rows].view("V32").reshape(-1))]
    numbers = np.unique(digests[rows].view("V32").reshape(-1), return_inverse=True)[1]
    rows = rows[np.argsort(numbers, kind="stable")]
    edges = np.flatnonzero(np.diff(np.sort(numbers))) + 1
    return sorted(np.split(rows, edges), key=lambda group: int(group[0])) if len(rows) else []


def describe_duplicates(content: SetContent) -> dict[str, Any]:
    """Summarise the duplicates in a set, as `extract` and `features show` report them.

    Returns:
        `images`, the number of images that repeat an earlier one; `across_splits` and `across_labels`, the number of
        contents in several splits or under several labels; and `groups`, the images of those.
    """
    duplicates = find_duplicates(content.digests)
    across_splits = [rows for rows in duplicates if len(set(content.splits[rows].tolist())) > 1]
    across_labels = [rows for rows in duplicates if len(set(content.labels[rows].tolist())) > 1]
    harmful = {int(rows[0]): rows for rows in (*across_splits, *across_labels)}
    return {
        "images": sum(len(rows) - 1 for rows in duplicates),
        "across_splits": len(across_splits),
        "across_labels": len(across_labels),
        "groups": [[_describe_image(content, row) for row in harmful[first].tolist()] for first in sorted(harmful)],
    }


def _describe_image(content: SetContent, row: int) -> dict[str, str]:
    return {
        "path": content.names[row],
        "split": SPLITS[content.splits[row]],
        "label": content.class_names[content.labels[row]],
    }


def _repeated(values: np.ndarray) -> np.ndarray:
    """Return the indices of values that occur more than once: (k,) int64, ascending."""
    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[numbers] > 1)

"""Duplicates in a feature set: images that are the same, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np

from permafrost.images.splits import SPLITS
from permafrost.images.splitting.units import number_contents
from permafrost.store.set_content import SetContent


def find_duplicates(digests: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each content that occurs more than once.

    Args:
        digests: (n, 32) uint8, the SHA-256 of each image's content.

    Returns:
        One array (k,) int64 per such content, ascending; sorted by the first row.
    """
    numbers = number_contents(digests)
    rows = np.flatnonzero(np.bincount(numbers)[numbers] > 1)
    rows = rows[np.argsort(numbers[rows], kind="stable")]
    edges = np.flatnonzero(np.diff(numbers[rows])) + 1
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

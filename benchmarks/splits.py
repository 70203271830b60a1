"""Splits that are decided by content hardly change when a tenth more images arrive, and those of a shuffle do.

Contents are random, and classes of one size. The shuffle is scikit-learn's, stratified, with a fixed seed.

    python benchmarks/splits.py
"""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import train_test_split

from permafrost.images.splits import TEST_FRACTION, VALIDATION_FRACTION
from permafrost.images.splitting.assignment import assign_splits
from permafrost.images.splitting.units import connect_images

SIZES = ((100, 5), (1000, 50), (1000, 5), (10_000, 5))
TRIALS = 200


def by_content(digests: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the split of each image."""
    return assign_splits(connect_images(digests), [None] * len(labels), labels)


def by_shuffle(labels: np.ndarray) -> np.ndarray:
    """Return the split of each image, stratified, with a fixed seed."""
    rest, test = train_test_split(np.arange(len(labels)), test_size=TEST_FRACTION, stratify=labels, random_state=0)
    fraction = VALIDATION_FRACTION / (1 - TEST_FRACTION)
    _, validation = train_test_split(rest, test_size=fraction, stratify=labels[rest], random_state=0)
    splits = np.zeros(len(labels), np.uint8)
    splits[validation], splits[test] = 1, 2
    return splits


def main() -> None:
    """Print a row per size."""
    random = np.random.default_rng(0)
    for count, classes in SIZES:
        moved, shuffled = [], []
        for _ in range(TRIALS):
            digests = random.integers(0, 256, (count + count // 10, 32), dtype=np.uint8)
            labels = random.permutation(np.arange(len(digests)) % classes)
            moved.append((by_content(digests, labels)[:count] != by_content(digests[:count], labels[:count])).sum())
            if count >= 20 * classes:
                shuffled.append((by_shuffle(labels)[:count] != by_shuffle(labels[:count])).sum())
        none = np.mean(np.array(moved) == 0)
        print(
            f"{count:,} images, {classes} classes: by content {np.mean(moved):.1f} change their split (none in "
            f"{none:.0%} of {TRIALS} cases), by shuffle {np.mean(shuffled) if shuffled else float('nan'):.0f}"
        )


if __name__ == "__main__":
    main()

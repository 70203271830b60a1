"""Evaluate a model on a dataset's images, read from their files at full size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from permafrost.errors import DatasetError, ImageError, OptionError
from permafrost.images.dataset import Dataset, read_dataset
from permafrost.images.splits import SPLITS, TEST_FRACTION, VALIDATION_FRACTION, assign_splits
from permafrost.model.inference import ModelLike, classify, open_model
from permafrost.training.metrics import metrics


def evaluate(
    model: ModelLike,
    data: str | os.PathLike[str],
    *,
    split: str = "test",
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
) -> dict[str, Any]:
    """Compute a model's metrics on one split of a dataset. Only the images of that split are decoded.

    Args:
        model: a run, its folder, a `.keras` file, or a Keras model.
        data: a dataset, as for `extract`.
        split: `train`, `validation` or `test`.
        validation_fraction, test_fraction: as for `extract`; used for images whose split the dataset does not name.

    Returns:
        The result of `training.metrics.metrics`, with `split`, `model`, `data`, and `skipped`, the number of images
        that could not be decoded.

    Raises:
        PermafrostError: the request or its input is wrong; see `permafrost.errors`.
    """
    if split not in SPLITS:
        raise OptionError("no such split", expected=", ".join(SPLITS), found=split)
    dataset = read_dataset(data)
    opened = open_model(model).with_classes(dataset.class_names)
    _require_known(dataset, opened.class_names)

    candidates = [index for index, given in enumerate(dataset.splits) if given in (split, None)]
    fractions = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}

    def in_split(position: int, digest: bytes) -> bool:
        return assign_splits([digest], [dataset.splits[candidates[position]]], **fractions) == [split]

    results = classify([dataset.image(index) for index in candidates], opened, in_split)
    scored = {index: row for index, row in zip(candidates, results, strict=True) if isinstance(row, np.ndarray)}
    if not scored:
        raise DatasetError(f"no images for {split} in {dataset.root}", found=_counts(dataset.splits))
    numbers = [opened.class_names.index(name) for name in dataset.class_names]
    labels = np.array([numbers[dataset.labels[index]] for index in scored], np.int64)
    skipped = sum(isinstance(result, ImageError) for result in results)
    about = {"split": split, "model": opened.name, "data": dataset.root, "skipped": skipped}
    return metrics(labels, np.stack(list(scored.values())), opened.class_names) | about


def _require_known(dataset: Dataset, class_names: Sequence[str]) -> None:
    unknown = sorted(set(dataset.class_names) - set(class_names))
    if unknown:
        raise DatasetError(
            f"{dataset.root} has a class that the model does not know",
            expected=", ".join(class_names),
            found=", ".join(unknown),
        )


def _counts(splits: Sequence[str | None]) -> str:
    return ", ".join(f"{splits.count(split)} for {split}" for split in SPLITS if split in splits) or "none"
